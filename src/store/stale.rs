//! Stale data that a read of the database found.

use crate::ledger::Needs;
use crate::model::{AccountId, Key, KeyId};

/// The result of a read, and the stale data that it found.
pub(super) struct ReadResult<T> {
    pub(super) value: T,
    pub(super) stale: Stale,
}

/// What has to be written before figures can be reported.
#[derive(Default)]
pub(super) struct Stale {
    /// Accounts with expired holds.
    pub(super) accounts: Vec<AccountId>,
    /// Keys that the application's own SQL gave another period, each with its account.
    pub(super) keys: Vec<(AccountId, KeyId)>,
}

impl Stale {
    pub(super) fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    pub(super) fn add_account(&mut self, account: &AccountId) {
        if !self.accounts.contains(account) {
            self.accounts.push(account.clone());
        }
    }

    pub(super) fn add_key(&mut self, key: &Key) {
        self.add_account(&key.account);
        self.keys.push((key.account.clone(), key.id));
    }

    /// Returns what has to be loaded to bring the data up to date.
    pub(super) fn needs(&self) -> Needs {
        let keys = self.keys.iter().map(|(_, key)| *key).collect();
        Needs { accounts: self.accounts.clone(), keys, ..Needs::default() }
    }

    /// Splits the data by account.
    pub(super) fn per_account(self) -> impl Iterator<Item = Self> {
        let Self { accounts, keys } = self;
        accounts.into_iter().map(move |account| {
            let keys = keys.iter().filter(|(owner, _)| *owner == account).cloned().collect();
            Self { accounts: vec![account], keys }
        })
    }
}
