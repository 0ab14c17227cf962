//! Reading the ledger: entries, and sums of them.

use std::collections::BTreeMap;

use jiff::{Timestamp, Unit};
use rusqlite::{Connection, Params, params};

use super::decode::{Cells, ReadCells, entry_columns};
use super::error::Result;
use super::index::{entries_of, entries_of_account, entries_of_family, entries_of_key};
use super::statement::{all, one};
use super::write::micros;
use crate::clock::from_micros;
use crate::store::memory::bucket;
use crate::store::plain::{ceiling, first_place, place_after};
use crate::store::{Cursor, EntryQuery, Usage, UsageBy, UsageQuery};
use crate::{AccountId, Amount, Entry, EntryId, Key, KeyId};

pub(super) const PAGE_OF_ACCOUNT: &str =
    concat!(entries_of_account!(" AND e.at >= ?5 AND e.at < ?6"), " ORDER BY seq LIMIT ?7");
pub(super) const PAGE_OF_KEY: &str =
    concat!(entries_of_key!(" AND e.at >= ?5 AND e.at < ?6"), " ORDER BY seq LIMIT ?7");

pub(super) fn entries(connection: &Connection, query: &EntryQuery) -> Result<Vec<(Cursor, Entry)>> {
    // `seq` follows `at`, so bounds in time are bounds in the order too: at least from below. From above it may have run
    // a little ahead.
    let sql = if query.key.is_some() { PAGE_OF_KEY } else { PAGE_OF_ACCOUNT };
    let behind = query.after.map_or(Some(i64::MIN), |after| after.get().checked_add(1));
    let Some(behind) = behind else { return Ok(Vec::new()) }; // a hand gave an entry the last place that there is
    let (first, last) = places(query.since, query.until);
    let (since, until) = instants(query.since, query.until);
    let key = query.key.map(KeyId::get);
    let page = params![query.account.as_str(), key, behind.max(first), last, since, until, query.limit];
    all(connection, sql, page, |mut cells| Ok((Cursor::new(cells.read()?), cells.entry()?)))
}

pub(super) fn entry(connection: &Connection, id: EntryId) -> Result<Option<Entry>> {
    const SQL: &str = concat!("SELECT ", entry_columns!(), " FROM agentkey_entries e WHERE e.id = ?1");
    one(connection, SQL, [id.as_bytes()], |mut cells| cells.entry())
}

/// The columns of a sum, as [`sum`] puts it together. In two halves, because a `sum` of SQLite fails where it
/// would overflow.
macro_rules! sum_columns {
    ($($which:literal)?) => {
        concat!(
            "coalesce(sum(e.amount / 4294967296)", $($which,)? ", 0), ",
            "coalesce(sum(e.amount % 4294967296)", $($which,)? ", 0)",
        )
    };
}

pub(super) fn usage(connection: &Connection, query: &UsageQuery) -> Result<Vec<Usage>> {
    macro_rules! groups {
        ($entries:expr, $refunds_of:literal, $group:expr) => {
            concat!(
                "SELECT ",
                $group,
                ", ",
                sum_columns!(" FILTER (WHERE e.kind <> 'adjust')"),
                ", count(*) FILTER (WHERE e.kind NOT IN ('refund', 'adjust')), ",
                sum_columns!(" FILTER (WHERE e.kind = 'adjust')"),
                " FROM (",
                // A refund counts earlier than it was written; nothing counts later.
                $entries,
                " UNION ALL SELECT e.seq, ",
                entry_columns!(),
                " FROM agentkey_entries e WHERE ",
                $refunds_of,
                " AND e.refunds IS NOT NULL AND e.counts_at >= ?5 AND e.counts_at < ?6) e GROUP BY ",
                $group,
            )
        };
    }
    macro_rules! either {
        ($group:literal) => {
            match query.key {
                Some(_) => groups!(
                    entries_of_key!(" AND e.refunds IS NULL AND e.counts_at >= ?5 AND e.counts_at < ?6"),
                    "e.account_id = ?1 AND +e.key_id = ?2",
                    $group
                ),
                None => groups!(
                    entries_of_account!(" AND e.refunds IS NULL AND e.counts_at >= ?5 AND e.counts_at < ?6"),
                    "e.account_id = ?1 AND ?2 IS NULL",
                    $group
                ),
            }
        };
    }
    const HOUR: i64 = 3_600_000_000;
    // Months are of no fixed length: they are put together from days.
    let (sql, step, unit) = match &query.by {
        UsageBy::Key => (either!("coalesce(CAST(e.key_id AS TEXT), '')"), None, None),
        UsageBy::Label(_) => {
            (either!("coalesce((SELECT l.value FROM json_each(e.labels) l WHERE l.key = ?7), '')"), None, None)
        }
        UsageBy::Hour => (either!("e.counts_at - (e.counts_at % ?7 + ?7) % ?7"), Some(HOUR), Some(Unit::Hour)),
        UsageBy::Day => (either!("e.counts_at - (e.counts_at % ?7 + ?7) % ?7"), Some(24 * HOUR), Some(Unit::Day)),
        UsageBy::Month => (either!("e.counts_at - (e.counts_at % ?7 + ?7) % ?7"), Some(24 * HOUR), Some(Unit::Month)),
    };
    let key = query.key.map(KeyId::get);
    let (first, last) = places(query.since, query.until);
    let (since, until) = instants(query.since, query.until);
    let mut groups: BTreeMap<String, (i128, u64, i128)> = BTreeMap::new();
    let read = |mut cells: Cells<'_>| {
        let group = match unit {
            None => cells.read()?,
            Some(unit) => bucket(from_micros(cells.read()?), unit),
        };
        let (amount, charges, adjusted) = groups.entry(group).or_default();
        *amount += sum(&mut cells)?;
        *charges += cells.read::<i64>()?.unsigned_abs();
        *adjusted += sum(&mut cells)?;
        Ok(())
    };
    let account = query.account.as_str();
    match (&query.by, step) {
        (UsageBy::Label(name), _) => {
            all(connection, sql, params![account, key, first, last, since, until, name], read)?
        }
        (_, Some(step)) => all(connection, sql, params![account, key, first, last, since, until, step], read)?,
        _ => all(connection, sql, params![account, key, first, last, since, until], read)?,
    };
    let usage =
        |(group, (amount, charges, adjusted))| Usage::new(group, saturated(amount), charges, saturated(adjusted));
    Ok(groups.into_iter().map(usage).collect())
}

pub(super) const SPENT_BY_KEY: &str = concat!(
    "WITH RECURSIVE family (id) AS (SELECT ?1 UNION ",
    "SELECT k.id FROM family f CROSS JOIN agent_keys k ON k.parent_id = f.id) ",
    "SELECT ",
    sum_columns!(),
    " FROM (",
    entries_of_family!(),
    ") e WHERE e.counts_at >= ?2",
);
pub(super) const SPENT_BY_ACCOUNT: &str =
    concat!("SELECT ", sum_columns!(), " FROM (", entries_of_account!(" AND e.counts_at >= ?5"), ") e");

/// What a key and everything minted from it was charged since then in its account.
pub(super) fn spent_by_key(connection: &Connection, key: &Key, since: Timestamp) -> Result<Amount> {
    // Nothing counts later than it was written.
    let (first, last) = places(Some(since), None);
    total(connection, SPENT_BY_KEY, params![key.id.get(), micros(since), first, last, key.account.as_str()])
}

/// What all keys of an account were charged since then.
pub(super) fn spent_by_account(connection: &Connection, account: &AccountId, since: Timestamp) -> Result<Amount> {
    let (first, last) = places(Some(since), None);
    total(connection, SPENT_BY_ACCOUNT, params![account.as_str(), None::<i64>, first, last, micros(since)])
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

/// The places, both included, at which entries stand that were written since then and until then.
fn places(since: Option<Timestamp>, until: Option<Timestamp>) -> (i64, i64) {
    (since.map_or(i64::MIN, first_place), until.map_or(i64::MAX, |until| place_after(until) - 1))
}

/// From which stored instant on, and before which.
fn instants(since: Option<Timestamp>, until: Option<Timestamp>) -> (i64, i64) {
    let stored = |at| micros(ceiling(at));
    (since.map_or(i64::MIN, stored), until.map_or(i64::MAX, stored))
}
