//! Fills a book with what postings need, under the lock.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;
use uuid::Uuid;

use super::connection::Statements;
use super::decode::{Cells, ReadCells};
use super::error::{Result, Retry};
use super::inner::Inner;
use super::types::Instant;
use super::validator::Expected;
use super::write::random_version_step;
use crate::ledger::{Book, Needs};
use crate::model::{AccountId, EntryId, KeyId};
use crate::store::account_row::AccountRow;
use crate::store::key_row::KeyRow;

/// A book, and its rows when it was filled.
pub(super) struct Loaded {
    pub(super) book: Book,
    pub(super) expected: Vec<Expected>,
    /// The accounts whose `next_expiry` had come and has been moved on.
    pub(super) due: HashSet<AccountId>,
}

impl Inner {
    /// Makes the rows of accounts whose keys the application's own SQL made. It does so in a transaction of its own,
    /// because one that has locked other accounts must not wait for this.
    pub(super) async fn make_accounts(&self, needs: &Needs) -> Result<()> {
        let make =
            async |statements: &mut Statements<'_>| self.make_accounts_in(statements, needs).await;
        self.connections.posting(async |connection| connection.transaction(make).await).await
    }

    async fn make_accounts_in(&self, statements: &mut Statements<'_>, needs: &Needs) -> Result<()> {
        for account in &needs.accounts {
            statements.run(self.lock_new_account(account)).await?;
        }
        let ids: Vec<_> =
            needs.accounts.iter().map(|account| account.as_str().to_owned()).collect();
        let keys: Vec<_> = needs.keys.iter().map(|key| key.get()).collect();
        let make =
            self.sql.make_accounts.query().bind(ids).bind(keys).bind(Instant(self.clock.now()));
        statements.run(make.bind(random_version_step())).await
    }

    /// Fills a book under the lock, and ends the expired holds of its accounts.
    pub(super) async fn load(
        &self,
        statements: &mut Statements<'_>,
        needs: &Needs,
    ) -> Result<Loaded> {
        let accounts = self.lock(statements, needs).await?;
        // The time of the server when it had locked the last of them.
        let now = self.clock.now();
        let mut loaded = Loaded {
            book: Book::new(),
            expected: Vec::with_capacity(accounts.len()),
            due: HashSet::new(),
        };
        let due: Vec<_> = accounts
            .iter()
            .filter(|row| row.is_overdue(now))
            .map(|row| (row, now.max(row.changed_at)))
            .collect();
        let expiries = match due.is_empty() {
            true => HashMap::new(),
            false => self.load_overdue(statements, &due, &mut loaded.book).await?,
        };
        for mut row in accounts {
            if let Some(next_expiry) = expiries.get(&row.account.id) {
                loaded.due.insert(row.account.id.clone());
                row.next_expiry = *next_expiry;
            }
            loaded.book.open(row.account.clone(), row.changed_at, now);
            loaded.expected.push(Expected { epoch: None, row, keys: Vec::new() });
        }
        self.load_rows(statements, needs, &mut loaded.book).await?;
        let keys: BTreeSet<_> = needs.keys.iter().copied().chain(loaded.book.row_keys()).collect();
        self.load_lineages(statements, keys.into_iter().collect(), &mut loaded).await?;
        for account in &needs.accounts {
            loaded.book.expire(account);
        }
        Ok(loaded)
    }

    async fn lock(
        &self,
        statements: &mut Statements<'_>,
        needs: &Needs,
    ) -> Result<Vec<AccountRow>> {
        let ids: Vec<_> =
            needs.accounts.iter().map(|account| account.as_str().to_owned()).collect();
        let mut rows = statements.fetch(self.sql.lock_accounts.query().bind(ids.clone())).await?;
        if rows.len() < ids.len() && self.has_unmade_accounts(statements, needs).await? {
            if statements.may_retry {
                return Err(Retry::AccountsMissing.into());
            }
            self.make_accounts_in(statements, needs).await?;
            rows = statements.fetch(self.sql.lock_accounts.query().bind(ids)).await?;
        }
        rows.iter().filter_map(|row| Cells::new(row).maybe_account().transpose()).collect()
    }

    /// Returns whether accounts without a row have keys.
    async fn has_unmade_accounts(
        &self,
        statements: &mut Statements<'_>,
        needs: &Needs,
    ) -> Result<bool> {
        if needs.keys.is_empty() {
            return Ok(false);
        }
        let ids: Vec<_> =
            needs.accounts.iter().map(|account| account.as_str().to_owned()).collect();
        let keys: Vec<_> = needs.keys.iter().map(|key| key.get()).collect();
        let rows = statements.fetch(self.sql.unmade_accounts.query().bind(ids).bind(keys)).await?;
        Ok(!rows.is_empty())
    }

    /// Adds the expired holds. Returns when the next hold of each account expires.
    async fn load_overdue(
        &self,
        statements: &mut Statements<'_>,
        due: &[(&AccountRow, Timestamp)],
        book: &mut Book,
    ) -> Result<HashMap<AccountId, Option<Timestamp>>> {
        let ids: Vec<_> = due.iter().map(|(row, _)| row.account.id.as_str().to_owned()).collect();
        let at: Vec<_> = due.iter().map(|(_, now)| Instant(*now)).collect();
        let overdue = self.sql.expired_holds.query().bind(ids.clone()).bind(at.clone());
        for row in &statements.fetch(overdue).await? {
            book.add_hold(Cells::new(row).hold()?);
        }
        let rows = statements.fetch(self.sql.next_expiry.query().bind(ids).bind(at)).await?;
        let mut expiries = HashMap::with_capacity(rows.len());
        for row in &rows {
            let mut cells = Cells::new(row);
            expiries.insert(cells.account_id()?, cells.maybe_instant()?);
        }
        Ok(expiries)
    }

    /// Adds the named holds, claims and entries, and the entries that those claims name.
    async fn load_rows(
        &self,
        statements: &mut Statements<'_>,
        needs: &Needs,
        book: &mut Book,
    ) -> Result<()> {
        if !needs.holds.is_empty() {
            let ids: Vec<_> =
                needs.holds.iter().map(|id| Uuid::from_bytes(*id.as_bytes())).collect();
            for row in &statements.fetch(self.sql.holds.query().bind(ids)).await? {
                book.add_hold(Cells::new(row).hold()?);
            }
        }
        if !needs.claims.is_empty() {
            let keys: Vec<_> = needs.claims.iter().map(|(key, _)| key.get()).collect();
            let claims: Vec<_> = needs.claims.iter().map(|(_, claim)| claim.to_string()).collect();
            for row in &statements.fetch(self.sql.claims.query().bind(keys).bind(claims)).await? {
                book.add_claim(Cells::new(row).claim()?);
            }
        }
        let entries: HashSet<EntryId> =
            needs.entries.iter().copied().chain(book.claimed_entries()).collect();
        if !entries.is_empty() {
            let ids: Vec<_> = entries.iter().map(|id| Uuid::from_bytes(*id.as_bytes())).collect();
            for row in &statements.fetch(self.sql.entries.query().bind(ids)).await? {
                book.add_entry(Cells::new(row).entry_row()?);
            }
        }
        Ok(())
    }

    /// Adds keys and all their ancestors.
    async fn load_lineages(
        &self,
        statements: &mut Statements<'_>,
        keys: Vec<KeyId>,
        loaded: &mut Loaded,
    ) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        for row in &statements.fetch(self.lineages(&keys)).await? {
            let (stored, version) = Cells::member(row).key(&self.schema.columns)?;
            if loaded.book.key(stored.id).is_some() {
                continue;
            }
            let row = self.schema.columns.invalid_rows.decode_or_disabled(stored);
            let Some(KeyRow { mut key, is_stale }) = row else { continue };
            if let Some(expected) =
                loaded.expected.iter_mut().find(|expected| expected.row.account.id == key.account)
            {
                expected.keys.push((key.id, version));
            }
            match loaded.book.now(&key.account).filter(|_| is_stale) {
                Some(now) => {
                    for window in key.balance.realign(&key.budget, key.anchor, now) {
                        self.recount_key(statements, &mut key, window).await?;
                    }
                    loaded.book.add_recounted(key);
                }
                None => loaded.book.add_key(key),
            }
        }
        Ok(())
    }
}
