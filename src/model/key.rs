//! Keys and accounts: the records that hold policy, and the money that stands beside them.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{AccountId, Amount, Balance, Budget, KeyId, Refusal, ScopeSet, TokenPrefix, Validity};

/// The record of a key: what it may do, how much it may spend, until when, and on whose behalf.
///
/// It has no secret in it. The token was shown once, when the key was created or rotated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Key {
    /// The number of the record.
    pub id: KeyId,
    /// Who owns it.
    pub account: AccountId,
    /// The key it was minted from, if any. Never changes.
    pub parent: Option<KeyId>,
    /// What people call it.
    pub name: String,
    /// The prefix of its token.
    pub prefix: String,
    /// The first characters of its token after the prefix, for people to recognise it by.
    pub start: String,
    /// What the key itself may do; its ancestors may allow less. See [`Lineage::scopes`](crate::model::Lineage::scopes).
    pub scopes: ScopeSet,
    /// What the key itself may spend; its ancestors and its account may have less left.
    #[serde(flatten)]
    pub budget: Budget,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its windows are counted from here unless they follow the calendar: from when it was made, or, for a key taken
    /// over from elsewhere, from where its window began there.
    #[serde(rename = "windows_from")]
    pub anchor: Timestamp,
    /// From when on it is refused, if ever.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked, if it was. Its descendants are refused with it.
    pub revoked_at: Option<Timestamp>,
    /// Spent and held, by the key and everything minted from it.
    #[serde(flatten)]
    pub balance: Balance,
}

/// The root of an account's keys: its ceiling, and what all of them together have spent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Account {
    /// Who it is.
    pub id: AccountId,
    /// The ceiling over all keys; unlimited until [`AgentKeys::ensure_account`](crate::AgentKeys::ensure_account) sets it.
    #[serde(flatten)]
    pub budget: Budget,
    /// When it was first seen. Its windows are counted from here unless they follow the calendar.
    pub created_at: Timestamp,
    /// Spent and held by all its keys.
    #[serde(flatten)]
    pub balance: Balance,
}

impl Key {
    /// A key without parent, name, token, scopes, limit and expiry: what it has of them, a store sets.
    pub fn stored(id: KeyId, account: AccountId, created_at: Timestamp, balance: Balance) -> Self {
        Self {
            id,
            account,
            parent: None,
            name: String::new(),
            prefix: String::new(),
            start: String::new(),
            scopes: ScopeSet::none(),
            budget: Budget::unlimited(),
            created_at,
            anchor: created_at,
            expires_at: None,
            revoked_at: None,
            balance,
        }
    }

    /// What the key's own budget has left: limit − spent − held, not below zero; `None` where it is unlimited.
    ///
    /// Its ancestors may have less: see [`Lineage::remaining`](crate::model::Lineage::remaining).
    pub fn remaining(&self) -> Option<Amount> {
        self.budget.remaining(&self.balance)
    }

    /// Checks that the key itself is in force at `now`; its ancestors have a say too.
    pub(crate) fn check_active(&self, now: Timestamp) -> Result<(), Refusal> {
        if self.revoked_at.is_some() {
            Err(Refusal::RevokedKey)
        } else if self.expires_at.is_some_and(|at| at <= now) {
            Err(Refusal::ExpiredKey)
        } else {
            Ok(())
        }
    }

    /// Starts the window that is current at `now`, where `spent` still counts an earlier one. For stores.
    pub fn roll(&mut self, now: Timestamp) {
        self.balance.roll(&self.budget, self.anchor, now);
    }

    /// When the window of the key's own budget ends; `None` for a lifetime budget.
    pub fn resets_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.budget.period.window(self.anchor, now).end
    }
}

impl Account {
    /// What the ceiling has left: limit − spent − held, not below zero; `None` where it is unlimited.
    pub fn remaining(&self) -> Option<Amount> {
        self.budget.remaining(&self.balance)
    }

    /// Starts the window that is current at `now`, where `spent` still counts an earlier one. For stores.
    pub fn roll(&mut self, now: Timestamp) {
        self.balance.roll(&self.budget, self.created_at, now);
    }

    /// When the window of the ceiling ends; `None` for a lifetime ceiling.
    pub fn resets_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.budget.period.window(self.created_at, now).end
    }

    /// An account as its first key makes it: without a ceiling.
    pub fn new(id: AccountId, at: Timestamp) -> Self {
        let budget = Budget::unlimited();
        let since = budget.period.window(at, at).start;
        Self::stored(id, budget, at, Balance::empty(since))
    }

    /// An account as a store kept it.
    pub const fn stored(id: AccountId, budget: Budget, created_at: Timestamp, balance: Balance) -> Self {
        Self { id, budget, created_at, balance }
    }
}

/// A key to be made. Nothing is granted that is not said: a new key has no scopes until it is given some.
///
/// ```
/// use agentkey::{Amount, Budget, NewKey, ScopeSet};
///
/// let key = NewKey::new("acme".parse()?)
///     .name("nightly crawler")
///     .scopes(ScopeSet::parse(["read", "proxy.*"])?)
///     .budget(Budget::monthly(Amount::cents(5_000)))
///     .expires_in("30d".parse()?);
/// # let _ = key; Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a `NewKey` is made by `AgentKeys::create`"]
pub struct NewKey {
    pub(crate) owner: Owner,
    pub(crate) name: String,
    pub(crate) scopes: ScopeSet,
    pub(crate) budget: Budget,
    pub(crate) expiry: Expiry,
    pub(crate) prefix: Option<TokenPrefix>,
}

#[derive(Clone, Debug)]
pub(crate) enum Owner {
    Account(AccountId),
    Parent(KeyId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    Never,
    At(Timestamp),
    In(Validity),
}

impl NewKey {
    /// A key directly under `account`.
    pub fn new(account: AccountId) -> Self {
        Self::of(Owner::Account(account))
    }

    /// A key minted from `parent`: it stays inside the parent's scopes, budget and expiry, and counts against them.
    pub fn child_of(parent: KeyId) -> Self {
        Self::of(Owner::Parent(parent))
    }

    fn of(owner: Owner) -> Self {
        Self {
            owner,
            name: String::new(),
            scopes: ScopeSet::none(),
            budget: Budget::unlimited(),
            expiry: Expiry::Never,
            prefix: None,
        }
    }

    /// What people call it: up to 255 characters.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What it may do. Default: nothing.
    pub fn scopes(mut self, scopes: ScopeSet) -> Self {
        self.scopes = scopes;
        self
    }

    /// What it may spend. Default: whatever its ancestors and its account have left.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// From when on it is refused. Default: never.
    pub fn expires_at(mut self, at: Timestamp) -> Self {
        self.expiry = Expiry::At(at);
        self
    }

    /// For how long it is valid, from its creation.
    pub fn expires_in(mut self, validity: Validity) -> Self {
        self.expiry = Expiry::In(validity);
        self
    }

    /// The prefix of its token. Default: the one given to the [builder](crate::Builder::prefix).
    pub fn prefix(mut self, prefix: TokenPrefix) -> Self {
        self.prefix = Some(prefix);
        self
    }
}

/// Changes to a key. What is not named stays.
///
/// ```
/// use agentkey::{KeyPatch, ScopeSet};
///
/// let narrower = KeyPatch::new().scopes(ScopeSet::parse(["read"])?).never_expires();
/// # let _ = narrower; Ok::<(), agentkey::model::ScopeError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a `KeyPatch` takes effect through `AgentKeys::update`"]
pub struct KeyPatch {
    pub(crate) name: Option<String>,
    pub(crate) scopes: Option<ScopeSet>,
    pub(crate) budget: Option<Budget>,
    pub(crate) expiry: Option<Expiry>,
}

impl KeyPatch {
    /// No change yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Other scopes. What the key's children hold beyond them is refused from the next request on.
    pub fn scopes(mut self, scopes: ScopeSet) -> Self {
        self.scopes = Some(scopes);
        self
    }

    /// Another budget. With another period, what was spent is counted anew from the entries of the new window.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Another expiry.
    pub fn expires_at(mut self, at: Timestamp) -> Self {
        self.expiry = Some(Expiry::At(at));
        self
    }

    /// An expiry counted from the moment of the update.
    pub fn expires_in(mut self, validity: Validity) -> Self {
        self.expiry = Some(Expiry::In(validity));
        self
    }

    /// No expiry.
    pub fn never_expires(mut self) -> Self {
        self.expiry = Some(Expiry::Never);
        self
    }
}

/// How long the old token goes on working after a rotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grace(pub(crate) Duration);

impl Grace {
    /// The old token, and every one that was retired before it, is refused from the next request on.
    pub const NONE: Self = Self(Duration::ZERO);

    /// The old token works for this long, and none that was retired before it works longer. It may be used, but may not
    /// change keys.
    pub const fn lasting(duration: Duration) -> Self {
        Self(duration)
    }
}
