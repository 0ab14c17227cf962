//! Reading the ledger: entries, and sums of them.

use jiff::Timestamp;
use rusqlite::{Connection, Params, ToSql, params};

use super::decode::{Cells, ReadCells};
use super::error::Result;
use super::statement::{all, one};
use super::write::micros;
use crate::model::{AccountId, Amount, Entry, EntryId, Key, KeyId};
use crate::store::fast_path::{ceiling, min_seq_at, seq_after};
use crate::store::usage_sums::{UsageSums, bucket, saturated};
use crate::store::{Cursor, EntryQuery, Usage, UsageBy, UsageQuery};

/// One entry, and what refunds took of it.
pub(super) const ENTRY: &str = include_str!("sql/entry.sql");

pub(super) const SPENT_BY_KEY: &str = include_str!("sql/spent_by_key.sql");

pub(super) fn spent_by_account_sql() -> String {
    let entries = entries_of(false, "e.counts_at >= ?5");
    include_str!("sql/spent_by_account.sql").replace("{entries}", &entries)
}

pub(super) fn page_sql(of_key: bool) -> String {
    entries_of(of_key, "e.at >= ?5 AND e.at < ?6") + "ORDER BY seq LIMIT ?7"
}

/// The entries of an account, or of a key in it, of which `condition` is true.
fn entries_of(of_key: bool, condition: &str) -> String {
    let sql = match of_key {
        true => include_str!("sql/entries_of_key.sql"),
        false => include_str!("sql/entries_of_account.sql"),
    };
    sql.replace("{condition}", condition)
}

pub(super) fn entries(connection: &Connection, query: &EntryQuery) -> Result<Vec<(Cursor, Entry)>> {
    // `seq` follows `at`, so bounds in time are bounds in the order too: at least from below. From above it may have run
    // a little ahead.
    let sql = page_sql(query.key.is_some());
    let stale = query.after.map_or(Some(i64::MIN), |after| after.get().checked_add(1));
    let Some(stale) = stale else { return Ok(Vec::new()) }; // nothing is behind the last place that there is
    let (first, last) = places(query.since, query.until);
    let (since, until) = instants(query.since, query.until);
    let key = query.key.map(KeyId::get);
    let page = params![query.account.as_str(), key, stale.max(first), last, since, until, query.limit];
    all(connection, &sql, page, |mut cells| Ok((Cursor::new(cells.number()?), cells.entry()?)))
}

pub(super) fn entry(connection: &Connection, id: EntryId) -> Result<Option<Entry>> {
    one(connection, ENTRY, [id.as_bytes()], |mut cells| cells.entry())
}

pub(super) fn usage(connection: &Connection, query: &UsageQuery) -> Result<Vec<Usage>> {
    const LABEL: &str = "coalesce((SELECT l.value FROM json_each(e.labels) l WHERE l.key = ?7), '')";
    const SPAN: &str = "e.counts_at - (e.counts_at % ?7 + ?7) % ?7";
    const HOUR: i64 = 3_600_000_000;
    const DAY: i64 = 24 * HOUR;
    // Months are of no fixed length: they are put together from days.
    let (group, argument): (_, Option<&dyn ToSql>) = match &query.by {
        UsageBy::Key => ("coalesce(CAST(e.key_id AS TEXT), '')", None),
        UsageBy::Label(name) => (LABEL, Some(name)),
        UsageBy::Hour => (SPAN, Some(&HOUR)),
        UsageBy::Day | UsageBy::Month => (SPAN, Some(&DAY)),
    };
    let of_key = query.key.is_some();
    let sql = include_str!("sql/usage.sql")
        .replace("{entries}", &entries_of(of_key, "e.refunds IS NULL AND e.counts_at >= ?5 AND e.counts_at < ?6"))
        .replace("{key}", if of_key { "+e.key_id = ?2" } else { "?2 IS NULL" })
        .replace("{group}", group);
    let key = query.key.map(KeyId::get);
    let (first, last) = places(query.since, query.until);
    let (since, until) = instants(query.since, query.until);
    let mut groups = UsageSums::default();
    let read = |mut cells: Cells<'_>| {
        let group = match query.by.unit() {
            Some(unit) => bucket(cells.instant()?, unit),
            None => cells.text()?.to_owned(),
        };
        groups.add(group, cells.sum()?, cells.number()?.unsigned_abs(), cells.sum()?);
        Ok(())
    };
    let account = query.account.as_str();
    let mut params: Vec<&dyn ToSql> = vec![&account, &key, &first, &last, &since, &until];
    params.extend(argument);
    all(connection, &sql, &*params, read)?;
    Ok(groups.into_usage())
}

/// What a key and everything minted from it was charged since then in its account.
pub(super) fn spent_by_key(connection: &Connection, key: &Key, since: Timestamp) -> Result<Amount> {
    // Nothing counts later than it was written.
    let (first, last) = places(Some(since), None);
    total(connection, SPENT_BY_KEY, params![key.id.get(), micros(since), first, last, key.account.as_str()])
}

/// What all keys of an account were charged since then.
pub(super) fn spent_by_account(connection: &Connection, account: &AccountId, since: Timestamp) -> Result<Amount> {
    let (first, last) = places(Some(since), None);
    total(connection, &spent_by_account_sql(), params![account.as_str(), None::<i64>, first, last, micros(since)])
}

fn total(connection: &Connection, sql: &str, params: impl Params) -> Result<Amount> {
    let total = one(connection, sql, params, |mut cells| cells.sum())?;
    Ok(saturated(total.unwrap_or_default()))
}

/// The places, both included, at which entries stand that were written since then and until then.
fn places(since: Option<Timestamp>, until: Option<Timestamp>) -> (i64, i64) {
    (since.map_or(i64::MIN, min_seq_at), until.map_or(i64::MAX, |until| seq_after(until) - 1))
}

/// From which stored instant on, and before which.
fn instants(since: Option<Timestamp>, until: Option<Timestamp>) -> (i64, i64) {
    let stored = |at| micros(ceiling(at));
    (since.map_or(i64::MIN, stored), until.map_or(i64::MAX, stored))
}
