//! Accounts that other processes write to as well.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::AccountId;

/// Says for which accounts an optimistic write is not worth a try, because it keeps conflicting.
#[derive(Default)]
pub(super) struct ConflictBackoff(Mutex<HashMap<AccountId, Conflicts>>);

#[derive(Default)]
struct Conflicts {
    /// How many writes conflicted, less the number of later writes that were committed.
    count: u8,
    /// For how many more batches the account goes straight to its lock.
    skipped: u8,
}

const MAX_SKIPPED: u8 = 32;
const MAX_ACCOUNTS: usize = 100_000;

impl ConflictBackoff {
    fn lock(&self) -> MutexGuard<'_, HashMap<AccountId, Conflicts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a conflict. One conflict may come from old cached data. Repeated conflicts mean that other processes
    /// write all the time.
    pub(super) fn on_conflict(&self, account: &AccountId) {
        let mut accounts = self.lock();
        if accounts.len() > MAX_ACCOUNTS {
            accounts.clear();
        }
        let conflicts = accounts.entry(account.clone()).or_default();
        conflicts.count = (conflicts.count + 1).min(5);
        conflicts.skipped =
            if conflicts.count == 1 { 0 } else { (1 << conflicts.count).min(MAX_SKIPPED) };
    }

    /// Records a write without a conflict.
    pub(super) fn on_commit(&self, account: &AccountId) {
        let mut accounts = self.lock();
        if let Some(conflicts) = accounts.get_mut(account) {
            conflicts.count = conflicts.count.saturating_sub(1);
            if conflicts.count == 0 {
                accounts.remove(account);
            }
        }
    }

    /// Returns whether a batch should try an optimistic write, and counts the batch if not.
    pub(super) fn should_try_optimistic(&self, account: &AccountId) -> bool {
        let mut accounts = self.lock();
        let Some(conflicts) = accounts.get_mut(account).filter(|conflicts| conflicts.skipped > 0)
        else {
            return true;
        };
        conflicts.skipped -= 1;
        false
    }

    /// Returns whether the account currently goes straight to its lock.
    pub(super) fn is_skipped(&self, account: &AccountId) -> bool {
        self.lock().get(account).is_some_and(|conflicts| conflicts.skipped > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_conflict_is_retried_at_once_and_more_ever_later() {
        let (backoff, account): (_, AccountId) =
            (ConflictBackoff::default(), "acme".parse().unwrap());
        let batches = || (0..100).take_while(|_| !backoff.should_try_optimistic(&account)).count();
        assert_eq!(batches(), 0);
        let skipped: Vec<_> = (0..7)
            .map(|_| {
                backoff.on_conflict(&account);
                batches()
            })
            .collect();
        assert_eq!(skipped, [0, 4, 8, 16, 32, 32, 32]);
        for _ in 0..5 {
            backoff.on_commit(&account);
        }
        backoff.on_conflict(&account);
        assert_eq!(batches(), 0, "it was committed as often as it conflicted");
        backoff.on_commit(&account);
        assert!(backoff.lock().is_empty());
    }
}
