//! Writing what a look found to be behind its time.

use super::connection::{Connection, Statements};
use super::error::{Result, Retry, is_account_missing, is_contention, is_row_error};
use super::post::ATTEMPTS;
use super::{Behind, Inner};
use crate::AccountId;
use crate::ledger::Needs;

/// How long a row is waited for that somebody keeps: as long as any statement, or as a posting does.
#[derive(Clone, Copy)]
enum Wait {
    Long,
    Short,
}

impl Inner {
    /// Brings what is behind up to date, in a transaction of its own; tells how many holds had run out.
    pub(super) async fn catch_up(&self, behind: &Behind) -> Result<usize> {
        self.catch_up_by(behind, Wait::Long).await
    }

    /// The same, but for accounts that somebody keeps locked, or that cannot be brought up to date: those are told.
    pub(super) async fn catch_up_but(&self, behind: Behind, but: &mut Vec<AccountId>) -> Result<usize> {
        let catch_up = |behind: Behind| async move { self.catch_up_by(&behind, Wait::Short).await };
        behind.catch_up_but(but, is_row_error, catch_up).await
    }

    async fn catch_up_by(&self, behind: &Behind, wait: Wait) -> Result<usize> {
        for _ in 0..ATTEMPTS {
            let work = async |connection: &mut Connection<'_>| {
                connection.transaction(async |statements| self.catch_up_in(statements, behind).await).await
            };
            let done = match wait {
                Wait::Long => self.connections.pooled(work).await,
                Wait::Short => self.connections.short_lock_timeout(work).await,
            };
            match done {
                Err(error) if is_account_missing(&error) => {
                    let (accounts, keys) = (behind.accounts.clone(), behind.key_ids());
                    let needs = Needs { accounts, keys, ..Needs::default() };
                    self.make_accounts(&needs).await?;
                }
                Err(error) if is_contention(&error) => {}
                done => return done,
            }
        }
        Err(Retry::Conflict.into())
    }

    /// The same, in a transaction that has begun.
    pub(super) async fn catch_up_in(&self, statements: &mut Statements<'_>, behind: &Behind) -> Result<usize> {
        let mut accounts = behind.accounts.clone();
        accounts.sort_unstable();
        let needs = Needs { accounts, keys: behind.key_ids(), ..Needs::default() };
        let mut loaded = self.load(statements, &needs).await?;
        let written = self.write(statements, &mut loaded).await?;
        Ok(written.changed_holds.len())
    }
}
