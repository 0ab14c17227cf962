//! Accounts that other processes write to as well.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::AccountId;

/// Says for which accounts an optimistic write is not worth a try, since others are faster again and again.
#[derive(Default)]
pub(super) struct ConflictBackoff(Mutex<HashMap<AccountId, Conflicts>>);

#[derive(Default)]
struct Conflicts {
    /// How often another process was faster; less by one for each time that none was.
    count: u8,
    /// For how many batches more the account goes straight to its lock.
    skipped: u8,
}

const MAX_SKIPPED: u8 = 32;
const MAX_ACCOUNTS: usize = 100_000;

impl ConflictBackoff {
    fn lock(&self) -> MutexGuard<'_, HashMap<AccountId, Conflicts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note that another process wrote in between. Once, what was cached may just have been old; where that goes on,
    /// others are writing all the time.
    pub(super) fn on_conflict(&self, account: &AccountId) {
        let mut accounts = self.lock();
        if accounts.len() > MAX_ACCOUNTS {
            accounts.clear();
        }
        let conflicts = accounts.entry(account.clone()).or_default();
        conflicts.count = (conflicts.count + 1).min(5);
        conflicts.skipped = if conflicts.count == 1 { 0 } else { (1 << conflicts.count).min(MAX_SKIPPED) };
    }

    /// Takes note that none did.
    pub(super) fn on_commit(&self, account: &AccountId) {
        let mut accounts = self.lock();
        if let Some(conflicts) = accounts.get_mut(account) {
            conflicts.count = conflicts.count.saturating_sub(1);
            if conflicts.count == 0 {
                accounts.remove(account);
            }
        }
    }

    /// Returns whether a batch should try an optimistic write, and counts it if not.
    pub(super) fn should_try_optimistic(&self, account: &AccountId) -> bool {
        let mut accounts = self.lock();
        let Some(conflicts) = accounts.get_mut(account).filter(|conflicts| conflicts.skipped > 0) else { return true };
        conflicts.skipped -= 1;
        false
    }

    /// Returns whether the account is one of those that are not worth a try.
    pub(super) fn is_skipped(&self, account: &AccountId) -> bool {
        self.lock().get(account).is_some_and(|conflicts| conflicts.skipped > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_conflict_is_tried_again_at_once_and_more_of_them_ever_later() {
        let (backoff, account): (_, AccountId) = (ConflictBackoff::default(), "acme".parse().unwrap());
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
        assert_eq!(batches(), 0, "it went well as often as not");
        backoff.on_commit(&account);
        assert!(backoff.lock().is_empty());
    }
}
