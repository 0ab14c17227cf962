//! A standby that takes over, and stores that remember another past than the database's.

use agentkey::{ManualClock, Store};
use tokio::task::JoinSet;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_has_every_acknowledged_charge_and_goes_on() {
    let Some(primary) = Server::start(&[]) else { return };
    let primary = Arc::new(primary);
    let database = primary.database().await;
    let before = world(database.url()).await;
    let limited = key(&before, "acme", 1_000).await;
    let replica = primary.replica(true).await;

    // Killed in the middle of load.
    let mut load = JoinSet::new();
    let acknowledged = Arc::new(std::sync::Mutex::new(Vec::new()));
    for _ in 0..8 {
        let (store, limited, acknowledged) = (before.store.clone(), limited.clone(), acknowledged.clone());
        load.spawn(async move {
            loop {
                let (hold, paid) = (hold(&limited, 2), pay(&limited, 1));
                let Ok(posted) = store.post(&[hold.clone(), paid.clone()]).await else { break };
                assert!(posted.iter().all(Result::is_ok), "{posted:?}");
                acknowledged.lock().unwrap().push(paid.id);
                if store.post(&[settle(&hold, 1)]).await.is_err() {
                    break;
                }
            }
        });
    }
    until(async || acknowledged.lock().unwrap().len() >= 100).await;
    blocking(&primary, |primary| primary.stop("immediate")).await;
    load.join_all().await;
    replica.promote();

    let url = replica.url(database.name());
    let pool = host(&url).await;
    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    let ids: Vec<String> = acknowledged.iter().map(ToString::to_string).collect();
    audit::entries(&pool, &ids).await;
    audit::figures(&pool).await;

    // What the dead primary's clients had set aside is free a minute later; the rest can be spent to the cent.
    let later = ManualClock::at(before.clock.now() + Duration::from_secs(120));
    let after = store(&url, Clock::from(&later)).await;
    assert!(
        after.sweep().await.unwrap() > 0
            || count(&pool, "SELECT count(*) FROM agentkey_holds WHERE state = 'live'").await == 0
    );
    let balance = after.lineage(limited.id).await.unwrap().unwrap().key().balance;
    assert_eq!(balance.held, Amount::ZERO);
    let left = i32::try_from(1_000 - balance.spent.as_micros() / 10_000).unwrap();
    assert!(left > 0);
    assert!(after.post(&[pay(&limited, left)]).await.unwrap()[0].is_ok());
    assert!(after.post(&[pay(&limited, 1)]).await.unwrap()[0].is_err());
    audit::figures(&pool).await;
}

/// The database goes back to how it was, as after a promotion that lost commits, under a store that saw more.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_remembers_is_not_written_over_another_history() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let (one, other) = (world(database.url()).await, world(database.url()).await);
    let limited = key(&one, "acme", 100).await;
    let pool = host(database.url()).await;
    let tables = ["agentkey_accounts", "agentkey_balances", "agentkey_holds", "agentkey_entries"];
    for table in tables {
        execute(&pool, format!("CREATE TABLE was_{table} AS TABLE {table}")).await;
    }
    // As many commits here as there: the same number of changes, of other content.
    assert!(one.post(&pay(&limited, 20)).await.is_ok());
    for table in tables {
        // Identity columns are always generated; the order of the entries does not matter here.
        let values = if table == "agentkey_entries" { "OVERRIDING SYSTEM VALUE" } else { "" };
        execute(&pool, format!("TRUNCATE {table}; INSERT INTO {table} {values} SELECT * FROM was_{table}")).await;
    }
    assert!(other.post(&pay(&limited, 70)).await.is_ok());

    // By the first store's memory 80 are left; by the database, 30.
    assert!(one.post(&pay(&limited, 60)).await.is_err());
    assert!(one.post(&pay(&limited, 30)).await.is_ok());
    assert_eq!(cents(&other, &limited).await, (100, 0));
    audit::figures(&pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_believes_the_server_that_answers_and_not_what_another_said() {
    let Some((_database, world, pool)) = site().await else { return };
    let new = NewKey::new("acme".parse().unwrap()).budget(Budget::lifetime(Amount::cents(100)));
    let (key, hash) = world.try_create(new).await.unwrap();
    let spent = async || {
        let found = world.store.find(&[hash]).await.unwrap().pop().flatten().unwrap();
        found.lineage.key().balance.spent
    };
    for _ in 0..3 {
        assert!(world.post(&pay(&key, 10)).await.is_ok());
        assert!(spent().await > Amount::ZERO);
    }
    // The last commits are gone with the server that had them.
    execute(
        &pool,
        "UPDATE agentkey_accounts SET version = 1, spent = 100000; UPDATE agentkey_balances SET spent = 100000",
    )
    .await;
    let ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE application_name = 'agentkey' AND datname = current_database()";
    execute(&pool, ours).await;
    assert_eq!(spent().await, Amount::cents(10));
}
