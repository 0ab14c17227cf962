//! Charges that outlive their response, and the end of the service.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentkey::http::{BodyError, OnInterrupt};
use agentkey::{AgentKeys, Amount, Charge};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use http::Method;
use http_body_util::BodyExt;

use super::connection_loss::{Answer, Scene, app};
use super::support::{Client, Ledger, Version, World, clock, is_settle, serve, soon};

#[tokio::test]
async fn a_task_that_outlives_the_response_is_charged_on_its_own() {
    for version in Version::BOTH {
        let (world, scene) = (World::new().await, Scene::new());
        let (_, token) = world.key().await;
        let client = Client::new(version, serve(app(&world, &scene)).await, &token);
        assert_eq!(client.get("/background").await.data, "ok");
        assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3)]));
        scene.open();
        world.until(&Ledger::of(&[("settle", 3), ("settle", 4)])).await;
    }
}

#[tokio::test]
async fn a_detached_charge_keeps_its_hold_until_its_task_is_done() {
    for version in Version::BOTH {
        let (world, scene) = (World::new().await, Scene::new());
        let (_, token) = world.key().await;
        let client = Client::new(version, serve(app(&world, &scene)).await, &token);
        assert_eq!(client.get("/background?detach").await.data, "ok");
        assert_eq!(world.ledger().await, Ledger::of(&[]).holding(10));
        scene.open();
        world.until(&Ledger::of(&[("settle", 7)])).await;
        assert_eq!(world.spy.count(is_settle), 1);
    }
}

/// The hold runs out while the work goes on, as it does when its process has lost the store for long.
#[tokio::test]
async fn a_hold_that_has_run_out_is_settled_all_the_same() {
    for (path, run_out, settled) in [
        ("/expiring?release", Ledger::of(&[]), Ledger::of(&[("settle", 3)])),
        (
            "/expiring?charge",
            Ledger::of(&[("expiry", 10)]),
            Ledger::of(&[("expiry", 10), ("refund", -10), ("settle", 3)]),
        ),
    ] {
        let clock = clock();
        let (world, scene) = (World::at(&clock).await, Scene::new());
        let (_, token) = world.key().await;
        let client = Client::new(Version::Http1, serve(app(&world, &scene)).await, &token);
        let request = client.request(Method::GET, path);
        let answer = tokio::spawn(async move { client.send(request).await });
        scene.hear("working").await;
        clock.advance(Duration::from_secs(29));
        assert_eq!(world.ledger().await, Ledger::of(&[]).holding(10));
        clock.advance(Duration::from_secs(1));
        // The reading of the account ends it; were it not read, the sweep would.
        world.until(&run_out).await;
        scene.open();
        assert_eq!(answer.await.unwrap().data, "done");
        assert_eq!(world.ledger().await, settled, "{path}");
    }
}

/// Shutdown waits for every charge that is open, and opens none.
#[tokio::test]
async fn shutdown_waits_for_open_charges() {
    let (world, scene) = (World::new().await, Scene::new());
    let (_, token) = world.key().await;
    let client = Client::new(Version::Http1, serve(app(&world, &scene)).await, &token);
    let mut streaming = client.head(client.request(Method::GET, "/streaming")).await.into_body();
    assert_eq!(streaming.frame().await.unwrap().unwrap().into_data().unwrap(), "chunk.");
    assert_eq!(client.get("/background?detach").await.data, "ok");
    assert_eq!(world.ledger().await, Ledger::of(&[]).holding(20));

    let keys = world.keys.clone();
    let shutdown = tokio::spawn(async move { keys.shutdown().await });
    // Until shutdown has begun, charges open; from then on, none does.
    let refused = async {
        loop {
            let seen = client.get("/background").await;
            match seen.status.as_u16() {
                200 | 402 => tokio::task::yield_now().await,
                _ => break seen.refused(),
            }
        }
    };
    assert_eq!(soon(refused).await, (503, "unavailable".into()));
    assert!(!shutdown.is_finished() && !world.spy.is_closed());
    scene.open();
    assert_eq!(streaming.frame().await.unwrap().unwrap().into_data().unwrap(), "last.");
    assert!(streaming.frame().await.is_none());
    soon(shutdown).await.unwrap();
    assert!(world.spy.is_closed());
    let ledger = world.ledger().await;
    assert_eq!(ledger.held, Amount::ZERO);
    let mut amounts: Vec<_> = ledger.entries.iter().map(|(_, amount)| *amount).collect();
    amounts.retain(|amount| *amount == Amount::cents(5) || *amount == Amount::cents(7));
    amounts.sort_unstable();
    assert_eq!(amounts, [Amount::cents(5), Amount::cents(7)]);
}

/// Charges dropped where there is no runtime: from a plain thread, after the request is long gone.
#[tokio::test]
async fn a_charge_may_end_on_a_thread_without_a_runtime() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let kept: Arc<Mutex<Option<Charge>>> = Arc::default();
    let keep = kept.clone();
    let app = Router::new().route(
        "/",
        get(async move |charge: Charge| -> Answer {
            charge.hold(Amount::cents(10)).await?;
            charge.detach();
            *keep.lock().unwrap() = Some(charge);
            Ok("ok".into_response())
        }),
    );
    let client = Client::new(Version::Http1, serve(app.layer(world.layer())).await, &token);
    assert_eq!(client.get("/").await.data, "ok");
    let charge = kept.lock().unwrap().take().unwrap();
    std::thread::spawn(move || charge.add(Amount::cents(2))).join().unwrap();
    world.until(&Ledger::of(&[("settle", 2)])).await;
}

/// The limit of open charges is a limit, and places come back.
#[tokio::test]
async fn too_many_open_charges_are_refused_and_places_come_back() {
    let (world, scene) =
        (World::with(AgentKeys::builder().max_open_charges(1)).await, Scene::new());
    let (_, token) = world.key().await;
    let client = Client::new(Version::Http1, serve(app(&world, &scene)).await, &token);
    let request = client.request(Method::GET, "/forever");
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.send(request).await }
    });
    scene.hear("working").await;
    assert_eq!(client.get("/background").await.refused(), (503, "unavailable".into()));
    scene.open();
    assert_eq!(first.await.unwrap().data, "done");
    assert_eq!(client.get("/forever").await.data, "done");
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3), ("settle", 3)]));
}

/// The response of a detached charge may be cut short; its work was not, and is charged what it cost.
#[tokio::test]
async fn detached_work_is_not_interrupted_by_a_client_that_goes() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let kept: Arc<Mutex<Option<Charge>>> = Arc::default();
    let keep = kept.clone();
    let app = Router::new().route(
        "/",
        get(async move |charge: Charge| -> Answer {
            charge.hold(Amount::cents(10)).await?;
            charge.on_interrupt(OnInterrupt::WholeHold);
            charge.detach();
            *keep.lock().unwrap() = Some(charge);
            Ok(Body::from_stream(stream::pending::<Result<Bytes, BodyError>>()).into_response())
        }),
    );
    let request =
        Request::get("/").header("x-api-key", token.expose()).body(Body::empty()).unwrap();
    let response = tower::ServiceExt::oneshot(app.layer(world.layer()), request).await.unwrap();
    drop(response);
    let charge = kept.lock().unwrap().take().unwrap();
    charge.add(Amount::cents(2));
    drop(charge);
    world.until(&Ledger::of(&[("settle", 2)])).await;
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The largest options that a builder takes: no clock overflows, least of all in a destructor.
#[tokio::test]
async fn bounds_may_be_as_long_as_they_get() {
    let longest = AgentKeys::builder()
        .request_timeout(DAY)
        .settle_timeout(DAY)
        .hold_ttl(DAY)
        .max_hold_age(366 * DAY)
        .max_queue(536_870_911)
        .max_open_charges(536_870_911);
    let (world, scene) = (World::with(longest).await, Scene::new());
    let (_, token) = world.key().await;
    let client = Client::new(Version::Http1, serve(app(&world, &scene)).await, &token);
    scene.open();
    assert_eq!(client.get("/forever").await.data, "done");
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3)]));
}
