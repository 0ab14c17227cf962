//! The cache and its operations.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;

use super::entries::{CachedKey, Entries, Snapshot};
use super::pending::{EpochWrite, Pending};
use super::validator::{Validated, Validator};
use crate::ledger::{Book, Posting};
use crate::model::{AccountId, KeyId, TokenHash};
use crate::store::Found;
use crate::store::account_row::AccountRow;
use crate::store::fast_path::holds_of;

/// The cache of a store.
pub(in crate::store) struct AccountCache<V: Validator>(RwLock<CacheState<V>>);

pub(super) struct CacheState<V: Validator> {
    pub(super) epoch: Option<V::Epoch>,
    pub(super) next_write: u64,
    /// Goes up when the store is found in an epoch that no commit of this process led to.
    generation: u64,
    /// Goes up when a policy change of this process begins, and again when it ends.
    policy_changes: u64,
    pub(super) policy: Option<PolicyPoll>,
    pub(super) entries: Entries<V>,
    pub(super) pending: Pending<V::Epoch>,
}

/// The policy version that was in force at some time after `asked_at`.
#[derive(Clone, Copy)]
pub(super) struct PolicyPoll {
    /// `None` if the store could not say.
    version: Option<u64>,
    asked_at: Instant,
    /// The same instant by the system clock, which advances while the machine is suspended.
    pub(super) asked_on: SystemTime,
}

impl PolicyPoll {
    fn age(&self) -> Duration {
        self.asked_at.elapsed().max(self.asked_on.elapsed().unwrap_or_default())
    }
}

/// What was cached when a look-up began, and what the store has to be asked.
pub(in crate::store) struct Revalidation<V: Validator> {
    pub(in crate::store) epoch: Option<V::Epoch>,
    /// The row versions of the keys to look up and of their ancestors.
    pub(in crate::store) keys: HashMap<KeyId, V::RowVersion>,
    pub(in crate::store) accounts: HashSet<AccountId>,
    generation: u64,
    policy_changes: u64,
    pub(super) validated: Validated,
}

/// How the cache relates to a snapshot of the store.
#[derive(Debug, PartialEq, Eq)]
enum Relation {
    Current,
    /// This process has committed since the snapshot.
    Newer,
}

impl<V: Validator> Default for AccountCache<V> {
    fn default() -> Self {
        Self(RwLock::new(CacheState {
            epoch: None,
            next_write: 0,
            generation: 0,
            policy_changes: 0,
            policy: None,
            entries: Entries::default(),
            pending: Pending::default(),
        }))
    }
}

impl<V: Validator> AccountCache<V> {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, CacheState<V>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, CacheState<V>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops everything: later answers may come from another database.
    pub(in crate::store) fn clear(&self) {
        let mut state = self.write();
        state.generation += 1;
        state.epoch = None;
        state.policy = None;
        let old = (std::mem::take(&mut state.entries), std::mem::take(&mut state.pending));
        drop(state);
        self.0.clear_poison();
        drop(old); // after the lock is released
    }

    /// Returns what the store has to be asked before the keys with these tokens can be looked up. Leaves out the keys
    /// of accounts that are `skipped`.
    pub(in crate::store) fn revalidate(
        &self,
        hashes: &[TokenHash],
        skipped: impl Fn(&AccountId) -> bool,
    ) -> Revalidation<V> {
        let asked_at = Instant::now();
        let state = self.read();
        let (mut keys, mut accounts) = (HashMap::new(), HashSet::new());
        for token in hashes.iter().filter_map(|hash| state.entries.token(hash, state.generation)) {
            let Some(cached) = state.entries.account(&token.account, state.generation) else {
                continue;
            };
            if skipped(&token.account) {
                continue;
            }
            keys.extend(cached.lineage(token.key).map(|cached| (cached.key.id, cached.version)));
            accounts.insert(token.account.clone());
        }
        Revalidation {
            epoch: state.epoch,
            keys,
            accounts,
            generation: state.generation,
            policy_changes: state.policy_changes,
            validated: Validated {
                asked_at,
                policy: state.policy.and_then(|policy| policy.version),
            },
        }
    }

    /// Returns the lineages of these tokens that are cached and, by the answer to the revalidation, valid.
    pub(in crate::store) fn lookup(
        &self,
        hashes: &[TokenHash],
        revalidation: &Revalidation<V>,
        answer: &V::Answer,
        now: Timestamp,
    ) -> Vec<Option<Found>> {
        if let Some(found) = self.read().lookup_shared(hashes, answer, now) {
            return found;
        }
        let mut state = self.write();
        if state.enter(revalidation, V::epoch(answer)).is_none() {
            return vec![None; hashes.len()];
        }
        hashes.iter().map(|hash| state.lookup(hash, revalidation.validated, answer, now)).collect()
    }

    /// Inserts what the store answered after the revalidation, in one snapshot of this epoch.
    pub(in crate::store) fn insert(
        &self,
        revalidation: &Revalidation<V>,
        epoch: V::Epoch,
        snapshot: Snapshot<V>,
    ) {
        let mut state = self.write();
        if state.policy_changes != revalidation.policy_changes
            || state.enter(revalidation, Some(epoch)) != Some(Relation::Current)
        {
            return;
        }
        let dropped = state.entries.make_room();
        for account in snapshot.accounts.values() {
            state.apply_written(&account.account.id, account.version);
        }
        let generation = state.generation;
        state.entries.insert(snapshot, generation, revalidation.validated);
        drop(state);
        drop(dropped); // after the lock is released
    }

    /// Brings the cache to the epoch of the store. Returns whether cached data is valid there.
    pub(in crate::store) fn validate(
        &self,
        revalidation: &Revalidation<V>,
        epoch: V::Epoch,
    ) -> bool {
        self.write().enter(revalidation, Some(epoch)) == Some(Relation::Current)
    }

    /// Returns the epoch of the cache.
    pub(in crate::store) fn epoch(&self) -> Option<V::Epoch> {
        self.read().epoch
    }

    /// Returns the keys of these postings that are not cached.
    pub(in crate::store) fn uncached_keys<'p>(
        &self,
        postings: impl IntoIterator<Item = &'p Posting>,
    ) -> HashSet<KeyId> {
        let state = self.read();
        let uncached = postings.into_iter().filter_map(|posting| {
            let account = state.entries.account(&posting.account, state.generation);
            posting
                .key
                .filter(|key| account.is_none_or(|cached| cached.lineage(*key).next().is_none()))
        });
        uncached.collect()
    }

    /// Adds to a book everything that these postings of one account need in this epoch. Returns `None`, and adds
    /// nothing, if they need more than is cached.
    pub(in crate::store) fn fill_book(
        &self,
        book: &mut Book,
        epoch: V::Epoch,
        account: &AccountId,
        postings: &[&Posting],
        now: Timestamp,
    ) -> Option<ExpectedVersion<V>> {
        let state = self.read();
        let cached = state
            .entries
            .account(account, state.generation)
            .filter(|_| state.epoch == Some(epoch))?;
        if cached.row.is_overdue(now) {
            return None;
        }
        let (mut keys, mut holds) = (HashMap::new(), Vec::new());
        for posting in postings {
            let first = holds.len();
            for hold in holds_of(&posting.action)? {
                holds.push(cached.holds.get(hold)?);
            }
            let path = holds.iter().skip(first).flat_map(|hold| hold.path.iter().copied());
            for key in path.chain([posting.key?]) {
                cached.ancestors(key, &mut keys)?;
            }
        }
        book.open(cached.row.account.clone(), cached.row.changed_at, now);
        keys.values().for_each(|cached| book.add_key(cached.key.clone()));
        holds.into_iter().for_each(|hold| book.add_hold(hold.clone()));
        let keys = keys.into_iter().map(|(id, cached)| (id, cached.version)).collect();
        Some(ExpectedVersion { epoch: Some(epoch), row: cached.row.clone(), keys })
    }

    /// Drops accounts.
    pub(in crate::store) fn remove<'a>(&self, accounts: impl IntoIterator<Item = &'a AccountId>) {
        let mut state = self.write();
        accounts.into_iter().for_each(|account| state.entries.remove(account));
    }

    /// Records the policy version that the store was asked for at that instant, or `None` if the store could not say.
    pub(in crate::store) fn record_policy_version(&self, version: Option<u64>, asked_at: Instant) {
        let mut state = self.write();
        if state.policy.is_none_or(|latest| latest.asked_at <= asked_at) {
            let asked_on = SystemTime::now() - asked_at.elapsed();
            state.policy = Some(PolicyPoll { version, asked_at, asked_on });
        }
    }

    /// Returns the lineage of this token as it is cached, whether it is still valid or not.
    #[cfg(feature = "postgres")]
    pub(in crate::store) fn peek(&self, hash: &TokenHash, now: Timestamp) -> Option<Found> {
        self.read().entries.find(hash, now, |_| true)
    }

    /// Returns the lineage of this token if it is cached and active, and its policy was in force less than
    /// `max_staleness` ago. Its figures of money may be older.
    pub(in crate::store) fn try_find_cached(
        &self,
        hash: &TokenHash,
        max_staleness: Duration,
        now: Timestamp,
    ) -> Option<Found> {
        let state = self.read();
        let poll =
            state.policy.filter(|poll| poll.version.is_some() && poll.age() < max_staleness)?;
        // The policy version was the same at the read and at the latest poll, so the later of the two confirms the
        // policy.
        let is_fresh = |validated: Validated| {
            validated.policy == poll.version && validated.asked_at.elapsed() < max_staleness
        };
        let found = state.entries.find(hash, now, is_fresh)?;
        found.lineage.check_active().is_ok().then_some(found)
    }
}

impl<V: Validator> CacheState<V> {
    /// Brings the cache to the epoch of a snapshot that began after the revalidation. Returns `None` if the two cannot
    /// be related.
    fn enter(
        &mut self,
        revalidation: &Revalidation<V>,
        epoch: Option<V::Epoch>,
    ) -> Option<Relation> {
        let epoch = epoch?;
        if self.epoch == Some(epoch) {
            return Some(Relation::Current);
        }
        if let Some(epoch_write) = self.pending.take_epoch_write(|epoch_write| {
            Some(epoch_write.from) == self.epoch && epoch_write.to == epoch
        }) {
            self.finish_epoch_write(epoch_write);
            return Some(Relation::Current);
        }
        // The cache has changed since, so the snapshot may be older than it. If only this process has committed, the
        // cache still answers a look-up that began before those commits.
        if self.generation != revalidation.generation {
            return None;
        }
        if self.epoch != revalidation.epoch {
            return (revalidation.epoch == Some(epoch)).then_some(Relation::Newer);
        }
        self.generation += 1;
        self.epoch = Some(epoch);
        self.pending = Pending::default();
        Some(Relation::Current)
    }

    fn lookup(
        &mut self,
        hash: &TokenHash,
        validated: Validated,
        answer: &V::Answer,
        now: Timestamp,
    ) -> Option<Found> {
        let account = self.entries.token(hash, self.generation)?.account.clone();
        let version =
            V::account_version(answer, &self.entries.account(&account, self.generation)?.row)?;
        self.apply_written(&account, version);
        let found = self.find(hash, answer, now)?;
        self.entries.set_validated(hash, validated);
        Some(found)
    }

    /// Returns the lineages of all these tokens if that changes nothing in the cache. Concurrent look-ups then share
    /// the read lock.
    fn lookup_shared(
        &self,
        hashes: &[TokenHash],
        answer: &V::Answer,
        now: Timestamp,
    ) -> Option<Vec<Option<Found>>> {
        let is_unchanged =
            self.policy.is_none() && self.epoch.is_some() && self.epoch == V::epoch(answer);
        let found = || hashes.iter().map(|hash| self.find(hash, answer, now).map(Some)).collect();
        if is_unchanged { found() } else { None }
    }

    /// Returns the lineage of a token, if all of it is cached and valid by this answer.
    fn find(&self, hash: &TokenHash, answer: &V::Answer, now: Timestamp) -> Option<Found> {
        let token = self.entries.token(hash, self.generation)?;
        let cached = self.entries.account(&token.account, self.generation)?;
        let version = V::account_version(answer, &cached.row)?;
        let is_current =
            |cached: &CachedKey<V>| V::is_current(answer, cached.key.id, cached.version);
        let is_valid = cached.row.version >= version && cached.lineage(token.key).all(is_current);
        if is_valid { self.entries.find(hash, now, |_| true) } else { None }
    }

    /// Returns the version of the account's row if it is cached and valid.
    pub(super) fn version(&self, account: &AccountId) -> Option<i64> {
        self.entries.account(account, self.generation).map(|cached| cached.row.version)
    }

    /// Applies the pending write that gives the account this version, which the store has. The write has then been
    /// committed.
    fn apply_written(&mut self, account: &AccountId, version: i64) {
        if let Some(from) = self.version(account).filter(|from| *from != version)
            && let Some(delta) = self.pending.take_written(account, from, version)
        {
            self.entries.apply(delta);
        }
    }

    pub(super) fn finish_epoch_write(&mut self, epoch_write: EpochWrite<V::Epoch>) {
        epoch_write.deltas.into_iter().for_each(|delta| self.entries.apply(delta));
        epoch_write.policy.iter().for_each(|account| self.entries.remove(account));
        self.epoch = Some(epoch_write.to);
    }

    /// Drops accounts at the begin and at the end of a change of their policy.
    pub(super) fn remove_policy(&mut self, accounts: &[AccountId]) {
        if !accounts.is_empty() {
            self.policy_changes += 1;
            accounts.iter().for_each(|account| self.entries.remove(account));
        }
    }
}

/// The versions that a decision was based on: the account's row, and the row versions of the keys.
pub(in crate::store) struct ExpectedVersion<V: Validator> {
    /// `None` if the transaction that read it also writes it.
    pub(in crate::store) epoch: Option<V::Epoch>,
    pub(in crate::store) row: AccountRow,
    pub(in crate::store) keys: Vec<(KeyId, V::RowVersion)>,
}

impl<V: Validator> Clone for ExpectedVersion<V> {
    fn clone(&self) -> Self {
        Self { epoch: self.epoch, row: self.row.clone(), keys: self.keys.clone() }
    }
}

impl<V: Validator> fmt::Debug for AccountCache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountCache").finish_non_exhaustive()
    }
}
