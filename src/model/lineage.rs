//! A key with everything that decides about it: its ancestors, its account, and the instant of the look-up.

use jiff::Timestamp;

use crate::model::{Account, AccountId, Amount, Key, KeyId, Refusal, Scope, ScopeSet};

/// A key, its ancestors up to the root, and the account they belong to, as they stood at one instant.
///
/// Every member has a say: a lineage may do what all of them may do, spend what the poorest has left, and is
/// refused as soon as one of them is revoked or expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    key: Key,
    ancestors: Vec<Key>,
    account: Account,
    at: Timestamp,
}

impl Lineage {
    /// The lineage of `key`, its `ancestors` from the parent up, seen at `at`. For stores.
    ///
    /// Windows that ended before `at` are rolled over here.
    pub fn new(mut key: Key, mut ancestors: Vec<Key>, mut account: Account, at: Timestamp) -> Self {
        for member in std::iter::once(&mut key).chain(&mut ancestors) {
            member.roll(at);
        }
        account.roll(at);
        Self { key, ancestors, account, at }
    }

    /// The key itself.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Its number.
    pub fn id(&self) -> KeyId {
        self.key.id
    }

    /// The lineage of its parent, at the same instant.
    pub(crate) fn parent(&self) -> Option<Self> {
        let (parent, ancestors) = self.ancestors.split_first()?;
        Some(Self::new(parent.clone(), ancestors.to_vec(), self.account.clone(), self.at))
    }

    /// Its ancestors, parent first.
    pub fn ancestors(&self) -> &[Key] {
        &self.ancestors
    }

    /// The key and its ancestors, key first.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.key).chain(&self.ancestors)
    }

    /// Whose it is.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The account's id.
    pub fn account_id(&self) -> &AccountId {
        &self.account.id
    }

    /// The instant of the look-up, by the store's clock.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// How many keys it has.
    pub fn depth(&self) -> usize {
        1 + self.ancestors.len()
    }

    /// Whether the key and all its ancestors are in force.
    ///
    /// # Errors
    ///
    /// [`Refusal::RevokedKey`] or [`Refusal::ExpiredKey`], by the first member that is.
    pub fn check_active(&self) -> Result<(), Refusal> {
        self.keys().try_for_each(|key| key.check_active(self.at))
    }

    /// Whether every member of the lineage allows `scope`, or the `admin_scope` in its place.
    pub fn allows(&self, scope: &Scope, admin_scope: Option<&Scope>) -> bool {
        self.keys().all(|key| key.scopes.allows(scope) || admin_scope.is_some_and(|all| key.scopes.allows(all)))
    }

    /// What the lineage may do: the scopes that every member allows, where one that has the `admin_scope` allows all.
    pub fn scopes(&self, admin_scope: Option<&Scope>) -> ScopeSet {
        let allows_all = |scopes: &ScopeSet| admin_scope.is_some_and(|all| scopes.allows(all));
        self.ancestors.iter().fold(self.key.scopes.clone(), |held, ancestor| {
            if allows_all(&ancestor.scopes) {
                held
            } else if allows_all(&held) {
                ancestor.scopes.clone()
            } else {
                held.intersect(&ancestor.scopes)
            }
        })
    }

    /// When the first member expires, if one does.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.keys().filter_map(|key| key.expires_at).min()
    }

    /// What the lineage can still spend: the least that any member, or the account, has left; `None` where none
    /// of them has a limit.
    pub fn remaining(&self) -> Option<Amount> {
        self.keys().map(Key::remaining).chain([self.account.remaining()]).flatten().min()
    }
}
