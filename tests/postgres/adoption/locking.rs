//! Who waits for whom while a table is adopted, and for how long.

use std::time::Duration;

use agentkey::Amount;
use sqlx::pool::PoolOptions;

use super::*;

const ROW: &str = "INSERT INTO sdk_api_keys (account_id, key_prefix, key_hash, budget_cents) \
    VALUES (5, 'obs_', encode(sha256('obs_1'), 'hex'), 1000)";

/// The charge of the old service that is under way counts, as it does where the table is opened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn by_hand_it_is_the_same_in_sessions_of_another_isolation() {
    let Some(mut host) = Host::with(&npm::TABLE).await else { return };
    host.run(ROW).await;
    host.clock.set(jiff::Timestamp::now());
    let sql = PostgresStore::migration_sql(host.options().adopt(open_handed())).await.unwrap();
    let name = host.database.name().to_owned();
    host.run(&format!(
        "ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"
    ))
    .await;
    host.run(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    host.run("BEGIN; UPDATE sdk_api_keys SET budget_used_cents = 250").await;
    let mut dba = PgConnection::connect(host.database.url()).await.unwrap();
    let run =
        tokio::spawn(async move { dba.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.map(drop) });
    until_a_session_waits(&mut host).await;
    host.run("COMMIT").await;
    run.await.unwrap().unwrap();
    let store = PostgresStore::open(host.options().migrate(false)).await.unwrap();
    assert_eq!(
        find(&store, &["obs_1"]).await[0].as_ref().unwrap().remaining(),
        Some(Amount::cents(750))
    );
}

/// What a request may take is no measure for what a table takes that is looked at and changed as a whole.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_large_table_takes_its_time() {
    let Some(mut host) = Host::with(&npm::TABLE).await else { return };
    host.run(
        "ALTER TABLE sdk_api_keys ADD parent_id int; \
         INSERT INTO sdk_api_keys (account_id, key_prefix, key_hash, parent_id) SELECT n % 1000, 'obs_', \
         encode(sha256(('obs_' || n)::bytea), 'hex'), CASE WHEN n > 1000 THEN n - 1000 END \
         FROM generate_series(1, 50000) n; ANALYZE sdk_api_keys",
    )
    .await;
    let hurried = host.options().adopt(open_handed()).statement_timeout(Duration::from_millis(25));
    assert_ne!(PostgresStore::migration_sql(hurried.clone()).await.unwrap(), "");
    drop(PostgresStore::open(hurried).await.unwrap());
}

/// Processes that start together wait for the one that migrates, for longer than a request would.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn an_opening_waits_for_another_one() {
    let Some(mut host) = Host::with(&npm::TABLE).await else { return };
    host.run("BEGIN; SELECT pg_advisory_xact_lock(6004214)").await;
    let options = host.options().adopt(open_handed()).statement_timeout(Duration::from_millis(50));
    let opening = tokio::spawn(PostgresStore::open(options));
    until_a_session_waits(&mut host).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    host.run("COMMIT").await;
    drop(opening.await.unwrap().unwrap());
}

async fn until_a_session_waits(host: &mut Host) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    // Another session: what the application's own transaction saw of the statistics stays as it was.
    let pool = PoolOptions::<sqlx::Postgres>::new()
        .max_connections(1)
        .connect(host.database.url())
        .await
        .unwrap();
    for _ in 0..6_000 {
        if sqlx::query_scalar::<_, i64>(waiting).fetch_one(&pool).await.unwrap() > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody waits");
}
