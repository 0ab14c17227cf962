//! Migrations of the tables.

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior};

use super::error::{Result, corrupt};

const MIGRATIONS: [&str; 1] = [include_str!("../../../migrations/sqlite/0001_init.sql")];

const APPLIED: &str = "SELECT coalesce(max(version), 0) FROM agentkey_migrations";

/// Brings the tables up to date. It holds the lock of the file, so that of two processes that open a new file only one
/// creates the tables.
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    let newest = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if connection
        .query_row(APPLIED, [], |row| row.get(0))
        .is_ok_and(|applied: i64| applied == newest)
    {
        return Ok(());
    }
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(
        "CREATE TABLE IF NOT EXISTS agentkey_migrations (version INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL) STRICT",
    )?;
    let applied: i64 = tx.query_row(APPLIED, [], |row| row.get(0))?;
    if applied > newest {
        return Err(corrupt(format!(
            "a newer version of agentkey made its tables (version {applied}; this one supports {newest}): upgrade agentkey"
        )));
    }
    for (version, sql) in (1_i64..).zip(MIGRATIONS).filter(|(version, _)| *version > applied) {
        tx.execute_batch(sql)?;
        let now = Timestamp::now().as_microsecond();
        tx.execute(
            "INSERT INTO agentkey_migrations (version, applied_at) VALUES (?1, ?2)",
            (version, now),
        )?;
    }
    Ok(tx.commit()?)
}
