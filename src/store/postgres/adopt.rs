//! Adoption of the application's own table of keys.

mod plan;
mod record;
mod shape;
mod switch;

use std::collections::BTreeMap;
use std::fmt;

use crate::model::{Budget, ScopeSet};

pub(super) use self::plan::{Adopting, plan};
pub(super) use self::record::adopted;
pub use self::switch::SwitchedOff;

/// Says what the rows of an adopted table leave open: see
/// [`PostgresOptions::table`](crate::store::PostgresOptions::table).
///
/// Other software wrote the rows of such a table. They may have no scopes and no budget, and the table may not even
/// have had columns for them. This type says what that means; nothing is assumed. The first opening records it together
/// with the columns, so later openings need not repeat it.
///
/// ```
/// use agentkey::{Amount, Budget, ScopeSet};
/// use agentkey::store::{Adoption, KeyColumn};
///
/// // A key without scopes may read; a key without a budget has $10 a month.
/// let adoption = Adoption::new(ScopeSet::parse(["read"])?, Budget::monthly(Amount::cents(1_000)))
///     .column(KeyColumn::Account, "user_id")
///     .column(KeyColumn::Period, "agentkey_period");
/// # let _ = adoption; Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "an adoption takes effect through `PostgresOptions::adopt`"]
pub struct Adoption {
    scopes: ScopeSet,
    budget: Budget,
    columns: BTreeMap<KeyColumn, String>,
    /// The issuer of the subjects in rows that name none.
    issuer: Option<String>,
    /// The columns that switch keys off; `None` for a column that does not, whatever its name is.
    switches: BTreeMap<String, Option<SwitchedOff>>,
}

impl Adoption {
    /// Sets what NULL scopes mean in the table, and what NULL in the column of the limit means. A row with a limit and
    /// no period is limited for its lifetime. A row with a period and no limit has this limit in its own period.
    pub const fn new(scopes: ScopeSet, budget: Budget) -> Self {
        Self { scopes, budget, columns: BTreeMap::new(), issuer: None, switches: BTreeMap::new() }
    }

    /// Names the issuer of the subjects in the column [`KeyColumn::Subject`], which has bare ids. From then on a
    /// [verifier](crate::AgentKeyLayer::verifier) finds these keys by their subjects, and so does
    /// [`AgentKeys::find_subject`](crate::AgentKeys::find_subject). Default: none, so that no subject finds them.
    ///
    /// ```
    /// use agentkey::{Budget, ScopeSet};
    /// use agentkey::store::Adoption;
    ///
    /// let adoption = Adoption::new(ScopeSet::unrestricted(), Budget::unlimited())
    ///     .issuer("https://clerk.example.com");
    /// # let _ = adoption;
    /// ```
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Takes a field from a column of another name than [`KeyColumn`] says. If there is no such column, it is added by
    /// this name where the field allows that.
    pub fn column(mut self, field: KeyColumn, name: impl Into<String>) -> Self {
        self.columns.insert(field, name.into());
        self
    }

    /// Names a column by which the application's own software switches keys off. Such a key is refused with
    /// `disabled_key`, and its descendants too, for as long as the column says so.
    ///
    /// Columns such as `enabled`, `is_active`, `blocked` and `deleted_at` need not be named. One that may be a switch and
    /// cannot be read as one, such as a `status`, is an error at the first opening. Then name another column, or
    /// [`ignore`](Self::ignore) it. NULL is never off. agentkey reads these columns and never writes them: a key is
    /// switched on again where it was switched off.
    ///
    /// ```
    /// use agentkey::{Budget, ScopeSet};
    /// use agentkey::store::{Adoption, SwitchedOff};
    ///
    /// let adoption = Adoption::new(ScopeSet::none(), Budget::unlimited())
    ///     .switch("in_use", SwitchedOff::WhenFalse)
    ///     .ignore("status");
    /// # let _ = adoption;
    /// ```
    pub fn switch(mut self, column: impl Into<String>, off: SwitchedOff) -> Self {
        self.switches.insert(column.into(), Some(off));
        self
    }

    /// Says that a column does not switch keys off, whatever its name is.
    pub fn ignore(mut self, column: impl Into<String>) -> Self {
        self.switches.insert(column.into(), None);
        self
    }
}

/// A field of a key in an adopted table, and its column.
///
/// | Field | Column | In a table that has `budget_cents` | Types | Where it is missing |
/// |---|---|---|---|---|
/// | `Id` | `id` | | `smallint`, `integer`, `bigint`; unique | refused |
/// | `Account` | `account_id` | | `text`, `varchar`, integers, `uuid` | refused |
/// | `Hash` | `key_hash` | | `text`, `varchar`, `char(64)`; unique; SHA-256 in lower-case hex | refused |
/// | `Parent` | `parent_id` | | integers | added |
/// | `Name`, `Prefix` | `name`, `prefix` | | `text`, `varchar` | added |
/// | `Start` | `start`, or `key_prefix` with the prefix in it | | `text`, `varchar` | added |
/// | `Scopes` | `scopes` | | `text[]`, `varchar[]` | added |
/// | `LimitMicros` | `limit_micros` | none | `bigint` | added |
/// | `LimitCents` | none | `budget_cents` | integers | `LimitMicros` |
/// | `Period` | `period` | `budget_period` | `text`, `varchar` | added |
/// | `MoreLimits` | `more_limits` | | `jsonb`, `json` | added |
/// | `RateLimit` | `rate_limit` | | `jsonb`, `json` | added |
/// | `AllowedCidrs` | `allowed_cidrs` | | `cidr[]` | added |
/// | `CreatedAt` | `created_at` | | `timestamptz`, `timestamp` in UTC | added |
/// | `ExpiresAt`, `DisabledAt`, `RevokedAt` | `expires_at`, `disabled_at`, `revoked_at` | | the same | added |
/// | `RevokedReason` | `revoked_reason` | | `text`, `varchar` | added |
/// | `DelegatedBy` | `delegated_by` | | `text`, `varchar`, `char`, integers, `uuid` | added |
/// | `Metadata` | `metadata` | | `jsonb`, `json` | added |
/// | `UsedCents` | none | `budget_used_cents` | integers | nothing was spent |
/// | `ResetsAt` | none | `budget_reset_at` | as `CreatedAt` | windows are counted from `CreatedAt` |
/// | `Subject` | `agentkey_sub` | `external_subject` | `text`, `varchar` | added |
/// | `Issuer` | `agentkey_issuer` | | `text`, `varchar` | added |
///
/// `UsedCents` and `ResetsAt` are read once, at the adoption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum KeyColumn {
    /// The number of the record.
    Id,
    /// The account that owns it.
    Account,
    /// The SHA-256 of its token, in lower-case hexadecimal.
    Hash,
    /// The id of the key that it was minted from. A key is refused if its parent is not in the table or is in another
    /// account, because what the parent allows is unknown. If the column of this name has another meaning, name another
    /// one.
    Parent,
    /// Its display name.
    Name,
    /// The prefix of its token.
    Prefix,
    /// The first characters of its token after the prefix.
    Start,
    /// Its scopes.
    Scopes,
    /// Its limit, in millionths of the currency.
    LimitMicros,
    /// Its limit, in whole cents.
    LimitCents,
    /// The name of a [`Period`](crate::model::Period); also `daily`, `weekly`, `monthly`, `total` and `none`.
    Period,
    /// Its limits in other periods: a JSON object such as `{"day": 50000}`, in millionths of the currency.
    MoreLimits,
    /// How many requests the key may send: [`RateLimit`](crate::model::RateLimit) in JSON.
    RateLimit,
    /// From where the key may be used.
    AllowedCidrs,
    /// When it was made.
    CreatedAt,
    /// When it expires.
    ExpiresAt,
    /// Since when it is disabled.
    DisabledAt,
    /// When it was revoked.
    RevokedAt,
    /// Why it was revoked.
    RevokedReason,
    /// The human on whose behalf it acts.
    DelegatedBy,
    /// A JSON object of the application.
    Metadata,
    /// What it has spent in its window so far, in cents.
    UsedCents,
    /// When its window ends and the next one begins. The window is taken to be one period long. A longer window, whose
    /// period was shortened while it ran, ends a whole number of periods earlier.
    ResetsAt,
    /// The id of the subject that it is for, as its issuer gave it. The issuer is in `Issuer`, or is that of
    /// [`Adoption::issuer`]. [`PostgresStore::find_by_subject`](crate::PostgresStore::find_by_subject) finds keys by the
    /// id alone. It becomes the label `external_subject` of the opening entry, if it is valid as a label.
    Subject,
    /// The issuer of its subject. NULL is that of [`Adoption::issuer`].
    Issuer,
}

/// The description of a field.
struct Spec {
    /// Its name in the record of an adoption.
    name: &'static str,
    /// The default name of the column; `None` if there is no default.
    column: Option<&'static str>,
    /// The name of the column in a table of the npm package agentkey, if it is another one.
    npm_column: Option<&'static str>,
    types: Types,
    /// The type of the column if it is added; `None` if the column must exist.
    added_type: Option<&'static str>,
}

/// The types that a field can be read from.
struct Types {
    /// Their internal names in PostgreSQL.
    names: &'static [&'static str],
    /// Their names in messages.
    shown: &'static str,
}

const ACCOUNTS: Types = Types {
    names: &["text", "varchar", "int2", "int4", "int8", "uuid"],
    shown: "text, varchar, smallint, integer, bigint or uuid",
};
const ARRAYS: Types = Types { names: &["_text", "_varchar"], shown: "text[] or varchar[]" };
const BIGINT: Types = Types { names: &["int8"], shown: "bigint" };
const HASHES: Types =
    Types { names: &["text", "varchar", "bpchar"], shown: "text, varchar or char(64)" };
const HUMANS: Types = Types {
    names: &["text", "varchar", "bpchar", "int2", "int4", "int8", "uuid"],
    shown: "text, varchar, char, smallint, integer, bigint or uuid",
};
const INSTANTS: Types =
    Types { names: &["timestamptz", "timestamp"], shown: "timestamp with or without time zone" };
const INTEGERS: Types =
    Types { names: &["int2", "int4", "int8"], shown: "smallint, integer or bigint" };
const JSON: Types = Types { names: &["jsonb", "json"], shown: "jsonb or json" };
const RANGES: Types = Types { names: &["_cidr"], shown: "cidr[]" };
const TEXTS: Types = Types { names: &["text", "varchar"], shown: "text or varchar" };

impl KeyColumn {
    const ALL: [Self; 25] = [
        Self::Id,
        Self::Account,
        Self::Hash,
        Self::Parent,
        Self::Name,
        Self::Prefix,
        Self::Start,
        Self::Scopes,
        Self::LimitMicros,
        Self::LimitCents,
        Self::Period,
        Self::MoreLimits,
        Self::RateLimit,
        Self::AllowedCidrs,
        Self::CreatedAt,
        Self::ExpiresAt,
        Self::DisabledAt,
        Self::RevokedAt,
        Self::RevokedReason,
        Self::DelegatedBy,
        Self::Metadata,
        Self::UsedCents,
        Self::ResetsAt,
        Self::Subject,
        Self::Issuer,
    ];

    const fn spec(self) -> Spec {
        // The name, the column, the column in a table of the npm package, the types that are read, and the type that is
        // added.
        let (name, column, npm_column, types, added_type) = match self {
            Self::Id => ("id", Some("id"), None, INTEGERS, None),
            Self::Account => ("account", Some("account_id"), None, ACCOUNTS, None),
            Self::Hash => ("hash", Some("key_hash"), None, HASHES, None),
            Self::Parent => ("parent", Some("parent_id"), None, INTEGERS, Some("bigint")),
            Self::Name => ("name", Some("name"), None, TEXTS, Some("text")),
            Self::Prefix => ("prefix", Some("prefix"), None, TEXTS, Some("text")),
            Self::Start => ("start", Some("start"), None, TEXTS, Some("text")),
            Self::Scopes => ("scopes", Some("scopes"), None, ARRAYS, Some("text[]")),
            Self::LimitMicros => {
                ("limit_micros", Some("limit_micros"), None, BIGINT, Some("bigint"))
            }
            Self::LimitCents => ("limit_cents", None, Some("budget_cents"), INTEGERS, None),
            Self::Period => ("period", Some("period"), Some("budget_period"), TEXTS, Some("text")),
            Self::MoreLimits => ("more_limits", Some("more_limits"), None, JSON, Some("jsonb")),
            Self::RateLimit => ("rate_limit", Some("rate_limit"), None, JSON, Some("jsonb")),
            Self::AllowedCidrs => {
                ("allowed_cidrs", Some("allowed_cidrs"), None, RANGES, Some("cidr[]"))
            }
            Self::CreatedAt => {
                ("created_at", Some("created_at"), None, INSTANTS, Some("timestamptz"))
            }
            Self::ExpiresAt => {
                ("expires_at", Some("expires_at"), None, INSTANTS, Some("timestamptz"))
            }
            Self::DisabledAt => {
                ("disabled_at", Some("disabled_at"), None, INSTANTS, Some("timestamptz"))
            }
            Self::RevokedAt => {
                ("revoked_at", Some("revoked_at"), None, INSTANTS, Some("timestamptz"))
            }
            Self::RevokedReason => {
                ("revoked_reason", Some("revoked_reason"), None, TEXTS, Some("text"))
            }
            Self::DelegatedBy => ("delegated_by", Some("delegated_by"), None, HUMANS, Some("text")),
            Self::Metadata => ("metadata", Some("metadata"), None, JSON, Some("jsonb")),
            Self::UsedCents => ("used_cents", None, Some("budget_used_cents"), INTEGERS, None),
            Self::ResetsAt => ("resets_at", None, Some("budget_reset_at"), INSTANTS, None),
            Self::Subject => {
                ("subject", Some("agentkey_sub"), Some("external_subject"), TEXTS, Some("text"))
            }
            Self::Issuer => ("issuer", Some("agentkey_issuer"), None, TEXTS, Some("text")),
        };
        Spec { name, column, npm_column, types, added_type }
    }

    /// Returns whether a NULL in the field lets a key do more.
    const fn is_restricting(self) -> bool {
        matches!(self, Self::Scopes | Self::ExpiresAt | Self::DisabledAt | Self::RevokedAt)
    }

    /// Returns whether agentkey writes the field.
    const fn agentkey_writes(self) -> bool {
        !matches!(self, Self::Id | Self::UsedCents | Self::ResetsAt)
    }
}

impl fmt::Display for KeyColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
