//! The policy version: which writes change it, and which do not.

use super::*;
use crate::ledger::{AccountChange, OnExpiry};

#[tokio::test]
async fn application_sql_changes_the_policy_version_and_money_does_not() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = SqliteStore::connect(&path).await.unwrap();
    let parent = create(&store, 0, draft("acme", None, Budget::daily(Amount::units(1)))).await;
    let child = create(&store, 1, draft("acme", Some(parent.id), Budget::unlimited())).await;
    let rotate =
        KeyChange::Rotate { key: child.id, token: token(2), grace: Duration::from_secs(60) };
    store.change_key(&rotate, &Rules::default()).await.unwrap().unwrap();

    for (sql, moves) in [
        ("UPDATE agent_keys SET revoked_at = 1 WHERE id = 1", true),
        ("UPDATE agent_keys SET revoked_at = NULL, expires_at = NULL", true),
        ("UPDATE agent_keys SET scopes = '[]' WHERE id = 2", true),
        ("UPDATE agent_keys SET limit_micros = 7", true),
        ("UPDATE agentkey_accounts SET limit_micros = 7", true),
        ("UPDATE agentkey_accounts SET period = 'day'", true),
        ("UPDATE agentkey_retired_tokens SET retires_at = 1", true),
        ("DELETE FROM agentkey_retired_tokens", true),
        ("UPDATE agent_keys SET revoked_at = 1 WHERE id = 99", false),
        (
            "ALTER TABLE agent_keys ADD COLUMN last_seen INTEGER; UPDATE agent_keys SET last_seen = 1",
            false,
        ),
        (
            "UPDATE agentkey_balances SET spent = 1; UPDATE agentkey_accounts SET spent = 1, changed_at = 1",
            false,
        ),
        (
            "INSERT INTO agent_keys (account_id, key_hash, created_at) VALUES ('acme', 'new', 0)",
            false,
        ),
        ("DELETE FROM agent_keys WHERE id = 2", true),
    ] {
        let before = policy_version(&store).await;
        raw(&path, sql);
        assert_eq!(policy_version(&store).await != before, moves, "{sql}");
    }
    raw(&path, "DELETE FROM agentkey_policy");
    assert_eq!(policy_version(&store).await, None, "without a row the version is unknown");
}

#[tokio::test]
async fn charges_and_new_keys_leave_the_policy_version() {
    let clock = crate::model::ManualClock::at(at("2026-01-31T12:00:00Z"));
    let directory = directory();
    let options = SqliteOptions::new(directory.path().join("keys.db")).clock(&clock);
    let store = SqliteStore::open(options).await.unwrap();
    let parent = create(&store, 0, draft("acme", None, Budget::daily(Amount::units(1)))).await;
    store
        .change_account(
            &account("acme"),
            AccountChange::SetBudget(Budget::daily(Amount::units(9))),
            &crate::model::Origin::new(),
        )
        .await
        .unwrap()
        .unwrap();
    let before = policy_version(&store).await;

    let child = create(&store, 1, draft("acme", Some(parent.id), Budget::unlimited())).await;
    let post = async |action| {
        let posting = Posting::new(account("acme"), child.id, action);
        store.post(std::slice::from_ref(&posting)).await.unwrap().pop().unwrap().unwrap();
        posting.id
    };
    let (amount, note, ttl) = (Amount::cents(1), Note::default(), Duration::from_secs(60));
    let held = post(Action::Hold {
        amount,
        ttl,
        on_expiry: OnExpiry::Charge,
        note: note.clone(),
        claim: None,
    })
    .await;
    let paid = post(Action::Pay { amount, note: note.clone(), claim: None }).await;
    post(Action::Refund { entry: paid.into(), amount }).await;
    post(Action::Hold {
        amount,
        ttl,
        on_expiry: OnExpiry::Charge,
        note: note.clone(),
        claim: None,
    })
    .await;
    post(Action::Settle { holds: vec![held], void: vec![], cost: amount, note, claim: None }).await;
    clock.advance(Duration::from_secs(2 * 24 * 60 * 60));
    assert_eq!(store.sweep().await.unwrap(), 1);
    assert_eq!(policy_version(&store).await, before);
}

/// A file that replaced another has a policy version of its own.
#[cfg(unix)]
#[tokio::test]
async fn a_restored_backup_is_another_policy() {
    let directory = directory();
    let (path, backup) = (directory.path().join("keys.db"), directory.path().join("backup.db"));
    let store = SqliteStore::connect(&path).await.unwrap();
    let key = create(&store, 1, draft("acme", None, Budget::unlimited())).await;
    store.close().await;
    std::fs::copy(&path, &backup).unwrap();

    // Both files have the same number of changes, but different ones.
    let renamed = SqliteStore::connect(&path).await.unwrap();
    let rename =
        KeyChange::Update { key: key.id, patch: crate::model::KeyPatch::new().name("renamed") };
    renamed.change_key(&rename, &Rules::default()).await.unwrap().unwrap();
    let revoked = SqliteStore::connect(&backup).await.unwrap();
    revoked
        .change_key(&KeyChange::Revoke { key: key.id, reason: None }, &Rules::default())
        .await
        .unwrap()
        .unwrap();
    assert_ne!(policy_version(&renamed).await, policy_version(&revoked).await);
}

/// Every change of a key leaves an event, and each names the human on whose behalf the key acts.
#[tokio::test]
async fn every_change_of_a_key_leaves_an_event_with_its_delegator() {
    use crate::model::KeyPatch;

    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = SqliteStore::connect(&path).await.unwrap();
    let mut first = draft("acme", None, Budget::unlimited());
    first.delegated_by = Some("user_456".to_owned());
    let parent = create(&store, 0, first).await;
    let child = create(&store, 1, draft("acme", Some(parent.id), Budget::unlimited())).await;
    let update = |patch| KeyChange::Update { key: child.id, patch };
    for change in [
        update(KeyPatch::new().name("renamed")),
        update(KeyPatch::new().name("renamed")), // changes nothing
        update(KeyPatch::new().disabled(true)),
        update(KeyPatch::new().disabled(false)),
        KeyChange::Rotate { key: child.id, token: token(2), grace: Duration::ZERO },
        KeyChange::Revoke { key: child.id, reason: Some("leaked".to_owned()) },
    ] {
        store.change_key(&change, &Rules::default()).await.unwrap().unwrap();
    }
    let file = Connection::open(&path).unwrap();
    let mut events = file
        .prepare(
            "SELECT kind, detail FROM agentkey_events WHERE delegated_by = 'user_456' ORDER BY seq",
        )
        .unwrap();
    let events = events.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let events: Vec<(String, String)> = events.collect::<Result<_, _>>().unwrap();
    let kinds: Vec<_> = events.iter().map(|(kind, _)| kind.as_str()).collect();
    let (made, changed) = (["key.created"; 2], ["key.updated", "key.disabled", "key.enabled"]);
    assert_eq!(kinds, [&made[..], &changed[..], &["key.rotated", "key.revoked"]].concat());
    for (kind, detail) in &events {
        let detail: serde_json::Value = serde_json::from_str(detail).unwrap();
        assert!(!detail.to_string().contains(&token(2).hash.to_string()), "{kind}");
    }
    assert!(events.last().unwrap().1.contains(r#""reason":"leaked""#));
}
