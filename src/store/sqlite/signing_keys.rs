//! The keys that sign sessions.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::connection::Open;
use super::decode::ReadCells;
use super::error::Result;
use super::statement::{all, run};
use super::transaction::{Written, in_write_transaction};
use super::validator::Cache;
use super::write::micros;
use crate::ledger::NewSigningKey;
use crate::model::StoredSigningKey;

/// Adds a key if that is decided, and returns all keys, oldest first.
pub(super) fn add(
    open: &mut Open,
    cache: &Cache,
    new: &NewSigningKey,
    now: Timestamp,
) -> Result<Vec<StoredSigningKey>> {
    const INSERT: &str = include_str!("sql/insert_signing_key.sql");
    const DELETE: &str = "DELETE FROM agentkey_signing_keys WHERE kid = ?1";
    in_write_transaction(open, cache, |connection, _| {
        if let Some(write) = new.decide(&read(connection)?, now) {
            for kid in &write.delete {
                run(connection, DELETE, [kid])?;
            }
            let StoredSigningKey { kid, algorithm, secret, created_at } = &write.insert;
            run(connection, INSERT, params![kid, algorithm, **secret, micros(*created_at)])?;
        }
        Ok((read(connection)?, Written::default()))
    })
}

/// Returns all keys, oldest first.
pub(super) fn read(connection: &Connection) -> Result<Vec<StoredSigningKey>> {
    const SQL: &str = include_str!("sql/signing_keys.sql");
    all(connection, SQL, [], |mut cells| cells.signing_key())
}
