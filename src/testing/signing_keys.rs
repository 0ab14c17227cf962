//! The keys that sign sessions.

use std::time::Duration;

use super::world::*;
use crate::ledger::NewSigningKey;
use crate::model::{Clock, StoredSigningKey};
use crate::store::Store;

fn new(kid: &str, only_if_missing: bool) -> NewSigningKey {
    let key = StoredSigningKey {
        kid: kid.to_owned(),
        algorithm: "EdDSA".to_owned(),
        secret: vec![0, 255, 7].into(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
    };
    NewSigningKey { key, only_if_missing, keep: Duration::from_secs(60) }
}

async fn add<S: Store>(w: &World<S>, new: NewSigningKey) -> Vec<StoredSigningKey> {
    let keys = w.store.signing_keys(Some(&new)).await.unwrap();
    assert_eq!(w.store.signing_keys(None).await.unwrap(), keys);
    keys
}

fn kids(keys: &[StoredSigningKey]) -> Vec<&str> {
    keys.iter().map(|key| key.kid.as_str()).collect()
}

/// Of many that would make the first key, one makes it, with the time of the store.
pub async fn the_first_signing_key_is_made_once<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    assert_eq!(w.store.signing_keys(None).await.unwrap(), []);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let store = w.store.clone();
        tasks.spawn(async move {
            store.signing_keys(Some(&new(&format!("k{n}"), true))).await.unwrap()
        });
    }
    let all = tasks.join_all().await;
    let first = &all[0];
    assert_eq!(first.len(), 1);
    assert!(all.iter().all(|keys| keys == first), "{all:?}");
    assert_eq!((first[0].created_at, &**first[0].secret), (w.clock.now(), &[0, 255, 7][..]));
    // A key of another algorithm is missing still.
    let mut other = new("other", true);
    other.key.algorithm = "HS256".to_owned();
    assert_eq!(add(&w, other).await.len(), 2);
}

/// A key is deleted when the one after it has been there for as long as the sessions last.
pub async fn signing_keys_go_when_their_sessions_have_ended<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    add(&w, new("a", true)).await;
    assert_eq!(kids(&add(&w, new("b", false)).await), ["a", "b"]);
    let replaced_at = w.store.signing_keys(None).await.unwrap()[1].created_at;
    w.clock.set(replaced_at + Duration::from_secs(60) - Duration::from_micros(1));
    assert_eq!(kids(&add(&w, new("c", false)).await), ["a", "b", "c"]);
    assert_eq!(kids(&add(&w, new("x", true)).await), ["a", "b", "c"]);
    w.clock.set(replaced_at + Duration::from_secs(60));
    assert_eq!(kids(&add(&w, new("d", false)).await), ["b", "c", "d"]);
}

/// A process may sign with the newest key of its algorithm, whatever another process has added since.
pub async fn the_newest_signing_key_of_each_algorithm_stays<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    add(&w, new("a", true)).await;
    let mut other = new("b", true);
    other.key.algorithm = "HS256".to_owned();
    add(&w, other).await;
    w.clock.advance(Duration::from_secs(61));
    assert_eq!(kids(&add(&w, new("c", false)).await), ["a", "b", "c"]);
    w.clock.advance(Duration::from_secs(60));
    assert_eq!(kids(&add(&w, new("d", false)).await), ["b", "c", "d"]);
}
