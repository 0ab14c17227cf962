//! Reading the ledger: entries, and sums of them.

use std::collections::BTreeMap;

use jiff::{Timestamp, Unit};
use rusqlite::{Connection, Params, params};

use super::decode::{Cells, entry_columns};
use super::error::Result;
use super::statement::{all, one};
use super::write::micros;
use crate::clock::from_micros;
use crate::store::memory::bucket;
use crate::store::plain::{ceiling, first_place, place_after};
use crate::store::{Cursor, EntryQuery, Usage, UsageBy, UsageQuery};
use crate::{AccountId, Amount, Entry, EntryId, KeyId};

pub(super) fn entries(connection: &Connection, query: &EntryQuery) -> Result<Vec<(Cursor, Entry)>> {
    macro_rules! page {
        ($of:literal) => {
            concat!(
                "SELECT e.seq, ",
                entry_columns!(),
                " FROM agentkey_entries e WHERE ",
                $of,
                // `seq` follows `at`, so bounds in time are bounds in the order too: at least from below. From above it
                // may have run a little ahead.
                " AND e.seq > ?3 AND e.seq >= ?4 AND e.seq < ?5 AND e.at >= ?6 AND e.at < ?7 ORDER BY e.seq LIMIT ?8",
            )
        };
    }
    // The plus keeps SQLite from walking all entries of the account for those of one key.
    let sql = match query.key {
        Some(_) => page!("+e.account_id = ?1 AND e.key_id = ?2"),
        None => page!("e.account_id = ?1 AND ?2 IS NULL"),
    };
    let page = params![
        query.account.as_str(),
        query.key.map(KeyId::get),
        query.after.map_or(i64::MIN, Cursor::get),
        query.since.map_or(i64::MIN, first_place),
        query.until.map_or(i64::MAX, place_after),
        query.since.map_or(i64::MIN, from),
        query.until.map_or(i64::MAX, from),
        query.limit,
    ];
    all(connection, sql, page, |mut cells| Ok((Cursor::new(cells.read()?), cells.entry()?)))
}

pub(super) fn entry(connection: &Connection, id: EntryId) -> Result<Option<Entry>> {
    const SQL: &str = concat!("SELECT ", entry_columns!(), " FROM agentkey_entries e WHERE e.id = ?1");
    one(connection, SQL, [id.as_bytes()], |mut cells| cells.entry())
}

/// The columns of a sum, as [`sum`] puts it together. In two halves, because a `sum` of SQLite fails where it
/// would overflow.
macro_rules! sum_columns {
    () => {
        "coalesce(sum(e.amount / 4294967296), 0), coalesce(sum(e.amount % 4294967296), 0)"
    };
}

pub(super) fn usage(connection: &Connection, query: &UsageQuery) -> Result<Vec<Usage>> {
    macro_rules! groups {
        ($of:literal, $refunds_of:literal, $group:expr) => {
            concat!(
                "SELECT ",
                $group,
                ", ",
                sum_columns!(),
                ", count(*) FILTER (WHERE e.refunds IS NULL) FROM (",
                // A refund counts earlier than it was written; nothing counts later.
                "SELECT * FROM agentkey_entries e WHERE ",
                $of,
                " AND e.refunds IS NULL AND e.seq >= ?3 AND e.seq < ?4 AND e.counts_at >= ?5 AND e.counts_at < ?6 \
                 UNION ALL SELECT * FROM agentkey_entries e WHERE ",
                $refunds_of,
                " AND e.refunds IS NOT NULL AND e.counts_at >= ?5 AND e.counts_at < ?6) e GROUP BY ",
                $group,
            )
        };
    }
    macro_rules! either {
        ($group:literal) => {
            match query.key {
                Some(_) => {
                    groups!("+e.account_id = ?1 AND e.key_id = ?2", "e.account_id = ?1 AND +e.key_id = ?2", $group)
                }
                None => groups!("e.account_id = ?1 AND ?2 IS NULL", "e.account_id = ?1 AND ?2 IS NULL", $group),
            }
        };
    }
    const HOUR: i64 = 3_600_000_000;
    // Months are of no fixed length: they are put together from days.
    let (sql, step, unit) = match &query.by {
        UsageBy::Key => (either!("CAST(e.key_id AS TEXT)"), None, None),
        UsageBy::Label(_) => {
            (either!("coalesce((SELECT l.value FROM json_each(e.labels) l WHERE l.key = ?7), '')"), None, None)
        }
        UsageBy::Hour => (either!("e.counts_at - (e.counts_at % ?7 + ?7) % ?7"), Some(HOUR), Some(Unit::Hour)),
        UsageBy::Day => (either!("e.counts_at - (e.counts_at % ?7 + ?7) % ?7"), Some(24 * HOUR), Some(Unit::Day)),
        UsageBy::Month => (either!("e.counts_at - (e.counts_at % ?7 + ?7) % ?7"), Some(24 * HOUR), Some(Unit::Month)),
    };
    let key = query.key.map(KeyId::get);
    let (first, end) = (query.since.map_or(i64::MIN, first_place), query.until.map_or(i64::MAX, place_after));
    let (since, until) = (query.since.map_or(i64::MIN, from), query.until.map_or(i64::MAX, from));
    let mut groups: BTreeMap<String, (i128, u64)> = BTreeMap::new();
    let read = |mut cells: Cells<'_>| {
        let group = match unit {
            None => cells.read()?,
            Some(unit) => bucket(from_micros(cells.read()?), unit),
        };
        let (amount, charges) = groups.entry(group).or_default();
        *amount += sum(&mut cells)?;
        *charges += cells.read::<i64>()?.unsigned_abs();
        Ok(())
    };
    let account = query.account.as_str();
    match (&query.by, step) {
        (UsageBy::Label(name), _) => all(connection, sql, params![account, key, first, end, since, until, name], read)?,
        (_, Some(step)) => all(connection, sql, params![account, key, first, end, since, until, step], read)?,
        _ => all(connection, sql, params![account, key, first, end, since, until], read)?,
    };
    let usage = groups.into_iter().map(|(group, (amount, charges))| Usage::new(group, saturated(amount), charges));
    Ok(usage.collect())
}

/// What a key and everything minted from it was charged since then.
pub(super) fn spent_by_key(connection: &Connection, key: KeyId, since: Timestamp) -> Result<Amount> {
    const SQL: &str = concat!(
        "WITH RECURSIVE family (id) AS (SELECT ?1 UNION ",
        "SELECT k.id FROM family f CROSS JOIN agent_keys k ON k.parent_id = f.id) ",
        "SELECT ",
        sum_columns!(),
        " FROM family f CROSS JOIN agentkey_entries e ON e.key_id = f.id",
        // Nothing counts later than it was written.
        " AND e.seq >= ?3 WHERE e.counts_at >= ?2",
    );
    total(connection, SQL, params![key.get(), micros(since), first_place(since)])
}

/// What all keys of an account were charged since then.
pub(super) fn spent_by_account(connection: &Connection, account: &AccountId, since: Timestamp) -> Result<Amount> {
    const SQL: &str = concat!(
        "SELECT ",
        sum_columns!(),
        " FROM agentkey_entries e WHERE e.account_id = ?1 AND e.seq >= ?3 AND e.counts_at >= ?2",
    );
    total(connection, SQL, params![account.as_str(), micros(since), first_place(since)])
}

fn total(connection: &Connection, sql: &str, params: impl Params) -> Result<Amount> {
    let total = one(connection, sql, params, |mut cells| sum(&mut cells))?;
    Ok(saturated(total.unwrap_or_default()))
}

fn sum(cells: &mut Cells<'_>) -> Result<i128> {
    let (high, low) = (cells.read::<i64>()?, cells.read::<i64>()?);
    Ok(i128::from(high) * (1 << 32) + i128::from(low))
}

fn saturated(micros: i128) -> Amount {
    let end = if micros < 0 { i64::MIN } else { i64::MAX };
    Amount::micros(i64::try_from(micros).unwrap_or(end))
}

/// From which stored instant on.
fn from(at: Timestamp) -> i64 {
    micros(ceiling(at))
}
