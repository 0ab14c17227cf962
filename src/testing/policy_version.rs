//! Look-ups that a store serves from its cache: see [`Store::try_find_cached`]. A store without a
//! cache passes.

use super::world::*;
use crate::model::{
    Account, Balance, Budget, Clock, Key, KeyPatch, Lineage, NewKey, Period, ScopeSet,
};
use crate::store::{Found, Store};

/// Returns what was found without the figures of money.
fn policy(found: Found) -> Found {
    let nothing = Balance::empty(
        &Budget::unlimited(),
        jiff::Timestamp::UNIX_EPOCH,
        jiff::Timestamp::UNIX_EPOCH,
    );
    let blank = |key: &Key| Key { balance: nothing, ..key.clone() };
    let lineage = &found.lineage;
    let account = Account { balance: nothing, ..lineage.account().clone() };
    let ancestors = lineage.ancestors().iter().map(blank).collect();
    let lineage = Lineage::new(blank(lineage.key()), ancestors, account, lineage.at());
    Found::new(lineage, found.retires_at)
}

/// A change through the store is in force at its next look-up, cached or not. A refused key is
/// never served from the cache.
pub async fn a_cached_look_up_knows_the_changes_of_its_store<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    let (root, first) = w.create_with_token(acme().budget(Budget::daily(c(100)))).await;
    let (mid, _) = w.create_with_token(NewKey::child_of(root.id)).await;
    let (leaf, leaf_hash) = w.create_with_token(NewKey::child_of(mid.id)).await;
    let mut hashes = vec![first, leaf_hash];
    for step in 0..17 {
        w.store.poll_policy_version().await.unwrap();
        for hash in &hashes {
            w.find(*hash).await;
        }
        match step {
            0 => drop(
                w.update(&mid, KeyPatch::new().scopes(ScopeSet::parse(["read"]).unwrap()))
                    .await
                    .unwrap(),
            ),
            1 => drop(w.update(&leaf, KeyPatch::new().name("another")).await.unwrap()),
            2 => drop(w.update(&root, KeyPatch::new().budget(Budget::daily(c(50)))).await.unwrap()),
            3 => {
                drop(w.update(&root, KeyPatch::new().budget(Budget::monthly(c(50)))).await.unwrap())
            }
            4 => drop(
                w.update(&leaf, KeyPatch::new().expires_at(w.clock.now() + secs(2 * DAY)))
                    .await
                    .unwrap(),
            ),
            5 => drop(w.ceiling(&account("acme"), Budget::monthly(c(1_000))).await),
            6 => drop(w.ceiling(&account("acme"), Budget::new(Some(c(1_000)), Period::Day)).await),
            7 => drop(w.ceiling(&account("acme"), Budget::unlimited()).await),
            8 => hashes.push(w.rotate(&leaf, MINUTE).await.1),
            9 => hashes.push(w.rotate(&leaf, 2).await.1),
            10 => w.clock.advance(secs(2)),
            11 => drop(w.paid(&leaf, 1).await),
            12 => drop(w.accept(&hold(&leaf, c(1), MINUTE)).await),
            13 => hashes.push(w.create_with_token(NewKey::child_of(leaf.id)).await.1),
            14 => w.clock.advance(secs(DAY)),
            15 => w.clock.advance(secs(DAY)),
            _ => drop(w.revoke(&mid).await),
        }
        for polls in [false, true] {
            if polls {
                w.store.poll_policy_version().await.unwrap();
            }
            for hash in &hashes {
                let cached = w.store.try_find_cached(hash, Some(secs(DAY)));
                let found = w.find(*hash).await;
                if let Some(cached) = cached {
                    assert_eq!(cached.lineage.check_active(), Ok(()), "step {step}");
                    assert_eq!(Some(policy(cached)), found.map(policy), "step {step}");
                }
            }
        }
    }
}
