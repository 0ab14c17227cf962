//! The suite of `agentkey::testing` through PgBouncer in transaction mode, with two sessions in all.

use std::time::Duration;

use agentkey::model::Clock;
use agentkey::store::PostgresOptions;
use agentkey::{AgentKeys, NewKey, PostgresStore};
use sqlx::{Connection, Executor};
use tokio::sync::OnceCell;

use crate::postgres_server::{Database, PgBouncer, Server};

/// One database for all checks, with a schema for each.
struct Pooled {
    bouncer: PgBouncer,
    _database: Database,
}

async fn pooled() -> Option<&'static Pooled> {
    static POOLED: OnceCell<Option<Pooled>> = OnceCell::const_new();
    let start = async || {
        let database = Server::shared()?.database().await;
        let bouncer = PgBouncer::start(&database, 2)?;
        Some(Pooled { bouncer, _database: database })
    };
    POOLED.get_or_init(start).await.as_ref()
}

async fn open(pooled: &Pooled, schema: &str, clock: Clock) -> PostgresStore {
    let options = PostgresOptions::new(pooled.bouncer.url())
        .transaction_pooling(true)
        .schema(schema)
        .clock(clock);
    PostgresStore::open(options).await.unwrap()
}

agentkey::conformance_tests!({
    let Some(pooled) = pooled().await else { return };
    let schema = format!("checked_{}", agentkey::model::PostingId::new());
    async move |clock| open(pooled, &schema, clock).await
});

/// The policy version is polled, so no session has to `LISTEN`, which the pooler would not allow.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_revocation_by_another_instance_is_in_force_with_the_next_poll() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let Some(bouncer) = PgBouncer::start(&database, 2) else { return };
    // Longer than the test waits: it is by the poll that the revocation is seen.
    let max_staleness = 2 * crate::HANG;
    let options = PostgresOptions::new(bouncer.url()).transaction_pooling(true);
    let keys = AgentKeys::builder()
        .cache(max_staleness)
        .build(PostgresStore::open(options).await.unwrap())
        .unwrap();
    let other = AgentKeys::new(PostgresStore::connect(database.url()).await.unwrap()).unwrap();
    let created = keys.create(NewKey::new("acme".parse().unwrap())).await.unwrap();
    let pool = crate::host(database.url()).await;
    crate::until(async || {
        assert!(keys.find(&created.token).await.unwrap().is_some());
        // Who has to read the table waits for this lock.
        let mut locked = pool.begin().await.unwrap();
        locked.execute("LOCK agent_keys").await.unwrap();
        let found =
            tokio::time::timeout(Duration::from_millis(200), keys.find(&created.token)).await;
        found.is_ok_and(|found| found.unwrap().is_some())
    })
    .await;

    other.revoke(created.key.id, None).await.unwrap();
    crate::until(async || {
        keys.find(&created.token).await.unwrap().is_none_or(|found| found.check_active().is_err())
    })
    .await;
    keys.shutdown().await;
    other.shutdown().await;
}

/// Whichever session the pooler lends next, and whatever others do with it meanwhile.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn opening_without_the_option_names_it() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    for (pool_size, settings, is_busy) in [
        (1, "", false),
        (2, "", false),
        (4, "", true),
        (2, "server_round_robin = 1\n", false),
        (4, "server_round_robin = 1\n", true),
    ] {
        let Some(bouncer) = PgBouncer::start_with(&database, pool_size, settings) else { return };
        let mut others = tokio::task::JoinSet::new();
        for _ in 0..if is_busy { pool_size - 1 } else { 0 } {
            let url = bouncer.url().to_owned();
            others.spawn(async move {
                let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
                loop {
                    connection.execute(sqlx::raw_sql("SELECT pg_sleep(0.002)")).await.unwrap();
                }
            });
        }
        let error = PostgresStore::connect(bouncer.url()).await.unwrap_err();
        assert!(!error.is_transient(), "{error:?}");
        let reason = std::error::Error::source(&error).unwrap().to_string();
        assert!(reason.contains("`PostgresOptions::transaction_pooling(true)`"), "{reason}");
        let pool = crate::host(database.url()).await;
        let tables =
            crate::count(&pool, "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'agent%'");
        assert_eq!(tables.await, 0, "nothing was made");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_pooler_that_keeps_sessions_needs_no_option() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let Some(bouncer) = PgBouncer::start_with(&database, 8, "pool_mode = session\n") else {
        return;
    };
    let keys = AgentKeys::new(PostgresStore::connect(bouncer.url()).await.unwrap()).unwrap();
    let created = keys.create(NewKey::new("acme".parse().unwrap())).await.unwrap();
    assert!(keys.find(&created.token).await.unwrap().is_some());
    keys.shutdown().await;
}
