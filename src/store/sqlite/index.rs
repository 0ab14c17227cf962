//! The indexes of the ledger, by account and by key, which lag behind the ledger.
//!
//! Entries are appended in the order of time, but in an index by key each goes to another page, and a commit that
//! writes a page for each of its entries, in each index, costs several times the rest of it. So a commit appends only.
//! Once so many entries have come, those of an eighth of the keys go into the indexes together, in order, where a page
//! takes several of them; a little later those of the next eighth. Who lists or sums up looks at both: at what the
//! indexes know, and at the end of the ledger behind it.

use rusqlite::Connection;

use super::connection::Open;
use super::error::Result;
use super::known::{Effect, Known};
use super::statement::{in_writing, one, run};

/// So many entries come in between two turns of one part of the keys.
const EVERY: i64 = if cfg!(test) { 32 } else { 8_192 };

/// A key is of the part `key_id & 7`.
const PARTS: i64 = 8;

/// No turn walks over more entries, however many a host's own SQL put there.
const MOST: i64 = 8 * EVERY;

/// Entries in the places from `?3` to `?4`, in two halves: those that an index `i` knows, and those behind its marks.
/// `$and` is said of each `e`.
macro_rules! entries_of {
    ($index:literal, $same:literal, $indexed:literal, $behind:literal, $and:literal) => {
        concat!(
            "SELECT i.seq, ",
            entry_columns!(),
            " FROM ",
            $index,
            " i CROSS JOIN agentkey_entries e ON e.number = i.number AND e.seq = i.seq AND ",
            $same,
            " WHERE ",
            $indexed,
            " AND i.seq BETWEEN ?3 AND ?4",
            $and,
            " UNION ALL SELECT e.seq, ",
            entry_columns!(),
            " FROM agentkey_entries e WHERE ",
            $behind,
            " AND e.seq BETWEEN ?3 AND ?4",
            $and,
        )
    };
}

/// Those of the account `?1`.
macro_rules! entries_of_account {
    ($and:literal) => {
        entries_of!(
            "agentkey_entries_of_account",
            "e.account_id = i.account_id",
            "i.account_id = ?1 AND ?2 IS NULL",
            "e.number > (SELECT min(last) FROM agentkey_indexed) AND e.account_id = ?1 AND ?2 IS NULL \
             AND e.number > (SELECT p.last FROM agentkey_indexed p WHERE p.part = e.key_id & 7)",
            $and
        )
    };
}

/// Those of the key `?2` in the account `?1`.
macro_rules! entries_of_key {
    ($and:literal) => {
        entries_of!(
            "agentkey_entries_of_key",
            "e.key_id = i.key_id",
            "i.key_id = ?2 AND e.account_id = ?1",
            "e.number > (SELECT p.last FROM agentkey_indexed p WHERE p.part = ?2 & 7) \
             AND e.key_id = ?2 AND e.account_id = ?1",
            $and
        )
    };
}

/// Those of all keys in `family` in the account `?5`.
macro_rules! entries_of_family {
    () => {
        "SELECT e.amount, e.counts_at FROM family f CROSS JOIN agentkey_entries_of_key i ON i.key_id = f.id \
         AND i.seq BETWEEN ?3 AND ?4 CROSS JOIN agentkey_entries e ON e.number = i.number \
         AND e.key_id = i.key_id AND e.seq = i.seq AND e.account_id = ?5 \
         UNION ALL SELECT e.amount, e.counts_at FROM agentkey_entries e \
         WHERE e.number > (SELECT min(last) FROM agentkey_indexed) AND e.seq BETWEEN ?3 AND ?4 \
         AND e.number > (SELECT p.last FROM agentkey_indexed p WHERE p.part = e.key_id & 7) \
         AND e.account_id = ?5 AND e.key_id IN (SELECT id FROM family)"
    };
}

pub(super) use {entries_of, entries_of_account, entries_of_family, entries_of_key};

/// The number of the next entry. No number is given twice, even where the last entries were deleted by hand: one below
/// the mark of its part would never be indexed.
pub(super) fn next_number(connection: &Connection) -> Result<i64> {
    const SQL: &str = "SELECT max(coalesce((SELECT max(number) FROM agentkey_entries), 0), \
                       (SELECT max(last) FROM agentkey_indexed)) + 1";
    Ok(one(connection, SQL, [], |mut cells| cells.read())?.unwrap_or(1))
}

/// The part of the keys whose turn it is.
pub(super) fn due(connection: &Connection) -> Result<Option<i64>> {
    const SQL: &str = "SELECT part FROM agentkey_indexed \
                       WHERE due <= (SELECT max(number) FROM agentkey_entries) ORDER BY due LIMIT 1";
    one(connection, SQL, [], |mut cells| cells.read())
}

/// Indexes the entries of the keys whose turn it is.
pub(super) fn catch_up(open: &mut Open, known: &Known) -> Result<()> {
    const BY_ACCOUNT: &str = "INSERT OR IGNORE INTO agentkey_entries_of_account (account_id, seq, number) \
                              SELECT account_id, seq, number FROM agentkey_entries \
                              WHERE number > ?2 AND number <= ?3 AND key_id & 7 = ?1 ORDER BY account_id, seq";
    const BY_KEY: &str = "INSERT OR IGNORE INTO agentkey_entries_of_key (key_id, seq, number) \
                          SELECT key_id, seq, number FROM agentkey_entries \
                          WHERE number > ?2 AND number <= ?3 AND key_id & 7 = ?1 ORDER BY key_id, seq";
    const LAST: &str = "SELECT last, min((SELECT max(number) FROM agentkey_entries), last + ?2) \
                        FROM agentkey_indexed WHERE part = ?1";
    in_writing(open, known, |connection, _| {
        let nothing = ((), Effect::default());
        let Some(part) = due(connection)? else { return Ok(nothing) };
        let ends = one(connection, LAST, [part, MOST], |mut cells| Ok((cells.read()?, cells.read()?)))?;
        let Some((last, end)): Option<(i64, i64)> = ends else { return Ok(nothing) };
        run(connection, BY_ACCOUNT, [part, last, end])?;
        run(connection, BY_KEY, [part, last, end])?;
        let mark = "UPDATE agentkey_indexed SET last = ?2, due = ?3 WHERE part = ?1";
        // Each part has a time of its own, so that they do not come all at once.
        let next = (end / EVERY + 1) * EVERY + part * EVERY / PARTS;
        run(connection, mark, [part, end, next])?;
        Ok(nothing)
    })
}
