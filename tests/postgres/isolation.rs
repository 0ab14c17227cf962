//! Databases whose sessions are serializable unless they say otherwise.

use std::sync::Arc;

use agentkey::PostgresStore;
use agentkey::store::PostgresOptions;
use tokio::task::JoinSet;

use super::*;
use crate::postgres_server::{Database, Server};

async fn serializable() -> Option<Database> {
    let database = Server::shared()?.database().await;
    let pool = host(database.url()).await;
    for setting in
        ["default_transaction_isolation = 'serializable'", "default_transaction_deferrable = on"]
    {
        execute(&pool, format!("ALTER DATABASE {} SET {setting}", database.name())).await;
    }
    pool.close().await;
    Some(database)
}

/// Stores race for a hundred cents: a payment of one cent, and a hold of one that is settled.
async fn race(options: impl Fn() -> PostgresOptions) {
    let world =
        World::new(async |clock| PostgresStore::open(options().clock(clock)).await.unwrap()).await;
    let other = Arc::new(PostgresStore::open(options().clock(&world.clock)).await.unwrap());
    let parent = key(&world, "acme", 100).await;
    let mut children = Vec::new();
    for _ in 0..4 {
        let child = NewKey::child_of(parent.id).budget(Budget::lifetime(Amount::cents(100)));
        children.push(world.try_create(child).await.unwrap().0);
    }
    let mut race = JoinSet::new();
    for n in 0..60 {
        let store = if n % 2 == 0 { world.store.clone() } else { other.clone() };
        let child = children[n % children.len()].clone();
        race.spawn(async move {
            let hold = hold(&child, 1);
            // An error here is one that was not tried again.
            let posted = until_decided(&store, &[pay(&child, 1), hold.clone()]).await;
            until_decided(&store, &[settle(&hold, i32::from(posted[1].is_ok()))]).await;
            posted.iter().filter(|posted| posted.is_ok()).count()
        });
    }
    assert_eq!(race.join_all().await.into_iter().sum::<usize>(), 100);
    assert_eq!(cents(&world, &parent).await, (100, 0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn racing_payments_are_exact_where_sessions_are_serializable() {
    let Some(database) = serializable().await else { return };
    race(|| PostgresOptions::new(database.url())).await;
    audit::figures(&host(database.url()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn racing_payments_are_exact_in_the_serializable_sessions_of_the_applications_pool() {
    let Some(database) = serializable().await else { return };
    let pools = [host(database.url()).await, host(database.url()).await];
    let turn = std::sync::atomic::AtomicUsize::new(0);
    race(|| {
        PostgresOptions::pool(
            pools[turn.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % 2].clone(),
        )
    })
    .await;

    // What the store set in its sessions is not left in the application's.
    let of_host: String = sqlx::query_scalar("SHOW default_transaction_isolation")
        .fetch_one(&pools[0])
        .await
        .unwrap();
    assert_eq!(of_host, "serializable");
    audit::figures(&pools[0]).await;
}

/// Where settings of TCP mean nothing.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_unix_socket_takes_the_settings_of_our_sessions() {
    let Some((database, _world, pool)) = site().await else { return };
    let directory: String =
        sqlx::query_scalar("SHOW unix_socket_directories").fetch_one(&pool).await.unwrap();
    let options: sqlx::postgres::PgConnectOptions = database.url().parse().unwrap();
    let socket = sqlx::postgres::PgPoolOptions::new()
        .connect_with(options.socket(&directory))
        .await
        .unwrap();
    let is_socket =
        "SELECT count(*) FROM pg_stat_activity WHERE pid = pg_backend_pid() AND client_port = -1";
    assert_eq!(count(&socket, is_socket).await, 1);
    let world = World::new(async |clock| {
        PostgresStore::open(PostgresOptions::pool(socket.clone()).clock(clock)).await.unwrap()
    })
    .await;
    let key = key(&world, "acme", 10).await;
    assert!(world.post(&pay(&key, 10)).await.is_ok());
    assert_eq!(cents(&world, &key).await, (10, 0));
}
