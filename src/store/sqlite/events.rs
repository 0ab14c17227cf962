//! The audit trail.

use rusqlite::{Connection, params};

use super::connection::Open;
use super::decode::ReadCells;
use super::error::Result;
use super::statement::{all, each};
use super::transaction::{Written, in_write_transaction};
use super::usage::IN_SUBTREE;
use super::validator::Cache;
use super::write::{self, json, micros};
use crate::model::{Event, KeyId};
use crate::store::fast_path::ceiling;
use crate::store::{Cursor, EventQuery};

/// Writes events of refusals, each with those that are folded into the same row.
pub(super) fn record_refusals(open: &mut Open, cache: &Cache, refusals: &[Event]) -> Result<()> {
    const FOLD: &str =
        concat!(include_str!("sql/insert_event.sql"), include_str!("sql/fold_event.sql"));
    in_write_transaction(open, cache, |connection, _| {
        each(connection, FOLD, refusals, write::event)?;
        Ok(((), Written::default()))
    })
}

pub(super) fn read(connection: &Connection, query: &EventQuery) -> Result<Vec<(Cursor, Event)>> {
    let owner = match (query.key, query.with_descendants) {
        (None, _) => "?2 IS NULL",
        (Some(_), false) => "e.key_id = ?2",
        (Some(_), true) => IN_SUBTREE,
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
