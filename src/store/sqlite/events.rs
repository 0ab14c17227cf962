//! The audit trail.

use rusqlite::{Connection, params};

use super::connection::Open;
use super::decode::ReadCells;
use super::error::Result;
use super::statement::{all, each};
use super::transaction::{Written, in_write_transaction};
use super::validator::Cache;
use super::write::{json, micros};
use crate::model::{Event, KeyId};
use crate::store::fast_path::ceiling;
use crate::store::{Cursor, EventQuery};

const INSERT: &str = include_str!("sql/insert_event.sql");

/// Counts a refusal with those that are folded into the same row.
const FOLD: &str =
    concat!(include_str!("sql/insert_event.sql"), include_str!("sql/fold_event.sql"));

/// Writes events in a transaction that has begun.
pub(super) fn insert<'e>(
    connection: &Connection,
    events: impl IntoIterator<Item = &'e Event>,
) -> Result<()> {
    write(connection, INSERT, events)
}

/// Writes events of refusals.
pub(super) fn record_refusals(open: &mut Open, cache: &Cache, refusals: &[Event]) -> Result<()> {
    in_write_transaction(open, cache, |connection, _| {
        write(connection, FOLD, refusals)?;
        Ok(((), Written::default()))
    })
}

fn write<'e>(
    connection: &Connection,
    sql: &str,
    events: impl IntoIterator<Item = &'e Event>,
) -> Result<()> {
    each(connection, sql, events, |statement, event| {
        statement.execute(params![
            micros(event.at),
            event.account.as_str(),
            event.key.map(KeyId::get),
            event.key_name,
            json(&event.lineage)?,
            event.delegated_by,
            event.kind.as_str(),
            json(&event.origin.actor)?,
            event.origin.request_id,
            event.origin.route,
            event.reason(),
            event.count.cast_signed(),
            json(&event.detail)?,
        ])?;
        Ok(())
    })
}

pub(super) fn read(connection: &Connection, query: &EventQuery) -> Result<Vec<(Cursor, Event)>> {
    let owner = match (query.key, query.with_descendants) {
        (None, _) => "?2 IS NULL",
        (Some(_), false) => "e.key_id = ?2",
        (Some(_), true) => super::usage::IN_SUBTREE,
    };
    let sql = include_str!("sql/events.sql").replace("{owner}", owner);
    let kinds: Vec<_> = query.kinds.iter().map(|kind| kind.as_str()).collect();
    let kinds = if kinds.is_empty() { None } else { Some(json(&kinds)?) };
    let (since, until) = (query.since.map(ceiling), query.until.map(ceiling));
    let page = params![
        query.account.as_str(),
        query.key.map(KeyId::get),
        query.after.map_or(i64::MIN, Cursor::get),
        since.map_or(i64::MIN, micros),
        until.map_or(i64::MAX, micros),
        kinds,
        query.limit,
    ];
    all(connection, &sql, page, |mut cells| Ok((Cursor::new(cells.number()?), cells.event()?)))
}
