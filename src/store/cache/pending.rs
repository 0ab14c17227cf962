//! Writes under way.

use std::collections::HashMap;

use super::{AccountCache, Validator};
use crate::AccountId;
use crate::ledger::{BalanceRow, Changes, HoldRow};
use crate::store::account_row::AccountRow;

/// What is about to be written.
pub(in crate::store) struct Write<E> {
    /// The epoch that it was decided in; `None` where nothing cached had a part in it.
    pub(in crate::store) epoch: Option<E>,
    /// The epoch that its commit leads to, where each commit leads to another.
    pub(in crate::store) next: Option<E>,
    pub(in crate::store) deltas: Vec<CacheDelta>,
    /// Accounts whose policy it changes, or of which it makes more than is said here.
    pub(in crate::store) policy: Vec<AccountId>,
}

/// What a write makes of an account, if it is committed.
pub(in crate::store) struct CacheDelta {
    /// The version that it was decided by.
    pub(super) from: i64,
    pub(super) after: AccountRow,
    pub(super) balances: Vec<BalanceRow>,
    pub(super) holds: Vec<HoldRow>,
}

impl CacheDelta {
    /// Takes what changes, all of one account, make of its row.
    pub(in crate::store) fn new(from: i64, after: AccountRow, changes: &Changes) -> Self {
        let holds = changes.new_holds.iter().chain(&changes.changed_holds).cloned().collect();
        Self { from, after, balances: changes.balances.clone(), holds }
    }
}

/// The writes under way.
pub(super) struct Pending<E> {
    /// Of those that leave the epoch as it is, by account.
    deltas: HashMap<AccountId, Vec<(u64, CacheDelta)>>,
    moving: Option<Move<E>>,
}

/// A write that leads to another epoch. There is one at a time.
pub(super) struct Move<E> {
    id: u64,
    pub(super) from: E,
    pub(super) to: E,
    pub(super) deltas: Vec<CacheDelta>,
    pub(super) policy: Vec<AccountId>,
}

impl<E> Default for Pending<E> {
    fn default() -> Self {
        Self { deltas: HashMap::new(), moving: None }
    }
}

impl<E> Pending<E> {
    pub(super) fn add(&mut self, id: u64, from: E, next: Option<E>, deltas: Vec<CacheDelta>, policy: &[AccountId]) {
        if let Some(to) = next {
            self.moving = Some(Move { id, from, to, deltas, policy: policy.to_vec() });
            return;
        }
        for delta in deltas {
            self.deltas.entry(delta.after.account.id.clone()).or_default().push((id, delta));
        }
    }

    pub(super) fn take_move(&mut self, is_it: impl FnOnce(&Move<E>) -> bool) -> Option<Move<E>> {
        self.moving.take_if(|moving| is_it(moving))
    }

    /// Takes what a write made of an account that gave it this version.
    pub(super) fn take_written(&mut self, account: &AccountId, from: i64, version: i64) -> Option<CacheDelta> {
        self.take(account, |_, delta| delta.from == from && delta.after.version == version)
    }

    fn take(&mut self, account: &AccountId, is_it: impl Fn(u64, &CacheDelta) -> bool) -> Option<CacheDelta> {
        let own = self.deltas.get_mut(account)?;
        let (_, delta) = own.swap_remove(own.iter().position(|(id, delta)| is_it(*id, delta))?);
        if own.is_empty() {
            self.deltas.remove(account);
        }
        Some(delta)
    }
}

/// A write under way. Dropped, its outcome is unknown, or it is known that it had no effect because somebody else was faster:
/// its accounts are read anew.
#[must_use]
pub(in crate::store) struct PendingWrite<'c, V: Validator> {
    cache: &'c AccountCache<V>,
    id: u64,
    accounts: Vec<AccountId>,
    policy: Vec<AccountId>,
    moves_epoch: bool,
    is_committed: bool,
}

impl<V: Validator> AccountCache<V> {
    /// Takes note of a write that is about to be sent.
    pub(in crate::store) fn begin_write(&self, write: Write<V::Epoch>) -> PendingWrite<'_, V> {
        let Write { epoch, next, deltas, policy } = write;
        let accounts = deltas.iter().map(|delta| delta.after.account.id.clone()).collect();
        let mut state = self.write();
        let id = state.next_write;
        state.next_write += 1;
        state.remove_policy(&policy);
        if let Some(from) = epoch.filter(|_| state.epoch == epoch) {
            state.pending.add(id, from, next, deltas, &policy);
        }
        PendingWrite { cache: self, id, accounts, policy, moves_epoch: next.is_some(), is_committed: false }
    }
}

impl<V: Validator> PendingWrite<'_, V> {
    /// Takes note that it was committed.
    pub(in crate::store) fn on_commit(mut self) {
        self.is_committed = true;
    }

    /// Takes note that it had no effect, because another process wrote before it.
    pub(in crate::store) fn on_conflict(self) {}

    fn finish(&self) {
        let mut state = self.cache.write();
        state.remove_policy(&self.policy);
        if self.moves_epoch {
            let own = state.pending.take_move(|moving| moving.id == self.id);
            match own.filter(|_| self.is_committed) {
                Some(moving) if state.epoch == Some(moving.from) => state.finish_move(moving),
                _ if self.is_committed => {}
                _ => {
                    drop(state);
                    self.cache.clear();
                }
            }
            return;
        }
        for account in &self.accounts {
            let own = state.pending.take(account, |id, _| id == self.id);
            match own {
                _ if !self.is_committed => state.entries.remove(account),
                Some(delta) if state.version(account) == Some(delta.from) => state.entries.apply(delta),
                _ => {}
            }
        }
    }
}

impl<V: Validator> Drop for PendingWrite<'_, V> {
    fn drop(&mut self) {
        self.finish();
    }
}
