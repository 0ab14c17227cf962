//! Taking over a keys table of the host's own.

mod plan;
mod record;
mod shape;

use std::collections::BTreeMap;
use std::fmt;

use crate::{Budget, ScopeSet};

pub(super) use self::plan::{Adopting, plan};
pub(super) use self::record::adopted;

/// What an adopted table leaves unsaid: see [`PostgresOptions::table`](crate::PostgresOptions::table).
///
/// The rows of such a table were written by others, and may have no scopes and no budget, or the table may not even
/// have had columns for them. What that means is said here, and nowhere assumed. It is recorded at the first opening,
/// with the columns, and need not be said again.
///
/// ```
/// use agentkey::{Adoption, Amount, Budget, KeyColumn, ScopeSet};
///
/// // A key without scopes may read; one without a budget has $10 a month.
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
}

impl Adoption {
    /// What NULL scopes mean in the table, and what NULL in the column of the limit means. A row that has a limit and
    /// no period is limited once and for all; one that has a period and no limit has this limit in its own period.
    pub const fn new(scopes: ScopeSet, budget: Budget) -> Self {
        Self { scopes, budget, columns: BTreeMap::new() }
    }

    /// Takes a field from a column of another name than [`KeyColumn`] says. If there is no such column, and the field is
    /// one for which a column may be added, it is added by this name.
    pub fn column(mut self, field: KeyColumn, name: impl Into<String>) -> Self {
        self.columns.insert(field, name.into());
        self
    }
}

/// A field of a key in an adopted table, and where it is looked for.
///
/// | Field | Column | In a table that has `budget_cents` | Types | Where it is missing |
/// |---|---|---|---|---|
/// | `Id` | `id` | | `smallint`, `integer`, `bigint`; unique | refused |
/// | `Account` | `account_id` | | `text`, `varchar`, integers, `uuid` | refused |
/// | `Hash` | `key_hash` | | `text`, `varchar`, `char(64)`; unique; SHA-256 in lower-case hex | refused |
/// | `Parent` | `parent_id` | `delegated_by`, where there is one | integers | added |
/// | `Name`, `Prefix`, `Start` | `name`, `prefix`, `start` | | `text`, `varchar` | added |
/// | `Scopes` | `scopes` | | `text[]`, `varchar[]` | added |
/// | `LimitMicros` | `limit_micros` | none | `bigint` | added |
/// | `LimitCents` | none | `budget_cents` | integers | `LimitMicros` |
/// | `Period` | `period` | `budget_period` | `text`, `varchar` | added |
/// | `CreatedAt` | `created_at` | | `timestamptz`, `timestamp` in UTC | added |
/// | `ExpiresAt`, `RevokedAt` | `expires_at`, `revoked_at` | | the same | added |
/// | `UsedCents` | none | `budget_used_cents` | integers | nothing was spent |
/// | `ResetsAt` | none | `budget_reset_at` | as `CreatedAt` | windows are counted from `CreatedAt` |
/// | `Subject` | none | `external_subject` | `text`, `varchar` | none |
///
/// The last three are read once, at the adoption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum KeyColumn {
    /// The number of the record.
    Id,
    /// Who owns it.
    Account,
    /// The SHA-256 of its token, in lower-case hexadecimal.
    Hash,
    /// The id of the key it was minted from. A key whose parent is not in the table, and in the same account, is refused:
    /// nothing is known of what the parent allows. Where such a column is about something else, name another.
    Parent,
    /// What people call it.
    Name,
    /// The prefix of its token.
    Prefix,
    /// The first characters of its token after the prefix.
    Start,
    /// What it may do.
    Scopes,
    /// What it may spend, in millionths of the currency.
    LimitMicros,
    /// What it may spend, in whole cents.
    LimitCents,
    /// The name of a [`Period`](crate::Period); also `daily`, `weekly`, `monthly`, `total` and `none`.
    Period,
    /// When it was made.
    CreatedAt,
    /// From when on it is refused.
    ExpiresAt,
    /// When it was revoked.
    RevokedAt,
    /// What it has spent in its window so far, in cents.
    UsedCents,
    /// When its window ends, and the next one begins. It is taken to be one period long: one that was longer, because
    /// the period was made shorter while it ran, ends a whole number of periods earlier.
    ResetsAt,
    /// For whom it is used: it becomes the label `external_subject` of the opening entry, if it can be one.
    Subject,
}

impl KeyColumn {
    const ALL: [Self; 17] = [
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
        Self::CreatedAt,
        Self::ExpiresAt,
        Self::RevokedAt,
        Self::UsedCents,
        Self::ResetsAt,
        Self::Subject,
    ];

    /// Its name in the record of an adoption.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Account => "account",
            Self::Hash => "hash",
            Self::Parent => "parent",
            Self::Name => "name",
            Self::Prefix => "prefix",
            Self::Start => "start",
            Self::Scopes => "scopes",
            Self::LimitMicros => "limit_micros",
            Self::LimitCents => "limit_cents",
            Self::Period => "period",
            Self::CreatedAt => "created_at",
            Self::ExpiresAt => "expires_at",
            Self::RevokedAt => "revoked_at",
            Self::UsedCents => "used_cents",
            Self::ResetsAt => "resets_at",
            Self::Subject => "subject",
        }
    }

    /// The column's name where nothing else is said; `None` where there is none unless a table has it.
    const fn default_name(self) -> Option<&'static str> {
        match self {
            Self::Account => Some("account_id"),
            Self::Hash => Some("key_hash"),
            Self::Parent => Some("parent_id"),
            Self::LimitCents | Self::UsedCents | Self::ResetsAt | Self::Subject => None,
            other => Some(other.as_str()),
        }
    }

    /// The column's name in a table of the npm package agentkey.
    const fn npm_name(self) -> Option<&'static str> {
        match self {
            Self::Parent => Some("delegated_by"),
            Self::LimitCents => Some("budget_cents"),
            Self::Period => Some("budget_period"),
            Self::UsedCents => Some("budget_used_cents"),
            Self::ResetsAt => Some("budget_reset_at"),
            Self::Subject => Some("external_subject"),
            _ => None,
        }
    }

    /// The type of the column where it is added; `None` where it must be there.
    const fn added_type(self) -> Option<&'static str> {
        match self {
            Self::Id | Self::Account | Self::Hash => None,
            Self::LimitCents | Self::UsedCents | Self::ResetsAt | Self::Subject => None,
            Self::Parent | Self::LimitMicros => Some("bigint"),
            Self::Name | Self::Prefix | Self::Start | Self::Period => Some("text"),
            Self::Scopes => Some("text[]"),
            Self::CreatedAt | Self::ExpiresAt | Self::RevokedAt => Some("timestamptz"),
        }
    }

    /// The types that it can be read from, as PostgreSQL calls them within.
    const fn types(self) -> &'static [&'static str] {
        match self {
            Self::Id | Self::Parent | Self::LimitCents | Self::UsedCents => &["int2", "int4", "int8"],
            Self::Account => &["text", "varchar", "int2", "int4", "int8", "uuid"],
            Self::Hash => &["text", "varchar", "bpchar"],
            Self::Name | Self::Prefix | Self::Start | Self::Period | Self::Subject => &["text", "varchar"],
            Self::Scopes => &["_text", "_varchar"],
            Self::LimitMicros => &["int8"],
            Self::CreatedAt | Self::ExpiresAt | Self::RevokedAt | Self::ResetsAt => &["timestamptz", "timestamp"],
        }
    }

    /// The same for people.
    const fn types_shown(self) -> &'static str {
        match self {
            Self::Id | Self::Parent | Self::LimitCents | Self::UsedCents => "smallint, integer or bigint",
            Self::Account => "text, varchar, smallint, integer, bigint or uuid",
            Self::Hash => "text, varchar or char(64)",
            Self::Name | Self::Prefix | Self::Start | Self::Period | Self::Subject => "text or varchar",
            Self::Scopes => "text[] or varchar[]",
            Self::LimitMicros => "bigint",
            Self::CreatedAt | Self::ExpiresAt | Self::RevokedAt | Self::ResetsAt => {
                "timestamp with or without time zone"
            }
        }
    }

    /// Whether a key may do more where it says nothing.
    const fn is_restricting(self) -> bool {
        matches!(self, Self::Scopes | Self::ExpiresAt | Self::RevokedAt)
    }

    /// Whether agentkey writes it, now and then.
    const fn is_written(self) -> bool {
        !matches!(self, Self::Id | Self::UsedCents | Self::ResetsAt | Self::Subject)
    }
}

impl fmt::Display for KeyColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
