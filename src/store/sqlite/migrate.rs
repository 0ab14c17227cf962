//! Bringing the tables up to date.

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior};

use super::error::{Result, corrupt};

pub(super) const MIGRATIONS: [&str; 5] = [
    include_str!("../../../migrations/sqlite/0001_init.sql"),
    include_str!("../../../migrations/sqlite/0002_policy_version.sql"),
    include_str!("../../../migrations/sqlite/0003_uses.sql"),
    include_str!("../../../migrations/sqlite/0004_places.sql"),
    include_str!("../../../migrations/sqlite/0005_ledger_version.sql"),
];

/// Under the lock, so that of two processes that open a new file together one makes the tables and the other finds them.
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    migrate_with(connection, &MIGRATIONS)
}

pub(super) fn migrate_with(connection: &mut Connection, migrations: &[&str]) -> Result<()> {
    let newest = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(
        "CREATE TABLE IF NOT EXISTS agentkey_migrations (version INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL) STRICT",
    )?;
    let applied: i64 =
        tx.query_row("SELECT coalesce(max(version), 0) FROM agentkey_migrations", [], |row| row.get(0))?;
    if applied > newest {
        return Err(corrupt(format!(
            "a newer version of agentkey made its tables (version {applied}; this one knows {newest}): upgrade agentkey"
        )));
    }
    for (version, sql) in (1_i64..).zip(migrations).filter(|(version, _)| *version > applied) {
        tx.execute_batch(sql)?;
        let now = Timestamp::now().as_microsecond();
        tx.execute("INSERT INTO agentkey_migrations (version, applied_at) VALUES (?1, ?2)", (version, now))?;
    }
    Ok(tx.commit()?)
}
