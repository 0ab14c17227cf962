//! When keys were last used.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::connection::Open;
use super::decode::ReadCells;
use super::error::Result;
use super::statement::{in_snapshot, one, run};
use super::transaction::{Written, in_write_transaction};
use super::validator::Cache;
use super::write::micros;
use crate::model::KeyId;

pub(super) fn record(open: &mut Open, cache: &Cache, used: &[(KeyId, Timestamp)]) -> Result<()> {
    const SQL: &str = include_str!("sql/upsert_last_used.sql");
    in_write_transaction(open, cache, |connection, _| {
        for (key, at) in used {
            run(connection, SQL, params![key.get(), micros(*at)])?;
        }
        Ok(((), Written::default()))
    })
}

pub(super) fn read(connection: &Connection, keys: &[KeyId]) -> Result<Vec<Option<Timestamp>>> {
    const SQL: &str = "SELECT used_at FROM agentkey_last_used WHERE key_id = ?1";
    let last = |key: &KeyId| one(connection, SQL, [key.get()], |mut cells| cells.instant());
    in_snapshot(connection, |_| keys.iter().map(last).collect())
}
