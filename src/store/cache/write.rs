//! The begin and the end of a write, as the cache sees them.

use super::account_cache::AccountCache;
use super::pending::Write;
use super::validator::Validator;
use crate::model::AccountId;

/// A write in progress. If it is dropped, its outcome is unknown or it conflicted, and its accounts are read again.
#[must_use]
pub(in crate::store) struct PendingWrite<'c, V: Validator> {
    cache: &'c AccountCache<V>,
    id: u64,
    accounts: Vec<AccountId>,
    policy: Vec<AccountId>,
    changes_epoch: bool,
    is_committed: bool,
}

impl<V: Validator> AccountCache<V> {
    /// Announces a write that is about to be sent.
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
        PendingWrite {
            cache: self,
            id,
            accounts,
            policy,
            changes_epoch: next.is_some(),
            is_committed: false,
        }
    }
}

impl<V: Validator> PendingWrite<'_, V> {
    /// Ends a write that was committed.
    pub(in crate::store) fn on_commit(mut self) {
        self.is_committed = true;
    }

    /// Ends a write that had no effect, because another process wrote before it.
    pub(in crate::store) fn on_conflict(self) {}

    fn finish(&self) {
        let mut state = self.cache.write();
        state.remove_policy(&self.policy);
        if self.changes_epoch {
            let own = state.pending.take_epoch_write(|epoch_write| epoch_write.id == self.id);
            match own.filter(|_| self.is_committed) {
                Some(epoch_write) if state.epoch == Some(epoch_write.from) => {
                    state.finish_epoch_write(epoch_write)
                }
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
                Some(delta) if state.version(account) == Some(delta.from) => {
                    state.entries.apply(delta)
                }
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
