//! What may be changed about keys and accounts, decided apart from any store.

use std::time::Duration;

use jiff::Timestamp;

use crate::key::{Expiry, KeyPatch};
use crate::{Account, AccountId, Balance, Budget, Key, KeyId, Lineage, Refusal, Scope, ScopeSet, TokenHash};

/// A change of policy, asked of a store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// Makes a key.
    Create {
        /// What it is to be.
        draft: KeyDraft,
        /// Its token.
        token: NewToken,
    },
    /// Sets an account's ceiling, and makes the account if there is none.
    EnsureAccount {
        /// Whose.
        account: AccountId,
        /// The ceiling.
        budget: Budget,
    },
    /// Changes a key.
    Update {
        /// Which.
        key: KeyId,
        /// How.
        patch: KeyPatch,
    },
    /// Gives a key another token.
    Rotate {
        /// Which.
        key: KeyId,
        /// The new one.
        token: NewToken,
        /// How long the old one goes on working.
        grace: Duration,
    },
    /// Revokes a key, and with it everything minted from it.
    Revoke {
        /// Which.
        key: KeyId,
    },
}

/// What a store keeps of a token.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct NewToken {
    pub hash: TokenHash,
    pub prefix: String,
    pub start: String,
}

/// A key to be made, with its owner found out.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct KeyDraft {
    pub account: AccountId,
    pub parent: Option<KeyId>,
    pub name: String,
    pub scopes: ScopeSet,
    pub budget: Budget,
    pub(crate) expiry: Expiry,
}

/// What every store holds changes to.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Rules {
    /// How many keys a lineage may have.
    pub max_depth: usize,
    /// The scope that stands for every other.
    pub superscope: Option<Scope>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { max_depth: 8, superscope: None }
    }
}

/// A record as it is to be written.
#[derive(Clone, Debug)]
pub struct Update<T> {
    /// The record.
    pub record: T,
    /// Where set, the period changed: `spent` is to be counted anew, from the entries of the record and everything
    /// under it that count at this instant or later, and `since` is this instant.
    pub recount_from: Option<Timestamp>,
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// No key has this id.
    #[error("there is no key {0}")]
    UnknownKey(KeyId),
    /// The key, or an ancestor, is revoked or expired.
    #[error(transparent)]
    NotInForce(Refusal),
    /// A field cannot be as it was asked to be.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong, and what is accepted.
        reason: String,
    },
}

impl ChangeError {
    fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { field, reason: reason.into() }
    }
}

impl KeyDraft {
    /// The key to write, made at `now` under `parent`, if it may be made. Its id is the store's to give.
    ///
    /// # Errors
    ///
    /// When a field is out of bounds or outside the parent's, or the parent is not in force.
    pub fn admit(&self, parent: Option<&Lineage>, rules: &Rules, now: Timestamp) -> Result<Key, ChangeError> {
        let mut key = Key::stored(KeyId::new(0), self.account.clone(), now, Balance::empty(now));
        key.parent = self.parent;
        key.name.clone_from(&self.name);
        key.scopes = self.scopes.clone();
        key.budget = self.budget;
        key.expires_at = self.expiry.at(now)?;
        key.balance.since = key.budget.period.window(now, now).start;
        check_name(&key.name)?;
        check_budget(&key.budget)?;
        if let Some(parent) = parent {
            parent.standing().map_err(ChangeError::NotInForce)?;
            if parent.depth() >= rules.max_depth {
                let reason = format!("a lineage has at most {} keys", rules.max_depth);
                return Err(ChangeError::invalid("parent", reason));
            }
            inside_scopes(&key, parent, rules)?;
            inside_budget(&key, parent)?;
            inside_expiry(&key, parent)?;
        }
        Ok(key)
    }
}

impl KeyPatch {
    /// The key as it is to be written, if it may become so.
    ///
    /// # Errors
    ///
    /// When a changed field is out of bounds or outside the parent's, or the key is revoked.
    pub fn admit(
        &self,
        lineage: &Lineage,
        parent: Option<&Lineage>,
        rules: &Rules,
    ) -> Result<Update<Key>, ChangeError> {
        let now = lineage.at();
        let mut key = lineage.key().clone();
        not_revoked(lineage)?;
        if let Some(name) = &self.name {
            key.name.clone_from(name);
            check_name(&key.name)?;
        }
        if let Some(scopes) = &self.scopes {
            key.scopes = scopes.clone();
            parent.map_or(Ok(()), |parent| inside_scopes(&key, parent, rules))?;
        }
        if let Some(expiry) = self.expiry {
            key.expires_at = expiry.at(now)?;
            parent.map_or(Ok(()), |parent| inside_expiry(&key, parent))?;
        }
        let mut recount_from = None;
        if let Some(budget) = self.budget {
            check_budget(&budget)?;
            recount_from = recount(&key.budget, &budget, key.anchor, now);
            key.budget = budget;
            parent.map_or(Ok(()), |parent| inside_budget(&key, parent))?;
        }
        Ok(Update { record: key, recount_from })
    }
}

impl Account {
    /// The account with another ceiling.
    ///
    /// # Errors
    ///
    /// When the limit is negative.
    pub fn admit(mut self, budget: Budget, now: Timestamp) -> Result<Update<Self>, ChangeError> {
        check_budget(&budget)?;
        let recount_from = recount(&self.budget, &budget, self.created_at, now);
        self.budget = budget;
        Ok(Update { record: self, recount_from })
    }
}

/// Whether a key may get another token or another policy: it may be expired, but not revoked.
///
/// # Errors
///
/// [`ChangeError::NotInForce`] where the key or an ancestor was revoked.
pub fn not_revoked(lineage: &Lineage) -> Result<(), ChangeError> {
    match lineage.keys().any(|key| key.revoked_at.is_some()) {
        true => Err(ChangeError::NotInForce(Refusal::RevokedKey)),
        false => Ok(()),
    }
}

impl Expiry {
    fn at(self, now: Timestamp) -> Result<Option<Timestamp>, ChangeError> {
        let at = match self {
            Self::Never => return Ok(None),
            Self::At(at) => at,
            Self::In(validity) => {
                validity.after(now).map_err(|error| ChangeError::invalid("expires_at", error.to_string()))?
            }
        };
        if at > now {
            Ok(Some(crate::clock::from_micros(at.as_microsecond())))
        } else {
            Err(ChangeError::invalid("expires_at", "is not in the future; to end a key now, revoke it"))
        }
    }
}

fn recount(old: &Budget, new: &Budget, anchor: Timestamp, now: Timestamp) -> Option<Timestamp> {
    (old.period != new.period).then(|| new.period.window(anchor, now).start)
}

fn check_name(name: &str) -> Result<(), ChangeError> {
    if name.chars().count() > 255 || name.chars().any(char::is_control) {
        return Err(ChangeError::invalid("name", "has at most 255 characters, none of them a control character"));
    }
    Ok(())
}

fn check_budget(budget: &Budget) -> Result<(), ChangeError> {
    budget.validate().map_err(|error| ChangeError::invalid("limit", error.to_string()))
}

fn inside_scopes(key: &Key, parent: &Lineage, rules: &Rules) -> Result<(), ChangeError> {
    let all = rules.superscope.as_ref();
    let allowed = parent.scopes(all);
    if key.scopes.is_within(&allowed) || all.is_some_and(|all| parent.allows(all, None)) {
        return Ok(());
    }
    let reason = format!("go beyond the parent's, which are: {allowed}");
    Err(ChangeError::invalid("scopes", reason))
}

/// A limit above an ancestor's, in a period as short, promises what the ancestor can never give. No limit of its
/// own promises nothing: the ancestors' limits hold.
fn inside_budget(key: &Key, parent: &Lineage) -> Result<(), ChangeError> {
    let Some(limit) = key.budget.limit else { return Ok(()) };
    for ancestor in parent.keys() {
        let Some(most) = ancestor.budget.limit else { continue };
        if limit > most && key.budget.period.is_shorter_or_equal(ancestor.budget.period) {
            let reason = format!("is above the {most} per {} of key {}", ancestor.budget.period, ancestor.id);
            return Err(ChangeError::invalid("limit", reason));
        }
    }
    Ok(())
}

fn inside_expiry(key: &Key, parent: &Lineage) -> Result<(), ChangeError> {
    match (key.expires_at, parent.expires_at()) {
        (Some(at), Some(latest)) if at > latest => {
            Err(ChangeError::invalid("expires_at", format!("is after the parent's, {latest}")))
        }
        _ => Ok(()),
    }
}
