//! On PostgreSQL: backends are terminated and the server crashes, too.

use std::sync::Arc;
use std::time::Duration;

use agentkey::model::ManualClock;
use agentkey::store::{PostgresOptions, Store};
use agentkey::{AgentKeys, PostgresStore};
use sqlx::postgres::PgPool;

use crate::audit;
use crate::journal::Journals;
use crate::load::Load;
use crate::postgres_server::Server;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn whatever_dies_the_books_are_right() {
    let Some(server) = Server::start(&[]) else { return };
    let server = Arc::new(server);
    let database = server.database().await;
    let keys = AgentKeys::postgres(database.url()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut load = Load::start(database.url(), &keys, directory.path()).await;
    let (mut crashes, mut terminated) = (0, 0);
    // Each once, and then as it comes.
    let mut first = [0, 5, 8, 9].into_iter();
    while load.goes_on().await || first.len() > 0 {
        match first.next().unwrap_or_else(|| load.random.below(10)) {
            0..5 => terminated += terminate(database.url()).await,
            5..8 => load.kill_one(),
            8 => {
                let server = server.clone();
                let restart = move || {
                    server.stop("immediate");
                    server.start_again();
                };
                tokio::task::spawn_blocking(restart).await.unwrap();
                crashes += 1;
            }
            _ => load.change(&keys).await,
        }
    }
    let journals = load.finish().await;

    let pool = PgPool::connect(database.url()).await.unwrap();
    check(&pool, &journals).await;
    // What the killed processes held runs out.
    let later = ManualClock::at(jiff::Timestamp::now() + Duration::from_secs(120));
    let store =
        PostgresStore::open(PostgresOptions::new(database.url()).clock(&later)).await.unwrap();
    store.sweep().await.unwrap();
    let held: i64 = sqlx::query_scalar(
        "SELECT (SELECT sum(held)::int8 FROM agentkey_accounts) + (SELECT coalesce(sum(held), 0)::int8 FROM agentkey_balances)",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(held, 0, "what the dead held is free");
    crate::agree(store).await;
    check(&pool, &journals).await;
    let log = server.log();
    assert!(!log.contains("deadlock detected"), "{log}");
    assert!(!log.contains("PANIC"), "{log}");
    let done = format!("{crashes} crashes of the server, {terminated} backends terminated");
    load.report("PostgreSQL", &journals, &done);
}

async fn check(pool: &PgPool, journals: &Journals) {
    audit::figures(pool).await;
    audit::charged(pool, &journals.acknowledged).await;
    audit::entries(pool, &journals.entries).await;
    audit::not_charged(pool, &journals.refused).await;
}

async fn terminate(url: &str) -> i64 {
    let pool = PgPool::connect(url).await.unwrap();
    let terminated = sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name = 'agentkey'",
    );
    let terminated = terminated.fetch_one(&pool).await.unwrap();
    pool.close().await;
    terminated
}
