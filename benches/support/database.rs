//! A PostgreSQL server whose commits wait for the disk.

#[path = "../../tests/support/postgres.rs"]
mod postgres;

use postgres::Server;
use sqlx::{Connection, PgConnection};

use super::Result;

/// An empty database: of the server that `AGENTKEY_TEST_DATABASE_URL` names, else of one that is gone with it.
pub struct Database {
    database: postgres::Database, // Dropped before its server.
    _server: Option<Server>,
}

impl Database {
    /// None where PostgreSQL is not installed.
    pub async fn start() -> Option<Self> {
        if std::env::var_os("AGENTKEY_TEST_DATABASE_URL").is_some() {
            return Some(Self { database: Server::shared()?.database().await, _server: None });
        }
        let server = Server::start(&[("fsync", "on"), ("synchronous_commit", "on")])?;
        Some(Self { database: server.database().await, _server: Some(server) })
    }

    pub fn url(&self) -> &str {
        self.database.url()
    }

    /// What was measured, for the head of a table.
    pub async fn describe(&self) -> Result<String> {
        let mut connection = PgConnection::connect(self.url()).await?;
        let mut shown = Vec::new();
        for sql in ["SHOW server_version", "SHOW fsync", "SHOW synchronous_commit"] {
            shown.push(sqlx::query_scalar::<_, String>(sql).fetch_one(&mut connection).await?);
        }
        connection.close().await?;
        Ok(format!("PostgreSQL {}, fsync {}, synchronous_commit {}", shown[0], shown[1], shown[2]))
    }
}
