//! Fills a book with what postings need, under the lock.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::decode::ReadCells;
use super::error::Result;
use super::statement::{all, one, run};
use super::write::micros;
use super::{read, usage};
use crate::ledger::{Book, Needs};
use crate::model::{EntryId, KeyId};
use crate::store::account_row::AccountRow;
use crate::store::key_row::KeyRow;

/// A book of one account, and its row when the book was filled.
type Filled = (Book, Option<AccountRow>);

/// Returns a book with what `needs` names, all of one account, and ends its expired holds.
pub(super) fn book(connection: &Connection, needs: &Needs, now: Timestamp) -> Result<Filled> {
    let mut book = Book::new();
    let mut account = None;
    for id in &needs.accounts {
        account = one(connection, read::ACCOUNT, [id.as_str()], |mut cells| cells.maybe_account())?
            .flatten();
        if let Some(row) = &mut account {
            if row.is_overdue(now) {
                overdue(connection, &mut book, row, now)?;
            }
            book.open(row.account.clone(), row.changed_at, now);
        }
    }
    records(connection, &mut book, needs)?;
    let keys = needs.keys.iter().copied().chain(book.row_keys()).collect();
    lineages(connection, &mut book, keys)?;
    for account in &needs.accounts {
        book.expire(account);
    }
    Ok((book, account))
}

/// Adds the expired holds, and writes when the next hold expires.
fn overdue(
    connection: &Connection,
    book: &mut Book,
    row: &mut AccountRow,
    now: Timestamp,
) -> Result<()> {
    const NEXT: &str = include_str!("sql/next_expiry.sql");
    const UPDATE: &str = "UPDATE agentkey_accounts SET next_expiry = ?2 WHERE id = ?1";
    let (id, now) = (row.account.id.as_str(), micros(now.max(row.changed_at)));
    all(connection, read::EXPIRED_HOLDS, params![id, now], |mut cells| {
        cells.hold().map(|hold| book.add_hold(hold))
    })?;
    row.next_expiry =
        one(connection, NEXT, params![id, now], |mut cells| cells.maybe_instant())?.flatten();
    run(connection, UPDATE, params![id, row.next_expiry.map(micros)]).map(drop)
}

/// Adds the named holds, claims and entries, and the entries that those claims name.
fn records(connection: &Connection, book: &mut Book, needs: &Needs) -> Result<()> {
    const HOLD: &str = include_str!("sql/hold.sql");
    const CLAIM: &str = include_str!("sql/claim.sql");
    for id in &needs.holds {
        let hold = one(connection, HOLD, [id.as_bytes()], |mut cells| cells.hold())?;
        hold.into_iter().for_each(|hold| book.add_hold(hold));
    }
    for (key, claim) in &needs.claims {
        let claim =
            one(connection, CLAIM, params![key.get(), &**claim], |mut cells| cells.claim())?;
        claim.into_iter().for_each(|claim| book.add_claim(claim));
    }
    let claimed: Vec<EntryId> = book.claimed_entries().collect();
    for id in needs.entries.iter().chain(&claimed) {
        let entry = one(connection, usage::ENTRY, [id.as_bytes()], |mut cells| cells.entry_row())?;
        entry.into_iter().for_each(|entry| book.add_entry(entry));
    }
    Ok(())
}

/// Adds keys and all their ancestors, each once.
fn lineages(connection: &Connection, book: &mut Book, mut ids: BTreeSet<KeyId>) -> Result<()> {
    let mut done = BTreeSet::new();
    while let Some(id) = ids.pop_first() {
        if !done.insert(id) {
            continue;
        }
        let row = one(connection, read::KEY, [id.get()], |mut cells| cells.key_row())?;
        let Some(KeyRow { mut key, is_stale }) = row else { continue };
        ids.extend(key.parent);
        match book.now(&key.account).filter(|_| is_stale) {
            Some(now) => {
                for window in key.balance.realign(&key.budget, key.anchor, now) {
                    usage::recount_key(connection, &mut key, window)?;
                }
                book.add_recounted(key);
            }
            None => book.add_key(key),
        }
    }
    Ok(())
}
