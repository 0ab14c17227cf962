//! The JSON of keys and accounts.
//!
//! Every member is required where its absence would allow more.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::{
    Account, AccountId, Amount, Balance, Budget, Cidrs, Key, KeyId, Metadata, Period, RateLimit,
    ScopeSet, Spent, Subject,
};

/// A [`Key`] in JSON.
#[derive(Serialize, Deserialize)]
struct KeyJson {
    id: KeyId,
    account: AccountId,
    // `deserialize_with` makes a missing member an error, here and below.
    #[serde(deserialize_with = "Option::deserialize")]
    parent: Option<KeyId>,
    name: String,
    prefix: String,
    start: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<Subject>,
    #[serde(deserialize_with = "ScopeSet::deserialize_stored")]
    scopes: ScopeSet,
    budgets: Vec<LimitJson>,
    #[serde(deserialize_with = "Option::deserialize")]
    rate_limit: Option<RateLimit>,
    #[serde(deserialize_with = "Option::deserialize")]
    allowed_cidrs: Option<Cidrs>,
    held_cents: Amount,
    created_at: Timestamp,
    windows_from: Timestamp,
    #[serde(deserialize_with = "Option::deserialize")]
    expires_at: Option<Timestamp>,
    #[serde(deserialize_with = "Option::deserialize")]
    disabled_at: Option<Timestamp>,
    #[serde(deserialize_with = "Option::deserialize")]
    revoked_at: Option<Timestamp>,
    #[serde(deserialize_with = "Option::deserialize")]
    revoked_reason: Option<String>,
    #[serde(deserialize_with = "Option::deserialize")]
    delegated_by: Option<String>,
    #[serde(deserialize_with = "Metadata::deserialize")]
    metadata: Metadata,
}

/// An [`Account`] in JSON.
#[derive(Serialize, Deserialize)]
struct AccountJson {
    id: AccountId,
    budgets: Vec<LimitJson>,
    held_cents: Amount,
    created_at: Timestamp,
}

/// A limit, and what was spent of it. The first may have no amount.
#[derive(Serialize, Deserialize)]
struct LimitJson {
    period: Period,
    #[serde(deserialize_with = "Option::deserialize")]
    limit_cents: Option<Amount>,
    spent_cents: Amount,
    window_start: Timestamp,
}

fn to_json(budget: &Budget, balance: &Balance) -> Vec<LimitJson> {
    let limit_of = |period| budget.limits().find(|limit| limit.period == period);
    let limits = balance.windows().map(|spent| LimitJson {
        period: spent.period,
        limit_cents: limit_of(spent.period).map(|limit| limit.amount),
        spent_cents: spent.amount,
        window_start: spent.since,
    });
    limits.collect()
}

fn from_json<E: serde::de::Error>(
    limits: &[LimitJson],
    held: Amount,
) -> Result<(Budget, Balance), E> {
    let budget = Budget::from_limits(limits.iter().map(|limit| (limit.limit_cents, limit.period)))
        .map_err(E::custom)?;
    let mut windows =
        limits.iter().map(|limit| Spent::new(limit.period, limit.spent_cents, limit.window_start));
    let first = windows.next().ok_or_else(|| {
        E::custom("budgets is empty; it names at least the period that is counted")
    })?;
    Ok((budget, Balance::stored(held, first, windows)))
}

impl From<Key> for KeyJson {
    fn from(key: Key) -> Self {
        Self {
            budgets: to_json(&key.budget, &key.balance),
            id: key.id,
            account: key.account,
            parent: key.parent,
            name: key.name,
            prefix: key.prefix,
            start: key.start,
            subject: key.subject,
            scopes: key.scopes,
            rate_limit: key.rate_limit,
            allowed_cidrs: key.allowed_cidrs,
            held_cents: key.balance.held,
            created_at: key.created_at,
            windows_from: key.anchor,
            expires_at: key.expires_at,
            disabled_at: key.disabled_at,
            revoked_at: key.revoked_at,
            revoked_reason: key.revoked_reason,
            delegated_by: key.delegated_by,
            metadata: key.metadata,
        }
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        KeyJson::from(self.clone()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = KeyJson::deserialize(deserializer)?;
        let (budget, balance) = from_json(&json.budgets, json.held_cents)?;
        Ok(Self {
            id: json.id,
            account: json.account,
            parent: json.parent,
            name: json.name,
            prefix: json.prefix,
            start: json.start,
            subject: json.subject,
            scopes: json.scopes,
            budget,
            rate_limit: json.rate_limit,
            allowed_cidrs: json.allowed_cidrs,
            created_at: json.created_at,
            anchor: json.windows_from,
            expires_at: json.expires_at,
            disabled_at: json.disabled_at,
            revoked_at: json.revoked_at,
            revoked_reason: json.revoked_reason,
            delegated_by: json.delegated_by,
            metadata: json.metadata,
            balance,
        })
    }
}

impl Serialize for Account {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json = AccountJson {
            id: self.id.clone(),
            budgets: to_json(&self.budget, &self.balance),
            held_cents: self.balance.held,
            created_at: self.created_at,
        };
        json.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Account {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = AccountJson::deserialize(deserializer)?;
        let (budget, balance) = from_json(&json.budgets, json.held_cents)?;
        Ok(Self { id: json.id, budget, created_at: json.created_at, balance })
    }
}
