//! Bringing the tables up to date.
//!
//! Not with sqlx's `Migrator`: on SQLite that takes no lock, so that two processes that open a new file together
//! both run the same migration, and its table is that of the host's own migrations.

use jiff::Timestamp;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

const MIGRATIONS: [&str; 3] = [
    include_str!("../../../migrations/sqlite/0001_init.sql"),
    include_str!("../../../migrations/sqlite/0002_policy_version.sql"),
    include_str!("../../../migrations/sqlite/0003_uses.sql"),
];

pub(super) async fn migrate(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    migrate_with(connection, &MIGRATIONS).await
}

async fn migrate_with(connection: &mut SqliteConnection, migrations: &[&'static str]) -> sqlx::Result<()> {
    let newest = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS agentkey_migrations (version INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL) STRICT")
        .execute(&mut *tx)
        .await?;
    let applied: i64 =
        sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM agentkey_migrations").fetch_one(&mut *tx).await?;
    if applied > newest {
        let text = format!(
            "a newer version of agentkey made its tables (version {applied}; this one knows {newest}): upgrade agentkey"
        );
        return Err(sqlx::Error::Configuration(text.into()));
    }
    for (version, sql) in (1_i64..).zip(migrations).filter(|(version, _)| *version > applied) {
        sqlx::raw_sql(*sql).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO agentkey_migrations (version, applied_at) VALUES (?1, ?2)")
            .bind(version)
            .bind(Timestamp::now().as_microsecond())
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await
}
