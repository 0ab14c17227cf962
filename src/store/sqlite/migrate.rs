//! Bringing the tables up to date.

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior};

use super::error::{Result, corrupt};

pub(super) const MIGRATIONS: [&str; 7] = [
    include_str!("../../../migrations/sqlite/0001_init.sql"),
    include_str!("../../../migrations/sqlite/0002_policy_version.sql"),
    include_str!("../../../migrations/sqlite/0003_uses.sql"),
    include_str!("../../../migrations/sqlite/0004_places.sql"),
    include_str!("../../../migrations/sqlite/0005_ledger_version.sql"),
    include_str!("../../../migrations/sqlite/0006_moved_keys.sql"),
    include_str!("../../../migrations/sqlite/0007_index_parts.sql"),
];

/// Under the lock, so that of two processes that open a new file together one makes the tables and the other finds them.
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    migrate_with(connection, &MIGRATIONS)
}

const APPLIED: &str = "SELECT coalesce(max(version), 0) FROM agentkey_migrations";

pub(super) fn migrate_with(connection: &mut Connection, migrations: &[&str]) -> Result<()> {
    let newest = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    if connection.query_row(APPLIED, [], |row| row.get(0)).is_ok_and(|applied: i64| applied == newest) {
        return Ok(());
    }
    // A table that is made anew is dropped first, and rows of the host's own that refer to it would go with it.
    let enforced: bool = connection.pragma_query_value(None, "foreign_keys", |row| row.get(0))?;
    connection.pragma_update(None, "foreign_keys", false)?;
    let done = apply(connection, migrations, newest);
    connection.pragma_update(None, "foreign_keys", enforced)?;
    done
}

fn apply(connection: &mut Connection, migrations: &[&str], newest: i64) -> Result<()> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(
        "CREATE TABLE IF NOT EXISTS agentkey_migrations (version INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL) STRICT",
    )?;
    let applied: i64 = tx.query_row(APPLIED, [], |row| row.get(0))?;
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
