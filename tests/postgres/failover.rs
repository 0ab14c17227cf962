//! A standby that takes over, and stores that remember another past than the database's.

use agentkey::Refusal;
use agentkey::model::ManualClock;
use agentkey::store::Store;
use tokio::task::JoinSet;

use super::*;
use crate::postgres_server::PgBouncer;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_promoted_replica_has_every_acknowledged_charge_and_charges() {
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
        let (store, limited, acknowledged) =
            (before.store.clone(), limited.clone(), acknowledged.clone());
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
    let left = i32::try_from(1_000 - balance.spent().as_micros() / 10_000).unwrap();
    assert!(left > 0);
    assert!(after.post(&[pay(&limited, left)]).await.unwrap()[0].is_ok());
    assert!(after.post(&[pay(&limited, 1)]).await.unwrap()[0].is_err());
    audit::figures(&pool).await;
}

/// The database goes back to how it was, as after a promotion that lost commits, under a store that saw more.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
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
        execute(
            &pool,
            format!("TRUNCATE {table}; INSERT INTO {table} {values} SELECT * FROM was_{table}"),
        )
        .await;
    }
    assert!(other.post(&pay(&limited, 70)).await.is_ok());

    // By the first store's memory 80 are left; by the database, 30.
    assert!(one.post(&pay(&limited, 60)).await.is_err());
    assert!(one.post(&pay(&limited, 30)).await.is_ok());
    assert_eq!(cents(&other, &limited).await, (100, 0));
    audit::figures(&pool).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_look_up_believes_the_server_that_answers_and_not_what_another_said() {
    let Some((_database, world, pool)) = site().await else { return };
    let new = NewKey::new("acme".parse().unwrap()).budget(Budget::lifetime(Amount::cents(100)));
    let (key, hash) = world.try_create(new).await.unwrap();
    let spent = async || {
        let found = world.store.find(&[hash]).await.unwrap().pop().flatten().unwrap();
        found.lineage.key().balance.spent()
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

/// A server comes back without its last commit, as a standby that took over, and goes on to another one with the same
/// number, in which a key is revoked.
async fn a_key_that_another_history_revoked_is_in_force_no_more(
    is_pooled: bool,
    looks_first: bool,
) {
    let Some(server) = Server::start(&[("autovacuum", "off")]) else { return };
    let server = Arc::new(server);
    let database = server.database().await;
    let bouncer = if is_pooled { PgBouncer::start(&database, 2) } else { None };
    if bouncer.is_none() && is_pooled {
        return;
    }
    let url = bouncer.as_ref().map_or(database.url(), |bouncer| bouncer.url()).to_owned();
    let options = |clock| PostgresOptions::new(&*url).transaction_pooling(is_pooled).clock(clock);
    let world = World::new(async |clock| PostgresStore::open(options(clock)).await.unwrap()).await;
    let (key, hash) = world.try_create(NewKey::new("acme".parse().unwrap())).await.unwrap();
    let pool = host(database.url()).await;
    let data: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&pool).await.unwrap();
    between_runs(&server, "fast", format!("cp -a '{data}' '{data}.standby'")).await;

    let pool = host(database.url()).await;
    execute(&pool, "UPDATE agent_keys SET name = 'renamed'").await;
    let found =
        async || world.store.find(&[hash]).await.ok().and_then(|mut found| found.pop()).flatten();
    for _ in 0..3 {
        until(async || found().await.is_some_and(|found| found.lineage.key().name == "renamed"))
            .await;
    }
    if !is_pooled {
        // The server hangs, and the look-up times out: the pool does not see the connection break.
        let mut locked = pool.begin().await.unwrap();
        sqlx::raw_sql("LOCK TABLE agent_keys IN ACCESS EXCLUSIVE MODE")
            .execute(&mut *locked)
            .await
            .unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(300), found()).await.is_err());
    }
    between_runs(&server, "immediate", format!("rm -r '{data}'; mv '{data}.standby' '{data}'"))
        .await;
    execute(&host(database.url()).await, "UPDATE agent_keys SET revoked_at = created_at").await;

    // Look-ups and postings each ask, and what the first one reads counts for both. A pooler first reports that its
    // sessions are gone.
    for looks in [looks_first, !looks_first] {
        if looks {
            let mut seen = None;
            until(async || {
                seen = found().await;
                seen.is_some()
            })
            .await;
            assert!(seen.unwrap().lineage.check_active().is_err());
        } else {
            let mut paid = None;
            until(async || {
                let posted = world.store.post(&[pay(&key, 1)]).await;
                paid = posted.ok().and_then(|mut posted| posted.pop());
                paid.is_some()
            })
            .await;
            assert!(matches!(paid, Some(Err(Refusal::RevokedKey))), "{paid:?}");
        }
    }
}

async fn between_runs(server: &Arc<Server>, stop: &'static str, script: String) {
    let run = move |server: &Server| {
        server.stop(stop);
        assert!(
            std::process::Command::new("sh").arg("-c").arg(&script).status().unwrap().success(),
            "{script}"
        );
        server.start_again();
    };
    blocking(server, run).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_look_up_that_was_given_up_hides_no_other_history() {
    for looks_first in [false, true] {
        a_key_that_another_history_revoked_is_in_force_no_more(false, looks_first).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_pooler_hides_no_other_history() {
    for looks_first in [false, true] {
        a_key_that_another_history_revoked_is_in_force_no_more(true, looks_first).await;
    }
}
