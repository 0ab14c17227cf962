//! Writing what a look found to be behind its time.

use std::sync::{MutexGuard, PoisonError};

use super::connection::Statements;
use super::error::{Result, Retry, is_account_missing, is_contention, is_row_error};
use super::inner::Inner;
use super::post::ATTEMPTS;
use crate::model::AccountId;
use crate::store::stale::Stale;

/// One sweep waits for no more accounts than these that it cannot bring up to date.
const MAX_SKIPPED: usize = 100;

/// How long to wait for a row that another transaction has locked: as long as any statement, or as a posting does.
#[derive(Clone, Copy)]
enum Wait {
    Long,
    Short,
}

impl Inner {
    /// Ends holds that have run out. An account that another transaction keeps locked, or whose rows make no sense, keeps no
    /// other account from being swept.
    pub(super) async fn sweep(&self) -> Result<usize> {
        let mut total = 0;
        let mut but = std::mem::take(&mut *self.passed_over());
        let most = but.len() + MAX_SKIPPED;
        loop {
            // An idle service finds none, and writes nothing.
            let overdue = self.overdue(&but).await?;
            if overdue.is_empty() {
                return Ok(total);
            }
            if but.len() >= most {
                // There are others behind them. When those have had their turn, these are tried again.
                *self.passed_over() = but;
                return Ok(total);
            }
            // Where none had run out, it is known now when the next one does.
            total += self.refresh_skipping(overdue, &mut but).await?;
        }
    }

    fn passed_over(&self) -> MutexGuard<'_, Vec<AccountId>> {
        self.passed_over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings what is behind up to date, in a transaction of its own; tells how many holds had run out.
    pub(super) async fn expire_holds(&self, stale: &Stale) -> Result<usize> {
        self.catch_up_by(stale, Wait::Long).await
    }

    /// The same, but for accounts that another transaction keeps locked, or that cannot be brought up to date: those are added to
    /// `but`.
    pub(super) async fn refresh_skipping(&self, stale: Stale, but: &mut Vec<AccountId>) -> Result<usize> {
        // All together; where rows are in the way, account by account.
        if stale.accounts.len() > 1 {
            match self.catch_up_by(&stale, Wait::Short).await {
                Err(error) if is_row_error(&error) => {}
                done => return done,
            }
        }
        let mut total = 0;
        for stale in stale.per_account() {
            match self.catch_up_by(&stale, Wait::Short).await {
                Err(error) if is_row_error(&error) => {
                    let accounts = stale.accounts;
                    tracing::warn!(%error, ?accounts, "agentkey could not bring an account up to date");
                    but.extend(accounts);
                }
                ended => total += ended?,
            }
        }
        Ok(total)
    }

    async fn catch_up_by(&self, stale: &Stale, wait: Wait) -> Result<usize> {
        for _ in 0..ATTEMPTS {
            let work = async |statements: &mut Statements<'_>| self.expire_holds_in(statements, stale).await;
            let done = match wait {
                Wait::Long => self.connections.pooled(work).await,
                Wait::Short => self.connections.short_lock_timeout(work).await,
            };
            match done {
                Err(error) if is_account_missing(&error) => self.make_accounts(&stale.needs()).await?,
                Err(error) if is_contention(&error) => {}
                done => return done,
            }
        }
        Err(Retry::Conflict.into())
    }

    /// The same, in a transaction that has begun.
    pub(super) async fn expire_holds_in(&self, statements: &mut Statements<'_>, stale: &Stale) -> Result<usize> {
        let mut needs = stale.needs();
        needs.accounts.sort_unstable();
        let mut loaded = self.load(statements, &needs).await?;
        let written = self.write(statements, &mut loaded).await?;
        Ok(written.changed_holds.len())
    }
}
