//! What stands where in the database, and the texts of SQL made from it.

use std::sync::Arc;

use jiff::Timestamp;
use sqlx::postgres::PgDatabaseError;

use super::invalid_rows::InvalidRows;
use super::names::{Ident, Sql};
use crate::ledger::MAX_DEPTH;
use crate::{AccountId, Amount, Budget, Period, ScopeSet};

/// Where the tables are.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) schema: Ident,
    /// The table of keys, with its schema.
    pub(super) keys: String,
    pub(super) columns: KeyColumns,
}

/// The columns of the table of keys, and how they are read.
#[derive(Clone, Debug)]
pub(super) struct KeyColumns {
    pub(super) id: Ident,
    pub(super) account: Ident,
    pub(super) account_type: AccountType,
    pub(super) hash: Ident,
    /// What a hash is cast to, so that the column's index serves.
    pub(super) hash_type: &'static str,
    pub(super) parent: Ident,
    pub(super) name: Ident,
    pub(super) prefix: Ident,
    pub(super) start: Ident,
    pub(super) scopes: Ident,
    pub(super) limit: Ident,
    pub(super) limit_unit: LimitUnit,
    pub(super) period: Ident,
    pub(super) created_at: TimeColumn,
    pub(super) expires_at: TimeColumn,
    pub(super) revoked_at: TimeColumn,
    pub(super) absent: Absent,
    /// Whether the table is our own, in which every row says its period.
    pub(super) is_own: bool,
    pub(super) invalid_rows: Arc<InvalidRows>,
}

/// A column with an instant.
#[derive(Clone, Debug)]
pub(super) struct TimeColumn {
    pub(super) name: Ident,
    /// `timestamp` without a zone: read and written as UTC.
    pub(super) is_plain: bool,
}

impl TimeColumn {
    fn known(name: &'static str) -> Self {
        Self { name: Ident::known(name), is_plain: false }
    }

    /// What is written for the parameter with this number.
    pub(super) fn value(&self, number: u32) -> String {
        match self.is_plain {
            true => format!("(${number}::timestamptz AT TIME ZONE 'UTC')"),
            false => format!("${number}::timestamptz"),
        }
    }
}

/// The type of the column with the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AccountType {
    /// Up to so many characters, if there is a bound.
    Text {
        most: Option<usize>,
    },
    SmallInt,
    Integer,
    BigInt,
    Uuid,
}

/// What the column with the limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitUnit {
    Micros,
    /// Whole cents, up to the largest that the column can hold.
    Cents {
        most: i64,
    },
}

/// What NULL means in a row that somebody else may have written.
#[derive(Clone, Debug)]
pub(super) struct Absent {
    pub(super) scopes: ScopeSet,
    pub(super) budget: Budget,
    pub(super) created_at: Timestamp,
}

impl Layout {
    /// Our own table of keys.
    pub(super) fn own(schema: Ident) -> Self {
        let keys = format!("{schema}.{}", Ident::known("agent_keys"));
        let columns = KeyColumns {
            id: Ident::known("id"),
            account: Ident::known("account_id"),
            account_type: AccountType::Text { most: None },
            hash: Ident::known("key_hash"),
            hash_type: "text",
            parent: Ident::known("parent_id"),
            name: Ident::known("name"),
            prefix: Ident::known("prefix"),
            start: Ident::known("start"),
            scopes: Ident::known("scopes"),
            limit: Ident::known("limit_micros"),
            limit_unit: LimitUnit::Micros,
            period: Ident::known("period"),
            created_at: TimeColumn::known("created_at"),
            expires_at: TimeColumn::known("expires_at"),
            revoked_at: TimeColumn::known("revoked_at"),
            absent: Absent {
                scopes: ScopeSet::unrestricted(),
                budget: Budget::unlimited(),
                created_at: Timestamp::UNIX_EPOCH,
            },
            is_own: true,
            invalid_rows: Arc::default(),
        };
        Self { schema, keys, columns }
    }

    /// Whether an error is about the table of keys.
    pub(super) fn is_of_keys(&self, error: &PgDatabaseError) -> bool {
        let quoted = |name: Option<&str>| name.and_then(|name| Ident::new(name).ok());
        quoted(error.schema())
            .zip(quoted(error.table()))
            .is_some_and(|(schema, table)| self.keys == format!("{schema}.{table}"))
    }

    /// SQL with its names filled in, in one line without its comments.
    pub(super) fn sql(&self, template: &str) -> Sql {
        let lines = template.lines().map(str::trim).filter(|line| !line.starts_with("--"));
        Sql::from(self.fill(&lines.collect::<Vec<_>>().join(" ")))
    }

    pub(super) fn fill(&self, template: &str) -> String {
        let c = &self.columns;
        let of_key = format!(
            "k.{id}::int8 AS id, k.{account}::text COLLATE \"C\" AS account, k.{parent}::int8 AS parent, \
             k.{name}::text AS name, k.{prefix}::text AS prefix, k.{start}::text AS start, \
             k.{scopes}::text[] AS scopes, k.{limit}::int8 AS limit_amount, k.{period}::text AS period, \
             k.{created_at} AS created_at, k.{expires_at} AS expires_at, k.{revoked_at} AS revoked_at, \
             k.xmin::text AS stamp",
            id = c.id,
            account = c.account,
            parent = c.parent,
            name = c.name,
            prefix = c.prefix,
            start = c.start,
            scopes = c.scopes,
            limit = c.limit,
            period = c.period,
            created_at = c.created_at.name,
            expires_at = c.expires_at.name,
            revoked_at = c.revoked_at.name,
        );
        let mut text = template
            .replace("{of_key}", &of_key)
            .replace("{climb}", &CLIMB.replace("{max_depth}", &MAX_DEPTH.to_string()))
            .replace("{of_chain}", OF_CHAIN)
            .replace("{with_money}", WITH_MONEY)
            .replace("{of_account}", OF_ACCOUNT)
            .replace("{of_balance}", OF_BALANCE)
            .replace("{of_hold}", OF_HOLD)
            .replace("{of_entry}", OF_ENTRY)
            .replace("{run}", RUN)
            .replace("{writable}", WRITABLE)
            .replace("{server_time}", SERVER_TIME);
        // The climb has a key of its own in it.
        text = text.replace("{of_key}", &of_key).replace("{keys}", &self.keys);
        for (token, column) in [
            ("{k.id}", &c.id),
            ("{k.account}", &c.account),
            ("{k.hash}", &c.hash),
            ("{k.parent}", &c.parent),
            ("{k.name}", &c.name),
            ("{k.prefix}", &c.prefix),
            ("{k.start}", &c.start),
            ("{k.scopes}", &c.scopes),
            ("{k.limit}", &c.limit),
            ("{k.period}", &c.period),
            ("{k.created_at}", &c.created_at.name),
            ("{k.expires_at}", &c.expires_at.name),
            ("{k.revoked_at}", &c.revoked_at.name),
        ] {
            text = text.replace(token, &column.to_string());
        }
        text = text.replace("{hash_type}", c.hash_type).replace("{account_type}", c.account_type.name());
        for table in [
            "accounts",
            "balances",
            "retired_tokens",
            "holds",
            "entries",
            "claims",
            "events",
            "uses",
            "policy_changes",
            "migrations",
            "adoption",
        ] {
            text = text.replace(&format!("{{{table}}}"), &format!("{}.\"agentkey_{table}\"", self.schema));
        }
        text.replace("{schema}", &self.schema.to_string())
    }
}

/// From the keys found first up to their roots. No lineage is longer, whatever the rules say.
const CLIMB: &str = " UNION ALL SELECT c.place, c.depth + 1, NULL::timestamptz, k.* FROM chain c CROSS JOIN LATERAL \
    (SELECT {of_key} FROM {keys} k WHERE k.{k.id} = c.parent OFFSET 0) k WHERE c.parent IS NOT NULL AND c.depth < {max_depth}";

/// What a lineage's rows have, as [`Cells`](super::decode::Cells) reads them.
const OF_CHAIN: &str = "c.place, c.depth, c.retires_at, {run}, c.id, c.account, c.parent, c.name, c.prefix, c.start, \
    c.scopes, c.limit_amount, c.period, c.created_at, c.expires_at, c.revoked_at, c.stamp, {of_balance}, {of_account}, \
    {server_time} FROM chain c {with_money}";

/// `OFFSET 0` keeps the planner from turning the search round: a plan made while a table is small would walk all of it.
const WITH_MONEY: &str = "LEFT JOIN LATERAL (SELECT * FROM {balances} b WHERE b.key_id = c.id \
    OFFSET 0) b ON true \
    LEFT JOIN LATERAL (SELECT * FROM {accounts} a WHERE a.id = c.account OFFSET 0) a ON true";

/// An error on a standby and on a server that is read-only, whatever else the statement finds: what is in force is known
/// only where it is changed. It asks for what the transaction has, as of when it began.
const WRITABLE: &str = "(SELECT set_config('transaction_read_only', 'off', true)) = 'off'";

/// The last column of what is read by the clock. [`ServerClock`](super::clock::ServerClock) goes by it.
pub(super) const SERVER_TIME: &str = "clock_timestamp() AS server_time";

/// Which run of which server answers.
const RUN: &str = "pg_postmaster_start_time()";

const OF_BALANCE: &str = "b.account_id, b.period, b.spent, b.held, b.since, b.anchor";

const OF_ACCOUNT: &str = "a.id, a.limit_micros, a.period, a.created_at, a.spent, a.held, a.since, a.version, \
    a.changed_at, a.next_expiry, a.last_entry";

const OF_HOLD: &str = "h.id, h.account_id, h.key_id, h.path, h.amount, h.created_at, h.expires_at, h.on_expiry, \
    h.labels::text, h.reference, h.state";

const OF_ENTRY: &str = "e.id, e.account_id, e.key_id, e.kind, e.amount, e.at, e.counts_at, e.refunds, e.labels::text, \
    e.reference";

impl KeyColumns {
    /// A limit as the column has it.
    pub(super) fn limit(&self, stored: Option<i64>) -> Result<Option<Amount>, &'static str> {
        match (stored, self.limit_unit) {
            (None, _) => Ok(self.absent.budget.limit),
            // What is unlimited among rows whose NULL is a limit.
            (Some(i64::MAX), LimitUnit::Micros) if self.absent.budget.limit.is_some() => Ok(None),
            (Some(micros), LimitUnit::Micros) => Ok(Some(Amount::micros(micros))),
            (Some(cents), LimitUnit::Cents { .. }) => {
                cents.checked_mul(10_000).map(|micros| Some(Amount::micros(micros))).ok_or("its limit is too large")
            }
        }
    }

    /// What the column holds for a limit; where it can't, why. NULL only for what nothing else says: what NULL means may be
    /// said anew, and the column may be NOT NULL.
    pub(super) fn stored_limit(&self, limit: Option<Amount>) -> Result<Option<i64>, String> {
        let is_absent = limit == self.absent.budget.limit;
        match (limit.map(Amount::as_micros), self.limit_unit) {
            (None, _) if is_absent => Ok(None),
            (None, LimitUnit::Micros) => Ok(Some(i64::MAX)),
            (Some(i64::MAX), LimitUnit::Micros) if is_absent => Ok(None), // the number means no limit
            (Some(micros), LimitUnit::Micros) => Ok(Some(micros)),
            (None, LimitUnit::Cents { .. }) => {
                Err(format!("cannot be lifted: without one, {} means the limit set at adoption", self.limit))
            }
            (Some(micros), LimitUnit::Cents { most }) => {
                let cents = micros / 10_000;
                match micros % 10_000 == 0 && cents <= most {
                    true => Ok(Some(cents)),
                    false if is_absent => Ok(None),
                    false => Err(format!("is whole cents up to {most}, which is what {} can hold", self.limit)),
                }
            }
        }
    }

    /// A period as the column has it. Without one, a limit of the row's own is once and for all.
    pub(super) fn period(&self, stored: Option<&str>, has_limit: bool) -> Result<Period, crate::PeriodError> {
        match stored {
            None if has_limit => Ok(Period::Lifetime),
            None => Ok(self.absent.budget.period),
            // As other systems name them.
            Some("daily") => Ok(Period::Day),
            Some("weekly") => Ok(Period::Week),
            Some("monthly") => Ok(Period::Month),
            Some("total" | "none") => Ok(Period::Lifetime),
            Some(name) => name.parse(),
        }
    }

    /// What the column holds for a period. Once and for all is NULL where that means the same: those who wrote the
    /// table before have no word for it.
    pub(super) fn stored_period(&self, period: Period, has_limit: bool) -> Option<&'static str> {
        let is_implied = !self.is_own && period == Period::Lifetime && self.period(None, has_limit) == Ok(period);
        (!is_implied).then_some(period.as_str())
    }

    /// Scopes as the column has them; NULL only for no restriction, where NULL means that.
    pub(super) fn stored_scopes(&self, scopes: &ScopeSet) -> Option<Vec<String>> {
        match (scopes.is_unrestricted(), self.absent.scopes.is_unrestricted()) {
            (true, true) => None,
            (true, false) => Some(vec!["*".to_owned()]),
            (false, _) => Some(scopes.iter().map(|scope| scope.as_str().to_owned()).collect()),
        }
    }

    /// What a caller calls the column with this name.
    pub(super) fn field(&self, name: &str) -> Option<&'static str> {
        let name = Ident::new(name).ok()?;
        let fields = [
            (&self.account, "account"),
            (&self.parent, "parent"),
            (&self.name, "name"),
            (&self.scopes, "scopes"),
            (&self.limit, "limit"),
            (&self.period, "period"),
            (&self.expires_at.name, "expires_at"),
        ];
        fields.into_iter().find(|(column, _)| **column == name).map(|(_, field)| field)
    }

    /// Whether the column can hold this account and gives back the same text.
    pub(super) fn can_hold(&self, account: &AccountId) -> bool {
        let text = account.as_str();
        let whole = |number: Option<i64>| number.is_some_and(|number| number.to_string() == text);
        match self.account_type {
            AccountType::Text { most } => most.is_none_or(|most| text.chars().count() <= most),
            AccountType::SmallInt => whole(text.parse::<i16>().ok().map(i64::from)),
            AccountType::Integer => whole(text.parse::<i32>().ok().map(i64::from)),
            AccountType::BigInt => whole(text.parse().ok()),
            AccountType::Uuid => uuid::Uuid::try_parse(text).is_ok_and(|id| id.to_string() == text),
        }
    }
}

impl AccountType {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Text { .. } => "text",
            Self::SmallInt => "int2",
            Self::Integer => "int4",
            Self::BigInt => "int8",
            Self::Uuid => "uuid",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_must_come_back_as_it_went() {
        let mut columns = Layout::own(Ident::known("public")).columns;
        let holds = |columns: &KeyColumns, text: &str| columns.can_hold(&text.parse().unwrap());
        columns.account_type = AccountType::Integer;
        for (text, fits) in
            [("42", true), ("-7", true), ("042", false), ("+1", false), ("4294967296", false), ("acme", false)]
        {
            assert_eq!(holds(&columns, text), fits, "{text}");
        }
        columns.account_type = AccountType::Uuid;
        assert!(holds(&columns, "0191f0c0-0000-7000-8000-000000000000"));
        assert!(!holds(&columns, "0191F0C0-0000-7000-8000-000000000000"));
    }
}
