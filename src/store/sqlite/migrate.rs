//! Migrations of the tables.

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior};

use super::error::{Result, corrupt};

const MIGRATIONS: [&str; 1] = [include_str!("../../../migrations/sqlite/0001_init.sql")];

const APPLIED: &str = "SELECT coalesce(max(version), 0) FROM agentkey_migrations";

const TABLE: &str = "CREATE TABLE IF NOT EXISTS agentkey_migrations (version INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL) STRICT";

/// Brings the tables up to date. It holds the lock of the file, so that of two processes that open a new file only one
/// creates the tables.
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    if connection
        .query_row(APPLIED, [], |row| row.get(0))
        .is_ok_and(|applied: i64| applied == newest())
    {
        return Ok(());
    }
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(TABLE)?;
    let applied: i64 = tx.query_row(APPLIED, [], |row| row.get(0))?;
    for (version, sql) in missing(applied)? {
        tx.execute_batch(sql)?;
        let now = Timestamp::now().as_microsecond();
        tx.execute(
            "INSERT INTO agentkey_migrations (version, applied_at) VALUES (?1, ?2)",
            (version, now),
        )?;
    }
    Ok(tx.commit()?)
}

/// Checks that the tables are up to date. It changes nothing.
pub(super) fn check(connection: &Connection) -> Result<()> {
    match missing(applied(connection)?)?.next() {
        None => Ok(()),
        Some(_) => Err(corrupt(
            "the file has no tables of agentkey, or older ones: run the SQL that `SqliteStore::migration_sql` returns, or \
             open with `SqliteOptions::migrate(true)`",
        )),
    }
}

/// Returns the SQL that [`migrate`] would run in this file; `None` is one that does not exist yet.
pub(super) fn script(connection: Option<&Connection>) -> Result<String> {
    let mut text = String::new();
    for (version, sql) in missing(connection.map_or(Ok(0), applied)?)? {
        text.push_str(&format!(
            "\n{}\nINSERT INTO agentkey_migrations (version, applied_at)\n    \
             VALUES ({version}, CAST(unixepoch('subsec') * 1000000 AS INTEGER));\n",
            sql.trim_end()
        ));
    }
    Ok(match text.as_str() {
        "" => text,
        steps => format!("BEGIN IMMEDIATE;\n\n{TABLE};\n{steps}\nCOMMIT;\n"),
    })
}

/// Returns the version of the tables; 0 where there are none.
fn applied(connection: &Connection) -> Result<i64> {
    const EXISTS: &str = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'agentkey_migrations')";
    match connection.query_row(EXISTS, [], |row| row.get(0))? {
        true => Ok(connection.query_row(APPLIED, [], |row| row.get(0))?),
        false => Ok(0),
    }
}

fn newest() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Returns the migrations that come after a version, each with its own.
fn missing(applied: i64) -> Result<impl Iterator<Item = (i64, &'static str)>> {
    if applied > newest() {
        return Err(corrupt(format!(
            "a newer version of agentkey made its tables (version {applied}; this one supports {}): upgrade agentkey",
            newest()
        )));
    }
    Ok((1_i64..).zip(MIGRATIONS).filter(move |(version, _)| *version > applied))
}
