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
        // All together; where rows are in the way, account by account.
        if behind.accounts.len() > 1 {
            match self.catch_up_by(&behind, Wait::Short).await {
                Err(error) if is_row_error(&error) => {}
                done => return done,
            }
        }
        let mut total = 0;
        for behind in behind.apart() {
            match self.catch_up_by(&behind, Wait::Short).await {
                Err(error) if is_row_error(&error) => {
                    let accounts = behind.accounts;
                    tracing::warn!(%error, ?accounts, "agentkey could not bring an account up to date");
                    but.extend(accounts);
                }
                ended => total += ended?,
            }
        }
        Ok(total)
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
