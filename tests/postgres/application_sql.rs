//! What the application's own SQL does to the tables counts at once, also for a store that has the account cached; and
//! batches of several stores do not deadlock.

use agentkey::Refusal;
use agentkey::model::{ManualClock, Period, TokenHash};
use agentkey::store::Store;
use tokio::task::JoinSet;

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_revocation_by_sql_refuses_new_work_on_a_warm_account_and_posts_what_was_done() {
    let Some((_database, world, pool)) = site().await else { return };
    let parent = key(&world, "acme", 100).await;
    let child = world.try_create(NewKey::child_of(parent.id)).await;
    let child = match child {
        Ok((child, _)) => child,
        Err(error) => panic!("{error}"),
    };
    for (revoked, revives) in [(parent.id, true), (child.id, false)] {
        // Warm: the next posting needs no look at all.
        let held = [hold(&child, 10), hold(&child, 10)];
        assert!(world.post_all(&held).await.iter().all(Result::is_ok));
        assert!(world.post(&pay(&child, 1)).await.is_ok());

        execute(&pool, format!("UPDATE agent_keys SET revoked_at = now() WHERE id = {revoked}"))
            .await;
        assert_eq!(world.post(&pay(&child, 1)).await, Err(Refusal::RevokedKey));
        assert_eq!(world.post(&hold(&child, 1)).await, Err(Refusal::RevokedKey));
        assert!(world.post(&settle(&held[0], 5)).await.is_ok(), "what was done is charged");
        let both = world.post_all(&[settle(&held[1], 5), pay(&child, 1)]).await;
        assert!(both[0].is_ok() && both[1] == Err(Refusal::RevokedKey), "{both:?}");
        if revives {
            execute(&pool, "UPDATE agent_keys SET revoked_at = NULL").await;
        }
    }
    assert_eq!(cents(&world, &parent).await, (22, 0));
    audit::figures(&pool).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_change_by_sql_is_in_force_at_the_next_look_up() {
    let Some((_database, world, pool)) = site().await else { return };
    let parent = key(&world, "acme", 100).await;
    let (child, hash) = world.try_create(NewKey::child_of(parent.id)).await.unwrap();
    let find = async || {
        world.store.find(&[hash]).await.unwrap().pop().flatten().map(|found| found.lineage)
    };
    let is_refused = async || find().await.is_none_or(|lineage| lineage.check_active().is_err());
    for key in [parent.id, child.id] {
        for set in ["revoked_at = '2000-01-01'", "expires_at = '2000-01-01'"] {
            // Warm: only the versions are asked for.
            assert!(!is_refused().await && !is_refused().await, "{set}");
            execute(&pool, format!("UPDATE agent_keys SET {set} WHERE id = {key}")).await;
            assert!(is_refused().await, "{set} of {key}");
            execute(&pool, "UPDATE agent_keys SET revoked_at = NULL, expires_at = NULL").await;
        }
    }
    assert!(!is_refused().await);
    execute(
        &pool,
        "UPDATE agent_keys SET name = 'by SQL', scopes = '{read}', limit_micros = 70000",
    )
    .await;
    let lineage = find().await.unwrap();
    assert_eq!(
        (lineage.key().name.as_str(), lineage.key().scopes.to_string().as_str()),
        ("by SQL", "read")
    );
    assert_eq!(lineage.remaining(), Some(Amount::cents(7)));
    execute(
        &pool,
        format!("UPDATE agent_keys SET key_hash = repeat('0', 64) WHERE id = {}", child.id),
    )
    .await;
    assert!(find().await.is_none(), "the token is another one's");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_limit_lowered_by_sql_holds_for_the_next_payment_on_a_warm_account() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    assert!(world.post(&pay(&key, 10)).await.is_ok());
    execute(&pool, "UPDATE agent_keys SET limit_micros = 100000").await;
    assert!(world.post(&pay(&key, 1)).await.is_err());
    execute(&pool, "UPDATE agent_keys SET limit_micros = 110000").await;
    assert!(world.post(&pay(&key, 1)).await.is_ok(), "a refusal is not remembered");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_limit_added_by_sql_is_counted_and_binds() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    assert!(world.post(&pay(&key, 2)).await.is_ok());
    execute(&pool, "UPDATE agent_keys SET more_limits = '{\"day\": 30000, \"month\": 90000}'")
        .await;
    let found = world.store.lineage(key.id).await.unwrap().unwrap();
    let spent = |period| found.key().balance.spent_in(period);
    let two = Some(agentkey::Amount::cents(2));
    assert_eq!([Period::Lifetime, Period::Day, Period::Month].map(spent), [two; 3]);
    let Err(Refusal::BudgetExceeded(short)) = world.post(&pay(&key, 2)).await else {
        panic!("it fits")
    };
    assert_eq!(short.period, Period::Day);
    execute(&pool, "UPDATE agent_keys SET more_limits = NULL").await;
    assert!(world.post(&pay(&key, 2)).await.is_ok());
    execute(&pool, "UPDATE agent_keys SET disabled_at = now()").await;
    assert_eq!(world.post(&pay(&key, 2)).await, Err(Refusal::DisabledKey));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_period_changed_by_sql_is_counted_again() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    assert!(world.post(&pay(&key, 60)).await.is_ok());
    world.clock.advance(Duration::from_secs(2 * 86_400));
    assert!(world.post(&pay(&key, 30)).await.is_ok());
    assert!(world.post(&pay(&key, 11)).await.is_err());

    execute(&pool, "UPDATE agent_keys SET period = 'day'").await;
    assert!(world.post(&pay(&key, 70)).await.is_ok(), "30 of today's 100 were spent");
    assert!(world.post(&pay(&key, 1)).await.is_err());
    assert_eq!(cents(&world, &key).await, (100, 0));

    execute(&pool, "UPDATE agent_keys SET period = 'lifetime', limit_micros = 2000000").await;
    assert_eq!(cents(&world, &key).await, (160, 0));
    let found = world.store.lineage(key.id).await.unwrap().unwrap();
    assert_eq!(found.key().budget.period, Period::Lifetime);
    assert!(world.post(&pay(&key, 40)).await.is_ok());
    assert!(world.post(&pay(&key, 1)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn keys_that_the_application_inserted_work_without_a_row_of_their_account() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let worlds = [world(database.url()).await, world(database.url()).await];
    let pool = host(database.url()).await;
    let hash = TokenHash::digest("made by the host");
    execute(
        &pool,
        format!(
            "INSERT INTO agent_keys (account_id, key_hash, limit_micros) VALUES ('new', '{hash}', 1000000); \
             INSERT INTO agent_keys (account_id, key_hash, parent_id) SELECT 'new', 'child', id FROM agent_keys"
        ),
    )
    .await;
    let found = worlds[0].store.find(&[hash]).await.unwrap().pop().flatten().unwrap();
    let root = found.lineage.key().clone();
    let mut child = root.clone();
    child.id = agentkey::KeyId::new(root.id.get() + 1);

    // All at once, so that the account is made by many.
    let mut race = JoinSet::new();
    for n in 0..40 {
        let store = worlds[n % 2].store.clone();
        let posting = pay(if n % 3 == 0 { &child } else { &root }, 5);
        race.spawn(async move { store.post(&[posting]).await.unwrap()[0].is_ok() });
    }
    let accepted = race.join_all().await.into_iter().filter(|accepted| *accepted).count();
    assert_eq!(accepted, 20);
    assert_eq!(cents(&worlds[0], &root).await, (100, 0));
    audit::figures(&pool).await;
}

/// Every store has its own commit queues, and every batch its own order.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn batches_over_many_accounts_in_opposite_order_do_not_deadlock() {
    let Some(server) = Server::start(&[("fsync", "off")]) else { return };
    let database = server.database().await;
    let mut worlds = Vec::new();
    for _ in 0..3 {
        worlds.push(world(database.url()).await);
    }
    let mut keys = Vec::new();
    for account in 0..12 {
        keys.push(key(&worlds[0], &format!("account {account}"), 200).await);
    }
    let mut load = JoinSet::new();
    for task in 0..6 {
        let (store, keys) = (worlds[task % worlds.len()].store.clone(), keys.clone());
        load.spawn(async move {
            let mut accepted = 0;
            for round in 0..50 {
                let mut batch: Vec<_> = keys
                    .iter()
                    .enumerate()
                    // Some by cached data, some under the lock.
                    .map(|(n, key)| match (round + n) % 4 {
                        0 => Posting::new(
                            key.account.clone(),
                            key.id,
                            Action::Open { claim: None, ttl: Duration::from_secs(60) },
                        ),
                        _ => pay(key, 1),
                    })
                    .collect();
                batch.rotate_left((round * 5 + task) % keys.len());
                if task % 2 == 0 {
                    batch.reverse();
                }
                // An error is one that was not tried again often enough.
                let posted = store.post(&batch).await.unwrap();
                let is_pay = |posting: &Posting| matches!(posting.action, Action::Pay { .. });
                accepted += batch
                    .iter()
                    .zip(&posted)
                    .filter(|(it, posted)| is_pay(it) && posted.is_ok())
                    .count();
            }
            accepted
        });
    }
    // Changes of policy and sweeps take the same locks.
    for round in 0..20 {
        worlds[round % 3].store.sweep().await.unwrap();
        let patch = agentkey::KeyPatch::new().name(format!("{round}"));
        worlds[round % 3]
            .change_key(agentkey::ledger::KeyChange::Update {
                key: keys[round % keys.len()].id,
                patch,
            })
            .await
            .unwrap();
    }
    let accepted = load.join_all().await.into_iter().sum::<usize>();
    let pool = host(database.url()).await;
    audit::figures(&pool).await;
    assert_eq!(count(&pool, "SELECT count(*) FROM agentkey_entries").await, accepted as i64);
    assert!(!server.log().contains("deadlock detected"), "{}", server.log());
}

/// A manual clock that is behind: what a store knows of an account does not let its time go back.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn stores_whose_clocks_differ_keep_one_time_for_an_account() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let ahead = world(database.url()).await;
    let behind = ManualClock::at(ahead.clock.now());
    let behind = store(database.url(), Clock::from(&behind)).await;
    let key = key(&ahead, "acme", 100).await;
    ahead.clock.advance(Duration::from_secs(3_600));
    for round in 0..3 {
        assert!(ahead.post(&pay(&key, 1)).await.is_ok(), "{round}");
        assert!(behind.post(&[pay(&key, 1)]).await.unwrap()[0].is_ok(), "{round}");
    }
    let pool = host(database.url()).await;
    let backwards = count(
        &pool,
        "SELECT count(*) FROM (SELECT at, lag(at) OVER (ORDER BY seq) AS before FROM agentkey_entries) e WHERE at < before",
    )
    .await;
    assert_eq!(backwards, 0);
}
