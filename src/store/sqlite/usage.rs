//! Reading the ledger: entries, and sums of them.

use std::collections::BTreeMap;

use jiff::{Timestamp, Unit};
use sqlx::sqlite::SqliteConnection;

use super::decode::{Cells, entry_columns, rows};
use super::rows::Rows;
use super::write::micros;
use crate::clock::from_micros;
use crate::store::memory::bucket;
use crate::store::{Cursor, EntryQuery, Usage, UsageBy, UsageQuery};
use crate::{AccountId, Amount, Entry, EntryId, KeyId};

pub(super) async fn entries(
    connection: &mut SqliteConnection,
    query: &EntryQuery,
) -> sqlx::Result<Vec<(Cursor, Entry)>> {
    macro_rules! page {
        ($of:literal) => {
            rows!(
                "SELECT json_array(e.seq, ",
                entry_columns!(),
                ") AS j FROM agentkey_entries e WHERE ",
                $of,
                // The instants of an account never go back, so the bounds in time are bounds in the order too.
                " AND e.seq > max(?3, coalesce((SELECT f.seq FROM agentkey_entries f WHERE f.account_id = ?1 \
                 AND f.at < ?4 ORDER BY f.at DESC, f.seq DESC LIMIT 1), ?3))",
                " AND e.seq < coalesce((SELECT f.seq FROM agentkey_entries f WHERE f.account_id = ?1 \
                 AND f.at >= ?5 ORDER BY f.at, f.seq LIMIT 1), 9223372036854775807) ORDER BY e.seq LIMIT ?6",
            )
        };
    }
    // The plus keeps SQLite from walking all entries of the account for those of one key.
    let sql = match query.key {
        Some(_) => page!("+e.account_id = ?1 AND e.key_id = ?2"),
        None => page!("e.account_id = ?1 AND ?2 IS NULL"),
    };
    let page = sqlx::query(sql)
        .bind(query.account.as_str())
        .bind(query.key.map(KeyId::get))
        .bind(query.after.map_or(i64::MIN, Cursor::get))
        .bind(query.since.map_or(i64::MIN, ceiling))
        .bind(query.until.map_or(i64::MAX, ceiling))
        .bind(query.limit);
    let rows = Rows::fetch(connection, page).await?;
    let mut entries = Vec::new();
    for row in rows.read()? {
        let mut cells = Cells::of(&row);
        entries.push((Cursor::new(cells.read()?), cells.entry()?));
    }
    entries.sort_unstable_by_key(|(place, _)| *place);
    Ok(entries)
}

pub(super) async fn entry(connection: &mut SqliteConnection, id: EntryId) -> sqlx::Result<Option<Entry>> {
    const SQL: &str = rows!("SELECT json_array(", entry_columns!(), ") AS j FROM agentkey_entries e WHERE e.id = ?1");
    let rows = Rows::fetch(connection, sqlx::query(SQL).bind(id.as_bytes().as_slice())).await?;
    rows.read()?.first().map(|row| Cells::of(row).entry()).transpose()
}

/// The columns of a sum, as [`sum`] puts it together. In two halves, because a `sum` of SQLite fails where it
/// would overflow.
macro_rules! sum_columns {
    () => {
        "coalesce(sum(e.amount / 4294967296), 0), coalesce(sum(e.amount % 4294967296), 0)"
    };
}

pub(super) async fn usage(connection: &mut SqliteConnection, query: &UsageQuery) -> sqlx::Result<Vec<Usage>> {
    macro_rules! groups {
        ($of:literal, $group:expr) => {
            rows!(
                "SELECT json_array(",
                $group,
                ", ",
                sum_columns!(),
                ", count(*) FILTER (WHERE e.refunds IS NULL)) AS j ",
                "FROM agentkey_entries e WHERE ",
                $of,
                " AND e.counts_at >= ?3 AND e.counts_at < ?4 GROUP BY ",
                $group,
            )
        };
    }
    macro_rules! either {
        ($group:literal) => {
            match query.key {
                Some(_) => groups!("+e.account_id = ?1 AND e.key_id = ?2", $group),
                None => groups!("e.account_id = ?1 AND ?2 IS NULL", $group),
            }
        };
    }
    const HOUR: i64 = 3_600_000_000;
    let (sql, unit) = match &query.by {
        UsageBy::Key => (either!("e.key_id"), Unit::Hour),
        UsageBy::Label(_) => {
            (either!("coalesce((SELECT l.value FROM json_each(e.labels) l WHERE l.key = ?5), '')"), Unit::Hour)
        }
        UsageBy::Hour => (either!("e.counts_at - (e.counts_at % ?5 + ?5) % ?5"), Unit::Hour),
        UsageBy::Day => (either!("e.counts_at - (e.counts_at % ?5 + ?5) % ?5"), Unit::Day),
        // Months are of no fixed length: they are put together from days.
        UsageBy::Month => (either!("e.counts_at - (e.counts_at % ?5 + ?5) % ?5"), Unit::Month),
    };
    let sums = sqlx::query(sql)
        .bind(query.account.as_str())
        .bind(query.key.map(KeyId::get))
        .bind(query.since.map_or(i64::MIN, ceiling))
        .bind(query.until.map_or(i64::MAX, ceiling));
    let sums = match &query.by {
        UsageBy::Label(name) => sums.bind(name.as_str()),
        UsageBy::Hour => sums.bind(HOUR),
        UsageBy::Key | UsageBy::Day | UsageBy::Month => sums.bind(24 * HOUR),
    };
    let mut groups: BTreeMap<String, (i128, u64)> = BTreeMap::new();
    let rows = Rows::fetch(connection, sums).await?;
    for row in rows.read()? {
        let mut cells = Cells::of(&row);
        let group = match &query.by {
            UsageBy::Key => cells.key_id()?.to_string(),
            UsageBy::Label(_) => cells.read()?,
            UsageBy::Hour | UsageBy::Day | UsageBy::Month => bucket(from_micros(cells.read()?), unit),
        };
        let (amount, charges) = groups.entry(group).or_default();
        *amount += sum(&mut cells)?;
        *charges += cells.read::<i64>()?.unsigned_abs();
    }
    let usage = groups.into_iter().map(|(group, (amount, charges))| Usage::new(group, saturated(amount), charges));
    Ok(usage.collect())
}

/// What a key and everything minted from it was charged since then.
pub(super) async fn spent_by_key(
    connection: &mut SqliteConnection,
    key: KeyId,
    since: Timestamp,
) -> sqlx::Result<Amount> {
    const SQL: &str = rows!(
        "WITH RECURSIVE family (id) AS (SELECT ?1 UNION ",
        "SELECT k.id FROM family f CROSS JOIN agent_keys k ON k.parent_id = f.id) ",
        "SELECT json_array(",
        sum_columns!(),
        ") AS j FROM family f CROSS JOIN agentkey_entries e ON e.key_id = f.id",
        // Nothing counts later than it was written.
        " AND e.seq > coalesce((SELECT g.seq FROM agentkey_entries g WHERE g.account_id =",
        " (SELECT k.account_id FROM agent_keys k WHERE k.id = ?1) AND g.at < ?2",
        " ORDER BY g.at DESC, g.seq DESC LIMIT 1), -1) WHERE e.counts_at >= ?2",
    );
    total(connection, sqlx::query(SQL).bind(key.get()).bind(micros(since))).await
}

/// What all keys of an account were charged since then.
pub(super) async fn spent_by_account(
    connection: &mut SqliteConnection,
    account: &AccountId,
    since: Timestamp,
) -> sqlx::Result<Amount> {
    const SQL: &str = rows!(
        "SELECT json_array(",
        sum_columns!(),
        ") AS j FROM agentkey_entries e WHERE e.account_id = ?1 AND e.counts_at >= ?2",
    );
    total(connection, sqlx::query(SQL).bind(account.as_str()).bind(micros(since))).await
}

async fn total(connection: &mut SqliteConnection, query: super::load::Query<'_>) -> sqlx::Result<Amount> {
    let rows = Rows::fetch(connection, query).await?;
    let rows = rows.read()?;
    rows.first().map_or(Ok(Amount::ZERO), |row| sum(&mut Cells::of(row)).map(saturated))
}

fn sum(cells: &mut Cells<'_>) -> sqlx::Result<i128> {
    let (high, low) = (cells.read::<i64>()?, cells.read::<i64>()?);
    Ok(i128::from(high) * (1 << 32) + i128::from(low))
}

fn saturated(micros: i128) -> Amount {
    let end = if micros < 0 { i64::MIN } else { i64::MAX };
    Amount::micros(i64::try_from(micros).unwrap_or(end))
}

/// The first whole microsecond that is not before `at`: stored instants have no finer parts.
fn ceiling(at: Timestamp) -> i64 {
    let finer = at.subsec_nanosecond().rem_euclid(1_000) != 0;
    // A cut goes towards zero, which before 1970 is upwards already.
    at.as_microsecond() + i64::from(finer && at > Timestamp::UNIX_EPOCH)
}
