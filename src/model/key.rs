//! Keys and accounts: the records that hold policy and money.

use std::time::Duration;

use jiff::Timestamp;

use crate::model::{
    AccountId, Amount, Balance, Budget, Cidrs, KeyId, Limit, Metadata, Period, RateLimit, Refusal,
    ScopeSet, Subject, TokenPrefix, Validity,
};

/// The record of a key: what it may do, how much it may spend, until when, and on whose behalf.
///
/// The record contains no secret. The token is shown once, when the key is created or rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Key {
    /// The id of the record.
    pub id: KeyId,
    /// The account that owns the key.
    pub account: AccountId,
    /// The key from which it was minted, if any. It never changes.
    pub parent: Option<KeyId>,
    /// The name for people.
    pub name: String,
    /// The prefix of its token.
    pub prefix: String,
    /// The first characters of its token after the prefix. People recognise the token by them.
    pub start: String,
    /// The identity of another issuer that the key is for, if it is for one. Such a key is found by
    /// its subject, and has no token that this crate made.
    pub subject: Option<Subject>,
    /// What the key itself may do. Its ancestors may allow less: see
    /// [`Lineage::scopes`](crate::model::Lineage::scopes).
    pub scopes: ScopeSet,
    /// What the key itself may spend. Its ancestors and its account may have less left.
    pub budget: Budget,
    /// How many requests the key itself and its descendants may send. The limits of its ancestors bind
    /// too.
    pub rate_limit: Option<RateLimit>,
    /// From where the key may be used; `None` where its own record does not say. The ranges of its
    /// ancestors bind too.
    pub allowed_cidrs: Option<Cidrs>,
    /// When the key was created.
    pub created_at: Timestamp,
    /// The instant from which windows are counted, unless the period follows the calendar.
    ///
    /// This is the key's creation. For an adopted key it is the start of its window in the old
    /// table.
    pub anchor: Timestamp,
    /// The instant from which the key is refused, if it expires.
    pub expires_at: Option<Timestamp>,
    /// Since when the key is disabled, if it is. Its descendants are refused too, until it is
    /// enabled again.
    pub disabled_at: Option<Timestamp>,
    /// When the key was revoked, if it was. Its descendants are refused too, for good.
    pub revoked_at: Option<Timestamp>,
    /// Why it was revoked, if the application said so.
    pub revoked_reason: Option<String>,
    /// The human on whose behalf the key acts, by the application's own id. A child has its parent's.
    pub delegated_by: Option<String>,
    /// What the application keeps with the key.
    pub metadata: Metadata,
    /// What the key and its descendants have spent and hold.
    pub balance: Balance,
}

/// The root of an account's keys: its ceiling, and what all of them together have spent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Account {
    /// The id of the account.
    pub id: AccountId,
    /// The ceiling over all keys.
    /// [`AgentKeys::set_account_budget`](crate::AgentKeys::set_account_budget) changes it.
    pub budget: Budget,
    /// When the account was created. Its windows are counted from here, unless the period follows
    /// the calendar.
    pub created_at: Timestamp,
    /// What all its keys have spent and hold.
    pub balance: Balance,
}

impl Key {
    /// Returns a key without parent, name, token, scopes, limit and expiry. A store sets those that
    /// it has.
    pub fn stored(id: KeyId, account: AccountId, created_at: Timestamp, balance: Balance) -> Self {
        Self {
            id,
            account,
            parent: None,
            name: String::new(),
            prefix: String::new(),
            start: String::new(),
            subject: None,
            scopes: ScopeSet::none(),
            budget: Budget::unlimited(),
            rate_limit: None,
            allowed_cidrs: None,
            created_at,
            anchor: created_at,
            expires_at: None,
            disabled_at: None,
            revoked_at: None,
            revoked_reason: None,
            delegated_by: None,
            metadata: Metadata::default(),
            balance,
        }
    }

    /// The prefix of every session. No token has it, because it is no [`TokenPrefix`].
    pub(crate) const SESSION_PREFIX: &str = "session:";

    /// Returns whether the key is a session: its token is signed and has an end.
    pub fn is_session(&self) -> bool {
        self.prefix == Self::SESSION_PREFIX
    }

    /// The prefix of every subject that this crate made. No token has it, because it is no
    /// [`TokenPrefix`].
    pub(crate) const SUBJECT_PREFIX: &str = "subject:";

    /// Returns whether this crate made the key for a subject, so that the key has no token at all.
    pub fn was_made_for_subject(&self) -> bool {
        self.prefix == Self::SUBJECT_PREFIX
    }

    /// Returns the cap of a session: the most that it may spend in its life.
    pub(crate) fn spend_cap(&self) -> Option<Limit> {
        let mut limits = self.budget.limits().filter(|_| self.is_session());
        limits.find(|limit| limit.period == Period::Lifetime)
    }

    /// Returns what the key's own budget has left: limit − spent − held, not below zero; `None`
    /// where it is unlimited.
    ///
    /// Its ancestors may have less: see [`Lineage::remaining`](crate::model::Lineage::remaining).
    pub fn remaining(&self) -> Option<Amount> {
        self.budget.remaining(&self.balance)
    }

    /// Checks that the key itself is in force at `now`. It does not check the ancestors.
    pub(crate) fn check_active(&self, now: Timestamp) -> Result<(), Refusal> {
        self.check_not_ended(now)?;
        match self.disabled_at {
            Some(_) => Err(Refusal::DisabledKey),
            None => Ok(()),
        }
    }

    /// Checks that the key is neither revoked nor expired at `now`.
    pub(crate) fn check_not_ended(&self, now: Timestamp) -> Result<(), Refusal> {
        if self.revoked_at.is_some() {
            Err(Refusal::RevokedKey)
        } else if self.expires_at.is_some_and(|at| at <= now) {
            Err(Refusal::ExpiredKey)
        } else {
            Ok(())
        }
    }

    /// Starts the window that is current at `now`, if `spent` still counts an earlier one. For
    /// stores.
    pub fn roll(&mut self, now: Timestamp) {
        self.balance.roll(self.anchor, now);
    }

    /// Returns when the window of the key's first limit ends; `None` for a lifetime budget.
    pub fn resets_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.budget.period.window(self.anchor, now).end
    }
}

impl Account {
    /// Returns what the ceiling has left: limit − spent − held, not below zero; `None` where it is
    /// unlimited.
    pub fn remaining(&self) -> Option<Amount> {
        self.budget.remaining(&self.balance)
    }

    /// Starts the window that is current at `now`, if `spent` still counts an earlier one. For
    /// stores.
    pub fn roll(&mut self, now: Timestamp) {
        self.balance.roll(self.created_at, now);
    }

    /// Returns when the window of the ceiling's first limit ends; `None` for a lifetime ceiling.
    pub fn resets_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.budget.period.window(self.created_at, now).end
    }

    /// Returns a new account without a ceiling, as the account's first key creates it.
    pub fn new(id: AccountId, at: Timestamp) -> Self {
        let budget = Budget::unlimited();
        Self::stored(id, budget, at, Balance::empty(&budget, at, at))
    }

    /// Returns an account as a store loaded it.
    pub const fn stored(
        id: AccountId,
        budget: Budget,
        created_at: Timestamp,
        balance: Balance,
    ) -> Self {
        Self { id, budget, created_at, balance }
    }
}

/// A key to be created. A new key has no scopes until they are set.
///
/// In JSON it has `account` or `parent`, and what the methods set: `name`, `scopes`, `budgets`,
/// `rate_limit`, `allowed_cidrs`, `expires_at` or `expires_in`, `prefix`, `delegated_by` and
/// `metadata`. Members that are left out have their defaults; `null` scopes are unrestricted.
///
/// ```
/// use agentkey::{Amount, Budget, NewKey, ScopeSet};
///
/// let key = NewKey::new("acme".parse()?)
///     .name("nightly crawler")
///     .scopes(ScopeSet::parse(["read", "proxy.*"])?)
///     .budget(Budget::monthly(Amount::cents(5_000)))
///     .expires_in("30d".parse()?);
/// let same: NewKey = serde_json::from_str(
///     r#"{"account": "acme", "name": "nightly crawler", "scopes": ["read", "proxy.*"],
///         "budgets": [{"limit_cents": 5000, "period": "month"}], "expires_in": "30d"}"#,
/// )?;
/// # let _ = (key, same); Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a `NewKey` is created by `AgentKeys::create`"]
pub struct NewKey {
    pub(crate) owner: Owner,
    pub(crate) name: String,
    pub(crate) scopes: ScopeSet,
    pub(crate) budget: Budget,
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) allowed_cidrs: Option<Cidrs>,
    pub(crate) expiry: Expiry,
    pub(crate) prefix: Option<TokenPrefix>,
    pub(crate) delegated_by: Option<String>,
    pub(crate) metadata: Metadata,
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
    /// So long after the creation, or with the parent if that expires before.
    #[cfg_attr(not(feature = "sessions"), allow(dead_code))]
    Within(Duration),
}

impl NewKey {
    /// Returns a key directly under `account`.
    pub fn new(account: AccountId) -> Self {
        Self::owned_by(Owner::Account(account))
    }

    /// Returns a key that is minted from `parent`.
    ///
    /// It stays within the parent's scopes, budget and expiry, and its spend counts against them.
    pub fn child_of(parent: KeyId) -> Self {
        Self::owned_by(Owner::Parent(parent))
    }

    fn owned_by(owner: Owner) -> Self {
        Self {
            owner,
            name: String::new(),
            scopes: ScopeSet::none(),
            budget: Budget::unlimited(),
            rate_limit: None,
            allowed_cidrs: None,
            expiry: Expiry::Never,
            prefix: None,
            delegated_by: None,
            metadata: Metadata::default(),
        }
    }

    /// Sets the name for people, of up to 255 characters. Default: empty.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets what the key may do. Default: nothing.
    pub fn scopes(mut self, scopes: ScopeSet) -> Self {
        self.scopes = scopes;
        self
    }

    /// Sets what the key may spend. Default: what its ancestors and its account have left.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Sets how many requests the key and its descendants may send. Default: what its ancestors and the
    /// [layer](crate::AgentKeyLayer::rate_limit) allow.
    ///
    /// The limits of all members of a lineage bind, so that of a child may be any.
    pub fn rate_limit(mut self, limit: RateLimit) -> Self {
        self.rate_limit = Some(limit);
        self
    }

    /// Sets from where the key and its descendants may be used. Default: from where its parent may, or
    /// from anywhere.
    ///
    /// The ranges of a child lie within those of its ancestors.
    pub fn allowed_cidrs(mut self, ranges: Cidrs) -> Self {
        self.allowed_cidrs = Some(ranges);
        self
    }

    /// Sets the instant from which the key is refused. Default: none.
    pub fn expires_at(mut self, at: Timestamp) -> Self {
        self.expiry = Expiry::At(at);
        self
    }

    /// Sets how long the key is valid, counted from its creation. Default: without end.
    pub fn expires_in(mut self, validity: Validity) -> Self {
        self.expiry = Expiry::In(validity);
        self
    }

    /// Sets the human on whose behalf the key acts: the application's own id of up to 255 characters.
    /// Default: the parent's, or none.
    ///
    /// Children inherit it. No key can set or change it.
    pub fn delegated_by(mut self, human: impl Into<String>) -> Self {
        self.delegated_by = Some(human.into());
        self
    }

    /// Sets what the application keeps with the key. Default: nothing.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// Sets the prefix of its token. Default: the prefix of the [builder](crate::Builder::prefix).
    pub fn prefix(mut self, prefix: TokenPrefix) -> Self {
        self.prefix = Some(prefix);
        self
    }
}

/// Changes to a key. Fields that are not set stay as they are.
///
/// In JSON, a member that is left out stays as it is, `null` removes, and a value sets. `null`
/// scopes are unrestricted, `null` budgets are no limit, a limit of 0 means that nothing may be
/// spent. A `null` `rate_limit` or `allowed_cidrs` removes the key's own; those of its ancestors bind
/// all the same. The members are `name`, `scopes`, `budgets`, `rate_limit`, `allowed_cidrs`,
/// `expires_at` or `expires_in`, `metadata` and `disabled`.
///
/// ```
/// use agentkey::{KeyPatch, ScopeSet};
///
/// let narrower = KeyPatch::new().scopes(ScopeSet::parse(["read"])?).never_expires();
/// let same: KeyPatch = serde_json::from_str(r#"{"scopes": ["read"], "expires_at": null}"#)?;
/// # let _ = (narrower, same); Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a `KeyPatch` takes effect through `AgentKeys::update`"]
pub struct KeyPatch {
    pub(crate) name: Option<String>,
    pub(crate) scopes: Option<ScopeSet>,
    pub(crate) budget: Option<Budget>,
    pub(crate) rate_limit: Option<Option<RateLimit>>,
    pub(crate) allowed_cidrs: Option<Option<Cidrs>>,
    pub(crate) expiry: Option<Expiry>,
    pub(crate) metadata: Option<Metadata>,
    pub(crate) is_disabled: Option<bool>,
}

impl KeyPatch {
    /// Returns a patch that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets another name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets other scopes. From the next request on, the key's children are refused what lies beyond
    /// them.
    pub fn scopes(mut self, scopes: ScopeSet) -> Self {
        self.scopes = Some(scopes);
        self
    }

    /// Sets another budget. A limit of a period that stays keeps what was spent. For a new period,
    /// `spent` is counted from the entries of its window.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Sets another rate limit, or removes the key's own. What was used of the old one counts.
    pub fn rate_limit(mut self, limit: Option<RateLimit>) -> Self {
        self.rate_limit = Some(limit);
        self
    }

    /// Sets from where the key may be used, or removes the key's own ranges.
    pub fn allowed_cidrs(mut self, ranges: Option<Cidrs>) -> Self {
        self.allowed_cidrs = Some(ranges);
        self
    }

    /// Sets another expiry.
    pub fn expires_at(mut self, at: Timestamp) -> Self {
        self.expiry = Some(Expiry::At(at));
        self
    }

    /// Sets an expiry that is counted from the moment of the update.
    pub fn expires_in(mut self, validity: Validity) -> Self {
        self.expiry = Some(Expiry::In(validity));
        self
    }

    /// Sets other metadata, in place of all there was.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Disables the key and its descendants until it is enabled again, or enables it.
    ///
    /// Its money, its holds and the charges that run are not touched.
    pub fn disabled(mut self, is_disabled: bool) -> Self {
        self.is_disabled = Some(is_disabled);
        self
    }

    /// Removes the expiry.
    pub fn never_expires(mut self) -> Self {
        self.expiry = Some(Expiry::Never);
        self
    }
}

/// How long the old token still works after a rotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grace(pub(crate) Duration);

impl Grace {
    /// The old token, and every token that was retired before it, is refused from the next request
    /// on.
    pub const NONE: Self = Self(Duration::ZERO);

    /// Returns a grace of this length: the old token still works for so long.
    ///
    /// Tokens that were retired before it end no later. A token in its grace may be used, but it
    /// may not change keys.
    pub const fn lasting(duration: Duration) -> Self {
        Self(duration)
    }
}
