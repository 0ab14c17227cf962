//! The tables and columns in the database, and the statements made from them.

use std::sync::Arc;

use jiff::Timestamp;
use sqlx::postgres::PgDatabaseError;

use super::invalid_rows::InvalidRows;
use super::names::{Ident, Sql, literal, one_line};
use crate::ledger::MAX_DEPTH;
use crate::model::{Amount, Budget, Key, Metadata, Period, ScopeSet};

/// The names of the tables.
#[derive(Clone, Debug)]
pub(super) struct Schema {
    pub(super) name: Ident,
    /// The table of keys, with its schema.
    pub(super) keys: String,
    pub(super) columns: KeyColumns,
}

/// The columns of the table of keys, and how they are read.
#[derive(Clone, Debug)]
pub(super) struct KeyColumns {
    pub(super) id: Ident,
    pub(super) account: Ident,
    pub(super) account_type: IdType,
    pub(super) hash: Ident,
    /// The type that a hash is cast to, so that the index of the column is used.
    pub(super) hash_type: &'static str,
    pub(super) parent: Ident,
    pub(super) name: Ident,
    pub(super) prefix: Ident,
    pub(super) start: Ident,
    /// Whether the column of the start has the prefix in it too, such as `ak_588e90fe`.
    pub(super) start_has_prefix: bool,
    /// The columns of the subject that a key is for.
    pub(super) issuer: Ident,
    pub(super) sub: Ident,
    /// The issuer of the subjects in rows that name none.
    pub(super) default_issuer: Option<String>,
    pub(super) scopes: Ident,
    pub(super) limit: Ident,
    pub(super) limit_unit: LimitUnit,
    pub(super) period: Ident,
    pub(super) created_at: TimeColumn,
    pub(super) more_limits: Ident,
    pub(super) rate_limit: Ident,
    pub(super) allowed_cidrs: Ident,
    pub(super) expires_at: TimeColumn,
    pub(super) disabled_at: TimeColumn,
    pub(super) revoked_at: TimeColumn,
    pub(super) revoked_reason: Ident,
    pub(super) delegated_by: Ident,
    pub(super) delegated_by_type: IdType,
    pub(super) metadata: Ident,
    /// The columns by which the application's own software switches keys off.
    pub(super) switches: Vec<Switch>,
    pub(super) null_defaults: NullDefaults,
    /// Whether the table is our own, in which every row has a period.
    pub(super) is_own: bool,
    pub(super) invalid_rows: Arc<InvalidRows>,
}

/// A column by which the application's own software switches keys off.
#[derive(Clone, Debug)]
pub(super) struct Switch {
    pub(super) column: String,
    /// The condition that is true if the key of the row `k` is switched off, and else false.
    pub(super) is_off: String,
}

/// A column with an instant.
#[derive(Clone, Debug)]
pub(super) struct TimeColumn {
    pub(super) name: Ident,
    /// Whether it is a `timestamp` without a zone, which is read and written as UTC.
    pub(super) is_without_zone: bool,
}

impl TimeColumn {
    fn from_static(name: &'static str) -> Self {
        Self { name: Ident::from_static(name), is_without_zone: false }
    }
}

/// The type of a column with an id of the application: an account, or a delegator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdType {
    /// A text of at most `max` characters, if there is a maximum.
    Text {
        max: Option<usize>,
    },
    SmallInt,
    Integer,
    BigInt,
    Uuid,
}

/// The unit of the column with the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitUnit {
    Micros,
    /// Whole cents, up to the largest number that the column can store.
    Cents {
        max: i64,
    },
}

/// What NULL means in a row that the application may have written.
#[derive(Clone, Debug)]
pub(super) struct NullDefaults {
    pub(super) scopes: ScopeSet,
    pub(super) budget: Budget,
    pub(super) created_at: Timestamp,
}

impl Schema {
    /// Returns the schema with our own table of keys.
    pub(super) fn own(schema: Ident) -> Self {
        let keys = format!("{schema}.{}", Ident::from_static("agent_keys"));
        let columns = KeyColumns {
            id: Ident::from_static("id"),
            account: Ident::from_static("account_id"),
            account_type: IdType::Text { max: None },
            hash: Ident::from_static("key_hash"),
            hash_type: "text",
            parent: Ident::from_static("parent_id"),
            name: Ident::from_static("name"),
            prefix: Ident::from_static("prefix"),
            start: Ident::from_static("start"),
            start_has_prefix: false,
            issuer: Ident::from_static("issuer"),
            sub: Ident::from_static("sub"),
            default_issuer: None,
            scopes: Ident::from_static("scopes"),
            limit: Ident::from_static("limit_micros"),
            limit_unit: LimitUnit::Micros,
            period: Ident::from_static("period"),
            created_at: TimeColumn::from_static("created_at"),
            more_limits: Ident::from_static("more_limits"),
            rate_limit: Ident::from_static("rate_limit"),
            allowed_cidrs: Ident::from_static("allowed_cidrs"),
            expires_at: TimeColumn::from_static("expires_at"),
            disabled_at: TimeColumn::from_static("disabled_at"),
            revoked_at: TimeColumn::from_static("revoked_at"),
            revoked_reason: Ident::from_static("revoked_reason"),
            delegated_by: Ident::from_static("delegated_by"),
            delegated_by_type: IdType::Text { max: None },
            metadata: Ident::from_static("metadata"),
            switches: Vec::new(),
            null_defaults: NullDefaults {
                scopes: ScopeSet::unrestricted(),
                budget: Budget::unlimited(),
                created_at: Timestamp::UNIX_EPOCH,
            },
            is_own: true,
            invalid_rows: Arc::default(),
        };
        Self { name: schema, keys, columns }
    }

    /// Returns whether an error is about the table of keys.
    pub(super) fn concerns_keys(&self, error: &PgDatabaseError) -> bool {
        let quoted = |name: Option<&str>| name.and_then(|name| Ident::new(name).ok());
        quoted(error.schema())
            .zip(quoted(error.table()))
            .is_some_and(|(schema, table)| self.keys == format!("{schema}.{table}"))
    }

    /// Returns the statement of a template, in one line and without its comments.
    pub(super) fn sql(&self, template: &str) -> Sql {
        let fill = |text: String, (name, part): &(&str, &str)| text.replace(name, &one_line(part));
        let text = PARTS.iter().fold(one_line(template), fill);
        Sql::new(&self.fill(&text))
    }

    /// Fills names and types into a template.
    pub(super) fn fill(&self, template: &str) -> String {
        let c = &self.columns;
        let mut text =
            template.replace("{max_depth}", &MAX_DEPTH.to_string()).replace("{keys}", &self.keys);
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
            ("{k.more_limits}", &c.more_limits),
            ("{k.rate_limit}", &c.rate_limit),
            ("{k.allowed_cidrs}", &c.allowed_cidrs),
            ("{k.disabled_at}", &c.disabled_at.name),
            ("{k.revoked_reason}", &c.revoked_reason),
            ("{k.delegated_by}", &c.delegated_by),
            ("{k.metadata}", &c.metadata),
            ("{k.issuer}", &c.issuer),
            ("{k.sub}", &c.sub),
        ] {
            text = text.replace(token, &column.to_string());
        }
        for (token, column) in [
            ("{zone.created_at}", &c.created_at),
            ("{zone.expires_at}", &c.expires_at),
            ("{zone.disabled_at}", &c.disabled_at),
            ("{zone.revoked_at}", &c.revoked_at),
        ] {
            text = text
                .replace(token, if column.is_without_zone { " AT TIME ZONE 'UTC'" } else { "" });
        }
        let issuer = c.default_issuer.as_deref().map_or_else(|| "NULL".to_owned(), literal);
        text = text
            .replace("{issuer}", &format!("{issuer}::text"))
            .replace("{switched_off_by}", &c.switched_off_by())
            .replace("{disabled_at}", &c.disabled_at_sql());
        text = text
            .replace("{hash_type}", c.hash_type)
            .replace("{account_type}", c.account_type.name())
            .replace("{delegator_type}", c.delegated_by_type.name());
        for table in [
            "accounts",
            "balances",
            "retired_tokens",
            "holds",
            "entries",
            "rollups",
            "idempotency_keys",
            "events",
            "last_used",
            "rate_limits",
            "signing_keys",
            "first_seen",
            "policy_changes",
            "migrations",
            "adoption",
        ] {
            text = text
                .replace(&format!("{{{table}}}"), &format!("{}.\"agentkey_{table}\"", self.name));
        }
        text.replace("{take_rates}", &format!("{}.\"agentkey_take_rates\"", self.name))
            .replace("{schema}", &self.name.to_string())
    }
}

/// The parts that statements have in common. A part may contain parts that come after it.
const PARTS: [(&str, &str); 14] = [
    ("{bound}", include_str!("sql/parts/bound.sql")),
    ("{delegator}", include_str!("sql/parts/delegator.sql")),
    ("{of_chain}", include_str!("sql/parts/of_chain.sql")),
    ("{ancestors}", include_str!("sql/parts/ancestors.sql")),
    ("{of_key}", include_str!("sql/parts/of_key.sql")),
    ("{with_money}", include_str!("sql/parts/with_money.sql")),
    ("{of_account}", include_str!("sql/parts/of_account.sql")),
    ("{rest_of_account}", include_str!("sql/parts/rest_of_account.sql")),
    ("{of_balance}", include_str!("sql/parts/of_balance.sql")),
    ("{of_hold}", include_str!("sql/parts/of_hold.sql")),
    ("{of_entry}", include_str!("sql/parts/of_entry.sql")),
    ("{writable}", include_str!("sql/parts/writable.sql")),
    // The incarnation of the server that answers.
    ("{server_incarnation}", "pg_postmaster_start_time()"),
    // The last column of answers that set the clock: `ServerClock` reads it.
    ("{server_time}", "clock_timestamp() AS server_time"),
];

impl KeyColumns {
    /// Returns the SQL of the instant since which the key of the row `k` is disabled. A key that is switched off counts
    /// as disabled since the adoption.
    fn disabled_at_sql(&self) -> String {
        let column = format!("k.{}", self.disabled_at.name);
        if self.switches.is_empty() {
            return column;
        }
        let zone = if self.disabled_at.is_without_zone { " AT TIME ZONE 'UTC'" } else { "" };
        let is_off: Vec<_> = self.switches.iter().map(|switch| &*switch.is_off).collect();
        format!(
            "CASE WHEN {} THEN coalesce({column}{zone}, '{}'::timestamptz) ELSE {column}{zone} END",
            is_off.join(" OR "),
            self.null_defaults.created_at,
        )
    }

    /// Returns the SQL of the column that switches the key of the row `k` off, if one does.
    fn switched_off_by(&self) -> String {
        let switches = self.switches.iter();
        let when = switches
            .map(|switch| format!("WHEN {} THEN {} ", switch.is_off, literal(&switch.column)));
        format!("CASE {}WHEN false THEN '' END", when.collect::<String>())
    }

    /// Decodes prefix and start. A row that the application wrote may have the prefix in its start only.
    pub(super) fn shown<'r>(&self, prefix: &'r str, start: &'r str) -> (&'r str, &'r str) {
        if !self.start_has_prefix {
            return (prefix, start);
        }
        match start.rsplit_once('_') {
            Some((own, rest)) if prefix.is_empty() || prefix == own => (own, rest),
            _ => (prefix, start),
        }
    }

    /// Encodes the start.
    pub(super) fn stored_start(&self, key: &Key) -> String {
        match self.start_has_prefix && !key.prefix.is_empty() {
            true => format!("{}_{}", key.prefix, key.start),
            false => key.start.clone(),
        }
    }

    /// Decodes a limit.
    pub(super) fn limit(&self, stored: Option<i64>) -> Result<Option<Amount>, &'static str> {
        match (stored, self.limit_unit) {
            (None, _) => Ok(self.null_defaults.budget.limit),
            // The stored value of "unlimited" where NULL is a limit.
            (Some(i64::MAX), LimitUnit::Micros) if self.null_defaults.budget.limit.is_some() => {
                Ok(None)
            }
            (Some(micros), LimitUnit::Micros) => Ok(Some(Amount::micros(micros))),
            (Some(cents), LimitUnit::Cents { .. }) => cents
                .checked_mul(10_000)
                .map(|micros| Some(Amount::micros(micros)))
                .ok_or("its limit is too large"),
        }
    }

    /// Encodes a limit, or returns why the column cannot store it. It is NULL only if nothing else has the same
    /// meaning: the meaning of NULL may change later, and the column may be NOT NULL.
    pub(super) fn stored_limit(&self, limit: Option<Amount>) -> Result<Option<i64>, String> {
        let is_default = limit == self.null_defaults.budget.limit;
        match (limit.map(Amount::as_micros), self.limit_unit) {
            (None, _) if is_default => Ok(None),
            (None, LimitUnit::Micros) => Ok(Some(i64::MAX)),
            (Some(i64::MAX), LimitUnit::Micros) if is_default => Ok(None), // the number means no limit
            (Some(micros), LimitUnit::Micros) => Ok(Some(micros)),
            (None, LimitUnit::Cents { .. }) => Err(format!(
                "cannot be lifted: without one, {} means the limit set at adoption",
                self.limit
            )),
            (Some(micros), LimitUnit::Cents { max }) => {
                let cents = micros / 10_000;
                match micros % 10_000 == 0 && cents <= max {
                    true => Ok(Some(cents)),
                    false if is_default => Ok(None),
                    false => Err(format!(
                        "is whole cents up to {max}, which is what {} can store",
                        self.limit
                    )),
                }
            }
        }
    }

    /// Decodes a period. A row with a limit of its own and no period is limited for its lifetime.
    pub(super) fn period(
        &self,
        stored: Option<&str>,
        has_limit: bool,
    ) -> Result<Period, crate::model::PeriodError> {
        match stored {
            None if has_limit => Ok(Period::Lifetime),
            None => Ok(self.null_defaults.budget.period),
            // The names of other systems.
            Some("daily") => Ok(Period::Day),
            Some("weekly") => Ok(Period::Week),
            Some("monthly") => Ok(Period::Month),
            Some("total" | "none") => Ok(Period::Lifetime),
            Some(name) => name.parse(),
        }
    }

    /// Encodes a period. A lifetime is NULL if NULL has that meaning, because the application that wrote the table may
    /// have no name for it.
    pub(super) fn stored_period(&self, period: Period, has_limit: bool) -> Option<&'static str> {
        let is_implied = !self.is_own
            && period == Period::Lifetime
            && self.period(None, has_limit) == Ok(period);
        (!is_implied).then_some(period.as_str())
    }

    /// Encodes scopes. They are NULL only for no restriction, if NULL has that meaning.
    pub(super) fn stored_scopes(&self, scopes: &ScopeSet) -> Option<Vec<String>> {
        match (scopes.is_unrestricted(), self.null_defaults.scopes.is_unrestricted()) {
            (true, true) => None,
            (true, false) => Some(vec!["*".to_owned()]),
            (false, _) => Some(scopes.iter().map(|scope| scope.as_str().to_owned()).collect()),
        }
    }

    /// Encodes metadata. The application's own column may be NOT NULL, so no metadata is an empty object there.
    pub(super) fn stored_metadata(&self, metadata: &Metadata) -> Option<String> {
        if self.is_own { metadata.stored() } else { Some(metadata.to_string()) }
    }

    /// Returns the name that callers use for the column with this name.
    pub(super) fn field(&self, name: &str) -> Option<&'static str> {
        let name = Ident::new(name).ok()?;
        let fields = [
            (&self.account, "account"),
            (&self.parent, "parent"),
            (&self.name, "name"),
            (&self.scopes, "scopes"),
            (&self.limit, "budgets"),
            (&self.delegated_by, "delegated_by"),
            (&self.metadata, "metadata"),
            (&self.rate_limit, "rate_limit"),
            (&self.allowed_cidrs, "allowed_cidrs"),
            (&self.period, "period"),
            (&self.expires_at.name, "expires_at"),
        ];
        fields.into_iter().find(|(column, _)| **column == name).map(|(_, field)| field)
    }
}

impl IdType {
    /// Returns whether a column of this type can store the text and returns the same.
    pub(super) fn can_hold(self, text: &str) -> bool {
        let is_same = |number: Option<i64>| number.is_some_and(|number| number.to_string() == text);
        match self {
            Self::Text { max } => max.is_none_or(|max| text.chars().count() <= max),
            Self::SmallInt => is_same(text.parse::<i16>().ok().map(i64::from)),
            Self::Integer => is_same(text.parse::<i32>().ok().map(i64::from)),
            Self::BigInt => is_same(text.parse().ok()),
            Self::Uuid => uuid::Uuid::try_parse(text).is_ok_and(|id| id.to_string() == text),
        }
    }

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
    fn a_start_with_the_prefix_in_it_is_shown_in_two_parts() {
        let mut columns = Schema::own(Ident::from_static("public")).columns;
        assert_eq!(columns.shown("ak", "003aUlTJ"), ("ak", "003aUlTJ"));
        columns.start_has_prefix = true;
        for (stored, shown) in [
            (("", "ak_588e90fe"), ("ak", "588e90fe")),
            (("ak_live", "ak_live_003aUlTJ"), ("ak_live", "003aUlTJ")),
            (("ak", "sk-1_2"), ("ak", "sk-1_2")),
            (("", "sk-0"), ("", "sk-0")),
            (("", ""), ("", "")),
        ] {
            assert_eq!(columns.shown(stored.0, stored.1), shown);
        }
    }

    #[test]
    fn an_account_must_come_back_unchanged() {
        for (text, fits) in [
            ("42", true),
            ("-7", true),
            ("042", false),
            ("+1", false),
            ("4294967296", false),
            ("acme", false),
        ] {
            assert_eq!(IdType::Integer.can_hold(text), fits, "{text}");
        }
        assert!(IdType::Uuid.can_hold("0191f0c0-0000-7000-8000-000000000000"));
        assert!(!IdType::Uuid.can_hold("0191F0C0-0000-7000-8000-000000000000"));
    }
}
