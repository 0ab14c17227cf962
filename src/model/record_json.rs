//! The JSON of keys and accounts.
//!
//! Every member is required where its absence would allow more.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{
    Account, AccountId, Amount, Balance, Budget, BudgetError, Key, KeyId, Metadata, Period,
    ScopeSet, Spent,
};

/// A [`Key`] in JSON.
#[derive(Serialize, Deserialize)]
pub(super) struct KeyJson {
    id: KeyId,
    account: AccountId,
    // `deserialize_with` makes a missing member an error, here and below.
    #[serde(deserialize_with = "Option::deserialize")]
    parent: Option<KeyId>,
    name: String,
    prefix: String,
    start: String,
    #[serde(deserialize_with = "ScopeSet::deserialize_stored")]
    scopes: ScopeSet,
    budgets: Vec<LimitJson>,
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
pub(super) struct AccountJson {
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

fn from_json(limits: &[LimitJson], held: Amount) -> Result<(Budget, Balance), BudgetError> {
    let budget = Budget::from_limits(limits.iter().map(|limit| (limit.limit_cents, limit.period)))?;
    let mut windows =
        limits.iter().map(|limit| Spent::new(limit.period, limit.spent_cents, limit.window_start));
    let first = windows.next().ok_or(BudgetError::NoAmount)?;
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
            scopes: key.scopes,
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

impl TryFrom<KeyJson> for Key {
    type Error = BudgetError;

    fn try_from(json: KeyJson) -> Result<Self, BudgetError> {
        let (budget, balance) = from_json(&json.budgets, json.held_cents)?;
        Ok(Self {
            id: json.id,
            account: json.account,
            parent: json.parent,
            name: json.name,
            prefix: json.prefix,
            start: json.start,
            scopes: json.scopes,
            budget,
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

impl From<Account> for AccountJson {
    fn from(account: Account) -> Self {
        Self {
            budgets: to_json(&account.budget, &account.balance),
            id: account.id,
            held_cents: account.balance.held,
            created_at: account.created_at,
        }
    }
}

impl TryFrom<AccountJson> for Account {
    type Error = BudgetError;

    fn try_from(json: AccountJson) -> Result<Self, BudgetError> {
        let (budget, balance) = from_json(&json.budgets, json.held_cents)?;
        Ok(Self { id: json.id, budget, created_at: json.created_at, balance })
    }
}
