//! Balances that SQL has falsified are found, and mended on the word of the application; healthy ones agree under load of
//! several instances.

use std::sync::atomic::{AtomicBool, Ordering};

use agentkey::model::{Difference, EntryKind, EventKind, Origin};
use agentkey::store::Store;
use agentkey::{AgentKeys, EntryQuery, EventQuery, Holder, ReconcileQuery};
use futures_util::TryStreamExt;
use tokio::task::JoinSet;

use super::*;

/// Every figure that differs, of all accounts and keys.
pub(crate) async fn differences(store: &PostgresStore) -> Vec<(Holder, Difference)> {
    let keys = AgentKeys::new(store.clone()).unwrap();
    let found = keys.reconcile_stream(ReconcileQuery::all().limit(7));
    let found: Vec<_> = found.try_collect().await.unwrap();
    let all = found.into_iter().flat_map(|found| {
        let holder = found.holder();
        found.differences.into_iter().map(move |difference| (holder.clone(), difference))
    });
    all.collect()
}

/// A parent and a child with 50 cents a life and 40 a day, as the account; the child has spent 2 cents and holds 3.
async fn family(world: &World<PostgresStore>) -> [Key; 2] {
    let limits = Budget::lifetime(Amount::cents(50)).and_daily(Amount::cents(40));
    let new = NewKey::new("acme".parse().unwrap()).budget(limits);
    let parent = world.try_create(new).await.unwrap().0;
    let child = world.try_create(NewKey::child_of(parent.id).budget(limits)).await.unwrap().0;
    let change = agentkey::ledger::AccountChange::SetBudget(limits);
    world.change_account(&parent.account, change).await.unwrap();
    for posting in [pay(&child, 2), hold(&child, 3)] {
        world.post(&posting).await.unwrap();
    }
    [parent, child]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn each_falsified_figure_is_found_and_mended() {
    let Some((_database, world, pool)) = site().await else { return };
    let [parent, child] = family(&world).await;
    let (of_account, of_parent, of_child): (Holder, Holder, Holder) =
        (parent.account.clone().into(), parent.id.into(), child.id.into());
    assert_eq!(differences(&world.store).await, []);
    let entries = async || {
        let query = EntryQuery::for_account(parent.account.clone());
        world.store.entries(&query).await.unwrap().len()
    };
    for (sql, holder, figures) in [
        (format!("agentkey_balances SET spent = 70000 WHERE key_id = {}", child.id), &of_child, 1),
        (
            format!("agentkey_balances SET held = 0, spent = 0 WHERE key_id = {}", parent.id),
            &of_parent,
            2,
        ),
        (
            format!(
                "agentkey_balances SET more_spent = jsonb_set(more_spent, '{{day,0}}', '5') WHERE key_id = {}",
                child.id
            ),
            &of_child,
            1,
        ),
        ("agentkey_accounts SET spent = -5, held = 7".to_owned(), &of_account, 2),
        (
            "agentkey_accounts SET more_spent = jsonb_set(more_spent, '{day,0}', '9')".to_owned(),
            &of_account,
            1,
        ),
    ] {
        let before = entries().await;
        execute(&pool, format!("UPDATE {sql}")).await;
        let found = differences(&world.store).await;
        assert_eq!(found.len(), figures, "{sql}: {found:?}");
        assert!(found.iter().all(|(of, _)| of == holder), "{sql}: {found:?}");
        assert_eq!(entries().await, before, "nothing is mended unless it is said: {sql}");

        let mended = world.store.mend(holder, &Origin::new()).await.unwrap().unwrap();
        let found: Vec<_> = found.into_iter().map(|(_, difference)| difference).collect();
        assert_eq!(mended.differences, found, "{sql}");
        assert_eq!(differences(&world.store).await, [], "{sql}");
        assert_eq!(entries().await, before + figures, "{sql}");
    }
    audit::figures(&pool).await;
    let query = EventQuery::for_account(parent.account.clone()).kind(EventKind::BalanceReconciled);
    let events = world.store.events(&query).await.unwrap();
    assert_eq!(events.len(), 7);
    let of =
        |n: usize| (events[n].1.key, events[n].1.detail["figure"].as_str().unwrap().to_owned());
    assert_eq!(of(0), (Some(child.id), "spent".to_owned()));
    assert_eq!(of(2), (Some(parent.id), "held".to_owned()));
    assert_eq!(of(6), (None, "spent".to_owned()));
    let entries = world.store.entries(&EntryQuery::for_account(parent.account.clone())).await;
    let entries: Vec<_> = entries.unwrap().into_iter().map(|(_, entry)| entry).collect();
    let mends = entries.iter().filter(|entry| entry.kind == EntryKind::Adjust);
    for (entry, (_, event)) in mends.zip(&events) {
        assert_eq!((entry.amount, entry.key, entry.at), (Amount::ZERO, event.key, event.at));
        assert_eq!(entry.note.labels.get(Note::REASON), Some(Note::RECONCILED));
        assert_eq!(event.detail["entry"], serde_json::to_value(entry.id).unwrap());
    }
}

/// A store that has cached the false balance decides by the mended one, whether it is more or less.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn another_instance_decides_by_the_mended_balance() {
    for (spent, is_too_much) in [(480_000, true), (-480_000, false)] {
        let Some((database, here, pool)) = site().await else { return };
        let [_, child] = family(&here).await;
        let sql = format!("UPDATE agentkey_balances SET spent = {spent}, more_spent = NULL");
        let limits = "UPDATE agent_keys SET more_limits = NULL, limit_micros = 100000";
        execute(&pool, format!("{limits}; {sql} WHERE key_id = {}", child.id)).await;
        let there = world(database.url()).await;
        // Warm, by the false balance.
        assert_eq!(there.post(&pay(&child, 1)).await.is_err(), is_too_much);
        assert_eq!(there.post(&pay(&child, 1)).await.is_err(), is_too_much);

        let mended = here.store.mend(&child.id.into(), &Origin::new()).await.unwrap().unwrap();
        assert_eq!(mended.differences.len(), 1, "{mended:?}");
        let left = 10 - 2 - 3 - if is_too_much { 0 } else { 2 };
        assert!(there.post(&pay(&child, left + 1)).await.is_err());
        there.post(&pay(&child, left)).await.unwrap();
        assert_eq!(differences(&there.store).await, []);
    }
}

/// Two instances charge, the application pays inside transactions of its own, another one mends what SQL falsifies, and
/// what is compared meanwhile agrees in all that was not falsified.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn balances_agree_under_the_load_of_several_instances() {
    let Some((database, here, pool)) = site().await else { return };
    let there = Arc::new(world(database.url()).await);
    let parent = key(&here, "acme", 1_000_000).await;
    let mut children = Vec::new();
    for _ in 0..4 {
        let new = NewKey::child_of(parent.id).budget(Budget::daily(Amount::cents(100_000)));
        children.push(here.try_create(new).await.unwrap().0);
    }
    let victim = key(&here, "acme", 1_000).await;
    let is_over = Arc::new(AtomicBool::new(false));

    let mut load = JoinSet::new();
    for (n, child) in children.iter().cloned().enumerate() {
        let world = if n % 2 == 0 { here.clone() } else { there.clone() };
        let pool = pool.clone();
        load.spawn(async move {
            for _ in 0..30 {
                let held = hold(&child, 3);
                until_decided(&world.store, &[held.clone(), pay(&child, 2)]).await;
                let mut tx = pool.begin().await.unwrap();
                let (account, note) = (&child.account, Note::default());
                let paid = world.store.pay_in(&mut tx, account, child.id, Amount::cents(1), note);
                match paid.await {
                    Ok(_) => tx.commit().await.unwrap(),
                    Err(_) => tx.rollback().await.unwrap(),
                }
                until_decided(&world.store, &[settle(&held, 2)]).await;
            }
        });
    }
    let mending = tokio::spawn({
        let (world, pool, is_over) = (there.clone(), pool.clone(), is_over.clone());
        let (holder, victim) = (Holder::Key(victim.id), victim.clone());
        async move {
            let mut mended = 0;
            while !is_over.load(Ordering::SeqCst) {
                execute(
                    &pool,
                    format!(
                        "UPDATE agentkey_balances SET spent = spent + 7 WHERE key_id = {}",
                        victim.id
                    ),
                )
                .await;
                let found = world.store.mend(&holder, &Origin::new()).await.unwrap().unwrap();
                mended += found.differences.len();
                until_decided(&world.store, &[pay(&victim, 0)]).await;
            }
            mended
        }
    });
    let reading = tokio::spawn({
        let (store, is_over, victim) = (here.store.clone(), is_over.clone(), victim.id);
        async move {
            let mut rounds = 0;
            while !is_over.load(Ordering::SeqCst) {
                let found = differences(&store).await;
                let others: Vec<_> =
                    found.iter().filter(|(of, _)| *of != Holder::Key(victim)).collect();
                assert!(others.is_empty(), "{others:?}");
                rounds += 1;
            }
            rounds
        }
    });
    load.join_all().await;
    is_over.store(true, Ordering::SeqCst);
    assert!(reading.await.unwrap() > 0);
    // The first time there is no balance to falsify.
    assert!(mending.await.unwrap() > 0);
    assert_eq!(differences(&here.store).await, []);
    audit::figures(&pool).await;
}

/// Holds that have expired and were not ended, and windows that turn, agree before anyone writes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_period_of_the_applications_sql_agrees_before_it_is_counted() {
    let Some((_database, world, pool)) = site().await else { return };
    let [parent, child] = family(&world).await;
    for set in [
        "period = 'week', more_limits = NULL",
        "period = 'calendar_month', more_limits = '{\"day\": 500000}'",
    ] {
        execute(&pool, format!("UPDATE agent_keys SET {set}")).await;
        world.clock.advance(Duration::from_secs(120));
        for holder in [parent.account.clone().into(), parent.id.into(), Holder::Key(child.id)] {
            let found = world.store.reconcile(&holder).await.unwrap().unwrap();
            assert!(found.agrees(), "{set}: {found:?}");
        }
        world.post(&pay(&child, 1)).await.unwrap();
        assert_eq!(differences(&world.store).await, [], "{set}");
    }
}
