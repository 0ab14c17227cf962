//! The indexes of the ledger, by account and by key, which lag behind the ledger.
//!
//! Entries are appended in the order of time, but in an index by key each goes to another page, and a commit that
//! writes a page for each of its entries, in each index, costs several times the rest of it. So a commit appends only.
//! Once so many entries have come, those of a sixteenth of the keys, and those of a sixteenth of the accounts, go into
//! their index together, in order, where a page takes several of them; a little later those of the next sixteenth. Who
//! lists or sums up looks at both: at what the indexes know, and at the end of the ledger behind it.

use std::collections::VecDeque;
use std::sync::Arc;

use rusqlite::{Connection, params};

use super::decode::ReadCells;
use super::error::Result;
use super::statement::{all, each, one, run};
use super::version::FileVersion;
use crate::model::{AccountId, KeyId};

/// So many entries come in between two turns of one part.
const EVERY: i64 = if cfg!(test) { 64 } else { 16_384 };

/// Of each index. A key is of the part `key_id & 15`; an account is of the part `16 + (account_part & 15)`.
const PARTS: i64 = 16;

/// So many entries come for each turn that is to be taken.
pub(super) const FOR_A_TURN: usize = (EVERY / PARTS / 2) as usize;

/// No turn indexes more entries, however many are of one key or account: all postings wait for it.
const MAX_ENTRIES: usize = if cfg!(test) { 16 } else { 2_048 };

/// No turn walks over more entries, however many the application's own SQL put there.
const MAX_SCAN: i64 = 4 * EVERY;

/// So many of the last entries are remembered: a turn comes a few batches after it is due.
const REMEMBERED: usize = if cfg!(test) { 80 } else { 20_480 };

/// Where an entry is, in the ledger and in its indexes.
#[derive(Clone, Debug)]
pub(super) struct EntryPlace {
    pub(super) number: i64,
    pub(super) seq: i64,
    pub(super) account: Arc<str>,
    pub(super) account_part: i64,
    pub(super) key: Option<KeyId>,
}

impl EntryPlace {
    fn is_of(&self, part: i64) -> bool {
        self.key.is_some_and(|key| part == key.get() & (PARTS - 1)) || part == PARTS + (self.account_part & (PARTS - 1))
    }
}

/// Where the last entries are, without a gap, as long as no other process has written to the file: a turn need not read them.
#[derive(Default)]
pub(super) struct RecentEntries {
    version: Option<FileVersion>,
    places: VecDeque<EntryPlace>,
}

impl RecentEntries {
    /// Adds those of a transaction that began with the file in one version, and left it in another.
    pub(super) fn append(&mut self, from: Option<FileVersion>, to: Option<FileVersion>, places: Vec<EntryPlace>) {
        let is_next = |place: &EntryPlace| self.places.back().is_some_and(|newest| place.number == newest.number + 1);
        if from.is_none() || self.version != from || places.first().is_some_and(|place| !is_next(place)) {
            self.places.clear();
        }
        self.version = to;
        self.places.extend(places);
        self.places.drain(..self.places.len().saturating_sub(REMEMBERED));
    }

    /// Those of a part behind number `last` and up to `end`, where all of them are here.
    fn of_part(&self, version: Option<FileVersion>, part: i64, last: i64, end: i64) -> Option<Vec<EntryPlace>> {
        let (first, newest) = (self.places.front()?.number, self.places.back()?.number);
        if version.is_none() || self.version != version || first > last.saturating_add(1) || newest < end {
            return None;
        }
        let from = self.places.partition_point(|place| place.number <= last);
        let places = self.places.range(from..).take_while(|place| place.number <= end);
        Some(places.filter(|place| place.is_of(part)).take(MAX_ENTRIES).cloned().collect())
    }
}

/// Written with each entry. It may be any number that spreads accounts evenly: nobody works it out again.
pub(super) fn account_part(account: &AccountId) -> i64 {
    i64::from(crc32fast::hash(account.as_str().as_bytes())) % PARTS
}

/// The number of the next entry. No number is given twice, even where the last entries were deleted by hand: one below
/// the mark of its part would never be indexed.
pub(super) fn next_number(connection: &Connection) -> Result<i64> {
    const SQL: &str = include_str!("sql/next_number.sql");
    Ok(one(connection, SQL, [], |mut cells| cells.number())?.unwrap_or(1))
}

/// The part whose turn it is.
pub(super) fn due(connection: &Connection) -> Result<Option<i64>> {
    const SQL: &str = include_str!("sql/due_part.sql");
    one(connection, SQL, [], |mut cells| cells.number())
}

/// Indexes the entries of the part whose turn it is.
pub(super) fn expire_holds(
    connection: &Connection,
    recent: &RecentEntries,
    version: Option<FileVersion>,
) -> Result<()> {
    const LAST: &str = include_str!("sql/ends_of_part.sql");
    const MARK: &str = "UPDATE agentkey_index_parts SET last = ?2, due = ?3 WHERE part = ?1";
    let Some(part) = due(connection)? else { return Ok(()) };
    let ends = one(connection, LAST, [part, MAX_SCAN], |mut cells| Ok((cells.number()?, cells.number()?)))?;
    let Some((last, end)): Option<(i64, i64)> = ends else { return Ok(()) };
    let places = recent.of_part(version, part, last, end).map_or_else(|| read(connection, part, last, end), Ok)?;
    // Each part has a time of its own, so that they do not come all at once.
    let (end, due) = match places.get(MAX_ENTRIES - 1) {
        Some(newest) => (newest.number, newest.number),
        None => (end, (end / EVERY + 1) * EVERY + part % PARTS * EVERY / PARTS),
    };
    put(connection, part, places)?;
    run(connection, MARK, [part, end, due]).map(drop)
}

/// The places of a part, where they are not known. An account that is no text is never asked for.
fn read(connection: &Connection, part: i64, last: i64, end: i64) -> Result<Vec<EntryPlace>> {
    const SQL: &str = include_str!("sql/unindexed_entries.sql");
    all(connection, SQL, params![part, last, end, MAX_ENTRIES as i64], |mut cells| {
        let (number, seq) = (cells.number()?, cells.number()?);
        let account = cells.text().unwrap_or_default().into();
        Ok(EntryPlace { number, seq, account, account_part: cells.number()?, key: cells.maybe_key_id()? })
    })
}

/// In the order of the index, so that a page is written once.
fn put(connection: &Connection, part: i64, mut places: Vec<EntryPlace>) -> Result<()> {
    const OF_ACCOUNT: &str =
        "INSERT OR IGNORE INTO agentkey_entries_of_account (account_id, seq, number) VALUES (?1, ?2, ?3)";
    const OF_KEY: &str = "INSERT OR IGNORE INTO agentkey_entries_of_key (key_id, seq, number) VALUES (?1, ?2, ?3)";
    if part < PARTS {
        places.sort_unstable_by_key(|place| (place.key, place.seq));
        return each(connection, OF_KEY, places, |statement, place| {
            Ok(statement.execute(params![place.key.map(KeyId::get), place.seq, place.number]).map(drop)?)
        });
    }
    places.sort_unstable_by(|a, b| (&a.account, a.seq).cmp(&(&b.account, b.seq)));
    each(connection, OF_ACCOUNT, places, |statement, place| {
        Ok(statement.execute(params![&*place.account, place.seq, place.number]).map(drop)?)
    })
}
