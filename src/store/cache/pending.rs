//! Writes under way.

use std::collections::HashMap;

use crate::ledger::{BalanceRow, HoldRow, WriteSet};
use crate::model::AccountId;
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
    pub(in crate::store) fn new(from: i64, after: AccountRow, changes: &WriteSet) -> Self {
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
    pub(super) id: u64,
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

    pub(super) fn take(&mut self, account: &AccountId, is_it: impl Fn(u64, &CacheDelta) -> bool) -> Option<CacheDelta> {
        let own = self.deltas.get_mut(account)?;
        let (_, delta) = own.swap_remove(own.iter().position(|(id, delta)| is_it(*id, delta))?);
        if own.is_empty() {
            self.deltas.remove(account);
        }
        Some(delta)
    }
}
