//! Keys tables of the application's own, taken over.

mod dump;
mod idempotent;
mod invalid_rows;
mod locking;
mod minimal;
mod npm;
mod policy;
mod reconcile;
mod schema_checks;
mod subjects;
mod switches;
mod versions;

use agentkey::model::{Clock, ManualClock, TokenHash};
use agentkey::store::{Adoption, PostgresOptions, Store};
use agentkey::{Budget, PostgresStore, ScopeSet, StoreError};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Executor, Row};

use crate::postgres_server::{Database, Server};

/// What an error says, with its sources.
fn text(error: &StoreError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}

/// A database with a table in it, and a clock that stands at the last day of January.
struct Host {
    database: Database,
    connection: PgConnection,
    clock: ManualClock,
}

impl Host {
    /// `None` where there is no server.
    async fn with(sql: &str) -> Option<Self> {
        let database = Server::shared()?.database().await;
        let connection = PgConnection::connect(database.url()).await.unwrap();
        let clock = ManualClock::at("2026-01-31T12:00:00Z".parse().unwrap());
        let mut host = Self { database, connection, clock };
        host.run(sql).await;
        Some(host)
    }

    async fn run(&mut self, sql: &str) {
        self.connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
    }

    async fn rows(&mut self, sql: &str) -> Vec<PgRow> {
        self.connection.fetch_all(sqlx::query(AssertSqlSafe(sql.to_owned()))).await.unwrap()
    }

    /// The only cell of the only row, which is a text.
    async fn text(&mut self, sql: &str) -> String {
        let rows = self.rows(&format!("SELECT coalesce(({sql})::text, 'NULL')")).await;
        rows[0].get(0)
    }

    fn options(&self) -> PostgresOptions {
        PostgresOptions::new(self.database.url())
            .clock(Clock::from(&self.clock))
            .table("sdk_api_keys")
    }

    /// The same for another role.
    fn options_as(&self, role: &str) -> PostgresOptions {
        PostgresOptions::new(self.url_as(role))
            .clock(Clock::from(&self.clock))
            .table("sdk_api_keys")
    }

    fn url_as(&self, role: &str) -> String {
        let (scheme, rest) = self.database.url().split_once("://").unwrap();
        let (_, place) = rest.split_once('@').unwrap();
        format!("{scheme}://{role}@{place}")
    }

    async fn open(&self, adoption: Adoption) -> Result<PostgresStore, StoreError> {
        PostgresStore::open(self.options().adopt(adoption)).await
    }

    /// The error of an opening that must fail.
    async fn refused(&self, options: PostgresOptions) -> String {
        text(&PostgresStore::open(options).await.expect_err("it was opened"))
    }

    /// All that the catalogue says of the application's tables, and all that is in the one with the keys.
    async fn everything(&mut self) -> String {
        self.text(
            "SELECT string_agg(t, E'\n' ORDER BY t) FROM (SELECT concat_ws(' ', table_schema, table_name, column_name, \
             data_type, column_default, is_nullable) AS t FROM information_schema.columns \
             WHERE table_schema NOT IN ('pg_catalog', 'information_schema') UNION ALL SELECT indexdef FROM pg_indexes \
             WHERE schemaname NOT IN ('pg_catalog', 'information_schema') UNION ALL SELECT nspname FROM pg_namespace \
             WHERE nspname !~ '^pg_') x (t)",
        )
        .await
    }
}

/// No scopes is no restriction, and no budget is no limit.
fn open_handed() -> Adoption {
    Adoption::new(ScopeSet::unrestricted(), Budget::unlimited())
}

async fn find(store: &PostgresStore, tokens: &[&str]) -> Vec<Option<agentkey::model::Lineage>> {
    let hashes: Vec<_> = tokens.iter().map(|token| TokenHash::digest(token)).collect();
    let found = store.find(&hashes).await.unwrap();
    found.into_iter().map(|found| found.map(|found| found.lineage)).collect()
}

trait MapSome {
    /// Which were found.
    fn map_some(&self) -> Vec<bool>;
}

impl MapSome for Vec<Option<agentkey::model::Lineage>> {
    fn map_some(&self) -> Vec<bool> {
        self.iter().map(Option::is_some).collect()
    }
}
