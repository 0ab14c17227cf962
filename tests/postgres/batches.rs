//! Batches of accounts of which some have changed: the unchanged ones are written, the others are decided once more.

use agentkey::EntryQuery;
use agentkey::ledger::{IdempotencyClaim, IdempotencyKey};
use agentkey::model::Labels;
use agentkey::store::Store;

use super::*;

fn noted(mut posting: Posting, model: &str, reference: &str) -> Posting {
    let mut labels = Labels::new();
    labels.insert("model", model).unwrap();
    let said = Note::new(labels, Some(reference.to_owned()));
    if let Action::Pay { note, .. } | Action::Hold { note, .. } | Action::Settle { note, .. } =
        &mut posting.action
    {
        *note = said;
    }
    posting
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn unchanged_accounts_are_written_and_changed_ones_are_decided_again() {
    let Some((database, world, pool)) = site().await else { return };
    let other = store(database.url(), (&world.clock).into()).await;
    let mut keys = Vec::new();
    for account in ["still", "ahead", "touched", "poor", "bare", "idle"] {
        keys.push(key(&world, account, 1_000).await);
    }
    let [still, ahead, touched, poor, bare, idle] = &keys[..] else { panic!("six keys") };
    for round in 1..=3 {
        // Warm, and each with a hold that is known.
        let holds: Vec<_> = keys.iter().map(|key| hold(key, 10)).collect();
        assert!(world.post_all(&holds).await.iter().all(Result::is_ok));

        assert!(other.post(&[pay(ahead, 2)]).await.unwrap()[0].is_ok());
        execute(&pool, format!("UPDATE agent_keys SET name = 'touched' WHERE id = {}", touched.id))
            .await;
        execute(&pool, format!("DELETE FROM agentkey_balances WHERE key_id = {}", bare.id)).await;
        let batch = [
            settle(&holds[0], 5),
            noted(settle(&holds[1], 5), "large", "two"),
            settle(&holds[2], 5),
            settle(&holds[3], 5),
            settle(&holds[4], 5),
            settle(&holds[5], 0), // writes no entry
            noted(pay(still, 1), "small", "one"),
            hold(ahead, 1),
            pay(touched, 1),
            pay(poor, 100_000), // refused
            noted(hold(bare, 1), "small", "three"),
        ];
        let posted = world.post_all(&batch).await;
        assert!(posted[9].is_err(), "{posted:?}");
        assert!(
            posted.iter().enumerate().all(|(place, posted)| place == 9 || posted.is_ok()),
            "{posted:?}"
        );
        audit::figures(&pool).await;
        let expected = [(6, 0), (7, round), (6, 0), (5, 0), (5, round), (0, 0)];
        for (key, (spent, held)) in keys.iter().zip(expected) {
            assert_eq!(cents(&world, key).await, (spent * round, held), "{}", key.account);
        }
        // Sent again, nothing counts twice.
        let again = world.post_all(&batch[..9]).await;
        assert!(again.iter().all(Result::is_ok), "{again:?}");
        audit::figures(&pool).await;
    }
    let entries =
        world.store.entries(&EntryQuery::for_account(still.account.clone())).await.unwrap();
    let notes: Vec<_> =
        entries.iter().map(|(_, entry)| (entry.amount, entry.note.reference.as_deref())).collect();
    assert_eq!(notes, [(Amount::cents(5), None), (Amount::cents(1), Some("one"))].repeat(3));
    let labels: Vec<_> = entries.iter().map(|(_, entry)| entry.note.labels.get("model")).collect();
    assert_eq!(labels, [None, Some("small")].repeat(3));
    assert_eq!(
        world.store.entries(&EntryQuery::for_account(idle.account.clone())).await.unwrap().len(),
        0
    );
}

/// An account whose row is deleted after it was cached and before the write.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn an_account_whose_row_is_gone_is_created_again_and_the_others_are_written() {
    let Some((_database, world, pool)) = site().await else { return };
    let (gone, other) = (key(&world, "gone", 100).await, key(&world, "other", 100).await);
    let batch = || [pay(&gone, 1), pay(&other, 2)];
    assert!(world.post_all(&batch()).await.iter().all(Result::is_ok));
    execute(&pool, "DELETE FROM agentkey_accounts WHERE id = 'gone'").await;
    world.clock.advance(Duration::from_secs(1)); // the `seq` of its last entry is gone with the row
    assert!(world.post_all(&batch()).await.iter().all(Result::is_ok));
    assert!(world.post_all(&batch()).await.iter().all(Result::is_ok));
    assert_eq!((cents(&world, &gone).await, cents(&world, &other).await), ((3, 0), (6, 0)));
    assert_eq!(count(&pool, "SELECT count(*) FROM agentkey_entries").await, 6);
    assert_eq!(count(&pool, "SELECT spent FROM agentkey_accounts WHERE id = 'gone'").await, 20_000);
}

/// Most batches leave out the columns that say nothing. What they write is what is written with all of them.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn rows_say_the_same_whether_all_columns_travel_or_not() {
    let Some((_database, world, pool)) = site().await else { return };
    let parent = key(&world, "acme", 1_000).await;
    let child = world.try_create(NewKey::child_of(parent.id)).await.unwrap().0;
    assert!(world.post(&hold(&child, 1)).await.is_ok()); // both are known from here on
    let charged = |key: &Key| {
        let (amount, ttl) = (Amount::cents(3), Duration::from_secs(60));
        let action = Action::Hold {
            amount,
            ttl,
            on_expiry: OnExpiry::Charge,
            note: Note::default(),
            claim: None,
        };
        Posting::new(key.account.clone(), key.id, action)
    };
    let renew = |hold: &Posting| {
        let (ttl, max_age) = (Duration::from_secs(100), Duration::from_secs(1_000));
        let action = Action::Renew { holds: vec![hold.id], ttl, max_age, claim: None };
        Posting::new(hold.account.clone(), hold.key, action)
    };
    let of_hold = async |hold: &Posting| {
        let row = "SELECT concat_ws(' ', path, amount, created_at = (SELECT created_at FROM agent_keys LIMIT 1), \
            extract(epoch FROM expires_at - created_at)::int, on_expiry, state, labels, reference) \
            FROM agentkey_holds WHERE id = $1::uuid";
        sqlx::query_scalar::<_, String>(row)
            .bind(hold.id.to_string())
            .fetch_one(&pool)
            .await
            .unwrap()
    };
    let of_entry = async |posting: &Posting| {
        let row = "SELECT concat_ws(' ', key_id, kind, amount, at = counts_at, \
            at = (SELECT changed_at FROM agentkey_accounts), labels, reference) FROM agentkey_entries WHERE id = $1::uuid";
        sqlx::query_scalar::<_, String>(row)
            .bind(posting.id.to_string())
            .fetch_one(&pool)
            .await
            .unwrap()
    };
    let (p, c) = (parent.id, child.id);
    for full in [false, true] {
        let made = [hold(&parent, 5), hold(&child, 6), charged(&parent), hold(&parent, 7)];
        // Each by itself, so that one does not bring the columns of another with it; or with one that needs them all.
        let post = async |posting: &Posting| {
            let also = full.then(|| noted(pay(&parent, 1), "large", "also"));
            let batch: Vec<_> = [posting.clone()].into_iter().chain(also).collect();
            assert!(world.post_all(&batch).await.iter().all(Result::is_ok));
        };
        for hold in &made {
            post(hold).await;
        }
        let (settled, paid) = (settle(&made[0], 2), pay(&child, 4));
        post(&renew(&made[3])).await;
        post(&settled).await;
        post(&paid).await;
        assert_eq!(of_hold(&made[0]).await, format!("{{{p}}} 50000 t 60 release ended {{}}"));
        assert_eq!(of_hold(&made[1]).await, format!("{{{c},{p}}} 60000 t 60 release live {{}}"));
        assert_eq!(of_hold(&made[2]).await, format!("{{{p}}} 30000 t 60 charge live {{}}"));
        assert_eq!(of_hold(&made[3]).await, format!("{{{p}}} 70000 t 100 release live {{}}"));
        assert_eq!(of_entry(&settled).await, format!("{p} settle 20000 t t {{}}"));
        assert_eq!(of_entry(&paid).await, format!("{c} pay 40000 t t {{}}"));
    }
    audit::figures(&pool).await;
}

/// The application has locked the row of a balance, or has changed it: the decision is written after that.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_balance_that_the_application_has_locked_is_written_after_its_commit() {
    let Some((_database, world, pool)) = site().await else { return };
    let (busy, other) = (key(&world, "busy", 100).await, key(&world, "other", 100).await);
    assert!(world.post_all(&[pay(&busy, 1), pay(&other, 1)]).await.iter().all(Result::is_ok));
    for change in ["period = period", "anchor = anchor"] {
        let mut tx = pool.begin().await.unwrap();
        let change = format!("UPDATE agentkey_balances SET {change} WHERE key_id = {}", busy.id);
        sqlx::raw_sql(AssertSqlSafe(change)).execute(&mut *tx).await.unwrap();
        let (posting, batch) = (world.clone(), [pay(&busy, 2), pay(&other, 3)]);
        let posted = tokio::spawn(async move { posting.post_all(&batch).await });
        until(async || count(&pool, WAITING).await > 0).await;
        tx.commit().await.unwrap();
        assert!(posted.await.unwrap().iter().all(Result::is_ok));
    }
    assert_eq!((cents(&world, &busy).await, cents(&world, &other).await), ((5, 0), (7, 0)));
    audit::figures(&pool).await;
}

/// The row is gone with what it knew of its holds and entries, and those are not.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn an_account_whose_row_is_created_again_has_its_holds_and_entries() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    let live = "SELECT count(*) FROM agentkey_holds WHERE state = 'live'";
    for by_change in [false, true] {
        assert!(world.post_all(&[hold(&key, 5), pay(&key, 1)]).await.iter().all(Result::is_ok));
        execute(&pool, "DELETE FROM agentkey_accounts").await;
        if by_change {
            world.try_create(NewKey::new(key.account.clone())).await.unwrap();
        }
        // At the instant of the one before.
        assert!(world.post(&pay(&key, 1)).await.is_ok());
        assert_eq!((world.store.sweep().await.unwrap(), count(&pool, live).await), (0, 1));
        world.clock.advance(Duration::from_secs(61));
        assert_eq!((world.store.sweep().await.unwrap(), count(&pool, live).await), (1, 0));
    }
}

/// A settle leaves an instant at which no hold expires: the sweep reads once, and finds the hold that expires later.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn the_sweep_finds_holds_that_expire_after_a_settled_one() {
    let Some((_database, world, pool)) = site().await else { return };
    let mut keys = Vec::new();
    for n in 0..120 {
        keys.push(key(&world, &format!("account-{n:03}"), 100).await); // more than one round of the sweep
    }
    let first: Vec<_> = keys.iter().map(|key| hold(key, 5)).collect();
    assert!(world.post_all(&first).await.iter().all(Result::is_ok));
    world.clock.advance(Duration::from_secs(30));
    let settles = first.iter().map(|hold| settle(hold, 1));
    let second: Vec<_> = settles.chain(keys.iter().map(|key| hold(key, 7))).collect();
    assert!(world.post_all(&second).await.iter().all(Result::is_ok));
    let due = "SELECT count(*) FROM agentkey_accounts WHERE next_expiry IS NOT NULL";
    // It needs none of its own among the holds, which all of them would go into.
    assert_eq!(
        count(&pool, "SELECT count(*) FROM pg_indexes WHERE tablename = 'agentkey_holds'").await,
        2
    );
    let checks = "SELECT count(*) FROM pg_constraint WHERE conrelid = 'agentkey_holds'::regclass AND contype = 'c'";
    assert_eq!(count(&pool, checks).await, 0);

    world.clock.advance(Duration::from_secs(31));
    assert_eq!(world.store.sweep().await.unwrap(), 0, "those were settled");
    assert_eq!(count(&pool, due).await, 120);
    world.clock.advance(Duration::from_secs(30));
    assert_eq!(world.store.sweep().await.unwrap(), 120);
    assert_eq!(count(&pool, due).await, 0);
    assert_eq!(cents(&world, &keys[119]).await, (1, 0));
    audit::figures(&pool).await;
}

/// Two services take turns: each finds each time that what it knows is old.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn instances_that_take_turns_see_what_the_other_wrote() {
    let Some((database, world, pool)) = site().await else { return };
    let other = store(database.url(), (&world.clock).into()).await;
    let key = key(&world, "acme", 1_000).await;
    for round in 0..20 {
        assert!(other.post(&[pay(&key, 1)]).await.unwrap()[0].is_ok(), "{round}");
        assert!(world.post(&pay(&key, 1)).await.is_ok(), "{round}");
    }
    let again = pay(&key, 1);
    assert!(other.post(std::slice::from_ref(&again)).await.unwrap()[0].is_ok());
    assert!(world.post(&again).await.is_ok(), "the same posting, by way of another instance");
    assert_eq!(cents(&world, &key).await, (41, 0));
    audit::figures(&pool).await;
}

/// Plans are made once, and may be made when there is next to nothing.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn what_ends_is_found_by_its_key_on_tables_that_were_tiny_when_it_was_planned() {
    const READ: &str = "SELECT sum(coalesce(idx_tup_fetch, 0) + seq_tup_read)::int8 FROM pg_stat_user_tables \
        WHERE relname IN ('agentkey_holds', 'agentkey_idempotency_keys')";
    const ENDED: &str = "SELECT sum(CASE relname WHEN 'agentkey_holds' THEN n_tup_upd ELSE n_tup_del END)::int8 \
        FROM pg_stat_user_tables WHERE relname IN ('agentkey_holds', 'agentkey_idempotency_keys')";
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    let begin = async |claim: &str| {
        let open = Action::Open {
            claim: Some(IdempotencyKey::new(claim, [7; 32])),
            ttl: Duration::from_secs(60),
        };
        let (open, held) = (Posting::new(key.account.clone(), key.id, open), hold(&key, 1));
        assert!(world.post_all(&[open.clone(), held.clone()]).await.iter().all(Result::is_ok));
        (IdempotencyClaim::new(claim, open.id), held)
    };
    let end = async |(claim, held): (IdempotencyClaim, Posting)| {
        let (holds, void, cost, note) = (Vec::new(), Vec::new(), Amount::ZERO, Note::default());
        let let_go = Action::Settle { holds, void, cost, note, claim: Some(claim) };
        for posting in [settle(&held, 1), Posting::new(key.account.clone(), key.id, let_go)] {
            assert!(world.post(&posting).await.is_ok());
        }
    };
    let first = begin("first").await;
    execute(&pool, "ANALYZE").await;
    end(first).await;
    let second = begin("second").await;
    execute(
        &pool,
        "INSERT INTO agentkey_holds SELECT gen_random_uuid(), account_id, key_id, path, 0, created_at, expires_at, \
             on_expiry, labels, reference, state FROM agentkey_holds, generate_series(1, 5000); \
         INSERT INTO agentkey_idempotency_keys SELECT key_id + n, idempotency_key, fingerprint, owner, in_flight_until, entry \
             FROM agentkey_idempotency_keys, generate_series(1, 10000) n",
    )
    .await;
    let before = count(&pool, READ).await;
    end(second).await;
    drop(world); // The server reports counts when a session ends.
    until(async || count(&pool, ENDED).await == 4).await;
    assert!(count(&pool, READ).await < before + 100);
}
