//! Pruning: entries are rolled up, and other rows that retention no longer keeps are deleted.
//!
//! The rows of entries, holds and events are in the order of time by their primary key. So a step looks at the next rows of
//! its table, and a run ends at the first step without an old row.

use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{CachedStatement, Connection, params};

use super::connection::Open;
use super::decode::ReadCells;
use super::error::Result;
use super::index::RecentEntries;
use super::statement::{all, each, one, run};
use super::write::{json, micros};
use crate::ledger::{Rollup, roll_up};
use crate::model::{Entry, KeyId};
use crate::store::prune::{halves, of_whole_charges};
use crate::store::{Prunable, PruneCutoffs, PrunePosition, PruneStep, PruneTable, PrunedStep};

/// A table whose rows are in the order of time.
struct Ordered {
    name: &'static str,
    /// Its primary key.
    key: &'static str,
    /// The column with the instant of a row.
    at: &'static str,
}

const ENTRIES: Ordered = Ordered { name: "agentkey_entries", key: "number", at: "at" };
const HOLDS: Ordered = Ordered { name: "agentkey_holds", key: "id", at: "created_at" };
const EVENTS: Ordered = Ordered { name: "agentkey_events", key: "seq", at: "at" };

/// A key before all others: to SQLite, every number is less than every blob.
const FIRST: Value = Value::Integer(i64::MIN);

/// Some rows of a table.
struct Rows {
    /// The key before them.
    after: Value,
    /// The last key among them.
    last: Value,
    /// How many of them are old.
    old: u64,
}

impl Ordered {
    /// Returns the next rows after a key; `None` where none of them is older than `before`.
    fn next_rows(
        &self,
        connection: &Connection,
        after: Value,
        before: Timestamp,
        limit: u32,
    ) -> Result<Option<Rows>> {
        let Self { name, key, at } = self;
        let sql = format!(
            "SELECT coalesce(sum({at} < ?2), 0), max({key}) FROM \
            (SELECT {key}, {at} FROM {name} WHERE {key} > ?1 ORDER BY {key} LIMIT ?3)"
        );
        let rows = one(connection, &sql, params![after, micros(before), limit], |mut cells| {
            Ok((cells.number()?.unsigned_abs(), cells.value()?))
        })?;
        let old = |(old, last)| (old > 0).then_some(Rows { after, last, old });
        Ok(rows.and_then(old))
    }

    fn count(&self, connection: &Connection, before: Timestamp) -> Result<u64> {
        const ROWS: u32 = 16_384;
        let (mut count, mut after) = (0, FIRST);
        while let Some(rows) = self.next_rows(connection, after, before, ROWS)? {
            count += rows.old;
            after = rows.last;
        }
        Ok(count)
    }
}

/// Counts the rows that are older than retention keeps them.
pub(super) fn prunable(connection: &Connection, cutoffs: PruneCutoffs) -> Result<Prunable> {
    let PruneCutoffs { entries, holds, events } = cutoffs;
    Ok(Prunable::new(
        ENTRIES.count(connection, entries)?,
        HOLDS.count(connection, holds)?,
        EVENTS.count(connection, events)?,
    ))
}

/// Makes a step in a table whose rows are in the order of time.
pub(super) fn prune(open: &mut Open, step: &PruneStep) -> Result<PrunedStep> {
    const HOLD: &str = include_str!("sql/prune_holds.sql");
    const EVENT: &str = "DELETE FROM agentkey_events WHERE seq > ?1 AND seq <= ?2 AND at < ?3";
    let table = match step.table {
        PruneTable::Entries => ENTRIES,
        PruneTable::Holds => HOLDS,
        PruneTable::Events => EVENTS,
        PruneTable::IdempotencyKeys | PruneTable::RateLimits => return Ok(PrunedStep::default()),
    };
    let pruned = in_transaction(&open.connection, |connection| {
        let after = step.after.as_ref().map_or(FIRST, value);
        let rows = table.next_rows(connection, after, step.before, step.limit)?;
        let Some(Rows { after, last, .. }) = rows else {
            return Ok(PrunedStep::default());
        };
        let range = params![after, last, micros(step.before)];
        let (rows, idempotency_keys) = match step.table {
            PruneTable::Entries => {
                let entries = all(connection, PRUNABLE_ENTRIES, range, |mut cells| {
                    let (charge, number, seq) = (cells.value()?, cells.number()?, cells.number()?);
                    let entry = cells.entry().inspect_err(|error| {
                        tracing::warn!(%error, number, "agentkey leaves an invalid entry and its charge where they are");
                    });
                    Ok((charge, entry.ok().map(|entry| (number, seq, entry))))
                })?;
                let entries = of_whole_charges(entries);
                (entries.len() as u64, roll_up_entries(connection, entries, &step.left_out)?)
            }
            PruneTable::Holds => (run(connection, HOLD, range)? as u64, 0),
            _ => (run(connection, EVENT, range)? as u64, 0),
        };
        Ok(PrunedStep { rows, idempotency_keys, next: position(last), has_left_some: false })
    })?;
    if step.table == PruneTable::Entries && pruned.rows > 0 {
        // No entry that is gone is indexed later.
        open.recent = RecentEntries::default();
    }
    Ok(pruned)
}

/// Runs `write` under the lock of the file. No look-up and no posting reads from a cache what it changes, so the file keeps its
/// version, and every process its cache.
fn in_transaction<T>(
    connection: &Connection,
    write: impl FnOnce(&Connection) -> Result<T>,
) -> Result<T> {
    run(connection, "BEGIN IMMEDIATE", [])?;
    let value = write(connection)?;
    run(connection, "COMMIT", [])?;
    Ok(value)
}

fn value(position: &PrunePosition) -> Value {
    match position {
        PrunePosition::Number(number) => Value::Integer(*number),
        PrunePosition::Id(id) => Value::Blob(id.to_vec()),
        PrunePosition::Seq(..) | PrunePosition::Claim(..) => FIRST,
    }
}

fn position(key: Value) -> Option<PrunePosition> {
    match key {
        Value::Integer(number) => Some(PrunePosition::Number(number)),
        Value::Blob(id) => id.try_into().ok().map(PrunePosition::Id),
        _ => None,
    }
}

const PRUNABLE_ENTRIES: &str = include_str!("sql/prunable_entries.sql");

/// Replaces entries, each with its number and its `seq`, by their sums. Returns how many idempotency keys went with them.
fn roll_up_entries(
    connection: &Connection,
    rows: Vec<(i64, i64, Entry)>,
    left_out: &[String],
) -> Result<u64> {
    const ENTRY: &str = "DELETE FROM agentkey_entries WHERE number = ?1";
    const OF_ACCOUNT: &str = "DELETE FROM agentkey_entries_of_account WHERE account_id = ?1 AND seq = ?2 AND number = ?3";
    const OF_KEY: &str =
        "DELETE FROM agentkey_entries_of_key WHERE key_id = ?1 AND seq = ?2 AND number = ?3";
    const CLAIM: &str = "DELETE FROM agentkey_idempotency_keys WHERE entry = ?1";
    each(connection, OF_ACCOUNT, &rows, |statement, (number, seq, entry)| {
        Ok(statement.execute(params![entry.account.as_str(), seq, number]).map(drop)?)
    })?;
    each(connection, OF_KEY, &rows, |statement, (number, seq, entry)| {
        Ok(statement.execute(params![entry.key.map(KeyId::get), seq, number]).map(drop)?)
    })?;
    each(connection, ENTRY, &rows, |statement, (number, ..)| {
        Ok(statement.execute([number]).map(drop)?)
    })?;
    let mut idempotency_keys = 0;
    each(connection, CLAIM, &rows, |statement, (.., entry)| {
        idempotency_keys += statement.execute([entry.id.as_bytes()])? as u64;
        Ok(())
    })?;
    let entries: Vec<_> = rows.into_iter().map(|(.., entry)| entry).collect();
    each(connection, UPSERT_ROLLUP, roll_up(&entries, left_out), upsert_rollup)?;
    Ok(idempotency_keys)
}

const UPSERT_ROLLUP: &str = include_str!("sql/upsert_rollup.sql");

fn upsert_rollup(statement: &mut CachedStatement<'_>, rollup: Rollup) -> Result<()> {
    let (amount, adjusted) = (halves(rollup.amount), halves(rollup.adjusted));
    let row = params![
        rollup.id(),
        rollup.account.as_str(),
        rollup.key.map(KeyId::get),
        micros(rollup.counts_at),
        json(&rollup.labels)?,
        amount.0,
        amount.1,
        rollup.charges,
        adjusted.0,
        adjusted.1,
    ];
    Ok(statement.execute(row).map(drop)?)
}

/// An idempotency key of a key.
pub(super) type Claim = (i64, String);

/// Returns the last of the next idempotency keys, and those among them whose request never ended; `None` where there are no
/// more.
pub(super) fn dead_claims(
    connection: &Connection,
    step: &PruneStep,
) -> Result<Option<(PrunePosition, Vec<Claim>)>> {
    const NEXT: &str = "SELECT key_id, idempotency_key, coalesce(entry IS NULL AND in_flight_until < ?3, 0) \
        FROM agentkey_idempotency_keys WHERE (key_id, idempotency_key) > (?1, ?2) ORDER BY 1, 2 LIMIT ?4";
    let (key, claim) = match &step.after {
        Some(PrunePosition::Claim(key, claim)) => (*key, claim.as_str()),
        _ => (i64::MIN, ""),
    };
    let page = params![key, claim, micros(step.before), CLAIMS * step.limit];
    let mut last = None;
    let mut dead = all(connection, NEXT, page, |mut cells| {
        let claim = (cells.number()?, cells.text()?.to_owned());
        last = Some(claim.clone());
        Ok((cells.number()? != 0, claim))
    })?;
    dead.retain(|(is_dead, _)| *is_dead);
    let dead = dead.into_iter().map(|(_, claim)| claim).collect();
    Ok(last.map(|(key, claim)| (PrunePosition::Claim(key, claim), dead)))
}

/// How many times as many idempotency keys a step looks at as rows of other tables: most of them stay.
const CLAIMS: u32 = 10;

/// Deletes these idempotency keys, unless another request has taken them over.
pub(super) fn delete_claims(
    connection: &Connection,
    before: Timestamp,
    claims: &[Claim],
) -> Result<u64> {
    const DELETE: &str = "DELETE FROM agentkey_idempotency_keys WHERE key_id = ?1 \
        AND idempotency_key = ?2 AND entry IS NULL AND in_flight_until < ?3";
    in_transaction(connection, |connection| {
        let mut deleted = 0;
        each(connection, DELETE, claims, |statement, (key, claim)| {
            deleted += statement.execute(params![key, claim, micros(before)])? as u64;
            Ok(())
        })?;
        Ok(deleted)
    })
}
