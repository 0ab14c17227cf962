//! One odd row, one locked account, one moved key: nobody else notices.

use agentkey::ledger::{Claim, ClaimRef, KeyChange};
use agentkey::{AccountId, AgentKeys, KeyPatch, PostingId, Refusal, Scope, ScopeSet, Store};

use http::StatusCode;

use super::*;
use crate::service::Service;

#[tokio::test(flavor = "multi_thread")]
async fn scopes_that_are_no_list_make_one_key_unusable() {
    let Some((_database, world, pool)) = site().await else { return };
    for odd in ["{{a,b},{c,d}}", "[0:1]={a,b}"] {
        let new = || NewKey::new("acme".parse().unwrap()).budget(Budget::lifetime(Amount::cents(100)));
        let (good, good_hash) = world.try_create(new()).await.unwrap();
        let (bad, bad_hash) = world.try_create(new()).await.unwrap();
        let held = hold(&bad, 10);
        assert!(world.post(&held).await.is_ok());
        execute(&pool, format!("UPDATE agent_keys SET scopes = '{odd}' WHERE id = {}", bad.id)).await;

        let found = world.store.find(&[good_hash, bad_hash]).await.unwrap();
        assert!(found[0].is_some() && found[1].is_none(), "{odd}");
        let posted = world.post_all(&[pay(&good, 1), pay(&bad, 1), settle(&held, 7)]).await;
        assert!(posted[0].is_ok() && posted[2].is_ok(), "{odd}: {posted:?}");
        assert_eq!(posted[1], Err(Refusal::RevokedKey));
        execute(&pool, format!("UPDATE agent_keys SET scopes = '{{a}}' WHERE id = {}", bad.id)).await;
        assert_eq!(cents(&world, &bad).await, (7, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_does_not_undo_what_the_host_commits_meanwhile() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    let mut tx = pool.begin().await.unwrap();
    let narrow = format!("UPDATE agent_keys SET scopes = '{{read}}', limit_micros = 5 WHERE id = {}", key.id);
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
async fn an_account_that_the_host_keeps_locked_stalls_no_other() {
    let Some((_database, world, pool)) = site().await else { return };
    let (kept, other) = (key(&world, "kept", 100).await, key(&world, "other", 100).await);
    let third = key(&world, "third", 100).await;
    let mut tx = pool.begin().await.unwrap();
    let price = Amount::cents(30);
    world.store.pay_in(&mut tx, &kept.account, kept.id, price, Note::default()).await.unwrap();

    let late = pay(&kept, 1);
    for _ in 0..3 {
        // The last one is decided behind the lock, as the first is.
        let posted = world.post_all(&[late.clone(), pay(&other, 1), settle_voiding(&third, 1)]).await;
        assert!(matches!(posted[0], Err(Refusal::Unavailable { .. })), "{posted:?}");
        assert!(posted[1].is_ok() && posted[2].is_ok(), "{posted:?}");
    }
    tx.rollback().await.unwrap();
    assert!(world.post(&late).await.is_ok());
    for (key, spent) in [(kept, 1), (other, 3), (third, 3)] {
        assert_eq!(cents(&world, &key).await, (spent, 0));
    }
}

/// What waits for a locked account goes on waiting in its lane, and is decided when the account is free.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_an_account_is_posted_when_the_host_lets_go_of_it() {
    let Some((_database, world, pool)) = site().await else { return };
    let keys = AgentKeys::builder().answer_within(HANG).build((*world.store).clone());
    let key = key(&world, "acme", 100).await;
    let paid = pay(&key, 10);
    assert!(world.post(&paid).await.is_ok());
    let mut tx = pool.begin().await.unwrap();
    world.store.pay_in(&mut tx, &key.account, key.id, Amount::cents(30), Note::default()).await.unwrap();

    let account = key.account.clone();
    let refund = tokio::spawn(async move { keys.refund(&account, paid.id.into(), Amount::cents(4)).await });
    until(async || count(&pool, WAITING).await > 0).await;
    until(async || count(&pool, WAITING).await == 0).await; // it has given up once
    tx.rollback().await.unwrap();
    assert!(refund.await.unwrap().is_ok());
    assert_eq!(cents(&world, &key).await, (6, 0));
}

/// More than go into one batch.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_waits_for_its_account_stalls_no_other() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let pool = host(database.url()).await;
    let store = PostgresStore::open(PostgresOptions::new(database.url())).await.unwrap();
    let keys = AgentKeys::builder().answer_within(HANG).build(store);
    let kept = keys.create(NewKey::new("kept".parse().unwrap())).await.unwrap();
    let other = keys.create(NewKey::new("other".parse().unwrap())).await.unwrap();
    let service = Arc::new(Service::new(&keys));
    let mut tx = pool.begin().await.unwrap();
    sqlx::raw_sql("SELECT FROM agentkey_accounts WHERE id = 'kept' FOR UPDATE").execute(&mut *tx).await.unwrap();
    let mut crowd = tokio::task::JoinSet::new();
    for n in 0..1_200 {
        let (service, token) = (service.clone(), kept.token.expose().to_owned());
        crowd.spawn(async move { service.ask(&format!("/pay/kept-{n}"), &token).await.0 });
    }
    for n in 0..8 {
        until(async || count(&pool, WAITING).await > 0).await;
        assert_eq!(service.ask(&format!("/pay/other-{n}"), other.token.expose()).await.0, StatusCode::OK);
    }
    tx.rollback().await.unwrap();
    assert!(crowd.join_all().await.into_iter().all(|status| status == StatusCode::OK));
    keys.shutdown().await;
    assert_eq!(count(&pool, "SELECT count(*) FROM agentkey_entries").await, 1_208);
    audit::figures(&pool).await;
}

/// Alone in its batch, as in a quiet service.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_hosts_rules_refuse_for_a_while_is_charged_in_the_end() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let pool = host(database.url()).await;
    let store = PostgresStore::open(PostgresOptions::new(database.url())).await.unwrap();
    let keys = AgentKeys::builder().build(store);
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
    let action = Action::Settle { holds: Vec::new(), void, cost, note: Note::default(), claim: None };
    Posting::new(key.account.clone(), key.id, action)
}

#[tokio::test(flavor = "multi_thread")]
async fn money_in_the_hosts_transaction_comes_and_goes_with_it() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    let mut tx = pool.begin().await.unwrap();
    let entry = world.store.pay_in(&mut tx, &key.account, key.id, Amount::cents(60), Note::default()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(cents(&world, &key).await, (60, 0));

    let mut tx = pool.begin().await.unwrap();
    let too_much = world.store.pay_in(&mut tx, &key.account, key.id, Amount::cents(41), Note::default()).await;
    assert!(matches!(too_much, Err(agentkey::Error::Refused(Refusal::BudgetExceeded(_)))), "{too_much:?}");
    world.store.refund_in(&mut tx, &key.account, entry, Amount::cents(10)).await.unwrap();
    world.store.pay_in(&mut tx, &key.account, key.id, Amount::cents(50), Note::default()).await.unwrap();
    drop(tx);
    until(async || cents(&world, &key).await == (60, 0)).await;
    audit::figures(&pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_moved_and_comes_back_has_spent_what_it_spent() {
    let Some((_database, world, pool)) = site().await else { return };
    let home = key(&world, "home", 10).await;
    assert!(world.post(&pay(&home, 9)).await.is_ok());
    let mut away = home.clone();
    away.account = "away".parse::<AccountId>().unwrap();
    execute(&pool, "UPDATE agent_keys SET account_id = 'away'").await;
    assert!(world.post(&pay(&away, 1)).await.is_ok());
    assert_eq!(world.post(&pay(&home, 1)).await, Err(Refusal::InvalidKey));
    execute(&pool, "UPDATE agent_keys SET account_id = 'home'").await;
    assert!(world.post(&pay(&home, 2)).await.is_err());
    assert!(world.post(&pay(&home, 1)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_in_two_accounts_of_one_batch_is_charged_in_each() {
    let Some((database, world, pool)) = site().await else { return };
    let other = PostgresStore::connect(database.url()).await.unwrap();
    // In whichever order the accounts are taken.
    for n in 0..12 {
        let (from, to) = (format!("from-{n}"), format!("to-{n}"));
        let new = NewKey::new(from.parse().unwrap()).budget(Budget::lifetime(Amount::cents(10)));
        let (home, hash) = world.try_create(new).await.unwrap();
        let held = hold(&home, 5);
        assert!(world.post(&held).await.is_ok());
        let mut away = home.clone();
        away.account = to.parse().unwrap();
        execute(&pool, format!("UPDATE agent_keys SET account_id = '{to}' WHERE id = {}", home.id)).await;
        assert!(world.post(&pay(&away, 1)).await.is_ok());
        // Known in both.
        assert!(world.store.find(std::slice::from_ref(&hash)).await.unwrap()[0].is_some());
        let posted = world.post_all(&[settle(&held, 3), pay(&away, 8)]).await;
        assert!(posted.iter().all(Result::is_ok), "{posted:?}");
        let refused = other.post(&[pay(&away, 2)]).await.unwrap().pop().unwrap();
        assert!(matches!(refused, Err(Refusal::BudgetExceeded(_))), "{refused:?}");
    }
    let wrong = "SELECT count(*) FROM agentkey_accounts a WHERE spent <> \
        (SELECT sum(amount) FROM agentkey_entries e WHERE e.account_id = a.id)";
    assert_eq!(sqlx::query_scalar::<_, i64>(wrong).fetch_one(&pool).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_closed_though_its_key_was_moved() {
    let Some((_database, world, pool)) = site().await else { return };
    let home = key(&world, "home", 10).await;
    let claim = Some(Claim::new("once", [7; 32]));
    let open = Posting::new(home.account.clone(), home.id, Action::Open { claim, ttl: Duration::from_secs(60) });
    assert!(world.post(&open).await.is_ok());
    execute(&pool, "UPDATE agent_keys SET account_id = 'away'").await;
    let (cost, claim) = (Amount::cents(3), Some(ClaimRef::new("once", open.id)));
    let settle = Action::Settle { holds: Vec::new(), void: Vec::new(), cost, note: Note::default(), claim };
    assert!(world.post(&Posting::new(home.account.clone(), home.id, settle)).await.is_ok());
    let closed = "SELECT count(*) FROM agentkey_claims WHERE entry IS NOT NULL";
    let closed: i64 = sqlx::query_scalar(closed).fetch_one(&pool).await.unwrap();
    assert_eq!(closed, 1);
}
