//! Reading the ledger: entries, and sums of them.

use std::collections::BTreeMap;

use jiff::{Timestamp, Unit};
use sqlx::postgres::PgRow;

use super::connection::{Connection, Query, Statements};
use super::decode::{Cells, ReadCells};
use super::error::Result;
use super::layout::Layout;
use super::names::Sql;
use super::types::Instant;
use crate::store::memory::bucket;
use crate::store::plain::{ceiling, first_place, place_after};
use crate::store::{Cursor, EntryQuery, Usage, UsageBy, UsageQuery};
use crate::{AccountId, Amount, Entry, EntryId, Key, KeyId};

/// The texts of lists and sums.
pub(super) struct Sums {
    entries: Sql,
    entries_of_key: Sql,
    entry: Sql,
    by_key: Sums2,
    by_label: Sums2,
    by_time: Sums2,
    spent_by_key: Sql,
    spent_by_account: Sql,
}

/// Of a whole account, and of one key.
struct Sums2 {
    of_account: Sql,
    of_key: Sql,
}

/// In two halves, which leave room for any number of entries.
const SUM: &str = "coalesce(sum(e.amount >> 32), 0)::int8, coalesce(sum(e.amount & 4294967295), 0)::int8";

/// What was charged, how often, and what was adjusted.
const SUMS: &str = "coalesce(sum(e.amount >> 32) FILTER (WHERE e.kind <> 'adjust'), 0)::int8, \
    coalesce(sum(e.amount & 4294967295) FILTER (WHERE e.kind <> 'adjust'), 0)::int8, \
    count(*) FILTER (WHERE e.kind NOT IN ('refund', 'adjust')), \
    coalesce(sum(e.amount >> 32) FILTER (WHERE e.kind = 'adjust'), 0)::int8, \
    coalesce(sum(e.amount & 4294967295) FILTER (WHERE e.kind = 'adjust'), 0)::int8";

impl Sums {
    pub(super) fn new(layout: &Layout) -> Self {
        // `seq` follows `at`, so bounds in time are bounds in the order too: at least from below. From above it may
        // have run a little ahead.
        let page = |of: &str| {
            layout.sql(&format!(
                "SELECT e.seq, {{of_entry}} FROM {{entries}} e WHERE {of} AND e.seq > $3 AND e.seq >= $4 \
                 AND e.seq < $5 AND e.at >= $6 AND e.at < $7 ORDER BY e.seq LIMIT $8"
            ))
        };
        // A refund counts earlier than it was written; nothing counts later.
        let sums = |group: &str| {
            let of = |of: &str| {
                layout.sql(&format!(
                    "SELECT {group}, {SUMS} FROM (\
                     SELECT * FROM {{entries}} e WHERE {of} AND e.refunds IS NULL AND e.seq >= $3 AND e.seq < $4 \
                     AND e.counts_at >= $5 AND e.counts_at < $6 UNION ALL \
                     SELECT * FROM {{entries}} e WHERE {of} AND e.refunds IS NOT NULL \
                     AND e.counts_at >= $5 AND e.counts_at < $6) e GROUP BY 1"
                ))
            };
            Sums2 { of_account: of(ACCOUNT), of_key: of(KEY) }
        };
        const ACCOUNT: &str = "e.account_id = $1 AND $2::int8 IS NULL";
        const KEY: &str = "e.account_id = $1 AND e.key_id = $2";
        Self {
            entries: page(ACCOUNT),
            entries_of_key: page(KEY),
            entry: layout.sql("SELECT {of_entry} FROM {entries} e WHERE e.id = $1"),
            by_key: sums("coalesce(e.key_id::text, '')"),
            by_label: sums("coalesce(e.labels ->> $7, '')"),
            by_time: sums("date_trunc($7, e.counts_at AT TIME ZONE 'UTC')"),
            spent_by_key: layout.sql(&format!(
                "WITH RECURSIVE family (id) AS (SELECT $1::int8 UNION \
                 SELECT k.{{k.id}}::int8 FROM family f JOIN {{keys}} k ON k.{{k.parent}} = f.id) \
                 SELECT {SUM} FROM family f JOIN {{entries}} e ON e.key_id = f.id AND e.seq >= $2 \
                 WHERE e.counts_at >= $3 AND e.account_id = $4"
            )),
            spent_by_account: layout.sql(&format!(
                "SELECT {SUM} FROM {{entries}} e WHERE e.account_id = $1 AND e.seq >= $2 AND e.counts_at >= $3"
            )),
        }
    }

    pub(super) fn entry<'q>(&self, id: EntryId) -> Query<'q> {
        self.entry.query().bind(uuid::Uuid::from_bytes(*id.as_bytes()))
    }

    /// What a key and everything minted from it was charged since then in its account.
    pub(super) async fn spent_by_key(
        &self,
        statements: &mut Statements<'_>,
        key: &Key,
        since: Timestamp,
    ) -> Result<Amount> {
        let query = self.spent_by_key.query().bind(key.id.get()).bind(first_place(since)).bind(Instant(since));
        total(statements, query.bind(key.account.as_str().to_owned())).await
    }

    /// What all keys of an account were charged since then.
    pub(super) async fn spent_by_account(
        &self,
        statements: &mut Statements<'_>,
        account: &AccountId,
        since: Timestamp,
    ) -> Result<Amount> {
        let account = account.as_str().to_owned();
        total(statements, self.spent_by_account.query().bind(account).bind(first_place(since)).bind(Instant(since)))
            .await
    }
}

pub(super) async fn entries(
    connection: &mut Connection<'_>,
    sums: &Sums,
    query: &EntryQuery,
) -> Result<Vec<(Cursor, Entry)>> {
    let page = match query.key {
        Some(_) => &sums.entries_of_key,
        None => &sums.entries,
    };
    let page = page
        .query()
        .bind(query.account.as_str().to_owned())
        .bind(query.key.map(KeyId::get))
        .bind(query.after.map_or(i64::MIN, Cursor::get))
        .bind(query.since.map_or(i64::MIN, first_place))
        .bind(query.until.map_or(i64::MAX, place_after))
        .bind(Instant(query.since.map_or(Timestamp::MIN, ceiling)))
        .bind(Instant(query.until.map_or(Timestamp::MAX, ceiling)))
        .bind(i64::from(query.limit));
    let read = |row: &PgRow| {
        let mut cells = Cells::of(row);
        Ok((Cursor::new(cells.read()?), cells.entry()?))
    };
    connection.fetch(page).await?.iter().map(read).collect()
}

pub(super) async fn entry(connection: &mut Connection<'_>, sums: &Sums, id: EntryId) -> Result<Option<Entry>> {
    connection.fetch(sums.entry(id)).await?.first().map(|row| Cells::of(row).entry()).transpose()
}

pub(super) async fn usage(connection: &mut Connection<'_>, sums: &Sums, query: &UsageQuery) -> Result<Vec<Usage>> {
    let (texts, unit) = match &query.by {
        UsageBy::Key => (&sums.by_key, None),
        UsageBy::Label(_) => (&sums.by_label, None),
        UsageBy::Hour => (&sums.by_time, Some(("hour", Unit::Hour))),
        UsageBy::Day => (&sums.by_time, Some(("day", Unit::Day))),
        UsageBy::Month => (&sums.by_time, Some(("month", Unit::Month))),
    };
    let text = if query.key.is_some() { &texts.of_key } else { &texts.of_account };
    let mut asked = text
        .query()
        .bind(query.account.as_str().to_owned())
        .bind(query.key.map(KeyId::get))
        .bind(query.since.map_or(i64::MIN, first_place))
        .bind(query.until.map_or(i64::MAX, place_after))
        .bind(Instant(query.since.map_or(Timestamp::MIN, ceiling)))
        .bind(Instant(query.until.map_or(Timestamp::MAX, ceiling)));
    match (&query.by, unit) {
        (UsageBy::Label(name), _) => asked = asked.bind(name.clone()),
        (_, Some((name, _))) => asked = asked.bind(name),
        _ => {}
    }
    // In the order of Rust's strings, not of a collation.
    let mut groups = BTreeMap::new();
    for row in &connection.fetch(asked).await? {
        let mut cells = Cells::of(row);
        let group = match unit {
            Some((_, unit)) => bucket(cells.instant()?, unit),
            None => cells.read::<String>()?,
        };
        let (amount, charges) = (sum(&mut cells)?, cells.read::<i64>()?.unsigned_abs());
        groups.insert(group.clone(), Usage::new(group, amount, charges, sum(&mut cells)?));
    }
    Ok(groups.into_values().collect())
}

async fn total(statements: &mut Statements<'_>, query: Query<'_>) -> Result<Amount> {
    let rows = statements.fetch(query).await?;
    rows.first().map_or(Ok(Amount::ZERO), |row| sum(&mut Cells::of(row)))
}

/// Held in the range of amounts only at its end, so that the order of the entries does not matter.
fn sum(cells: &mut Cells<'_>) -> Result<Amount> {
    let (high, low) = (cells.read::<i64>()?, cells.read::<i64>()?);
    let micros = i128::from(high) * (1 << 32) + i128::from(low);
    Ok(Amount::micros(i64::try_from(micros).unwrap_or(if micros < 0 { i64::MIN } else { i64::MAX })))
}
