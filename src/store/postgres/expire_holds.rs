//! Ends expired holds, and brings stale accounts up to date.

use std::sync::{MutexGuard, PoisonError};

use super::connection::Statements;
use super::error::{Result, Retry, is_account_missing, is_contention, is_row_error};
use super::inner::Inner;
use super::post::ATTEMPTS;
use crate::model::AccountId;
use crate::store::stale::Stale;

/// The most accounts that one sweep skips because it cannot bring them up to date.
const MAX_SKIPPED: usize = 100;

/// How long to wait for a row that another transaction has locked: as any statement does, or as a posting does.
#[derive(Clone, Copy)]
enum Wait {
    Long,
    Short,
}

impl Inner {
    /// Ends expired holds. An account that another transaction has locked, or that has invalid rows, does not keep
    /// others from being swept.
    pub(super) async fn sweep(&self) -> Result<usize> {
        let mut total = 0;
        let mut skipped = std::mem::take(&mut *self.skipped_by_sweep());
        let max_skipped = skipped.len() + MAX_SKIPPED;
        loop {
            // An idle service finds no overdue account, and writes nothing.
            let overdue = self.overdue(&skipped).await?;
            if overdue.is_empty() {
                return Ok(total);
            }
            if skipped.len() >= max_skipped {
                // There are more accounts after them. When those have had their turn, the skipped ones are tried again.
                *self.skipped_by_sweep() = skipped;
                return Ok(total);
            }
            // If no hold had expired, the account now has its next expiry.
            total += self.refresh_skipping(overdue, &mut skipped).await?;
        }
    }

    fn skipped_by_sweep(&self) -> MutexGuard<'_, Vec<AccountId>> {
        self.skipped_by_sweep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings stale accounts up to date in a transaction of its own. Returns how many holds had expired.
    pub(super) async fn expire_holds(&self, stale: &Stale) -> Result<usize> {
        self.expire_holds_waiting(stale, Wait::Long).await
    }

    /// Brings stale accounts up to date, except those that are locked by another transaction or cannot be brought up to
    /// date. Adds those to `skipped`.
    pub(super) async fn refresh_skipping(
        &self,
        stale: Stale,
        skipped: &mut Vec<AccountId>,
    ) -> Result<usize> {
        // All accounts together. If one of them fails, account by account.
        if stale.accounts.len() > 1 {
            match self.expire_holds_waiting(&stale, Wait::Short).await {
                Err(error) if is_row_error(&error) => {}
                done => return done,
            }
        }
        let mut total = 0;
        for stale in stale.per_account() {
            match self.expire_holds_waiting(&stale, Wait::Short).await {
                Err(error) if is_row_error(&error) => {
                    let accounts = stale.accounts;
                    tracing::warn!(
                        %error,
                        ?accounts,
                        "agentkey could not write the expired holds or new periods of an account"
                    );
                    skipped.extend(accounts);
                }
                ended => total += ended?,
            }
        }
        Ok(total)
    }

    async fn expire_holds_waiting(&self, stale: &Stale, wait: Wait) -> Result<usize> {
        for _ in 0..ATTEMPTS {
            let work = async |statements: &mut Statements<'_>| {
                self.expire_holds_in(statements, stale).await
            };
            let done = match wait {
                Wait::Long => self.connections.pooled(work).await,
                Wait::Short => self.connections.short_lock_timeout(work).await,
            };
            match done {
                Err(error) if is_account_missing(&error) => {
                    self.make_accounts(&stale.needs()).await?
                }
                Err(error) if is_contention(&error) => {}
                done => return done,
            }
        }
        Err(Retry::Conflict.into())
    }

    /// Brings stale accounts up to date inside a transaction that has begun.
    pub(super) async fn expire_holds_in(
        &self,
        statements: &mut Statements<'_>,
        stale: &Stale,
    ) -> Result<usize> {
        let mut needs = stale.needs();
        needs.accounts.sort_unstable();
        let mut loaded = self.load(statements, &needs).await?;
        let written = self.write(statements, &mut loaded).await?;
        Ok(written.changed_holds.len())
    }
}
