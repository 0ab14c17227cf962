//! Readiness: what keeps requests from being served is seen, in bounded time, and told without a secret.

use std::time::Duration;

use agentkey::{AgentKeys, Amount, Health, KeyContext, MemoryStore};
use tokio::time::Instant;

use super::support::{Fault, Faults, World, capture_logs, is_hold, is_settle, logged, soon};

async fn context(world: &World) -> KeyContext {
    let (_, token) = world.key().await;
    world.keys.authorize(&token).await.unwrap()
}

/// For tests with paused time: no thread may do work of its own.
fn in_memory(builder: agentkey::Builder) -> World {
    World::on(builder, Box::new(MemoryStore::new()))
}

#[tokio::test]
async fn a_store_that_fails_is_not_ready_until_it_works_again() {
    capture_logs();
    let world = World::new().await;
    assert!(world.keys.health().await.is_ready());
    for fault in [Fault::Down, Fault::Broken, Fault::Panic] {
        for (faults, can_read, can_write) in
            [(Faults::finds(fault), false, true), (Faults::posts(fault), true, false)]
        {
            world.spy.set(faults);
            let health = world.keys.health().await;
            assert_eq!((health.can_read, health.can_write), (can_read, can_write), "{fault:?}");
            assert!(!health.is_ready() && !health.is_shutting_down);
            let json = serde_json::to_string(&health).unwrap();
            assert!(!json.contains("SECRET") && json.starts_with(r#"{"ready":false"#), "{json}");
            world.spy.mend();
            assert!(world.keys.health().await.is_ready());
        }
    }
    assert!(!logged(&["WARN", "takes no postings", "SECRET: broken"]).is_empty());
}

/// A store that hangs, or a queue that is stuck behind it, is told after the time that a request has, and no later.
#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_told_in_the_time_of_a_request() {
    let timeout = Duration::from_secs(3);
    for faults in [Faults::finds(Fault::Hang), Faults::posts(Fault::Hang)] {
        let world = in_memory(AgentKeys::builder().request_timeout(timeout));
        world.spy.set(faults);
        for _ in 0..2 {
            let asked_at = Instant::now();
            assert!(!world.keys.health().await.is_ready());
            assert_eq!(asked_at.elapsed().as_secs(), timeout.as_secs());
        }
        world.spy.mend();
        assert!(world.keys.health().await.is_ready());
    }
}

#[tokio::test]
async fn a_process_without_room_is_not_ready() {
    let world = in_memory(AgentKeys::builder().max_open_charges(2).max_queue(1));
    let key = context(&world).await;
    let charges = [world.keys.charge(&key).await.unwrap()];
    let health = world.keys.health().await;
    assert_eq!((health.open_charges, health.max_open_charges), (1, 2));
    assert!(health.is_ready());
    let more = world.keys.charge(&key).await;
    // A quarter of the places, rounded up, are one account's.
    assert!(more.is_err());
    let other = agentkey::NewKey::new("other".parse().unwrap());
    let (_, token) = world.create(other).await;
    let other = world.keys.charge(&world.keys.authorize(&token).await.unwrap()).await.unwrap();
    let health = world.keys.health().await;
    assert_eq!((health.open_charges, health.is_ready()), (2, false));
    other.settle().await.unwrap();
    assert!(world.keys.health().await.is_ready());

    world.spy.set(Faults::posts(Fault::Hang).only(is_hold));
    let [charge] = charges;
    let holding = tokio::spawn(async move {
        charge.hold(Amount::cents(1)).await.unwrap();
        charge.settle().await.unwrap();
    });
    soon(world.spy.arrived(1, is_hold)).await;
    let health = world.keys.health().await;
    assert_eq!((health.waiting_postings, health.max_queue, health.is_ready()), (1, 1, false));
    world.spy.mend();
    holding.await.unwrap();
    assert!(world.keys.health().await.is_ready());
}

/// The settles that wait are told also without the feature `metrics`.
#[tokio::test(start_paused = true)]
async fn settles_that_wait_are_told_with_the_age_of_the_oldest() {
    let world = in_memory(AgentKeys::builder());
    let key = context(&world).await;
    // The second waits behind the first, which the store does not answer.
    let one = world.keys.charge(&key).await.unwrap();
    let other = world.keys.charge(&key).await.unwrap();
    world.spy.set(Faults::posts(Fault::Hang).only(is_settle));
    let settle = |charge: agentkey::Charge| {
        charge.add(Amount::cents(1));
        tokio::spawn(async move { charge.settle().await.unwrap() })
    };
    let first = settle(one);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let second = settle(other);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let health = world.keys.health().await;
    assert_eq!(health.settle_backlog, 2);
    assert_eq!(health.oldest_settle_age.map(|age| age.as_secs()), Some(3));
    let json = serde_json::to_value(&health).unwrap();
    assert_eq!(json["oldest_settle_age_seconds"].as_f64().map(f64::floor), Some(3.0));
    let same: Health = serde_json::from_value(json).unwrap();
    assert_eq!((same.settle_backlog, same.is_ready()), (2, health.is_ready()));
    world.spy.mend();
    first.await.unwrap();
    second.await.unwrap();
    let health = world.keys.health().await;
    assert_eq!((health.settle_backlog, health.oldest_settle_age), (0, None));
    assert!(health.is_ready());
}

/// From the beginning of a shutdown on, while the charges that are open go on.
#[tokio::test]
async fn a_process_that_shuts_down_is_not_ready() {
    let world = World::new().await;
    let charge = world.keys.charge(&context(&world).await).await.unwrap();
    let stopping = tokio::spawn({
        let keys = world.keys.clone();
        async move { keys.shutdown().await }
    });
    while !world.keys.health().await.is_shutting_down {
        tokio::task::yield_now().await;
    }
    let health = world.keys.health().await;
    assert!(!health.is_ready() && health.can_read && health.can_write, "{health:?}");
    charge.settle().await.unwrap();
    soon(stopping).await.unwrap();
    assert!(!world.keys.health().await.is_ready());
}
