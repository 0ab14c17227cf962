//! Writing what a look found to be behind its time.

use super::connection::Statements;
use super::error::{Anew, is_accounts_missing, is_contention, is_of_rows};
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
    pub(super) async fn catch_up(&self, behind: &Behind) -> sqlx::Result<usize> {
        self.catch_up_by(behind, Wait::Long).await
    }

    /// The same, but for accounts that somebody keeps locked, or that cannot be brought up to date: those are told.
    pub(super) async fn catch_up_but(&self, behind: Behind, but: &mut Vec<AccountId>) -> sqlx::Result<usize> {
        let catch_up = |behind: Behind| async move { self.catch_up_by(&behind, Wait::Short).await };
        behind.catch_up_but(but, is_of_rows, catch_up).await
    }

    async fn catch_up_by(&self, behind: &Behind, wait: Wait) -> sqlx::Result<usize> {
        for _ in 0..ATTEMPTS {
            let mut held = match wait {
                Wait::Long => self.connections.other().await?,
                Wait::Short => self.connections.hasty().await?,
            };
            let done = async {
                let mut work = held.begin().await?;
                let ended = self.catch_up_in(&mut work.statements(), behind).await?;
                work.commit().await?;
                Ok(ended)
            };
            let done = done.await;
            match held.after(done) {
                Err(error) if is_accounts_missing(&error) => {
                    let (accounts, keys) = (behind.accounts.clone(), behind.key_ids());
                    let needs = Needs { accounts, keys, ..Needs::default() };
                    self.make_accounts(&needs).await?;
                }
                Err(error) if is_contention(&error) => {}
                done => return done,
            }
        }
        Err(Anew::Moved.into())
    }

    /// The same, in a transaction that has begun.
    pub(super) async fn catch_up_in(&self, statements: &mut Statements<'_>, behind: &Behind) -> sqlx::Result<usize> {
        let mut accounts = behind.accounts.clone();
        accounts.sort_unstable();
        let needs = Needs { accounts, keys: behind.key_ids(), ..Needs::default() };
        let mut loaded = self.load(statements, &needs).await?;
        let written = self.write(statements, &mut loaded).await?;
        Ok(written.changed_holds.len())
    }
}
