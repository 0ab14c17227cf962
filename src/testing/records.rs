//! What a key's record says beside money: delegation, pause, the reason of a revocation, metadata.

use super::world::*;
use crate::ledger::{Action, KeyChange, Outcome};
use crate::model::{Clock, KeyPatch, Metadata, NewKey, Refusal};
use crate::store::{EntryQuery, Store};

/// A child acts for its parent's delegator only. Entries name the human.
pub async fn a_delegator_is_inherited<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.create(acme().delegated_by("user_456")).await;
    let child = w.create(NewKey::child_of(root.id)).await;
    let (leaf, hash) = w.create_with_token(NewKey::child_of(child.id)).await;
    for key in [&root, &child, &leaf] {
        assert_eq!(key.delegated_by.as_deref(), Some("user_456"));
    }
    w.create(NewKey::child_of(root.id).delegated_by("user_456")).await;
    let other = w.try_create(NewKey::child_of(root.id).delegated_by("user_9")).await;
    let refused = other.expect_err("another human").to_string();
    assert!(refused.starts_with("delegated_by: "), "{refused}");
    for human in ["", " ", "a\nb", &"x".repeat(256)] {
        let refused =
            w.try_create(acme().delegated_by(human)).await.expect_err("no id").to_string();
        assert!(refused.starts_with("delegated_by: "), "{refused}");
    }

    let found = w.find(hash).await.expect("it is there");
    assert_eq!(found.lineage.delegated_by(), Some("user_456"));
    let entry = w.paid(&leaf, 1).await;
    let nobody = w.create(acme()).await;
    w.paid(&nobody, 1).await;
    let entries = w.entries(EntryQuery::for_account(account("acme"))).await;
    let humans: Vec<_> = entries.iter().map(|entry| entry.delegated_by.as_deref()).collect();
    assert_eq!(humans, [Some("user_456"), None]);
    let entry = w.store.entry(entry).await.unwrap().expect("it was written");
    assert_eq!(entry.delegated_by.as_deref(), Some("user_456"));
}

/// A disabled key and its descendants are refused until it is enabled. What runs goes on.
pub async fn a_disabled_key_is_refused_and_its_work_goes_on<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    let root = w.key(100).await;
    let (leaf, hash) = w.create_with_token(NewKey::child_of(root.id)).await;
    let held = hold(&leaf, c(10), MINUTE);
    w.accept(&held).await;
    let disabled = w.update(&root, KeyPatch::new().disabled(true)).await.expect("it may");
    assert_eq!(disabled.disabled_at, Some(w.clock.now()));
    w.clock.advance(secs(1));
    let again = w.update(&root, KeyPatch::new().disabled(true)).await.expect("it may");
    assert_eq!(again, disabled, "it is disabled already");

    let lineage = w.find(hash).await.expect("it is there").lineage;
    assert_eq!(lineage.check_active(), Err(Refusal::DisabledKey));
    for posting in [
        pay(&leaf, c(1)),
        hold(&leaf, c(1), MINUTE),
        posting(&leaf, Action::Open { claim: None, ttl: secs(MINUTE) }),
        pay(&root, c(1)),
    ] {
        assert_eq!(w.refuse(&posting).await, Refusal::DisabledKey);
    }
    let renewed = w.accept(&renew(&leaf, &[&held], DAY, 2 * DAY)).await.outcome;
    assert_eq!(renewed, Outcome::Renewed { until: Some(w.clock.now() + secs(DAY)), over: vec![] });
    w.clock.advance(secs(10 * MINUTE));
    assert_eq!(w.balance(&root).await, (NOTHING, c(10)));
    w.accept(&settle(&leaf, &[&held], c(7))).await;
    assert_eq!(w.balance(&root).await, (c(7), NOTHING));

    let enabled = w.update(&root, KeyPatch::new().disabled(false)).await.expect("it may");
    assert_eq!(enabled.disabled_at, None);
    w.paid(&leaf, 1).await;
}

/// A revocation keeps its first reason.
pub async fn a_revocation_keeps_its_reason<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(1).await;
    let revoke = |reason: &str| {
        w.change_key(KeyChange::Revoke { key: key.id, reason: Some(reason.to_owned()) })
    };
    revoke(&"x".repeat(256)).await.expect_err("too long");
    let revoked = revoke("leaked in a log").await.expect("it may");
    assert_eq!(revoked.revoked_reason.as_deref(), Some("leaked in a log"));
    assert_eq!(revoke("another").await.expect("it may"), revoked);
    let read = w.store.lineage(key.id).await.unwrap().expect("it is there").key().clone();
    assert_eq!(read, revoked);
}

/// Metadata is kept as it was given, replaced whole, and removed.
pub async fn metadata_is_kept<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let metadata = |text: &str| text.parse::<Metadata>().expect("an object");
    let first = metadata(r#"{"tier":2,"team":"search","tags":["a","b"],"note":"\u00e9 \" \\"}"#);
    let key = w.create(acme().metadata(first.clone())).await;
    let read = async || {
        w.store.lineage(key.id).await.unwrap().expect("it is there").key().metadata.clone()
    };
    assert_eq!(read().await, first);
    w.update(&key, KeyPatch::new().name("a")).await.expect("it may");
    assert_eq!(read().await, first, "what a patch leaves out stays");
    // A database may write out the digits of a number.
    let numbers = format!(r#"{{"n":[{}]}}"#, ["1e300"; 500].join(","));
    for other in [metadata(r#"{"tier":3}"#), metadata(&numbers), Metadata::default()] {
        let updated = w.update(&key, KeyPatch::new().metadata(other.clone())).await;
        assert_eq!(updated.expect("it may").metadata, other);
        assert_eq!(read().await, other);
    }
}
