//! What a look at a database found to be behind its time.

use crate::ledger::Needs;
use crate::model::{AccountId, Key, KeyId};

/// What was read, and what was behind when it was.
pub(super) struct ReadResult<T> {
    pub(super) value: T,
    pub(super) stale: Stale,
}

/// What has to be written before figures can be told.
#[derive(Default)]
pub(super) struct Stale {
    /// Accounts in which holds have run out.
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

    /// What has to be loaded for it.
    pub(super) fn needs(&self) -> Needs {
        let keys = self.keys.iter().map(|(_, key)| *key).collect();
        Needs { accounts: self.accounts.clone(), keys, ..Needs::default() }
    }

    /// Each account by itself.
    pub(super) fn apart(self) -> impl Iterator<Item = Self> {
        let Self { accounts, keys } = self;
        accounts.into_iter().map(move |account| {
            let keys = keys.iter().filter(|(of, _)| *of == account).cloned().collect();
            Self { accounts: vec![account], keys }
        })
    }
}
