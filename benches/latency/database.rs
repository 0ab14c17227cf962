//! The least that a program could do: prepared statements by primary key, on one connection.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;

use crate::support::Result;

const ROWS: i64 = 1_000;

pub enum Database {
    /// It is not shared; the mutex lets futures that borrow it go to other threads.
    Sqlite(Mutex<Connection>),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::PgConnection),
}

impl Database {
    pub async fn sqlite(file: &Path) -> Result<Self> {
        let connection = Connection::open(file)?;
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")?;
        Self::Sqlite(Mutex::new(connection)).filled().await
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
            match &mut self {
                Self::Sqlite(connection) => open(connection).execute_batch(sql)?,
                #[cfg(feature = "postgres")]
                Self::Postgres(connection) => {
                    sqlx::query(sql).execute(connection).await.map(|_| ())?
                }
            }
        }
        Ok(self)
    }

    /// Some row.
    pub async fn select(&mut self, row: i64) -> Result<()> {
        const SQL: &str = "SELECT value FROM plain WHERE id = $1";
        let id = row % ROWS + 1;
        match self {
            Self::Sqlite(connection) => open(connection)
                .prepare_cached(SQL)?
                .query_row([id], |row| row.get::<_, i64>(0))
                .map(|_| ())?,
            #[cfg(feature = "postgres")]
            Self::Postgres(connection) => sqlx::query_scalar::<_, i64>(SQL)
                .bind(id)
                .fetch_one(connection)
                .await
                .map(|_| ())?,
        }
        Ok(())
    }

    /// One row, in a transaction of its own.
    pub async fn update(&mut self, row: i64) -> Result<()> {
        const SQL: &str = "UPDATE plain SET value = value + 1 WHERE id = $1";
        let id = row % ROWS + 1;
        match self {
            Self::Sqlite(connection) => {
                open(connection).prepare_cached(SQL)?.execute([id]).map(|_| ())?
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(connection) => {
                sqlx::query(SQL).bind(id).execute(connection).await.map(|_| ())?
            }
        }
        Ok(())
    }
}

fn open(connection: &mut Mutex<Connection>) -> &mut Connection {
    connection.get_mut().unwrap_or_else(PoisonError::into_inner)
}
