//! The JSON of the routes: what clients send, and what they get.
//!
//! Money is in cents, with at most four decimals. Instants are RFC 3339 in UTC. In a request, a
//! member that is absent, one that is `null` and one that has a value are three things.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use crate::model::{
    Amount, EntryId, EntryKind, FieldError, KeyId, Labels, Metadata, Period, ScopeSet, Validity,
};

/// The body of `POST /signup`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SignupRequest {
    /// The e-mail address. The service may require it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The name of the key, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the key may do. Absent: all that the service gives to new clients.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub scopes: Option<ScopeSet>,
    /// What the key may spend. Absent: the most that the service gives to new clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budgets: Option<Vec<Limit>>,
    /// How long the key is valid, such as `24h`. Absent: the longest that the service gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<Validity>,
}

/// The body of `POST /keys`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MintRequest {
    /// The name of the key, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the key may do. Absent: what the caller may do. `null`: unrestricted.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub scopes: Option<ScopeSet>,
    /// What the key may spend. Absent: the service's default, if it has one. `null` and `[]`: no
    /// limit of its own. The limits of its lineage bind it in every case.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub budgets: Option<Option<Vec<Limit>>>,
    /// When the key ends. Absent: as late as allowed. `null`: never.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Option<Timestamp>>,
    /// How long the key is valid, such as `30d`. Excludes `expires_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<Validity>,
    /// What the service keeps with the key: a JSON object of at most 4 KB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
}

/// The body of `PATCH /keys/{id}`. What is absent stays as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PatchRequest {
    /// Another name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Fewer scopes. `null`: unrestricted.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub scopes: Option<ScopeSet>,
    /// Other limits, in place of all. `null` and `[]`: none.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub budgets: Option<Option<Vec<Limit>>>,
    /// Another end. `null`: never.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Option<Timestamp>>,
    /// An end that is counted from now. Excludes `expires_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<Validity>,
    /// Other metadata, in place of all. `null`: none.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
}

/// The body of `POST /keys/{id}/rotate`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RotateRequest {
    /// How long the old token still works, in seconds: 0 to 2,592,000. Absent: 0, so that it ends
    /// at once, and so do tokens that were rotated away before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<u32>,
}

/// The body of `DELETE /keys/{id}`, which may be empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RevokeRequest {
    /// Why, for people: up to 255 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A limit in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Limit {
    /// The most that may be spent in a window; 0 for nothing.
    pub limit_cents: Amount,
    /// The period after which it may be spent again.
    pub period: Period,
}

impl Limit {
    /// Returns a limit.
    pub const fn new(limit_cents: Amount, period: Period) -> Self {
        Self { limit_cents, period }
    }
}

/// A key, as its caller sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Key {
    /// The id of the record.
    pub id: KeyId,
    /// The key from which it was minted, where the caller may see it.
    pub parent: Option<KeyId>,
    /// The name for people.
    pub name: String,
    /// The prefix of its token.
    pub prefix: String,
    /// The first characters of its token after the prefix.
    pub start: String,
    /// Whether it works.
    pub state: State,
    /// What the key itself may do; `null` for unrestricted.
    pub scopes: ScopeSet,
    /// What the key and all its ancestors allow.
    pub effective_scopes: ScopeSet,
    /// The key's limits, and what binds it from above.
    pub budgets: Vec<Budget>,
    /// The least that a limit has left; `null` where nothing limits the key.
    pub remaining_cents: Option<Amount>,
    /// When the key was created.
    pub created_at: Timestamp,
    /// When the key itself ends.
    pub expires_at: Option<Timestamp>,
    /// When it ends by its own or an ancestor's expiry.
    pub effective_expires_at: Option<Timestamp>,
    /// Since when it is disabled.
    pub disabled_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Why it was revoked.
    pub revoked_reason: Option<String>,
    /// The human on whose behalf it acts.
    pub delegated_by: Option<String>,
    /// What the service keeps with it.
    pub metadata: Metadata,
}

/// Whether a key works, by its own record and those of its ancestors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// It works.
    Active,
    /// It is paused.
    Disabled,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

/// What limits a key: a limit of its own, or what is left above it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "scope", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Budget {
    /// A limit of the key itself.
    Key {
        /// The period after which it may be spent again.
        period: Period,
        /// The most that may be spent in a window.
        limit_cents: Amount,
        /// What was spent in the current window, by the key and its descendants.
        spent_cents: Amount,
        /// What their live holds set aside.
        held_cents: Amount,
        /// limit − spent − held, not below zero.
        remaining_cents: Amount,
        /// When the window ends.
        resets_at: Option<Timestamp>,
    },
    /// The least that is left above the key. It is there only where that is less than the key's own.
    Inherited {
        /// What is left.
        remaining_cents: Amount,
    },
}

/// A new key, or a key with a new token. The token is shown this once.
#[derive(Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CreatedKey {
    /// The secret.
    pub token: String,
    /// The key.
    pub key: Key,
}

impl std::fmt::Debug for CreatedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedKey").field("key", &self.key).finish_non_exhaustive()
    }
}

/// A page of keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KeyPage {
    /// The keys. A page may have fewer than were asked for, and more may follow.
    pub keys: Vec<Key>,
    /// What to send as `cursor` for the next page; `null` on the last.
    pub next_cursor: Option<String>,
}

/// A page of entries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EntryPage {
    /// The entries, oldest first.
    pub entries: Vec<Entry>,
    /// What to send as `cursor` for the next page; `null` on the last.
    pub next_cursor: Option<String>,
}

/// What was charged, refunded or adjusted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Entry {
    /// The id of the entry.
    pub id: EntryId,
    /// The key that was charged.
    pub key: Option<KeyId>,
    /// The kind of posting.
    pub kind: EntryKind,
    /// The amount charged. It is negative for a refund and for a top-up.
    pub amount_cents: Amount,
    /// When it was written.
    pub at: Timestamp,
    /// The entry that this one refunds.
    pub refunds: Option<EntryId>,
    /// The labels that the service set.
    pub labels: Labels,
    /// The reference that the service set.
    pub reference: Option<String>,
}

/// A page of sums.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UsagePage {
    /// The sums, in the order of their groups.
    pub groups: Vec<UsageGroup>,
    /// What to send as `cursor` for the next page; `null` on the last.
    pub next_cursor: Option<String>,
}

/// The sum of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UsageGroup {
    /// The group: the start of an hour, a day or a month, the id of a key, or the value of a label.
    pub group: String,
    /// What was charged, less what was refunded, without adjustments.
    pub amount_cents: Amount,
    /// The number of charges.
    pub charges: u64,
    /// The sum of the adjustments.
    pub adjusted_cents: Amount,
}

/// A problem document (RFC 9457). Some errors have more members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Problem {
    /// The standard text of the status.
    pub title: String,
    /// The status.
    pub status: u16,
    /// The stable code of the error.
    pub error: String,
    /// The error for people.
    pub detail: String,
    /// The fields that are wrong, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// Reads a member that is there, so that `null` is not taken for a missing one.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}
