//! What holds with real servers: other isolation levels, poolers, lost backends, crashes, replicas, and the
//! application's SQL.
#![cfg(all(feature = "postgres", feature = "axum"))]

mod adoption;
mod application_sql;
mod audit;
mod batch_isolation;
mod batches;
mod clock;
mod connection_loss;
#[path = "../support/documented.rs"]
mod documented;
mod external_writes;
mod failover;
mod health;
mod imports;
#[path = "../support/invariants.rs"]
mod invariants;
mod isolation;
mod lock_timeout;
#[path = "../http/support/logs.rs"]
mod logs;
mod pgbouncer;
mod policy_version;
#[path = "../support/postgres.rs"]
mod postgres_server;
mod proxy;
mod rate_limits;
mod reconcile;
mod retention;
mod row_locks;
mod server;
mod service;
mod standby;

use std::sync::Arc;
use std::time::Duration;

use agentkey::ledger::{Action, OnExpiry, Posted, Posting};
use agentkey::model::{Clock, Note};
use agentkey::store::PostgresOptions;
use agentkey::testing::World;
use agentkey::{Amount, Budget, Key, NewKey, PostgresStore, Refusal};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;

use postgres_server::{Database, Server};

/// Only a hang gets here.
const HANG: Duration = Duration::from_secs(60);

/// How many sessions wait for a lock.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";

async fn store(url: &str, clock: Clock) -> PostgresStore {
    PostgresStore::open(PostgresOptions::new(url).clock(clock)).await.unwrap()
}

async fn world(url: &str) -> World<PostgresStore> {
    World::new(async |clock| store(url, clock).await).await
}

/// A database of its own with our tables in it, as a store sees it and as the application does.
async fn site() -> Option<(Database, Arc<World<PostgresStore>>, PgPool)> {
    let database = Server::shared()?.database().await;
    let world = Arc::new(world(database.url()).await);
    let pool = host(database.url()).await;
    Some((database, world, pool))
}

/// A key with a lifetime budget of `cents`.
async fn key(world: &World<PostgresStore>, account: &str, cents: i32) -> Key {
    let new = NewKey::new(account.parse().unwrap()).budget(Budget::lifetime(Amount::cents(cents)));
    world.try_create(new).await.unwrap().0
}

fn pay(key: &Key, cents: i32) -> Posting {
    let action = Action::Pay { amount: Amount::cents(cents), note: Note::default(), claim: None };
    Posting::new(key.account.clone(), key.id, action)
}

fn hold(key: &Key, cents: i32) -> Posting {
    let (amount, ttl) = (Amount::cents(cents), Duration::from_secs(60));
    let action = Action::Hold {
        amount,
        ttl,
        on_expiry: OnExpiry::Release,
        note: Note::default(),
        claim: None,
    };
    Posting::new(key.account.clone(), key.id, action)
}

fn settle(hold: &Posting, cents: i32) -> Posting {
    let (holds, cost) = (vec![hold.id], Amount::cents(cents));
    let action =
        Action::Settle { holds, void: Vec::new(), cost, note: Note::default(), claim: None };
    Posting::new(hold.account.clone(), hold.key, action)
}

/// Spent and held, in cents.
async fn cents(world: &World<PostgresStore>, key: &Key) -> (i64, i64) {
    let lineage = agentkey::store::Store::lineage(&*world.store, key.id).await.unwrap().unwrap();
    let balance = lineage.key().balance;
    (balance.spent().as_micros() / 10_000, balance.held.as_micros() / 10_000)
}

/// A few connections of the application's own.
async fn host(url: &str) -> PgPool {
    PgPool::connect(url).await.unwrap()
}

async fn execute(pool: &PgPool, sql: impl Into<String>) {
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(pool).await.unwrap();
}

async fn count(pool: &PgPool, sql: impl Into<String>) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.into())).fetch_one(pool).await.unwrap()
}

fn is_unavailable<T>(answer: &Result<T, Refusal>) -> bool {
    matches!(answer, Err(Refusal::Unavailable { .. }))
}

/// Posts as a commit queue does: again, while a lock on a row lasts longer than the lock timeout.
async fn until_decided(
    store: &PostgresStore,
    postings: &[Posting],
) -> Vec<Result<Posted, Refusal>> {
    loop {
        let posted = agentkey::store::Store::post(store, postings).await.unwrap();
        if !posted.iter().any(is_unavailable) {
            return posted;
        }
    }
}

async fn until(mut done: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(HANG, async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it does not happen");
}

/// Blocking calls of the test server, where others wait for this thread.
async fn blocking<T: Send + 'static>(
    server: &Arc<Server>,
    call: impl FnOnce(&Server) -> T + Send + 'static,
) -> T {
    let server = server.clone();
    tokio::task::spawn_blocking(move || call(&server)).await.unwrap()
}
