//! Lineages: a key, its ancestors and its account, read at one instant.

use std::net::IpAddr;

use jiff::Timestamp;

use crate::model::{Account, AccountId, Amount, Key, KeyId, Refusal, Scope, ScopeSet};

/// A key, its ancestors up to the root, and their account, as they were at one instant.
///
/// A lineage may do what every member allows, and spend the least that a member has left. It is
/// refused as soon as one key of it is revoked, expired or disabled.
///
/// In a request whose credential says what it allows, the lineage allows no more than that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    key: Key,
    ancestors: Vec<Key>,
    account: Account,
    at: Timestamp,
    /// What the credential of a request allows at most.
    narrowed: Option<ScopeSet>,
}

impl Lineage {
    /// Returns the lineage of `key` and its `ancestors` from the parent up, as read at `at`. For
    /// stores.
    ///
    /// Windows that ended before `at` are rolled over here.
    pub fn new(mut key: Key, mut ancestors: Vec<Key>, mut account: Account, at: Timestamp) -> Self {
        for member in std::iter::once(&mut key).chain(&mut ancestors) {
            member.roll(at);
        }
        account.roll(at);
        Self { key, ancestors, account, at, narrowed: None }
    }

    /// Returns the lineage as a request sees it whose credential allows these scopes at most.
    pub(crate) fn narrowed(self, scopes: Option<&ScopeSet>) -> Self {
        Self { narrowed: scopes.cloned(), ..self }
    }

    /// Returns the key itself.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Returns the key's id.
    pub fn id(&self) -> KeyId {
        self.key.id
    }

    /// Returns the lineage of the key's parent, at the same instant.
    pub(crate) fn parent(&self) -> Option<Self> {
        let (parent, ancestors) = self.ancestors.split_first()?;
        Some(Self::new(parent.clone(), ancestors.to_vec(), self.account.clone(), self.at))
    }

    /// Returns the lineage of this member, at the same instant.
    pub(crate) fn member(&self, id: KeyId) -> Option<Self> {
        let mut keys = self.keys().skip_while(|key| key.id != id).cloned();
        let key = keys.next()?;
        Some(Self::new(key, keys.collect(), self.account.clone(), self.at))
    }

    /// Returns the ancestors, parent first.
    pub fn ancestors(&self) -> &[Key] {
        &self.ancestors
    }

    /// Returns the key and its ancestors, key first.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.key).chain(&self.ancestors)
    }

    /// Returns the account.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Returns the account's id.
    pub fn account_id(&self) -> &AccountId {
        &self.account.id
    }

    /// Returns the instant of the look-up, by the store's clock.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Returns how many keys the lineage has.
    pub fn depth(&self) -> usize {
        1 + self.ancestors.len()
    }

    /// Checks that the key and all its ancestors are in force.
    ///
    /// # Errors
    ///
    /// [`Refusal::RevokedKey`], [`Refusal::ExpiredKey`] or [`Refusal::DisabledKey`], of the first
    /// member that is not.
    pub fn check_active(&self) -> Result<(), Refusal> {
        self.inactive().map_or(Ok(()), |(_, refusal)| Err(refusal))
    }

    /// Returns the first member that is not in force, and why.
    pub(crate) fn inactive(&self) -> Option<(KeyId, Refusal)> {
        self.keys().find_map(|key| Some((key.id, key.check_active(self.at).err()?)))
    }

    /// Returns whether every member allows `scope`. A member that has the `admin_scope` allows
    /// every scope.
    pub fn allows(&self, scope: &Scope, admin_scope: Option<&Scope>) -> bool {
        let allows = |scopes: &ScopeSet| {
            scopes.allows(scope) || admin_scope.is_some_and(|all| scopes.allows(all))
        };
        self.keys().all(|key| allows(&key.scopes)) && self.narrowed.as_ref().is_none_or(allows)
    }

    /// Returns the scopes that every member allows. A member that has the `admin_scope` allows
    /// every scope.
    pub fn scopes(&self, admin_scope: Option<&Scope>) -> ScopeSet {
        let allows_all = |scopes: &ScopeSet| admin_scope.is_some_and(|all| scopes.allows(all));
        let others = self.ancestors.iter().map(|ancestor| &ancestor.scopes).chain(&self.narrowed);
        others.fold(self.key.scopes.clone(), |held, other| {
            if allows_all(other) {
                held
            } else if allows_all(&held) {
                other.clone()
            } else {
                held.intersect(other)
            }
        })
    }

    /// Returns the human on whose behalf the key acts: its own delegator, or its nearest ancestor's.
    pub fn delegated_by(&self) -> Option<&str> {
        self.keys().find_map(|key| key.delegated_by.as_deref())
    }

    /// Returns when the first member expires, if one does.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.keys().filter_map(|key| key.expires_at).min()
    }

    /// Returns whether every member may be used from this address.
    pub fn allows_address(&self, address: IpAddr) -> bool {
        self.keys().filter_map(|key| key.allowed_cidrs.as_ref()).all(|it| it.contains(address))
    }

    /// Returns whether a member may be used from some addresses only.
    pub fn has_allowed_cidrs(&self) -> bool {
        self.keys().any(|key| key.allowed_cidrs.is_some())
    }

    /// Returns what the lineage can still spend: the least that a key or the account has left.
    ///
    /// `None` where none of them has a limit.
    pub fn remaining(&self) -> Option<Amount> {
        self.keys().map(Key::remaining).chain([self.account.remaining()]).flatten().min()
    }
}
