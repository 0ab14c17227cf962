//! Marks of policy, of stores that have them: see [`Store::mark`]. A store without marks passes.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::world::*;
use crate::store::{Found, Mark};
use crate::{Balance, Budget, Clock, KeyPatch, NewKey, Period, ScopeSet, Store, TokenHash};

/// How long a store that is told of changes may take to begin to hear of them.
const BEGINNING: Duration = Duration::from_secs(2);

/// Only a store that is never told gets here.
const NEVER: Duration = Duration::from_secs(60);

async fn begin(store: &impl Store) -> Option<Mark> {
    let started = Instant::now();
    loop {
        let mark = store.mark().await.unwrap();
        // A store that has none says so for ever; most that have one say so at once.
        if mark.is_some() || started.elapsed() > BEGINNING {
            return mark;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// What a look-up finds, but for figures of money.
async fn policy(store: &impl Store, hash: TokenHash) -> Option<Found> {
    let found = store.find(&[hash]).await.unwrap().pop().unwrap()?;
    let nothing = Balance::empty(jiff::Timestamp::UNIX_EPOCH);
    let blank = |key: &crate::Key| crate::Key { balance: nothing, ..key.clone() };
    let lineage = &found.lineage;
    let account = crate::Account { balance: nothing, ..lineage.account().clone() };
    let ancestors = lineage.ancestors().iter().map(blank).collect();
    let lineage = crate::Lineage::new(blank(lineage.key()), ancestors, account, lineage.at());
    Some(Found::new(lineage, found.retires_at))
}

/// While the mark is the same, the same keys are found with the same policy.
pub async fn under_one_mark_policy_is_the_same<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    if begin(&*w.store).await.is_none() {
        return;
    }
    let (root, first) = w.create_with_token(acme().budget(Budget::daily(c(100)))).await;
    let (mid, _) = w.create_with_token(NewKey::child_of(root.id)).await;
    let (leaf, leaf_hash) = w.create_with_token(NewKey::child_of(mid.id)).await;
    let mut hashes = vec![first, leaf_hash];

    for step in 0..14 {
        let before = begin(&*w.store).await.expect("a store that had a mark has one again");
        let mut found = Vec::new();
        for hash in &hashes {
            found.push(policy(&*w.store, *hash).await);
        }
        match step {
            0 => drop(w.update(&mid, KeyPatch::new().scopes(ScopeSet::parse(["read"]).unwrap())).await.unwrap()),
            1 => drop(w.update(&leaf, KeyPatch::new().name("another")).await.unwrap()),
            2 => drop(w.update(&root, KeyPatch::new().budget(Budget::daily(c(50)))).await.unwrap()),
            3 => drop(w.update(&root, KeyPatch::new().budget(Budget::monthly(c(50)))).await.unwrap()),
            4 => drop(w.update(&leaf, KeyPatch::new().expires_at(w.clock.now() + secs(DAY))).await.unwrap()),
            5 => drop(w.ceiling(&account("acme"), Budget::monthly(c(1_000))).await),
            6 => drop(w.ceiling(&account("acme"), Budget::new(Some(c(1_000)), Period::Day)).await),
            7 => drop(w.ceiling(&account("acme"), Budget::unlimited()).await),
            8 => hashes.push(w.rotate(&leaf, MINUTE).await.1),
            9 => hashes.push(w.rotate(&leaf, 2).await.1),
            10 => drop(w.paid(&leaf, 1).await),
            11 => drop(w.accept(&hold(&leaf, c(1), MINUTE)).await),
            12 => hashes.push(w.create_with_token(NewKey::child_of(leaf.id)).await.1),
            _ => drop(w.revoke(&mid).await),
        }
        let mut now = Vec::new();
        for hash in hashes.iter().take(found.len()) {
            now.push(policy(&*w.store, *hash).await);
        }
        // A store that is told of changes may be late.
        let changed_at = Instant::now();
        while now != found && w.store.mark().await.unwrap().is_some_and(|mark| mark.version == before.version) {
            assert!(changed_at.elapsed() < NEVER, "step {step}: another policy under the same mark");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The instant of a mark is the store's: expiry is judged by it.
pub async fn a_mark_has_the_time_of_the_store<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    for _ in 0..2 {
        let Some(mark) = begin(&*w.store).await else { return };
        assert_eq!(mark.at, w.clock.now());
        w.clock.advance(secs(DAY));
    }
}
