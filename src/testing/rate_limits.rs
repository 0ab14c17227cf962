//! How often and from where keys may be used: what their records say, and what is taken of rates that all
//! processes share.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::world::*;
use crate::ledger::{Quota, RateId, Take};
use crate::model::{ChangeError, Cidrs, Clock, Key, KeyId, KeyPatch, NewKey, RateLimit};
use crate::store::Store;

fn ranges(list: &[&str]) -> Cidrs {
    Cidrs::parse(list.iter().copied()).expect("ranges")
}

fn take(keys: &[&Key], limit: RateLimit, requests: u32) -> Take {
    let quota = Quota::of(&limit).expect("a rate");
    Take { limits: keys.iter().map(|key| (key.id.into(), quota)).collect(), requests }
}

/// A rate limit and ranges of addresses are kept as they were given, and removed.
pub async fn rate_limits_and_ranges_are_kept<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let limit = RateLimit::per_minute(100).burst(20).in_flight(4);
    let office = ranges(&["192.0.2.0/24", "2001:db8::/48", "198.51.100.7"]);
    let new = acme().rate_limit(limit).allowed_cidrs(office.clone());
    let (key, hash) = w.create_with_token(new).await;
    let read = async || {
        let key = w.store.lineage(key.id).await.unwrap().expect("it is there").key().clone();
        assert_eq!(w.find(hash).await.expect("it is there").lineage.key(), &key);
        (key.rate_limit, key.allowed_cidrs)
    };
    assert_eq!(read().await, (Some(limit), Some(office.clone())));
    w.update(&key, KeyPatch::new().name("a")).await.expect("it may");
    assert_eq!(read().await, (Some(limit), Some(office)), "what a patch leaves out stays");
    let patch = KeyPatch::new().rate_limit(Some(RateLimit::at_once(0)));
    let updated = w.update(&key, patch.allowed_cidrs(Some(Cidrs::nowhere()))).await;
    assert_eq!(updated.expect("it may").allowed_cidrs, Some(Cidrs::nowhere()));
    assert_eq!(read().await, (Some(RateLimit::at_once(0)), Some(Cidrs::nowhere())));
    let patch = KeyPatch::new().rate_limit(None).allowed_cidrs(None);
    w.update(&key, patch).await.expect("it may");
    assert_eq!(read().await, (None, None));
    for limit in [RateLimit::per_minute(1_000_001), RateLimit::per_minute(5).burst(0)] {
        let refused = w.try_create(acme().rate_limit(limit)).await.expect_err("out of bounds");
        assert!(refused.to_string().starts_with("rate_limit: "), "{refused}");
    }
}

/// A key may be used from nowhere where an ancestor may not, and any rate limit of its own is only one
/// more.
pub async fn a_child_stays_inside_the_ranges_of_its_lineage<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    let root = w.create(acme().allowed_cidrs(ranges(&["10.0.0.0/9", "10.128.0.0/9"]))).await;
    let child = w.create(NewKey::child_of(root.id).allowed_cidrs(ranges(&["10.0.0.0/8"]))).await;
    let silent = w.create(NewKey::child_of(child.id).rate_limit(RateLimit::per_second(9))).await;
    let refused = |result: Result<_, ChangeError>| {
        let error = result.map(drop).expect_err("beyond").to_string();
        assert!(error.starts_with("allowed_cidrs: "), "{error}");
    };
    let wide = || ranges(&["10.0.0.0/7"]);
    refused(w.try_create(NewKey::child_of(silent.id).allowed_cidrs(wide())).await.map(drop));
    refused(w.update(&silent, KeyPatch::new().allowed_cidrs(Some(wide()))).await.map(drop));
    // Null lifts the key's own, and no ancestor's.
    w.update(&child, KeyPatch::new().allowed_cidrs(None)).await.expect("it may");
    let lineage = w.store.lineage(silent.id).await.unwrap().expect("it is there");
    let allows = |address: &str| lineage.allows_address(address.parse().expect("an address"));
    assert!(allows("10.200.0.1") && !allows("11.0.0.1"));
    // A parent that is narrowed later narrows its descendants.
    let narrow = KeyPatch::new().allowed_cidrs(Some(ranges(&["10.0.0.0/30"])));
    w.update(&root, narrow).await.expect("it may");
    let lineage = w.store.lineage(silent.id).await.unwrap().expect("it is there");
    assert!(!lineage.allows_address("10.200.0.1".parse().expect("an address")));
}

/// A burst is taken, then what the rate gives, by the clock of the store.
pub async fn a_burst_is_taken_and_then_the_rate<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (key, other) = (w.key(1).await, w.key(1).await);
    let limit = RateLimit::per_minute(100);
    let granted = async |key: &Key, requests| {
        let taken = w.store.take(&[take(&[key], limit, requests)]).await.unwrap().remove(0);
        let quota = Quota::of(&limit).expect("a rate");
        let left = quota.available(taken.used[0], taken.at);
        assert!(taken.granted == requests || left == 0, "{taken:?}");
        taken.granted
    };
    assert_eq!((granted(&key, 60).await, granted(&key, 60).await), (60, 40));
    assert_eq!((granted(&key, 1).await, granted(&other, 1).await), (0, 1));
    w.clock.advance(std::time::Duration::from_micros(599_999));
    assert_eq!(granted(&key, 1).await, 0);
    w.clock.advance(std::time::Duration::from_micros(1));
    assert_eq!(granted(&key, 7).await, 1);
    w.clock.advance(secs(600));
    assert_eq!(granted(&key, 1_000).await, 100);
}

/// A request is taken from all limits of its lineage or from none, in the order of the batch.
pub async fn all_limits_are_taken_from_or_none<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let parent = w.key(1).await;
    let child = w.create(NewKey::child_of(parent.id)).await;
    let quota = |limit: RateLimit| Quota::of(&limit).expect("a rate");
    let (own, above) = (quota(RateLimit::per_minute(10)), quota(RateLimit::per_minute(4)));
    let both = |requests| Take {
        limits: vec![(child.id.into(), own), (parent.id.into(), above)],
        requests,
    };
    let of_child = Take { limits: vec![(child.id.into(), own)], requests: 20 };
    let unknown = Take { limits: vec![(KeyId::new(9_999).into(), own)], requests: 1 };
    let default = RateId::of_default(parent.id, &RateLimit::per_minute(4));
    let of_default = Take { limits: vec![(default, above)], requests: 9 };
    let taken = w.store.take(&[both(3), both(3), of_child, unknown, of_default]).await.unwrap();
    let granted: Vec<_> = taken.iter().map(|taken| taken.granted).collect();
    // The parent's limit has refused two, which took nothing of the child's. A layer's default has a
    // count of its own.
    assert_eq!(granted, [3, 1, 6, 1, 4]);
    assert_eq!(w.store.take(&[both(1)]).await.unwrap()[0].granted, 0);
}

/// Takes that run together never take more than there is.
pub async fn takes_never_pass_a_limit_together<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = Arc::new(World::new(make).await);
    let (first, second) = (w.key(1).await, w.key(1).await);
    let limit = RateLimit::per_minute(100);
    // In both orders of the keys, which must not deadlock.
    let orders = [[&first, &second], [&second, &first]];
    let mut tasks = JoinSet::new();
    for at in 0..50 {
        let (w, takes) = (w.clone(), [take(&orders[at % 2], limit, 3)]);
        tasks.spawn(async move { w.store.take(&takes).await.unwrap()[0].granted });
    }
    let granted: u32 = tasks.join_all().await.into_iter().sum();
    assert_eq!(granted, 100);
}
