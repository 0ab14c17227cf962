//! The least that a program could do: prepared statements by primary key, on one connection.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, SqliteConnection};

use crate::support::Result;

const ROWS: i64 = 1_000;

pub enum Database {
    Sqlite(SqliteConnection),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::PgConnection),
}

/// On whatever connection it has.
macro_rules! on {
    ($database:expr, $connection:ident => $call:expr) => {
        match $database {
            Database::Sqlite($connection) => {
                $call;
            }
            #[cfg(feature = "postgres")]
            Database::Postgres($connection) => {
                $call;
            }
        }
    };
}

impl Database {
    pub async fn sqlite(file: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        Self::Sqlite(options.connect().await?).filled().await
    }

    #[cfg(feature = "postgres")]
    pub async fn postgres(url: &str) -> Result<Self> {
        use sqlx::Connection;

        Self::Postgres(sqlx::PgConnection::connect(url).await?).filled().await
    }

    async fn filled(mut self) -> Result<Self> {
        let rows = "INSERT INTO plain (id, value) WITH RECURSIVE n (id) AS \
                    (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 1000) SELECT id, 0 FROM n";
        for sql in ["CREATE TABLE plain (id bigint PRIMARY KEY, value bigint NOT NULL)", rows] {
            on!(&mut self, connection => sqlx::query(sql).execute(connection).await?);
        }
        Ok(self)
    }

    /// Some row.
    pub async fn select(&mut self, row: i64) -> Result<()> {
        const SQL: &str = "SELECT value FROM plain WHERE id = $1";
        let id = row % ROWS + 1;
        on!(self, connection => sqlx::query_scalar::<_, i64>(SQL).bind(id).fetch_one(connection).await?);
        Ok(())
    }

    /// One row, in a transaction of its own.
    pub async fn update(&mut self, row: i64) -> Result<()> {
        const SQL: &str = "UPDATE plain SET value = value + 1 WHERE id = $1";
        let id = row % ROWS + 1;
        on!(self, connection => sqlx::query(SQL).bind(id).execute(connection).await?);
        Ok(())
    }
}
