//! Reconciliation: balances beside what entries and live holds add up to.

use jiff::Timestamp;

use super::connection::{Query, Statements};
use super::decode::{Cells, ReadCells};
use super::error::{Result, Retry, is_account_missing, is_contention};
use super::inner::Inner;
use super::post::ATTEMPTS;
use super::read::members;
use crate::ledger::Recount;
use crate::model::{Account, AccountId, Amount, Holder, Key, KeyId, Origin, Reconciled};
use crate::store::key_row::KeyRow;
use crate::store::stale::Stale;
use crate::store::usage_sums::saturated;

impl Inner {
    /// Returns the balance of a holder as it is stored, and what its entries and live holds add up to, all of one
    /// snapshot. It ends no holds and writes nothing.
    pub(super) async fn recount(&self, holder: &Holder) -> Result<Option<Reconciled>> {
        let read =
            async |statements: &mut Statements<'_>| self.recount_in(statements, holder, None).await;
        let recount = self.connections.in_snapshot(read).await?;
        Ok(recount.map(|recount| recount.reconciled()))
    }

    /// Sets what differs of a balance to what its entries and live holds add up to.
    pub(super) async fn mend(
        &self,
        holder: &Holder,
        origin: &Origin,
    ) -> Result<Option<Reconciled>> {
        let Some(stale) = self.stale_of(holder).await? else { return Ok(None) };
        for _ in 0..ATTEMPTS {
            let mend = async |statements: &mut Statements<'_>| {
                self.mend_in(statements, holder, &stale, origin).await
            };
            match self.connections.pooled(mend).await {
                Err(error) if is_account_missing(&error) => {
                    self.make_accounts(&stale.needs()).await?
                }
                Err(error) if is_contention(&error) => {}
                done => return done,
            }
        }
        Err(Retry::Conflict.into())
    }

    async fn mend_in(
        &self,
        statements: &mut Statements<'_>,
        holder: &Holder,
        stale: &Stale,
        origin: &Origin,
    ) -> Result<Option<Reconciled>> {
        // Holds that have expired end first, so that the book and the tables say the same. This also takes the lock.
        self.expire_holds_in(statements, stale).await?;
        let mut loaded = self.load(statements, &stale.needs()).await?;
        let at = stale.accounts.first().and_then(|account| loaded.book.now(account));
        let Some(recount) = self.recount_in(statements, holder, at).await? else { return Ok(None) };
        let mended =
            Reconciled { differences: loaded.book.mend(&recount, origin), ..recount.reconciled() };
        self.write(statements, &mut loaded).await?;
        Ok(Some(mended))
    }

    /// Returns what has to be up to date before a holder is mended.
    async fn stale_of(&self, holder: &Holder) -> Result<Option<Stale>> {
        let mut stale = Stale::default();
        match holder {
            Holder::Account(account) => stale.add_account(account),
            Holder::Key(id) => {
                let rows = self.connections.fetch(self.lineages(&[*id])).await?;
                let first = members(&rows, &self.schema.columns)?.into_iter().next();
                let Some((row, _)) = first.and_then(|first| first.key) else { return Ok(None) };
                stale.add_key(&row.key);
            }
        }
        Ok(Some(stale))
    }

    async fn recount_in(
        &self,
        statements: &mut Statements<'_>,
        holder: &Holder,
        now: Option<Timestamp>,
    ) -> Result<Option<Recount>> {
        match holder {
            Holder::Account(id) => {
                let read = self.account_in(statements, id, now).await?;
                let Some((account, at)) = read.value else { return Ok(None) };
                self.recount_account(statements, &account, at).await.map(Some)
            }
            Holder::Key(id) => {
                let rows = statements.fetch(self.lineages(&[*id])).await?;
                let now = now.unwrap_or_else(|| self.clock.now());
                let first = members(&rows, &self.schema.columns)?.into_iter().next();
                let Some((Some((KeyRow { key, .. }, _)), account)) =
                    first.map(|first| (first.key, first.account))
                else {
                    return Ok(None);
                };
                let at = account.map_or(now, |row| now.max(row.changed_at));
                self.recount_balance(statements, &key, at).await.map(Some)
            }
        }
    }

    async fn recount_account(
        &self,
        statements: &mut Statements<'_>,
        account: &Account,
        at: Timestamp,
    ) -> Result<Recount> {
        let held = self.held(statements, &account.id, None).await?;
        let mut recount = Recount::of_account(account, at, held);
        for window in recount.windows() {
            let sum = self.spent_by_account(statements, &account.id, window.since).await?;
            recount.set_sum(window, sum);
        }
        Ok(recount)
    }

    async fn recount_balance(
        &self,
        statements: &mut Statements<'_>,
        key: &Key,
        at: Timestamp,
    ) -> Result<Recount> {
        let held = self.held(statements, &key.account, Some(key.id)).await?;
        let mut recount = Recount::of_key(key, at, held);
        for window in recount.windows() {
            let sum = self.spent_by_key(statements, key, window.since).await?;
            recount.set_sum(window, sum);
        }
        if recount.reconciled().agrees() {
            return Ok(recount);
        }
        let gone = of_account(self.sql.balances_without_key.query(), &key.account);
        for row in &statements.fetch(gone).await? {
            let gone = Key { id: Cells::new(row).key_id()?, ..key.clone() };
            for window in recount.windows() {
                let sum = self.spent_by_key(statements, &gone, window.since).await?;
                recount.add_sum_of_gone(window, sum);
            }
        }
        Ok(recount)
    }

    /// Returns the sum of the live holds of a key and its descendants, or of an account.
    async fn held(
        &self,
        statements: &mut Statements<'_>,
        account: &AccountId,
        key: Option<KeyId>,
    ) -> Result<Amount> {
        let held = of_account(self.sql.held.query(), account).bind(key.map(KeyId::get));
        let rows = statements.fetch(held).await?;
        let sum = rows.first().map(|row| Cells::new(row).sum()).transpose()?;
        Ok(saturated(sum.unwrap_or_default()))
    }
}

fn of_account<'q>(query: Query<'q>, account: &AccountId) -> Query<'q> {
    query.bind(account.as_str().to_owned())
}
