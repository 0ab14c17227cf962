//! What a look at a database found to be behind its time.

use std::fmt;

use crate::{AccountId, Key, KeyId};

/// What was read, and what was behind when it was.
pub(super) struct Seen<T> {
    pub(super) value: T,
    pub(super) behind: Behind,
}

/// What has to be written before figures can be told.
#[derive(Clone, Default)]
pub(super) struct Behind {
    /// Accounts in which holds have run out.
    pub(super) accounts: Vec<AccountId>,
    /// Keys that the host's own SQL gave another period or account, each with the account that it is of.
    pub(super) keys: Vec<(AccountId, KeyId)>,
}

impl Behind {
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

    /// The ids of the keys.
    pub(super) fn key_ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(|(_, key)| *key).collect()
    }

    /// Brings it up to date, all together; where rows are in the way, account by account. `but` is told those that cannot
    /// be, so that they keep nothing else from it. Tells how many holds had run out.
    pub(super) async fn catch_up_but<E: fmt::Display, F: Future<Output = Result<usize, E>>>(
        self,
        but: &mut Vec<AccountId>,
        is_of_rows: impl Fn(&E) -> bool,
        catch_up: impl Fn(Self) -> F,
    ) -> Result<usize, E> {
        if self.accounts.len() > 1 {
            match catch_up(self.clone()).await {
                Err(error) if is_of_rows(&error) => {}
                done => return done,
            }
        }
        let mut total = 0;
        for behind in self.apart() {
            let accounts = behind.accounts.clone();
            match catch_up(behind).await {
                Err(error) if is_of_rows(&error) => {
                    tracing::warn!(%error, ?accounts, "agentkey could not bring an account up to date");
                    but.extend(accounts);
                }
                ended => total += ended?,
            }
        }
        Ok(total)
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
