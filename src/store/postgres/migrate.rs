//! Bringing the tables up to date.
//!
//! Not with sqlx's `Migrator`: its table is that of the host's own migrations, and its texts know no names that are
//! chosen at run time.

use sqlx::{AssertSqlSafe, Executor, Row};

use super::connection::{Connections, Statements};
use super::layout::Layout;

const MIGRATIONS: [&str; 1] = [include_str!("../../../migrations/postgres/0001_init.sql")];

/// Our own table of keys.
const KEYS: &str = include_str!("../../../migrations/postgres/keys.sql");

/// The SQL of all migrations, to be run by hand.
pub(super) fn script(layout: &Layout, keys: &str) -> String {
    let mut text = layout.fill("CREATE SCHEMA IF NOT EXISTS {schema};\n\n");
    text.push_str(&layout.fill(TABLE));
    text.push_str(";\n\n");
    text.push_str(keys);
    for (version, sql) in (1..).zip(MIGRATIONS) {
        text.push('\n');
        text.push_str(&layout.fill(sql));
        text.push_str(&layout.fill(&format!("\nINSERT INTO {{migrations}} (version) VALUES ({version});\n")));
    }
    text
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS {migrations} (version int PRIMARY KEY, \
    applied_at timestamptz NOT NULL DEFAULT now())";

pub(super) fn own_keys(layout: &Layout) -> String {
    layout.fill(KEYS)
}

/// Makes what is missing, in one transaction that nobody else runs at the same time.
pub(super) async fn migrate(connections: &Connections, layout: &Layout, keys: &str) -> sqlx::Result<()> {
    let newest = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
    let mut held = connections.other().await?;
    let done = async {
        let mut work = held.begin().await?;
        let statements = &mut work.statements();
        run(statements, "SELECT pg_advisory_xact_lock(6004214)".to_owned()).await?;
        // Looked for first: the right to make a schema is more than many roles have.
        if ask::<bool>(statements, layout.fill("SELECT to_regnamespace('{schema}') IS NULL")).await? {
            run(statements, layout.fill("CREATE SCHEMA IF NOT EXISTS {schema}")).await?;
        }
        if ask::<bool>(statements, layout.fill("SELECT to_regclass('{migrations}') IS NULL")).await? {
            run(statements, layout.fill(TABLE)).await?;
        }
        let applied: i32 = ask(statements, layout.fill("SELECT coalesce(max(version), 0) FROM {migrations}")).await?;
        if applied > newest {
            let text = format!(
                "a newer version of agentkey made its tables (version {applied}; this one knows {newest}): upgrade agentkey"
            );
            return Err(sqlx::Error::Configuration(text.into()));
        }
        if !keys.is_empty() {
            run(statements, keys.to_owned()).await?;
        }
        for (version, sql) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > applied) {
            run(statements, layout.fill(sql)).await?;
            run(statements, layout.fill(&format!("INSERT INTO {{migrations}} (version) VALUES ({version})"))).await?;
        }
        work.commit().await
    };
    let done = done.await;
    held.after(done)
}

async fn run(statements: &mut Statements<'_>, text: String) -> sqlx::Result<()> {
    statements.execute(sqlx::raw_sql(AssertSqlSafe(text))).await.map(drop)
}

async fn ask<T>(statements: &mut Statements<'_>, text: String) -> sqlx::Result<T>
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    statements.fetch_one(sqlx::raw_sql(AssertSqlSafe(text))).await?.try_get(0)
}
