//! When keys were last used.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::connection::Open;
use super::decode::ReadCells;
use super::error::Result;
use super::statement::{in_snapshot, one, run};
use super::transaction::{Written, in_writing};
use super::version::Cache;
use super::write::micros;
use crate::model::KeyId;

pub(super) fn note(open: &mut Open, cache: &Cache, uses: &[(KeyId, Timestamp)]) -> Result<()> {
    const SQL: &str = include_str!("sql/upsert_use.sql");
    in_writing(open, cache, |connection, _| {
        for (key, at) in uses {
            run(connection, SQL, params![key.get(), micros(*at)])?;
        }
        Ok(((), Written::default()))
    })
}

pub(super) fn last(connection: &Connection, keys: &[KeyId]) -> Result<Vec<Option<Timestamp>>> {
    const SQL: &str = "SELECT used_at FROM agentkey_uses WHERE key_id = ?1";
    let last = |key: &KeyId| one(connection, SQL, [key.get()], |mut cells| cells.instant());
    in_snapshot(connection, |_| keys.iter().map(last).collect())
}
