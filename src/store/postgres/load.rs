//! Filling a book with what postings need, under the lock.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;
use uuid::Uuid;

use super::Inner;
use super::connection::Statements;
use super::decode::{Cells, ReadCells};
use super::error::{Result, Retry};
use super::layout::Layout;
use super::names::Sql;
use super::types::Instant;
use super::validator::Expected;
use super::write::random_version_step;
use crate::ledger::{Book, Needs};
use crate::store::account_row::AccountRow;
use crate::store::stored_key::KeyRow;
use crate::{AccountId, EntryId, KeyId};

/// A book, and what its rows were when it was filled.
pub(super) struct Loaded {
    pub(super) book: Book,
    pub(super) expected: Vec<Expected>,
    /// Those whose `next_expiry` had come, and is another now.
    pub(super) due: HashSet<AccountId>,
}

/// The texts of what is read behind the lock, and of what is written beside the book.
pub(super) struct Loads {
    lock: Sql,
    make_accounts: Sql,
    unmade_accounts: Sql,
    overdue: Sql,
    next_expiry: Sql,
    pub(super) put_next_expiry: Sql,
    holds: Sql,
    claims: Sql,
    entries: Sql,
}

impl Loads {
    pub(super) fn new(layout: &Layout) -> Self {
        Self {
            lock: layout.sql(
                "SELECT {of_account}, {server_time} FROM (SELECT w.id FROM unnest($1::text[]) w (id) ORDER BY w.id COLLATE \"C\") w \
                 CROSS JOIN LATERAL (SELECT * FROM {accounts} a WHERE a.id = w.id FOR NO KEY UPDATE) a",
            ),
            make_accounts: layout.sql(include_str!("sql/make_accounts.sql")),
            unmade_accounts: layout.sql(
                "SELECT 1 FROM {keys} k WHERE k.{k.id} = ANY($2::int8[]) AND k.{k.account}::text = ANY($1::text[]) \
                 AND NOT EXISTS (SELECT 1 FROM {accounts} a WHERE a.id = k.{k.account}::text COLLATE \"C\") LIMIT 1",
            ),
            overdue: layout.sql(
                "SELECT {of_hold} FROM unnest($1::text[], $2::timestamptz[]) w (id, now) CROSS JOIN LATERAL \
                 (SELECT * FROM {holds} h WHERE h.account_id = w.id AND h.state = 'live' AND h.expires_at <= w.now \
                 OFFSET 0) h",
            ),
            next_expiry: layout.sql(
                "SELECT w.id, (SELECT min(h.expires_at) FROM {holds} h WHERE h.account_id = w.id \
                 AND h.state = 'live' AND h.expires_at > w.now) FROM unnest($1::text[], $2::timestamptz[]) w (id, now)",
            ),
            put_next_expiry: layout.sql(
                "UPDATE {accounts} a SET next_expiry = w.next_expiry \
                 FROM unnest($1::text[], $2::timestamptz[]) w (id, next_expiry) WHERE a.id = w.id",
            ),
            holds: layout.sql(
                "SELECT {of_hold} FROM unnest($1::uuid[]) w (id) CROSS JOIN LATERAL \
                 (SELECT * FROM {holds} h WHERE h.id = w.id OFFSET 0) h",
            ),
            claims: layout.sql(
                "SELECT c.key_id, c.idempotency_key, c.fingerprint, c.owner, c.in_flight_until, c.entry \
                 FROM unnest($1::int8[], $2::text[]) w (key_id, idempotency_key) CROSS JOIN LATERAL \
                 (SELECT * FROM {claims} c WHERE c.key_id = w.key_id AND c.idempotency_key = w.idempotency_key \
                 OFFSET 0) c",
            ),
            entries: layout.sql(
                "SELECT {of_entry}, coalesce((SELECT -sum(r.amount) FROM {entries} r WHERE r.refunds = e.id), 0)::int8 \
                 FROM unnest($1::uuid[]) w (id) CROSS JOIN LATERAL \
                 (SELECT * FROM {entries} e WHERE e.id = w.id OFFSET 0) e",
            ),
        }
    }
}

impl Inner {
    /// Makes the rows of accounts that have keys of the host's own making. By itself: whoever has locked rows of others
    /// must not wait for this.
    pub(super) async fn make_accounts(&self, needs: &Needs) -> Result<()> {
        let make = async |statements: &mut Statements<'_>| self.make_accounts_in(statements, needs).await;
        self.connections.posting(async |connection| connection.transaction(make).await).await
    }

    async fn make_accounts_in(&self, statements: &mut Statements<'_>, needs: &Needs) -> Result<()> {
        for account in &needs.accounts {
            statements.run(self.make_lock(account)).await?;
        }
        let ids: Vec<_> = needs.accounts.iter().map(|account| account.as_str().to_owned()).collect();
        let keys: Vec<_> = needs.keys.iter().map(|key| key.get()).collect();
        let make = self.loads.make_accounts.query().bind(ids).bind(keys).bind(Instant(self.clock.now()));
        statements.run(make.bind(random_version_step())).await
    }

    /// Fills a book under the lock, and ends the holds of its accounts that have run out.
    pub(super) async fn load(&self, statements: &mut Statements<'_>, needs: &Needs) -> Result<Loaded> {
        let accounts = self.lock(statements, needs).await?;
        // That of the server when it had locked the last of them.
        let now = self.clock.now();
        let mut loaded =
            Loaded { book: Book::new(), expected: Vec::with_capacity(accounts.len()), due: HashSet::new() };
        let due: Vec<_> =
            accounts.iter().filter(|row| row.is_overdue(now)).map(|row| (row, now.max(row.changed_at))).collect();
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

    async fn lock(&self, statements: &mut Statements<'_>, needs: &Needs) -> Result<Vec<AccountRow>> {
        let ids: Vec<_> = needs.accounts.iter().map(|account| account.as_str().to_owned()).collect();
        let mut rows = statements.fetch(self.loads.lock.query().bind(ids.clone())).await?;
        if rows.len() < ids.len() && self.has_unmade_accounts(statements, needs).await? {
            if statements.may_begin_anew {
                return Err(Retry::AccountsMissing.into());
            }
            self.make_accounts_in(statements, needs).await?;
            rows = statements.fetch(self.loads.lock.query().bind(ids)).await?;
        }
        rows.iter().filter_map(|row| Cells::of(row).maybe_account().transpose()).collect()
    }

    /// Whether accounts that have no row have keys.
    async fn has_unmade_accounts(&self, statements: &mut Statements<'_>, needs: &Needs) -> Result<bool> {
        if needs.keys.is_empty() {
            return Ok(false);
        }
        let ids: Vec<_> = needs.accounts.iter().map(|account| account.as_str().to_owned()).collect();
        let keys: Vec<_> = needs.keys.iter().map(|key| key.get()).collect();
        let rows = statements.fetch(self.loads.unmade_accounts.query().bind(ids).bind(keys)).await?;
        Ok(!rows.is_empty())
    }

    /// Adds the live holds that have run out; answers when the next one does.
    async fn load_overdue(
        &self,
        statements: &mut Statements<'_>,
        due: &[(&AccountRow, Timestamp)],
        book: &mut Book,
    ) -> Result<HashMap<AccountId, Option<Timestamp>>> {
        let ids: Vec<_> = due.iter().map(|(row, _)| row.account.id.as_str().to_owned()).collect();
        let at: Vec<_> = due.iter().map(|(_, now)| Instant(*now)).collect();
        let overdue = self.loads.overdue.query().bind(ids.clone()).bind(at.clone());
        for row in &statements.fetch(overdue).await? {
            book.add_hold(Cells::of(row).hold()?);
        }
        let rows = statements.fetch(self.loads.next_expiry.query().bind(ids).bind(at)).await?;
        let mut expiries = HashMap::with_capacity(rows.len());
        for row in &rows {
            let mut cells = Cells::of(row);
            expiries.insert(cells.account_id()?, cells.maybe_instant()?);
        }
        Ok(expiries)
    }

    /// Adds the holds, claims and entries that are named, and the entries that those claims name.
    async fn load_rows(&self, statements: &mut Statements<'_>, needs: &Needs, book: &mut Book) -> Result<()> {
        if !needs.holds.is_empty() {
            let ids: Vec<_> = needs.holds.iter().map(|id| Uuid::from_bytes(*id.as_bytes())).collect();
            for row in &statements.fetch(self.loads.holds.query().bind(ids)).await? {
                book.add_hold(Cells::of(row).hold()?);
            }
        }
        if !needs.claims.is_empty() {
            let keys: Vec<_> = needs.claims.iter().map(|(key, _)| key.get()).collect();
            let claims: Vec<_> = needs.claims.iter().map(|(_, claim)| claim.to_string()).collect();
            for row in &statements.fetch(self.loads.claims.query().bind(keys).bind(claims)).await? {
                book.add_claim(Cells::of(row).claim()?);
            }
        }
        let entries: HashSet<EntryId> = needs.entries.iter().copied().chain(book.claimed_entries()).collect();
        if !entries.is_empty() {
            let ids: Vec<_> = entries.iter().map(|id| Uuid::from_bytes(*id.as_bytes())).collect();
            for row in &statements.fetch(self.loads.entries.query().bind(ids)).await? {
                book.add_entry(Cells::of(row).entry_row()?);
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
        for row in &statements.fetch(self.reads.lineages(&keys)).await? {
            let (stored, stamp) = Cells::member(row).key(&self.layout.columns)?;
            if loaded.book.key(stored.id).is_some() {
                continue;
            }
            let row = self.layout.columns.invalid_rows.decode_or_disabled(stored);
            let Some(KeyRow { mut key, is_behind }) = row else { continue };
            if let Some(expected) = loaded.expected.iter_mut().find(|expected| expected.row.account.id == key.account) {
                expected.keys.push((key.id, stamp));
            }
            match loaded.book.now(&key.account).filter(|_| is_behind) {
                Some(now) => {
                    key.balance.since = key.budget.period.window(key.anchor, now).start;
                    key.balance.spent = self.sums.spent_by_key(statements, &key, key.balance.since).await?;
                    loaded.book.add_recounted(key);
                }
                None => loaded.book.add_key(key),
            }
        }
        Ok(())
    }
}
