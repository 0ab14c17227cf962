//! Balances of an adopted table agree with the openings, and with what was charged since.

use agentkey::Holder;
use agentkey::model::Origin;
use agentkey::{Amount, KeyId};

use super::*;
use crate::reconcile::differences;
use crate::{hold, pay, settle};

/// A root with two levels below it; each has spent something, and each has a window of its own.
const TABLE: &str = "CREATE TABLE sdk_api_keys (id bigint PRIMARY KEY, account_id text, key_hash text NOT NULL UNIQUE, \
    parent_id bigint, budget_cents int, budget_used_cents int NOT NULL DEFAULT 0, budget_period text, \
    budget_reset_at timestamptz); \
    INSERT INTO sdk_api_keys SELECT n, 'acme', encode(sha256(('obs_' || n)::bytea), 'hex'), nullif(n / 2, 0), 1000 * n, \
    n * 11, (ARRAY['day', 'month', NULL])[n % 3 + 1], \
    CASE WHEN n % 4 > 0 THEN '2026-01-31T12:00:00Z'::timestamptz + (n - 3) * interval '7 hours' END \
    FROM generate_series(1, 7) n";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn adopted_balances_agree() {
    let Some(mut host) = Host::with(TABLE).await else { return };
    // Not at the start of a day, at which a roll-up counts.
    host.clock.set("2026-01-31T12:34:56Z".parse().unwrap());
    let store = host.open(open_handed()).await.unwrap();
    assert_eq!(differences(&store).await, [], "with the openings alone");
    assert!(host.text("SELECT count(*) FROM agentkey_entries").await.parse::<i32>().unwrap() >= 3);
    let keys: Vec<_> =
        find(&store, &["obs_1", "obs_2", "obs_3", "obs_4", "obs_5", "obs_6", "obs_7"]).await;
    let keys: Vec<_> = keys.into_iter().map(|found| found.unwrap().key().clone()).collect();
    let held: Vec<_> = keys.iter().map(|key| hold(key, 2)).collect();
    for posted in store.post(&held).await.unwrap() {
        posted.unwrap();
    }
    let settles: Vec<_> = held.iter().step_by(2).map(|hold| settle(hold, 5)).collect();
    store.post(&settles).await.unwrap();
    for days in [0, 1, 30] {
        host.clock.advance(std::time::Duration::from_secs(days * 86_400));
        assert_eq!(differences(&store).await, [], "{days} days later");
        store.post(&keys.iter().map(|key| pay(key, 1)).collect::<Vec<_>>()).await.unwrap();
        assert_eq!(differences(&store).await, [], "{days} days later, charged");
    }
    host.clock.advance(std::time::Duration::from_secs(33 * 86_400));
    let service = agentkey::AgentKeys::new(store.clone()).unwrap();
    let age = std::time::Duration::from_secs(32 * 86_400);
    let pruned = service.prune(&agentkey::Prune::older_than(age)).await.unwrap();
    assert!(pruned.entries > 0, "{pruned:?}");
    assert_eq!(differences(&store).await, [], "with openings that are rolled up");
    host.run("UPDATE sdk_api_keys SET budget_period = 'month' WHERE id = 2").await;
    assert_eq!(differences(&store).await, [], "by another period of the application");
    host.run("UPDATE agentkey_balances SET spent = 77 WHERE key_id = 2").await;
    assert_eq!(differences(&store).await.len(), 1);
    assert!(!store.mend(&KeyId::new(2).into(), &Origin::new()).await.unwrap().unwrap().agrees());
    assert_eq!(differences(&store).await, []);
}

/// The application's software deletes rows. What a deleted key was charged may count for each key of its account, so no key
/// gets money back that its descendants have spent.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn what_a_deleted_key_was_charged_makes_no_difference() {
    let Some(mut host) = Host::with(TABLE).await else { return };
    let store = host.open(open_handed()).await.unwrap();
    let found = find(&store, &["obs_1", "obs_3", "obs_7"]).await;
    let [root, mid, leaf] =
        &found.into_iter().map(|found| found.unwrap().key().clone()).collect::<Vec<_>>()[..]
    else {
        panic!("three keys")
    };
    let held = hold(leaf, 60);
    for posting in [pay(mid, 4), pay(leaf, 8), held.clone()] {
        store.post(&[posting]).await.unwrap().remove(0).unwrap();
    }
    host.run("DELETE FROM sdk_api_keys WHERE id = 3").await;
    store.post(&[settle(&held, 10)]).await.unwrap().remove(0).unwrap();
    for holder in [Holder::Key(root.id), root.account.clone().into()] {
        let found = store.reconcile(&holder).await.unwrap().unwrap();
        assert!(found.agrees(), "{found:?}");
    }
    assert_eq!(store.reconcile(&mid.id.into()).await.unwrap(), None, "its row is gone");
    let spent = host.text("SELECT spent FROM agentkey_balances WHERE key_id = 1").await;
    host.run("UPDATE agentkey_balances SET spent = 1 WHERE key_id = 1").await;
    let found = store.mend(&root.id.into(), &Origin::new()).await.unwrap().unwrap();
    let computed = found.differences[0].computed.as_micros();
    assert!(computed > 1 && computed <= spent.parse().unwrap(), "{found:?} of {spent}");
    assert_eq!(found.differences[0].stored, Amount::micros(1));
}
