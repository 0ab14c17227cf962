//! A locked account, or one whose postings fail, delays no other.

use agentkey::ledger::KeyChange;
use agentkey::model::{PostingId, Scope};
use agentkey::store::Store;
use agentkey::{AgentKeys, KeyPatch, Refusal, ScopeSet};

use http::StatusCode;

use super::*;
use crate::service::Service;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_change_does_not_undo_what_the_application_commits_meanwhile() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    let mut tx = pool.begin().await.unwrap();
    let narrow = format!(
        "UPDATE agent_keys SET scopes = '{{read}}', limit_micros = 5 WHERE id = {}",
        key.id
    );
    sqlx::raw_sql(AssertSqlSafe(narrow)).execute(&mut *tx).await.unwrap();

    let renaming = world.clone();
    let rename = KeyChange::Update { key: key.id, patch: KeyPatch::new().name("renamed") };
    let renamed = tokio::spawn(async move { renaming.change_key(rename).await });
    until(async || count(&pool, WAITING).await > 0).await;
    tx.commit().await.unwrap();

    let renamed = renamed.await.unwrap().unwrap();
    let read: Scope = "read".parse().unwrap();
    assert_eq!((renamed.name.as_str(), renamed.budget.limit), ("renamed", Some(Amount::micros(5))));
    assert_eq!(renamed.scopes, [read].into_iter().collect::<ScopeSet>());
    assert_eq!(world.store.lineage(key.id).await.unwrap().unwrap().key(), &renamed);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn an_account_that_the_application_keeps_locked_stalls_no_other() {
    let Some((_database, world, pool)) = site().await else { return };
    let (kept, other) = (key(&world, "kept", 100).await, key(&world, "other", 100).await);
    let third = key(&world, "third", 100).await;
    let mut tx = pool.begin().await.unwrap();
    let price = Amount::cents(30);
    world.store.pay_in(&mut tx, &kept.account, kept.id, price, Note::default()).await.unwrap();

    let late = pay(&kept, 1);
    for _ in 0..3 {
        // The last one is decided under the lock, as the first is.
        let posted =
            world.post_all(&[late.clone(), pay(&other, 1), settle_voiding(&third, 1)]).await;
        assert!(matches!(posted[0], Err(Refusal::Unavailable { .. })), "{posted:?}");
        assert!(posted[1].is_ok() && posted[2].is_ok(), "{posted:?}");
    }
    tx.rollback().await.unwrap();
    assert!(world.post(&late).await.is_ok());
    for (key, spent) in [(kept, 1), (other, 3), (third, 3)] {
        assert_eq!(cents(&world, &key).await, (spent, 0));
    }
}

/// Postings to a locked account wait in their commit queue, and are decided when the account is free.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn what_waits_for_an_account_is_posted_when_the_application_unlocks_it() {
    let Some((_database, world, pool)) = site().await else { return };
    let keys = AgentKeys::builder().request_timeout(HANG).build((*world.store).clone()).unwrap();
    let key = key(&world, "acme", 100).await;
    let paid = pay(&key, 10);
    assert!(world.post(&paid).await.is_ok());
    let mut tx = pool.begin().await.unwrap();
    world
        .store
        .pay_in(&mut tx, &key.account, key.id, Amount::cents(30), Note::default())
        .await
        .unwrap();

    let account = key.account.clone();
    let refund =
        tokio::spawn(async move { keys.refund(&account, paid.id.into(), Amount::cents(4)).await });
    until(async || count(&pool, WAITING).await > 0).await;
    until(async || count(&pool, WAITING).await == 0).await; // it has given up once
    tx.rollback().await.unwrap();
    assert!(refund.await.unwrap().is_ok());
    assert_eq!(cents(&world, &key).await, (6, 0));
}

/// More than go into one batch.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_crowd_that_waits_for_its_account_stalls_no_other() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let pool = host(database.url()).await;
    let store = PostgresStore::open(PostgresOptions::new(database.url())).await.unwrap();
    let keys = AgentKeys::builder().request_timeout(HANG).build(store).unwrap();
    let kept = keys.create(NewKey::new("kept".parse().unwrap())).await.unwrap();
    let other = keys.create(NewKey::new("other".parse().unwrap())).await.unwrap();
    let service = Arc::new(Service::new(&keys));
    let mut tx = pool.begin().await.unwrap();
    sqlx::raw_sql("SELECT FROM agentkey_accounts WHERE id = 'kept' FOR UPDATE")
        .execute(&mut *tx)
        .await
        .unwrap();
    let mut crowd = tokio::task::JoinSet::new();
    for n in 0..1_200 {
        let (service, token) = (service.clone(), kept.token.expose().to_owned());
        crowd.spawn(async move { service.ask(&format!("/pay/kept-{n}"), &token).await.0 });
    }
    for n in 0..8 {
        until(async || count(&pool, WAITING).await > 0).await;
        assert_eq!(
            service.ask(&format!("/pay/other-{n}"), other.token.expose()).await.0,
            StatusCode::OK
        );
    }
    tx.rollback().await.unwrap();
    assert!(crowd.join_all().await.into_iter().all(|status| status == StatusCode::OK));
    keys.shutdown().await;
    assert_eq!(count(&pool, "SELECT count(*) FROM agentkey_entries").await, 1_208);
    audit::figures(&pool).await;
}

/// Alone in its batch, as in a quiet service.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn what_the_applications_rules_refuse_for_a_while_is_charged_in_the_end() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let pool = host(database.url()).await;
    let store = PostgresStore::open(PostgresOptions::new(database.url())).await.unwrap();
    let keys = AgentKeys::builder().build(store).unwrap();
    let created = keys.create(NewKey::new("acme".parse().unwrap())).await.unwrap();
    let service = Arc::new(Service::new(&keys));
    let refuse = "CREATE SEQUENCE tried; CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        PERFORM nextval('tried'); RAISE check_violation; END $$; \
        CREATE TRIGGER refuse BEFORE INSERT ON agentkey_entries FOR EACH ROW EXECUTE FUNCTION refuse()";
    execute(&pool, refuse).await;
    let (asked, token) = (service.clone(), created.token.expose().to_owned());
    let held = tokio::spawn(async move { asked.ask("/hold/acme", &token).await.0 });
    until(async || count(&pool, "SELECT last_value FROM tried").await > 2).await;
    execute(&pool, "DROP TRIGGER refuse ON agentkey_entries").await;
    assert_eq!(held.await.unwrap(), StatusCode::OK);
    assert_eq!(count(&pool, "SELECT count(*) FROM agentkey_entries").await, 1);
    audit::figures(&pool).await;
}

/// Takes a payment back that was never made.
fn settle_voiding(key: &Key, cents: i32) -> Posting {
    let (void, cost) = (vec![PostingId::new()], Amount::cents(cents));
    let action =
        Action::Settle { holds: Vec::new(), void, cost, note: Note::default(), claim: None };
    Posting::new(key.account.clone(), key.id, action)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn money_in_a_transaction_of_the_application_is_committed_or_rolled_back_with_it() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    let mut tx = pool.begin().await.unwrap();
    let entry = world
        .store
        .pay_in(&mut tx, &key.account, key.id, Amount::cents(60), Note::default())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(cents(&world, &key).await, (60, 0));

    let mut tx = pool.begin().await.unwrap();
    let too_much =
        world.store.pay_in(&mut tx, &key.account, key.id, Amount::cents(41), Note::default()).await;
    assert!(
        matches!(too_much, Err(agentkey::store::PostingError::Refused(Refusal::BudgetExceeded(_)))),
        "{too_much:?}"
    );
    world.store.refund_in(&mut tx, &key.account, entry, Amount::cents(10)).await.unwrap();
    world
        .store
        .pay_in(&mut tx, &key.account, key.id, Amount::cents(50), Note::default())
        .await
        .unwrap();
    drop(tx);
    until(async || cents(&world, &key).await == (60, 0)).await;
    audit::figures(&pool).await;
}
