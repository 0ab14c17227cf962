//! Rows that the application changes or locks while we write, and invalid rows. No charge and no hold is lost because of
//! them, and no other account waits for them.

use agentkey::ledger::{IdempotencyClaim, IdempotencyKey};
use agentkey::model::{PostingId, TokenHash};
use agentkey::store::Store;

use super::*;

const LIVE: &str = "SELECT count(*) FROM agentkey_holds WHERE state = 'live'";

fn open(key: &Key, claim: &str) -> Posting {
    let action = Action::Open {
        claim: Some(IdempotencyKey::new(claim, [7; 32])),
        ttl: Duration::from_secs(60),
    };
    Posting::new(key.account.clone(), key.id, action)
}

/// Not plain, so decided under the lock of the account.
fn settle_voiding(key: &Key, holds: Vec<PostingId>) -> Posting {
    let (void, cost) = (vec![PostingId::new()], Amount::cents(1));
    let action = Action::Settle { holds, void, cost, note: Note::default(), claim: None };
    Posting::new(key.account.clone(), key.id, action)
}

/// Pays a cent in a transaction of the application's, and commits it.
fn paying(
    world: &Arc<World<PostgresStore>>,
    pool: &PgPool,
    key: &Key,
) -> tokio::task::JoinHandle<()> {
    let (world, pool, key) = (world.clone(), pool.clone(), key.clone());
    tokio::spawn(async move {
        let mut tx = pool.begin().await.unwrap();
        let (amount, note) = (Amount::cents(1), Note::default());
        world.store.pay_in(&mut tx, &key.account, key.id, amount, note).await.unwrap();
        tx.commit().await.unwrap();
    })
}

/// A transaction of the application that has updated rows without changing them.
async fn touching(
    pool: &PgPool,
    sql: impl Into<String>,
) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut tx = pool.begin().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(&mut *tx).await.unwrap();
    tx
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn holds_run_out_where_a_key_changes_under_a_payment_in_the_applications_transaction() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    assert!(world.post(&hold(&key, 60)).await.is_ok());
    world.clock.advance(Duration::from_secs(61));
    let locked = touching(&pool, "LOCK TABLE agentkey_entries IN SHARE MODE").await;
    let paid = paying(&world, &pool, &key);
    until(async || count(&pool, WAITING).await > 0).await;
    execute(&pool, format!("UPDATE agent_keys SET name = 'changed' WHERE id = {}", key.id)).await;
    locked.rollback().await.unwrap();
    paid.await.unwrap();

    world.store.sweep().await.unwrap();
    assert_eq!((count(&pool, LIVE).await, cents(&world, &key).await), (0, (1, 0)));
    audit::figures(&pool).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_hold_that_the_application_touches_while_it_runs_out_frees_its_money_once() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    assert!(world.post(&hold(&key, 60)).await.is_ok());
    world.clock.advance(Duration::from_secs(61));
    let touched = touching(&pool, "UPDATE agentkey_holds SET labels = labels").await;
    let paid = paying(&world, &pool, &key);
    until(async || count(&pool, WAITING).await > 0).await;
    touched.commit().await.unwrap();
    paid.await.unwrap();

    assert_eq!((count(&pool, LIVE).await, cents(&world, &key).await), (0, (1, 0)));
    audit::figures(&pool).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_hold_that_the_application_touches_while_it_is_settled_frees_its_money_once() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    let held = hold(&key, 60);
    assert!(world.post(&held).await.is_ok());
    let touched = touching(&pool, "UPDATE agentkey_holds SET labels = labels").await;
    let (posting, settled) = (world.clone(), settle(&held, 10));
    let posted = tokio::spawn(async move { until_decided(&posting.store, &[settled]).await });
    until(async || count(&pool, WAITING).await > 0).await;
    touched.commit().await.unwrap();
    posted.await.unwrap();

    world.clock.advance(Duration::from_secs(40));
    assert!(world.post(&hold(&key, 90)).await.is_ok(), "all that is left");
    world.clock.advance(Duration::from_secs(21));
    world.store.sweep().await.unwrap();
    assert!(world.post(&hold(&key, 1)).await.is_err(), "10 are spent and 90 held, of 100");
    audit::figures(&pool).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_claim_that_the_application_touches_while_it_is_released_is_gone() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    let opened = open(&key, "once");
    assert!(world.post(&opened).await.is_ok());
    let touched = touching(&pool, "UPDATE agentkey_idempotency_keys SET entry = entry").await;
    let claim = Some(IdempotencyClaim::new("once", opened.id));
    let (holds, void, cost, note) = (Vec::new(), Vec::new(), Amount::ZERO, Note::default());
    let let_go = Posting::new(
        key.account.clone(),
        key.id,
        Action::Settle { holds, void, cost, note, claim },
    );
    let posting = world.clone();
    let posted = tokio::spawn(async move { until_decided(&posting.store, &[let_go]).await });
    until(async || count(&pool, WAITING).await > 0).await;
    touched.commit().await.unwrap();

    posted.await.unwrap();
    assert_eq!(count(&pool, "SELECT count(*) FROM agentkey_idempotency_keys").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_balance_that_the_application_keeps_locked_stalls_no_other_account() {
    let Some((_database, world, pool)) = site().await else { return };
    let (kept, other) = (key(&world, "kept", 100).await, key(&world, "other", 100).await);
    assert!(world.post_all(&[pay(&kept, 1), pay(&other, 1)]).await.iter().all(Result::is_ok));
    let lock = format!("SELECT 1 FROM agentkey_balances WHERE key_id = {} FOR UPDATE", kept.id);
    let locked = touching(&pool, lock).await;
    let (late, neighbour) = (pay(&kept, 2), pay(&other, 2));

    let posted = world.store.post(&[late.clone(), neighbour]).await.unwrap();
    assert!(is_unavailable(&posted[0]) && posted[1].is_ok(), "{posted:?}");
    locked.rollback().await.unwrap();
    assert!(world.post(&late).await.is_ok());
    assert_eq!((cents(&world, &kept).await, cents(&world, &other).await), ((3, 0), (3, 0)));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn an_account_that_the_application_is_making_stalls_no_other() {
    let Some((_database, world, pool)) = site().await else { return };
    let other = key(&world, "other", 100).await;
    let hash = TokenHash::digest("made by the host");
    execute(
        &pool,
        format!("INSERT INTO agent_keys (account_id, key_hash) VALUES ('new', '{hash}')"),
    )
    .await;
    let found = world.store.find(&[hash]).await.unwrap().pop().flatten().unwrap();
    let new = found.lineage.key().clone();
    let mut tx = pool.begin().await.unwrap();
    world
        .store
        .pay_in(&mut tx, &new.account, new.id, Amount::cents(1), Note::default())
        .await
        .unwrap();

    let posted =
        world.store.post(&[pay(&new, 1), settle_voiding(&other, Vec::new())]).await.unwrap();
    assert!(is_unavailable(&posted[0]) && posted[1].is_ok(), "{posted:?}");
    drop(tx);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_posting_that_cannot_be_decided_fails_no_neighbour_of_any_account() {
    let Some((_database, world, pool)) = site().await else { return };
    let (good, bad) = (key(&world, "good", 100).await, key(&world, "bad", 100).await);
    let held = hold(&bad, 5);
    assert!(
        world
            .post_all(&[pay(&good, 1), held.clone(), pay(&bad, 1)])
            .await
            .iter()
            .all(Result::is_ok)
    );
    execute(&pool, "UPDATE agentkey_holds SET labels = '[]'").await;

    let poison = settle_voiding(&bad, vec![held.id]);
    let (same, other) = (settle_voiding(&bad, Vec::new()), settle_voiding(&good, Vec::new()));
    let posted = world.store.post(&[pay(&good, 1), poison, same, other]).await.unwrap();
    assert!(is_unavailable(&posted[1]), "{posted:?}");
    assert!(posted[0].is_ok() && posted[2].is_ok() && posted[3].is_ok(), "{posted:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_locked_or_invalid_account_delays_the_sweep_of_no_other() {
    let Some((_database, world, pool)) = site().await else { return };
    let (good, kept) = (key(&world, "good", 100).await, key(&world, "kept", 100).await);
    let odd = key(&world, "odd", 100).await;
    assert!(
        world
            .post_all(&[hold(&good, 5), hold(&kept, 5), hold(&odd, 5)])
            .await
            .iter()
            .all(Result::is_ok)
    );
    execute(&pool, "UPDATE agentkey_holds SET labels = '[]' WHERE account_id = 'odd'").await;
    let locked =
        touching(&pool, "SELECT 1 FROM agentkey_accounts WHERE id = 'kept' FOR UPDATE").await;
    world.clock.advance(Duration::from_secs(61));

    assert_eq!(world.store.sweep().await.unwrap(), 1);
    assert_eq!(cents(&world, &good).await, (0, 0));
    locked.rollback().await.unwrap();
    execute(&pool, "UPDATE agentkey_holds SET labels = '{}' WHERE account_id = 'odd'").await;
    assert_eq!((world.store.sweep().await.unwrap(), count(&pool, LIVE).await), (2, 0));
}

/// A sweep ends after a hundred locked accounts, and the next one begins after those.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_crowd_of_accounts_that_make_no_sense_keeps_the_sweep_from_no_other() {
    let Some((_database, world, pool)) = site().await else { return };
    let mut holds = Vec::new();
    for n in 0..120 {
        holds.push(hold(&key(&world, &format!("odd-{n:03}"), 100).await, 5));
    }
    assert!(world.post_all(&holds).await.iter().all(Result::is_ok));
    world.clock.advance(Duration::from_secs(1));
    let good = key(&world, "good", 100).await;
    assert!(world.post(&hold(&good, 5)).await.is_ok());
    execute(&pool, "UPDATE agentkey_holds SET labels = '[]' WHERE account_id LIKE 'odd-%'").await;
    world.clock.advance(Duration::from_secs(61));

    let ended = [world.store.sweep().await.unwrap(), world.store.sweep().await.unwrap()];

    assert_eq!((ended, cents(&world, &good).await), ([0, 1], (0, 0)));
    execute(&pool, "UPDATE agentkey_holds SET labels = '{}'").await;
    assert_eq!((world.store.sweep().await.unwrap(), count(&pool, LIVE).await), (120, 0));
}

/// A settle frees the money that a later hold in the batch needs.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn no_posting_overtakes_one_of_its_account_that_waits_for_a_row() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    let (odd, most) = (hold(&key, 1), hold(&key, 99));
    assert!(world.post_all(&[odd.clone(), most.clone()]).await.iter().all(Result::is_ok));
    execute(&pool, format!("UPDATE agentkey_holds SET labels = '[]' WHERE id = '{}'", odd.id))
        .await;
    let locked = touching(
        &pool,
        format!("SELECT 1 FROM agentkey_holds WHERE id = '{}' FOR UPDATE", most.id),
    )
    .await;

    let batch = [settle(&most, 1), settle_voiding(&key, vec![odd.id]), hold(&key, 90)];
    let posted = world.store.post(&batch).await.unwrap();
    assert!(posted.iter().all(is_unavailable), "{posted:?}");
    locked.rollback().await.unwrap();
    let posted = world.store.post(&batch).await.unwrap();
    assert!(posted[0].is_ok() && is_unavailable(&posted[1]) && posted[2].is_ok(), "{posted:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn what_the_applications_trigger_refuses_fails_no_other_account() {
    let Some((_database, world, pool)) = site().await else { return };
    let (good, bad) = (key(&world, "good", 100).await, key(&world, "bad", 100).await);
    execute(
        &pool,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF NEW.account_id = 'bad' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON agentkey_entries FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    for batch in
        [[pay(&good, 1), pay(&bad, 1)], [good, bad].map(|key| settle_voiding(&key, Vec::new()))]
    {
        let posted = world.store.post(&batch).await.unwrap();
        assert!(posted[0].is_ok() && is_unavailable(&posted[1]), "{posted:?}");
    }
}

/// The other postings of the batch are written in one statement without it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn an_account_that_failed_is_tried_once_in_each_batch_until_it_goes_well() {
    const TRIED: &str = "SELECT last_value FROM tried";
    let Some((_database, world, pool)) = site().await else { return };
    let (good, bad) = (key(&world, "good", 100).await, key(&world, "bad", 100).await);
    execute(
        &pool,
        "CREATE SEQUENCE tried START 0 MINVALUE 0; SELECT nextval('tried'); CREATE TABLE refused AS SELECT true AS is_so; \
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('tried'); \
             IF NEW.account_id = 'bad' AND (SELECT is_so FROM refused) THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON agentkey_entries FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    let batch = || [pay(&good, 1), pay(&bad, 1)];
    assert!(is_unavailable(&world.store.post(&batch()).await.unwrap()[1]));
    for goes_well in [false, false, true, true] {
        execute(&pool, format!("UPDATE refused SET is_so = {}", !goes_well)).await;
        let before = count(&pool, TRIED).await;
        let posted = world.store.post(&batch()).await.unwrap();
        assert_eq!((posted[0].is_ok(), posted[1].is_ok()), (true, goes_well), "{posted:?}");
        assert_eq!(count(&pool, TRIED).await, before + 2);
    }
}

/// The key has had its period changed, and its `spent` cannot be counted again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_key_that_cannot_be_brought_up_to_date_hides_no_other() {
    let Some((_database, world, pool)) = site().await else { return };
    let new = |account: &str| {
        NewKey::new(account.parse().unwrap()).budget(Budget::lifetime(Amount::cents(100)))
    };
    let (_, good) = world.try_create(new("good")).await.unwrap();
    for (account, is_kept) in [("kept", true), ("odd", false)] {
        let (key, hash) = world.try_create(new(account)).await.unwrap();
        assert!(world.post_all(&[pay(&key, 5), hold(&key, 5)]).await.iter().all(Result::is_ok));
        let lock = format!("SELECT 1 FROM agentkey_accounts WHERE id = '{account}' FOR UPDATE");
        let kept = if is_kept { Some(touching(&pool, lock).await) } else { None };
        let odd = format!("UPDATE agentkey_holds SET labels = '[]' WHERE account_id = '{account}'");
        execute(&pool, odd).await;
        execute(&pool, format!("UPDATE agent_keys SET period = 'month' WHERE id = {}", key.id))
            .await;
        world.clock.advance(Duration::from_secs(61));

        let found = world.store.find(&[good, hash]).await.unwrap();
        assert!(found[0].is_some(), "{account}");
        drop(kept);
    }
}

/// Unlike a request, a read of one key's figures waits for the application's lock, and returns current figures.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_read_of_one_key_waits_for_the_lock_of_the_application() {
    const WAITS_ON: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > interval '300 ms'";
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    assert!(world.post(&hold(&key, 5)).await.is_ok());
    world.clock.advance(Duration::from_secs(61));
    let locked = touching(&pool, "SELECT FROM agentkey_accounts FOR UPDATE").await;
    let (looking, looked_at) = (world.clone(), key.clone());
    let looked = tokio::spawn(async move { cents(&looking, &looked_at).await });
    until(async || count(&pool, WAITS_ON).await == 1).await;
    locked.rollback().await.unwrap();
    assert_eq!(looked.await.unwrap(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_sweep_that_can_write_nothing_says_so() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    assert!(world.post(&hold(&key, 5)).await.is_ok());
    world.clock.advance(Duration::from_secs(61));
    execute(&pool, "ALTER TABLE agentkey_holds RENAME TO gone").await;
    assert!(world.store.sweep().await.is_err());
}
