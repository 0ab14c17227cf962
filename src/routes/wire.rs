//! The JSON of the routes: what clients send, and what they get.
//!
//! Money is in cents, with at most four decimals. Instants are RFC 3339 in UTC. In a request, a
//! member that is absent, one that is `null` and one that has a value are three things.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[cfg(feature = "sessions")]
use crate::model::SessionId;
use crate::model::request_json::present;
use crate::model::{
    Amount, Cidrs, EntryId, EntryKind, FieldError, KeyId, Labels, Metadata, Period, RateLimit,
    ScopeSet, Subject, Validity,
};

/// The body of `POST /signup`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SignupRequest {
    /// The e-mail address. The service may require it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(format = "email", max_length = 254))]
    pub email: Option<String>,
    /// The name of the key, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(max_length = 255))]
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

/// The body of `POST /keys`, and of `PATCH /keys/{id}`, where what is absent stays as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct KeyRequest {
    /// The name of the key, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(max_length = 255))]
    pub name: Option<String>,
    /// What the key may do. Absent in a mint: what the caller may do. `null`: unrestricted.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub scopes: Option<ScopeSet>,
    /// All limits of what the key may spend. Absent in a mint: the service's default, if it has one.
    /// `null` and `[]`: no limit of its own. The limits of its lineage bind it in every case.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<Limit>>))]
    pub budgets: Option<Option<Vec<Limit>>>,
    /// How many requests the key and its children may send. `null`: no limit of its own. The limits of
    /// its lineage and of the service bind it in every case.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<RateLimit>))]
    pub rate_limit: Option<Option<RateLimit>>,
    /// The ranges of addresses from which the key may be used. `null`: no ranges of its own. Those of
    /// its lineage bind it in every case.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Cidrs>))]
    pub allowed_cidrs: Option<Option<Cidrs>>,
    /// When the key ends. Absent in a mint: as late as allowed. `null`: never.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Timestamp>))]
    pub expires_at: Option<Option<Timestamp>>,
    /// How long the key is valid from now on, such as `30d`. Excludes `expires_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<Validity>,
    /// What the service keeps with the key: a JSON object of at most 4 KB. `null`: nothing.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
}

/// The body of `POST /keys/{id}/rotate`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RotateRequest {
    /// How long the old token still works, in seconds: 0 to 2,592,000. Absent: 0, so that it ends
    /// at once, and so do tokens that were rotated away before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 2_592_000))]
    pub grace_seconds: Option<u32>,
}

/// The body of `DELETE /keys/{id}`, which may be empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RevokeRequest {
    /// Why, for people: up to 255 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(max_length = 255))]
    pub reason: Option<String>,
}

/// The body of `POST /sessions`.
#[cfg(feature = "sessions")]
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SessionRequest {
    /// What the session may do. Absent: what the caller may do. `null`: unrestricted.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub scopes: Option<ScopeSet>,
    /// How long the session lasts. Absent: an hour, or the nearest time that is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
    /// The most that the session may spend; 0 for nothing. Absent: the service's default for new keys,
    /// if it has one. Excludes `spend_cap_usd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<f64>, minimum = 0))]
    pub spend_cap_cents: Option<Amount>,
    /// The same in units of the currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<f64>, minimum = 0))]
    pub spend_cap_usd: Option<Usd>,
}

/// An amount in units of the currency: a JSON number with at most six decimals.
///
/// It is read through its decimal text and never through binary rounding. So from a billion units on,
/// it has to be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usd(pub Amount);

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let micros = self.0.as_micros();
        match micros % 1_000_000 {
            0 => serializer.serialize_i64(micros / 1_000_000),
            // The nearest double of so few digits has them as its shortest text.
            _ if micros.unsigned_abs() < 1_000_000_000_000_000 => {
                serializer.serialize_f64(micros as f64 / 1e6)
            }
            _ => serializer.serialize_str(&self.0.to_string()),
        }
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl serde::de::Visitor<'_> for Number {
            type Value = Usd;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number with at most six decimals")
            }

            fn visit_i64<E: serde::de::Error>(self, units: i64) -> Result<Usd, E> {
                units.to_string().parse().map(Usd).map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, units: u64) -> Result<Usd, E> {
                units.to_string().parse().map(Usd).map_err(E::custom)
            }

            fn visit_f64<E: serde::de::Error>(self, units: f64) -> Result<Usd, E> {
                if units.abs() >= 1e9 && units.fract() != 0.0 {
                    return Err(E::custom("an amount of 1000000000 or more must be whole"));
                }
                if units.abs() >= 1e15 {
                    return Err(E::custom(crate::model::AmountError::OutOfRange));
                }
                units.to_string().parse().map(Usd).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Number)
    }
}

/// A new session. The token is shown this once.
#[cfg(feature = "sessions")]
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct OpenedSession {
    /// The id of the session, such as `ses_42`.
    pub session_id: SessionId,
    /// The secret: a signed JWT.
    pub token: String,
    /// The instant from which the session is refused.
    pub expires_at: Timestamp,
    /// What the session may do; `null` for unrestricted.
    pub scopes: ScopeSet,
    /// The most that it may spend; `null` where only its lineage limits it.
    pub spend_cap_usd: Option<Usd>,
    /// The same in cents.
    pub spend_cap_cents: Option<Amount>,
}

#[cfg(feature = "sessions")]
impl std::fmt::Debug for OpenedSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenedSession")
            .field("session_id", &self.session_id)
            .finish_non_exhaustive()
    }
}

/// A session, as itself and its parent see it.
#[cfg(feature = "sessions")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct Session {
    /// The id of the session.
    pub session_id: SessionId,
    /// Whether it works.
    pub state: State,
    /// What the session and all its ancestors allow.
    pub scopes: ScopeSet,
    /// The instant from which it is refused.
    pub expires_at: Option<Timestamp>,
    /// The most that it may spend; `null` where only its lineage limits it.
    pub spend_cap_usd: Option<Usd>,
    /// The same in cents.
    pub spend_cap_cents: Option<Amount>,
    /// The limits of the session, and what binds it from above.
    pub budgets: Vec<Budget>,
    /// The least that a limit has left; `null` where nothing limits the session.
    pub remaining_cents: Option<Amount>,
    /// The human on whose behalf it acts.
    pub delegated_by: Option<String>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Why it was revoked.
    pub revoked_reason: Option<String>,
}

/// The answer of `POST /introspect` (RFC 7662). What is not in force is `active: false`, and has no
/// other member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct Introspection {
    /// Whether the token works now.
    pub active: bool,
    /// What it may do, with a space between two scopes; `*` for unrestricted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The id of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The human on whose behalf it acts, or else the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// `Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_type: Option<String>,
    /// When the token ends, in seconds since 1970, rounded down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    /// When the key was created, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    /// The account that owns the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The key's limits, and what binds it from above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budgets: Option<Vec<Budget>>,
    /// The least that a limit has left, where one limits the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_cents: Option<Amount>,
}

/// The metadata of a protected resource (RFC 9728).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct ResourceMetadata {
    /// The URL of the resource.
    pub resource: String,
    /// The authorization servers whose tokens it takes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authorization_servers: Vec<String>,
    /// The scopes that it knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes_supported: Vec<String>,
    /// How it takes tokens: in the header `Authorization`.
    pub bearer_methods_supported: Vec<String>,
    /// Its name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_name: Option<String>,
    /// Its documentation for developers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_documentation: Option<String>,
}

/// A limit in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Limit {
    /// The most that may be spent in a window; 0 for nothing.
    #[cfg_attr(feature = "openapi", schema(value_type = f64, minimum = 0))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
    /// The identity of another issuer that it is for; `null` for a key with a token.
    pub subject: Option<Subject>,
    /// Whether it works.
    pub state: State,
    /// What the key itself may do; `null` for unrestricted.
    pub scopes: ScopeSet,
    /// What the key and all its ancestors allow; for the caller itself, what its request allows.
    pub effective_scopes: ScopeSet,
    /// The key's limits, and what binds it from above.
    pub budgets: Vec<Budget>,
    /// How many requests the key and its children may send, by its own limit. Those of its ancestors
    /// bind too.
    pub rate_limit: Option<RateLimit>,
    /// From where the key may be used, by its own record; `null` where it does not say. The ranges of
    /// its ancestors bind too.
    pub allowed_cidrs: Option<Cidrs>,
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct KeyPage {
    /// The keys. A page may have fewer than were asked for, and more may follow.
    pub keys: Vec<Key>,
    /// What to send as `cursor` for the next page; `null` on the last.
    pub next_cursor: Option<String>,
}

/// A page of entries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct EntryPage {
    /// The entries, oldest first.
    pub entries: Vec<Entry>,
    /// What to send as `cursor` for the next page; `null` on the last.
    pub next_cursor: Option<String>,
}

/// What was charged, refunded or adjusted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct UsagePage {
    /// The sums, in the order of their groups.
    pub groups: Vec<UsageGroup>,
    /// What to send as `cursor` for the next page; `null` on the last.
    pub next_cursor: Option<String>,
}

/// The sum of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
