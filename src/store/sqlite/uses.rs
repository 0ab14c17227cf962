//! When keys were last used.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::connection::Open;
use super::error::Result;
use super::known::{Effect, Known};
use super::statement::{in_snapshot, in_writing, one, run};
use super::write::micros;
use crate::KeyId;

pub(super) fn note(open: &mut Open, known: &Known, uses: &[(KeyId, Timestamp)]) -> Result<()> {
    const SQL: &str = "INSERT INTO agentkey_uses (key_id, used_at) VALUES (?1, ?2) \
                       ON CONFLICT (key_id) DO UPDATE SET used_at = max(used_at, excluded.used_at)";
    in_writing(open, known, |connection, _| {
        for (key, at) in uses {
            run(connection, SQL, params![key.get(), micros(*at)])?;
        }
        Ok(((), Effect::default()))
    })
}

pub(super) fn last(connection: &Connection, keys: &[KeyId]) -> Result<Vec<Option<Timestamp>>> {
    const SQL: &str = "SELECT used_at FROM agentkey_uses WHERE key_id = ?1";
    let last = |key: &KeyId| one(connection, SQL, [key.get()], |mut cells| cells.instant());
    in_snapshot(connection, |_| keys.iter().map(last).collect())
}
