//! Look-ups from the store's cache: what they spare the store, and what they may not hide.

use std::time::Duration;

use agentkey::{
    AgentKeys, Amount, Budget, Builder, Charge, Grace, KeyContext, KeyPatch, NewKey, Rejection,
    RequireScope, ScopeSet, SqliteStore, Token,
};
use axum::Router;
use axum::routing::get;

use super::support::{Client, Fault, Faults, Ledger, Version, World, acme, clock, dollar, serve};

const STALE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn cached() -> Builder {
    // What is to be seen is the policy, not the age.
    AgentKeys::builder().cache(DAY)
}

async fn app(world: &World) -> std::net::SocketAddr {
    let cents = |amount: Amount| (amount.as_micros() / 10_000).to_string();
    let app = Router::new()
        .route("/", get(async |key: KeyContext| key.key().name.clone()))
        .route("/read", get(async || "read").layer(RequireScope::one("read").unwrap()))
        .route(
            "/left",
            get(async move |key: KeyContext| key.remaining().map_or("no limit".into(), cents)),
        )
        .route("/add", get(async |charge: Charge| charge.add(Amount::cents(60))))
        .route(
            "/hold",
            get(async |charge: Charge| -> Result<(), Rejection> {
                charge.hold(Amount::cents(60)).await?;
                charge.add(Amount::cents(60));
                Ok(())
            }),
        )
        .layer(world.layer());
    serve(app).await
}

async fn client(world: &World, token: &Token) -> Client {
    Client::new(Version::Http1, app(world).await, token)
}

#[tokio::test]
async fn a_look_up_from_memory_does_not_ask_the_store() {
    let world = World::with(cached()).await;
    world.spy.polled().await;
    let (_, token) = world.key().await;
    let client = client(&world, &token).await;
    for _ in 0..5 {
        assert_eq!(client.get("/read").await.data, "read");
    }
    assert_eq!(world.spy.finds(), 1);
    // A key of another account is no change of this one.
    let (_, other) = world.create(NewKey::new("other".parse().unwrap())).await;
    assert!(world.keys.find(&other).await.unwrap().is_some());
    assert_eq!(client.get("/read").await.data, "read");
    assert_eq!(world.spy.finds(), 2);
}

#[tokio::test]
async fn without_a_cache_every_look_up_asks_the_store() {
    for builder in [AgentKeys::builder(), AgentKeys::builder().cache(Duration::ZERO)] {
        let world = World::with(builder).await;
        let (_, token) = world.key().await;
        for n in 1..4 {
            assert!(world.keys.find(&token).await.unwrap().is_some());
            assert_eq!(world.spy.finds(), n);
        }
    }
}

#[tokio::test]
async fn what_is_refused_is_never_refused_from_memory() {
    let world = World::with(cached()).await;
    let (id, token) = world.key().await;
    let unknown = Token::generate(&"ak".parse().unwrap()).unwrap();
    world.keys.revoke(id, None).await.unwrap();
    world.spy.polled().await;
    let addr = app(&world).await;
    let revoked = Client::new(Version::Http1, addr, &token);
    let unknown = Client::new(Version::Http1, addr, &unknown);
    for n in 1..4 {
        assert_eq!(revoked.get("/").await.refused(), (401, "revoked_key".into()));
        assert_eq!(unknown.get("/").await.refused(), (401, "invalid_key".into()));
        assert_eq!(world.spy.finds(), 2 * n);
    }
}

#[tokio::test]
async fn changes_through_the_handle_hold_from_the_next_request_on() {
    let world = World::with(cached()).await;
    world.spy.polled().await;
    let (parent, _) =
        world.create(NewKey::new(acme()).scopes(ScopeSet::parse(["read"]).unwrap())).await;
    let child = NewKey::child_of(parent).name("child").scopes(ScopeSet::parse(["read"]).unwrap());
    let (id, token) = world.create(child).await;
    let addr = app(&world).await;
    let client = Client::new(Version::Http1, addr, &token);
    assert_eq!(client.get("/read").await.data, "read");

    world.keys.update(parent, KeyPatch::new().scopes(ScopeSet::none())).await.unwrap();
    assert_eq!(client.get("/read").await.refused(), (403, "insufficient_scope".into()));
    world.keys.update(parent, KeyPatch::new().scopes(ScopeSet::unrestricted())).await.unwrap();
    assert_eq!(client.get("/read").await.data, "read");

    assert_eq!(client.get("/left").await.data, "no limit");
    world.keys.set_account_budget(&acme(), Budget::lifetime(Amount::cents(70))).await.unwrap();
    assert_eq!(client.get("/left").await.data, "70");

    let newest = world.keys.rotate(id, Grace::NONE).await.unwrap().token;
    assert_eq!(client.get("/").await.refused(), (401, "invalid_key".into()));
    let client = Client::new(Version::Http1, addr, &newest);
    assert_eq!(client.get("/").await.data, "child");

    world.keys.revoke(parent, None).await.unwrap();
    assert_eq!(client.get("/").await.refused(), (401, "revoked_key".into()));
}

#[tokio::test]
async fn a_key_in_memory_expires_to_the_microsecond() {
    let clock = clock();
    let world = World::with_clock(cached(), &clock).await;
    let parent =
        world.create(NewKey::new(acme()).name("parent").expires_in("1h".parse().unwrap())).await;
    let (_, token) = world.create(NewKey::child_of(parent.0).name("child")).await;
    world.spy.polled().await;
    let client = client(&world, &token).await;
    assert_eq!(client.get("/").await.data, "child");
    clock.advance(Duration::from_secs(3_600) - Duration::from_micros(1));
    assert_eq!(client.get("/").await.data, "child");
    assert_eq!(world.spy.finds(), 1, "until then it is from memory");
    clock.advance(Duration::from_micros(1));
    assert_eq!(client.get("/").await.refused(), (401, "expired_key".into()));
}

#[tokio::test]
async fn a_token_in_memory_ends_with_its_grace() {
    let clock = clock();
    let world = World::with_clock(cached(), &clock).await;
    let (id, token) = world.key().await;
    world.keys.rotate(id, Grace::lasting(STALE)).await.unwrap();
    world.spy.polled().await;
    let client = client(&world, &token).await;
    assert_eq!(client.get("/").await.status, 200);
    clock.advance(STALE - Duration::from_micros(1));
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(world.spy.finds(), 1, "until then it is from memory");
    clock.advance(Duration::from_micros(1));
    assert_eq!(client.get("/").await.refused(), (401, "invalid_key".into()));
}

#[tokio::test]
async fn a_window_that_ends_is_not_shown_as_spent() {
    let clock = clock();
    let (cents, no_limit) = (Amount::cents, Budget::unlimited());
    for (ceiling, budget, figures) in [
        (no_limit, Budget::daily(cents(100)), ["100", "40", "100"]),
        (Budget::daily(cents(80)), Budget::lifetime(cents(100)), ["80", "20", "40"]),
    ] {
        let world = World::with_clock(cached(), &clock).await;
        world.keys.ensure_account(acme(), ceiling).await.unwrap();
        let (_, token) = world.create(NewKey::new(acme()).budget(budget)).await;
        let client = client(&world, &token).await;
        world.spy.polled().await;
        let [whole, spent, next] = figures;
        assert_eq!(client.get("/left").await.data, whole);
        assert_eq!(client.get("/hold").await.status, 200);
        world.until(&Ledger::of(&[("settle", 60)])).await;
        assert_eq!(client.get("/left").await.data, spent, "what this process posted is cached");
        clock.advance(DAY - Duration::from_micros(1));
        assert_eq!(client.get("/left").await.data, spent);
        clock.advance(Duration::from_micros(1));
        assert_eq!(client.get("/left").await.data, next);
        assert_eq!(world.spy.finds(), 1);
    }
}

#[tokio::test]
async fn holds_ask_the_store_whatever_is_cached() {
    let world = World::with(cached()).await;
    world.spy.polled().await;
    let (id, token) = world.key().await;
    let (_, child) = world.create(NewKey::child_of(id)).await;
    let addr = app(&world).await;
    let [parent, child] = [&token, &child].map(|token| Client::new(Version::Http1, addr, token));
    assert_eq!(child.get("/left").await.data, "100");
    assert_eq!(parent.get("/hold").await.status, 200);
    assert_eq!(child.get("/left").await.data, "40", "what this process posted is cached");
    assert_eq!(child.get("/hold").await.refused(), (402, "budget_exceeded".into()));
    assert_eq!(child.get("/left").await.data, "40");
}

/// Work does not begin from memory once a posting of this handle has shown that nothing is left.
#[tokio::test]
async fn a_key_that_has_spent_all_begins_no_work() {
    let world = World::with(cached()).await;
    world.spy.polled().await;
    let (_, token) = world.create(NewKey::new(acme()).budget(dollar())).await;
    let client = client(&world, &token).await;
    for _ in 0..2 {
        assert_eq!(client.get("/add").await.status, 200);
    }
    assert_eq!(client.get("/add").await.refused(), (402, "budget_exceeded".into()));
    assert_eq!(client.get("/left").await.data, "0");
}

/// Not even a store that hangs is waited for, where it need not be asked.
#[tokio::test]
async fn a_cached_look_up_waits_for_nothing() {
    let world = World::with(cached()).await;
    world.spy.polled().await;
    let (id, token) = world.key().await;
    let client = client(&world, &token).await;
    assert_eq!(client.get("/read").await.data, "read");
    world.spy.set(Faults::finds(Fault::Hang));
    assert_eq!(client.get("/read").await.data, "read");
    assert!(world.keys.find(&token).await.unwrap().is_some());
    assert_eq!(world.spy.finds(), 1);
    world.spy.mend();
    world.keys.revoke(id, None).await.unwrap();
    assert_eq!(client.get("/").await.refused(), (401, "revoked_key".into()));
}

#[tokio::test]
async fn a_revocation_by_another_process_is_in_force_with_the_next_poll() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let world = World::on(cached(), Box::new(SqliteStore::connect(&path).await.unwrap()));
    let other = AgentKeys::new(SqliteStore::connect(&path).await.unwrap()).unwrap();
    world.spy.polled().await;
    let (id, token) = world.key().await;
    let client = client(&world, &token).await;
    for _ in 0..2 {
        assert_eq!(client.get("/read").await.data, "read");
    }
    assert_eq!(world.spy.finds(), 1);
    other.revoke(id, None).await.unwrap();
    world.spy.polled().await;
    assert_eq!(client.get("/read").await.refused(), (401, "revoked_key".into()));
    world.keys.shutdown().await;
    other.shutdown().await;
}
