//! The cache, and what is asked of it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;

use super::entries::{CachedKey, Entries, Snapshot};
use super::pending::{Move, Pending};
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
    /// Goes up when a change of policy by this process begins, and when it ends.
    policy_changes: u64,
    pub(super) policy: Option<PolicyPoll>,
    pub(super) entries: Entries<V>,
    pub(super) pending: Pending<V::Epoch>,
}

/// The version of the policy that was in force at some time after `asked_at`.
#[derive(Clone, Copy)]
pub(super) struct PolicyPoll {
    /// `None`: the store could not tell.
    version: Option<u64>,
    asked_at: Instant,
    /// The same by the machine's clock of the day, which goes on while the machine is suspended.
    pub(super) asked_on: SystemTime,
}

impl PolicyPoll {
    fn age(&self) -> Duration {
        self.asked_at.elapsed().max(self.asked_on.elapsed().unwrap_or_default())
    }
}

/// What was cached when a look-up began, and what has to be asked of the store.
pub(in crate::store) struct Revalidation<V: Validator> {
    pub(in crate::store) epoch: Option<V::Epoch>,
    /// The versions of the rows of the keys that were asked for, and of their ancestors.
    pub(in crate::store) keys: HashMap<KeyId, V::RowVersion>,
    pub(in crate::store) accounts: HashSet<AccountId>,
    generation: u64,
    policy_changes: u64,
    pub(super) validated: Validated,
}

/// What the cache is to a snapshot of the store.
#[derive(Debug, PartialEq, Eq)]
enum Relation {
    Current,
    /// Commits of this process have been made since the snapshot.
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

    /// Drops everything: what answers from now on may be another database.
    pub(in crate::store) fn clear(&self) {
        let mut state = self.write();
        state.generation += 1;
        state.epoch = None;
        state.policy = None;
        let old = (std::mem::take(&mut state.entries), std::mem::take(&mut state.pending));
        drop(state);
        self.0.clear_poison();
        drop(old); // without the lock
    }

    /// Says what has to be asked about the keys with these tokens before they can be looked up, but for those of accounts
    /// that are `skipped`.
    pub(in crate::store) fn revalidate(
        &self,
        hashes: &[TokenHash],
        skipped: impl Fn(&AccountId) -> bool,
    ) -> Revalidation<V> {
        let asked_at = Instant::now();
        let state = self.read();
        let (mut keys, mut accounts) = (HashMap::new(), HashSet::new());
        for token in hashes.iter().filter_map(|hash| state.entries.token(hash, state.generation)) {
            let Some(cached) = state.entries.account(&token.account, state.generation) else { continue };
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
            validated: Validated { asked_at, policy: state.policy.and_then(|policy| policy.version) },
        }
    }

    /// Returns the lineages of these tokens, as far as they are cached and valid by the answer to the revalidation.
    pub(in crate::store) fn lookup(
        &self,
        hashes: &[TokenHash],
        asked: &Revalidation<V>,
        answer: &V::Answer,
        now: Timestamp,
    ) -> Vec<Option<Found>> {
        if let Some(found) = self.read().lookup_at_rest(hashes, answer, now) {
            return found;
        }
        let mut state = self.write();
        if state.enter(asked, V::epoch(answer)).is_none() {
            return vec![None; hashes.len()];
        }
        hashes.iter().map(|hash| state.lookup(hash, asked.validated, answer, now)).collect()
    }

    /// Inserts what the store said in one snapshot, of this epoch, after the revalidation.
    pub(in crate::store) fn insert(&self, asked: &Revalidation<V>, epoch: V::Epoch, snapshot: Snapshot<V>) {
        let mut state = self.write();
        if state.policy_changes != asked.policy_changes || state.enter(asked, Some(epoch)) != Some(Relation::Current) {
            return;
        }
        let dropped = state.entries.make_room();
        for account in snapshot.accounts.values() {
            state.apply_written(&account.account.id, account.version);
        }
        let generation = state.generation;
        state.entries.insert(snapshot, generation, asked.validated);
        drop(state);
        drop(dropped); // without the lock
    }

    /// Brings the cache to the epoch that the store is in. Returns whether what is cached is valid there.
    pub(in crate::store) fn validate(&self, asked: &Revalidation<V>, epoch: V::Epoch) -> bool {
        self.write().enter(asked, Some(epoch)) == Some(Relation::Current)
    }

    /// Returns the epoch that the cache is in.
    pub(in crate::store) fn epoch(&self) -> Option<V::Epoch> {
        self.read().epoch
    }

    /// Returns the keys of these postings that are not cached.
    pub(in crate::store) fn unknown_keys<'p>(&self, postings: impl IntoIterator<Item = &'p Posting>) -> HashSet<KeyId> {
        let state = self.read();
        let unknown = postings.into_iter().filter_map(|posting| {
            let account = state.entries.account(&posting.account, state.generation);
            posting.key.filter(|key| account.is_none_or(|cached| cached.lineage(*key).next().is_none()))
        });
        unknown.collect()
    }

    /// Adds to a book all that these postings of one account need in this epoch; `None` where they need more than is
    /// cached, and then nothing was added.
    pub(in crate::store) fn fill_book(
        &self,
        book: &mut Book,
        epoch: V::Epoch,
        account: &AccountId,
        postings: &[&Posting],
        now: Timestamp,
    ) -> Option<ExpectedVersion<V>> {
        let state = self.read();
        let cached = state.entries.account(account, state.generation).filter(|_| state.epoch == Some(epoch))?;
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

    /// Takes note of the version of the policy, which the store was asked for at that instant; `None` where it cannot tell.
    pub(in crate::store) fn record_policy_version(&self, version: Option<u64>, asked_at: Instant) {
        let mut state = self.write();
        if state.policy.is_none_or(|latest| latest.asked_at <= asked_at) {
            let asked_on = SystemTime::now() - asked_at.elapsed();
            state.policy = Some(PolicyPoll { version, asked_at, asked_on });
        }
    }

    /// Returns the lineage of this token, if it is cached and lets in, and its policy was the store's less than
    /// `max_staleness` ago. Its figures of money may be older.
    pub(in crate::store) fn try_find_cached(
        &self,
        hash: &TokenHash,
        max_staleness: Duration,
        now: Timestamp,
    ) -> Option<Found> {
        let state = self.read();
        let poll = state.policy.filter(|poll| poll.version.is_some() && poll.age() < max_staleness)?;
        // The policy was the same when the row was read as at the latest poll, so whichever of the two was later vouches.
        let is_fresh =
            |validated: Validated| validated.policy == poll.version && validated.asked_at.elapsed() < max_staleness;
        let found = state.entries.find(hash, now, is_fresh)?;
        found.lineage.check_active().is_ok().then_some(found)
    }
}

impl<V: Validator> CacheState<V> {
    /// Brings the cache to the epoch of a snapshot that was begun after `asked`. `None`: nothing can be said of the two.
    fn enter(&mut self, asked: &Revalidation<V>, epoch: Option<V::Epoch>) -> Option<Relation> {
        let epoch = epoch?;
        if self.epoch == Some(epoch) {
            return Some(Relation::Current);
        }
        if let Some(moving) = self.pending.take_move(|moving| Some(moving.from) == self.epoch && moving.to == epoch) {
            self.finish_move(moving);
            return Some(Relation::Current);
        }
        // The cache has moved since: the snapshot may be older than it. By commits of this process alone it is still an
        // answer to whoever asked before them.
        if self.generation != asked.generation {
            return None;
        }
        if self.epoch != asked.epoch {
            return (asked.epoch == Some(epoch)).then_some(Relation::Newer);
        }
        self.generation += 1;
        self.epoch = Some(epoch);
        self.pending = Pending::default();
        Some(Relation::Current)
    }

    fn lookup(&mut self, hash: &TokenHash, validated: Validated, answer: &V::Answer, now: Timestamp) -> Option<Found> {
        let account = self.entries.token(hash, self.generation)?.account.clone();
        let version = V::account_version(answer, &self.entries.account(&account, self.generation)?.row)?;
        self.apply_written(&account, version);
        let found = self.find(hash, answer, now)?;
        self.entries.set_validated(hash, validated);
        Some(found)
    }

    /// Returns the lineages of all these tokens, where that moves nothing in the cache: then those who look up at the same
    /// moment need not wait for one another.
    fn lookup_at_rest(&self, hashes: &[TokenHash], answer: &V::Answer, now: Timestamp) -> Option<Vec<Option<Found>>> {
        let is_at_rest = self.policy.is_none() && self.epoch.is_some() && self.epoch == V::epoch(answer);
        let found = || hashes.iter().map(|hash| self.find(hash, answer, now).map(Some)).collect();
        if is_at_rest { found() } else { None }
    }

    /// Returns the lineage of a token, if all of it is cached and valid by this answer.
    fn find(&self, hash: &TokenHash, answer: &V::Answer, now: Timestamp) -> Option<Found> {
        let token = self.entries.token(hash, self.generation)?;
        let cached = self.entries.account(&token.account, self.generation)?;
        let version = V::account_version(answer, &cached.row)?;
        let is_current = |cached: &CachedKey<V>| V::is_current(answer, cached.key.id, cached.version);
        let is_valid = cached.row.version >= version && cached.lineage(token.key).all(is_current);
        if is_valid { self.entries.find(hash, now, |_| true) } else { None }
    }

    /// Returns the version of the account's row, if that is cached and valid.
    pub(super) fn version(&self, account: &AccountId) -> Option<i64> {
        self.entries.account(account, self.generation).map(|cached| cached.row.version)
    }

    /// The account has this version in the store: if a write under way gives it that, it has been committed.
    fn apply_written(&mut self, account: &AccountId, version: i64) {
        if let Some(from) = self.version(account).filter(|from| *from != version)
            && let Some(delta) = self.pending.take_written(account, from, version)
        {
            self.entries.apply(delta);
        }
    }

    pub(super) fn finish_move(&mut self, moving: Move<V::Epoch>) {
        moving.deltas.into_iter().for_each(|delta| self.entries.apply(delta));
        moving.policy.iter().for_each(|account| self.entries.remove(account));
        self.epoch = Some(moving.to);
    }

    /// A change of the policy of these accounts begins or ends.
    pub(super) fn remove_policy(&mut self, accounts: &[AccountId]) {
        if !accounts.is_empty() {
            self.policy_changes += 1;
            accounts.iter().for_each(|account| self.entries.remove(account));
        }
    }
}

/// What a decision was based on: the account's row, and the versions of the keys' rows.
pub(in crate::store) struct ExpectedVersion<V: Validator> {
    /// `None` where it is written in the transaction that read it.
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
