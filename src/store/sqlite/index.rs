//! The deferred indexes of the ledger by account and by key.
//!
//! Entries are appended in the order of time, but in an index by key each of them goes to another page. A commit that
//! writes a page for each of its entries in each index costs several times the rest of the commit. So a commit only
//! appends. After a number of entries, those of one part go into their index together and in order, so that a page
//! takes several. A part is a sixteenth of the keys or a sixteenth of the accounts; the next part follows a little
//! later. Lists and sums read both the index and the entries that it does not have yet.

use std::collections::VecDeque;
use std::sync::Arc;

use rusqlite::{Connection, params};

use super::decode::ReadCells;
use super::error::Result;
use super::statement::{all, each, one, run};
use super::version::FileVersion;
use crate::model::{AccountId, KeyId};

/// The number of entries between two runs of one part.
const PART_INTERVAL: i64 = if cfg!(test) { 64 } else { 16_384 };

/// The number of parts of each index. A key is in part `key_id & 15`; an account is in part `16 + (account_part & 15)`.
const PARTS: i64 = 16;

/// The number of entries between two runs of any part.
pub(super) const RUN_INTERVAL: usize = (PART_INTERVAL / PARTS / 2) as usize;

/// The most entries that one run indexes, however many one key or account has. All postings wait for it.
const MAX_ENTRIES: usize = if cfg!(test) { 16 } else { 2_048 };

/// The most entries that one run scans, however many the application's own SQL inserted.
const MAX_SCAN: i64 = 4 * PART_INTERVAL;

/// The number of recent entries in memory. A part is indexed a few batches after it is due.
const MAX_RECENT: usize = if cfg!(test) { 80 } else { 20_480 };

/// A day in `seq`. Entries are kept for longer.
const DAY: i64 = (24 * 3_600 * 1_000_000) << 8;

/// The columns of an entry that its indexes need.
#[derive(Clone, Debug)]
pub(super) struct IndexRow {
    pub(super) number: i64,
    pub(super) seq: i64,
    pub(super) account: Arc<str>,
    pub(super) account_part: i64,
    pub(super) key: Option<KeyId>,
}

impl IndexRow {
    fn is_in(&self, part: i64) -> bool {
        self.key.is_some_and(|key| part == key.get() & (PARTS - 1))
            || part == PARTS + (self.account_part & (PARTS - 1))
    }
}

/// The recent entries without a gap, while no other process has written to the file. A run need not read them.
#[derive(Default)]
pub(super) struct RecentEntries {
    version: Option<FileVersion>,
    rows: VecDeque<IndexRow>,
}

impl RecentEntries {
    /// Adds the entries of a transaction that began with the file in one version and left it in another.
    pub(super) fn append(
        &mut self,
        from: Option<FileVersion>,
        to: Option<FileVersion>,
        rows: Vec<IndexRow>,
    ) {
        let is_next =
            |row: &IndexRow| self.rows.back().is_some_and(|newest| row.number == newest.number + 1);
        if from.is_none() || self.version != from || rows.first().is_some_and(|row| !is_next(row)) {
            self.rows.clear();
        }
        self.version = to;
        self.rows.extend(rows);
        self.rows.drain(..self.rows.len().saturating_sub(MAX_RECENT));
        // What may have been pruned by another process is read again.
        let oldest = self.rows.back().map_or(i64::MIN, |newest| newest.seq.saturating_sub(DAY));
        while self.rows.front().is_some_and(|row| row.seq < oldest) {
            self.rows.pop_front();
        }
    }

    /// Returns the entries of a part after number `last` and up to `end`; `None` if not all of them are in memory.
    fn of_part(
        &self,
        version: Option<FileVersion>,
        part: i64,
        last: i64,
        end: i64,
    ) -> Option<Vec<IndexRow>> {
        let (first, newest) = (self.rows.front()?.number, self.rows.back()?.number);
        if version.is_none()
            || self.version != version
            || first > last.saturating_add(1)
            || newest < end
        {
            return None;
        }
        let from = self.rows.partition_point(|row| row.number <= last);
        let rows = self.rows.range(from..).take_while(|row| row.number <= end);
        Some(rows.filter(|row| row.is_in(part)).take(MAX_ENTRIES).cloned().collect())
    }
}

/// Returns the part of an account. It is written with each entry and never computed again, so any number will do that
/// distributes accounts evenly.
pub(super) fn account_part(account: &AccountId) -> i64 {
    i64::from(crc32fast::hash(account.as_str().as_bytes())) % PARTS
}

/// Returns the number of the next entry. No number is used twice, even if SQL deleted the last entries. An entry with a
/// number that its part has passed would never be indexed.
pub(super) fn next_number(connection: &Connection) -> Result<i64> {
    const SQL: &str = include_str!("sql/next_number.sql");
    Ok(one(connection, SQL, [], |mut cells| cells.number())?.unwrap_or(1))
}

/// Returns the part that is due, if one is.
pub(super) fn due(connection: &Connection) -> Result<Option<i64>> {
    const SQL: &str = include_str!("sql/due_part.sql");
    one(connection, SQL, [], |mut cells| cells.number())
}

/// Indexes the entries of the part that is due.
pub(super) fn index_due_part(
    connection: &Connection,
    recent: &RecentEntries,
    version: Option<FileVersion>,
) -> Result<()> {
    const RANGE: &str = include_str!("sql/ends_of_part.sql");
    const UPDATE: &str = "UPDATE agentkey_index_parts SET last = ?2, due = ?3 WHERE part = ?1";
    let Some(part) = due(connection)? else { return Ok(()) };
    let range = one(connection, RANGE, [part, MAX_SCAN], |mut cells| {
        Ok((cells.number()?, cells.number()?))
    })?;
    let Some((last, end)): Option<(i64, i64)> = range else { return Ok(()) };
    let rows = recent
        .of_part(version, part, last, end)
        .map_or_else(|| read(connection, part, last, end), Ok)?;
    // Parts are due at different times, so that they are not all indexed at once.
    let (end, due) = match rows.get(MAX_ENTRIES - 1) {
        Some(newest) => (newest.number, newest.number),
        None => {
            (end, (end / PART_INTERVAL + 1) * PART_INTERVAL + part % PARTS * PART_INTERVAL / PARTS)
        }
    };
    insert(connection, part, rows)?;
    run(connection, UPDATE, [part, end, due]).map(drop)
}

/// Reads the entries of a part that are not in memory. No query asks for an account that is not text.
fn read(connection: &Connection, part: i64, last: i64, end: i64) -> Result<Vec<IndexRow>> {
    const SQL: &str = include_str!("sql/unindexed_entries.sql");
    all(connection, SQL, params![part, last, end, MAX_ENTRIES as i64], |mut cells| {
        let (number, seq) = (cells.number()?, cells.number()?);
        let account = cells.text().unwrap_or_default().into();
        Ok(IndexRow {
            number,
            seq,
            account,
            account_part: cells.number()?,
            key: cells.maybe_key_id()?,
        })
    })
}

/// Inserts the entries in the order of the index, so that each page is written once.
fn insert(connection: &Connection, part: i64, mut rows: Vec<IndexRow>) -> Result<()> {
    const OF_ACCOUNT: &str = "INSERT OR IGNORE INTO agentkey_entries_of_account (account_id, seq, number) VALUES (?1, ?2, ?3)";
    const OF_KEY: &str =
        "INSERT OR IGNORE INTO agentkey_entries_of_key (key_id, seq, number) VALUES (?1, ?2, ?3)";
    if part < PARTS {
        rows.sort_unstable_by_key(|row| (row.key, row.seq));
        return each(connection, OF_KEY, rows, |statement, row| {
            Ok(statement
                .execute(params![row.key.map(KeyId::get), row.seq, row.number])
                .map(drop)?)
        });
    }
    rows.sort_unstable_by(|a, b| (&a.account, a.seq).cmp(&(&b.account, b.seq)));
    each(connection, OF_ACCOUNT, rows, |statement, row| {
        Ok(statement.execute(params![&*row.account, row.seq, row.number]).map(drop)?)
    })
}
