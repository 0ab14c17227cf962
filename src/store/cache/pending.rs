//! Writes in progress.

use std::collections::HashMap;

use crate::ledger::{BalanceRow, HoldRow, WriteSet};
use crate::model::AccountId;
use crate::store::account_row::AccountRow;

/// A write that is about to be sent.
pub(in crate::store) struct Write<E> {
    /// The epoch in which it was decided; `None` if no cached data was used.
    pub(in crate::store) epoch: Option<E>,
    /// The epoch after its commit, if each commit leads to another epoch.
    pub(in crate::store) next: Option<E>,
    pub(in crate::store) deltas: Vec<CacheDelta>,
    /// Accounts whose policy it changes, or that it changes beyond the deltas.
    pub(in crate::store) policy: Vec<AccountId>,
}

/// What a committed write changes in the cached data of one account.
pub(in crate::store) struct CacheDelta {
    /// The version of the account on which the write is conditional.
    pub(super) from: i64,
    pub(super) after: AccountRow,
    pub(super) balances: Vec<BalanceRow>,
    pub(super) holds: Vec<HoldRow>,
}

impl CacheDelta {
    /// Builds the delta of the changes of one account, and of its row after them.
    pub(in crate::store) fn new(from: i64, after: AccountRow, changes: &WriteSet) -> Self {
        let holds = changes.new_holds.iter().chain(&changes.changed_holds).cloned().collect();
        Self { from, after, balances: changes.balances.clone(), holds }
    }
}

/// The writes in progress.
pub(super) struct Pending<E> {
    /// By account, those that leave the epoch as it is.
    deltas: HashMap<AccountId, Vec<(u64, CacheDelta)>>,
    epoch_write: Option<EpochWrite<E>>,
}

/// A write whose commit leads to another epoch. There is one at a time.
pub(super) struct EpochWrite<E> {
    pub(super) id: u64,
    pub(super) from: E,
    pub(super) to: E,
    pub(super) deltas: Vec<CacheDelta>,
    pub(super) policy: Vec<AccountId>,
}

impl<E> Default for Pending<E> {
    fn default() -> Self {
        Self { deltas: HashMap::new(), epoch_write: None }
    }
}

impl<E> Pending<E> {
    pub(super) fn add(
        &mut self,
        id: u64,
        from: E,
        next: Option<E>,
        deltas: Vec<CacheDelta>,
        policy: &[AccountId],
    ) {
        if let Some(to) = next {
            self.epoch_write = Some(EpochWrite { id, from, to, deltas, policy: policy.to_vec() });
            return;
        }
        for delta in deltas {
            self.deltas.entry(delta.after.account.id.clone()).or_default().push((id, delta));
        }
    }

    pub(super) fn take_epoch_write(
        &mut self,
        is_it: impl FnOnce(&EpochWrite<E>) -> bool,
    ) -> Option<EpochWrite<E>> {
        self.epoch_write.take_if(|epoch_write| is_it(epoch_write))
    }

    /// Takes the write that gave an account this version.
    pub(super) fn take_written(
        &mut self,
        account: &AccountId,
        from: i64,
        version: i64,
    ) -> Option<CacheDelta> {
        self.take(account, |_, delta| delta.from == from && delta.after.version == version)
    }

    pub(super) fn take(
        &mut self,
        account: &AccountId,
        is_it: impl Fn(u64, &CacheDelta) -> bool,
    ) -> Option<CacheDelta> {
        let own = self.deltas.get_mut(account)?;
        let (_, delta) = own.swap_remove(own.iter().position(|(id, delta)| is_it(*id, delta))?);
        if own.is_empty() {
            self.deltas.remove(account);
        }
        Some(delta)
    }
}
