//! Reading the ledger: entries and their sums.

use jiff::Timestamp;
use rusqlite::{Connection, Params, ToSql, params};

use super::decode::{Cells, ReadCells};
use super::error::Result;
use super::statement::{all, one};
use super::write::micros;
use crate::model::{AccountId, Amount, Entry, EntryId, Key, KeyId, Spent};
use crate::store::fast_path::{ceiling, min_seq_at, seq_after};
use crate::store::usage_sums::{UsageSums, bucket, saturated};
use crate::store::{Cursor, EntryQuery, Usage, UsageBy, UsageQuery};

/// One entry, and what refunds gave back of it.
pub(super) const ENTRY: &str = include_str!("sql/entry.sql");

pub(super) const SPENT_BY_KEY: &str = include_str!("sql/spent_by_key.sql");

pub(super) fn spent_by_account_sql() -> String {
    let entries = entries_of(EntriesOf::Account, "e.counts_at >= ?5");
    include_str!("sql/spent_by_account.sql").replace("{entries}", &entries)
}

/// Whose entries are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntriesOf {
    Account,
    Key,
    Subtree,
}

impl EntriesOf {
    const fn new(key: Option<KeyId>, with_descendants: bool) -> Self {
        match (key, with_descendants) {
            (None, _) => Self::Account,
            (Some(_), false) => Self::Key,
            (Some(_), true) => Self::Subtree,
        }
    }
}

pub(super) fn page_sql(of: EntriesOf) -> String {
    let page = entries_of(of, "e.at >= ?5 AND e.at < ?6") + "ORDER BY seq LIMIT ?7";
    include_str!("sql/entries_with_delegator.sql").replace("{page}", &page)
}

/// The condition of an entry of the key ?2 or of a descendant.
pub(super) const IN_SUBTREE: &str = "e.key_id IN (WITH RECURSIVE family (id) AS (SELECT ?2 UNION \
    SELECT c.id FROM family f CROSS JOIN agent_keys c ON c.parent_id = f.id) SELECT id FROM family)";

/// Returns the SQL of the entries of an account, or of a key or a subtree in it, that meet
/// `condition`.
fn entries_of(of: EntriesOf, condition: &str) -> String {
    let sql = match of {
        EntriesOf::Key => include_str!("sql/entries_of_key.sql").to_owned(),
        EntriesOf::Account => include_str!("sql/entries_of_account.sql").to_owned(),
        EntriesOf::Subtree => {
            include_str!("sql/entries_of_account.sql").replace("?2 IS NULL", IN_SUBTREE)
        }
    };
    sql.replace("{condition}", condition)
}

pub(super) fn entries(connection: &Connection, query: &EntryQuery) -> Result<Vec<(Cursor, Entry)>> {
    // `seq` follows `at`, so a lower bound in time is a lower bound in the order. At the upper end `seq` may be a
    // little ahead.
    let sql = page_sql(EntriesOf::new(query.key, query.with_descendants));
    let after = query.after.map_or(Some(i64::MIN), |after| after.get().checked_add(1));
    let Some(after) = after else { return Ok(Vec::new()) }; // no entry comes after the last `seq`
    let (first, last) = seq_range(query.since, query.until);
    let (since, until) = instant_range(query.since, query.until);
    let key = query.key.map(KeyId::get);
    let page =
        params![query.account.as_str(), key, after.max(first), last, since, until, query.limit];
    all(connection, &sql, page, |mut cells| {
        Ok((Cursor::new(cells.number()?), cells.entry_with_delegator()?))
    })
}

pub(super) fn entry(connection: &Connection, id: EntryId) -> Result<Option<Entry>> {
    const SQL: &str = include_str!("sql/entry_with_delegator.sql");
    one(connection, SQL, [id.as_bytes()], |mut cells| cells.entry_with_delegator())
}

/// Returns the SQL of a group, and its argument, the parameter `n`.
fn group(by: Option<&UsageBy>, n: usize) -> (String, Option<&dyn ToSql>) {
    const HOUR: i64 = 3_600_000_000;
    const DAY: i64 = 24 * HOUR;
    let start = || format!("e.counts_at - (e.counts_at % ?{n} + ?{n}) % ?{n}");
    match by {
        Some(UsageBy::Key) => ("coalesce(CAST(e.key_id AS TEXT), '')".to_owned(), None),
        Some(UsageBy::Label(name)) => (
            format!("coalesce((SELECT l.value FROM json_each(e.labels) l WHERE l.key = ?{n}), '')"),
            Some(name),
        ),
        Some(UsageBy::Hour) => (start(), Some(&HOUR)),
        // Months differ in length, so they are summed up from days.
        Some(UsageBy::Day | UsageBy::Month) => (start(), Some(&DAY)),
        None => ("''".to_owned(), None),
    }
}

pub(super) fn usage(connection: &Connection, query: &UsageQuery) -> Result<Vec<Usage>> {
    let (first_group, argument) = group(Some(&query.by), 7);
    let (second_group, more) = group(query.then_by.as_ref(), 7 + usize::from(argument.is_some()));
    let of = EntriesOf::new(query.key, query.with_descendants);
    let condition = match of {
        EntriesOf::Account => "?2 IS NULL",
        EntriesOf::Key => "+e.key_id = ?2",
        EntriesOf::Subtree => IN_SUBTREE,
    };
    let sql = include_str!("sql/usage.sql")
        .replace(
            "{entries}",
            &entries_of(of, "e.refunds IS NULL AND e.counts_at >= ?5 AND e.counts_at < ?6"),
        )
        .replace("{key}", condition)
        .replace("{group}", &first_group)
        .replace("{subgroup}", &second_group);
    let key = query.key.map(KeyId::get);
    let (first, last) = seq_range(query.since, query.until);
    let (since, until) = instant_range(query.since, query.until);
    let mut groups = UsageSums::default();
    let read = |mut cells: Cells<'_>| {
        let mut group = |by: &UsageBy| match by.unit() {
            Some(unit) => Ok(bucket(cells.instant()?, unit)),
            None => cells.text().map(str::to_owned),
        };
        let first = group(&query.by)?;
        let second = query.then_by.as_ref().map(&mut group).transpose()?;
        if second.is_none() {
            cells.text()?;
        }
        let group = (first, second);
        groups.add(group, cells.sum()?, cells.number()?.unsigned_abs(), cells.sum()?);
        Ok(())
    };
    let account = query.account.as_str();
    let mut params: Vec<&dyn ToSql> = vec![&account, &key, &first, &last, &since, &until];
    params.extend(argument.into_iter().chain(more));
    all(connection, &sql, &*params, read)?;
    Ok(groups.into_usage())
}

/// Counts what a key and its descendants were charged in a window that was not counted before.
pub(super) fn recount_key(connection: &Connection, key: &mut Key, window: Spent) -> Result<()> {
    let amount = spent_by_key(connection, key, window.since)?;
    key.balance.set_spent(Spent { amount, ..window });
    Ok(())
}

/// Returns what a key and its descendants were charged since then in its account.
pub(super) fn spent_by_key(connection: &Connection, key: &Key, since: Timestamp) -> Result<Amount> {
    // No entry counts later than it was written.
    let (first, last) = seq_range(Some(since), None);
    total(
        connection,
        SPENT_BY_KEY,
        params![key.id.get(), micros(since), first, last, key.account.as_str()],
    )
}

/// Returns what all keys of an account were charged since then.
pub(super) fn spent_by_account(
    connection: &Connection,
    account: &AccountId,
    since: Timestamp,
) -> Result<Amount> {
    let (first, last) = seq_range(Some(since), None);
    total(
        connection,
        &spent_by_account_sql(),
        params![account.as_str(), None::<i64>, first, last, micros(since)],
    )
}

fn total(connection: &Connection, sql: &str, params: impl Params) -> Result<Amount> {
    let total = one(connection, sql, params, |mut cells| cells.sum())?;
    Ok(saturated(total.unwrap_or_default()))
}

/// Returns the first and the last `seq` that an entry of this span of time can have.
fn seq_range(since: Option<Timestamp>, until: Option<Timestamp>) -> (i64, i64) {
    (since.map_or(i64::MIN, min_seq_at), until.map_or(i64::MAX, |until| seq_after(until) - 1))
}

/// Returns the stored instants of a span of time: the first that is in it, and the first after it.
fn instant_range(since: Option<Timestamp>, until: Option<Timestamp>) -> (i64, i64) {
    let stored = |at| micros(ceiling(at));
    (since.map_or(i64::MIN, stored), until.map_or(i64::MAX, stored))
}
