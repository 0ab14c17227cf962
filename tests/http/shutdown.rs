//! The end of the service: charges that are open at the bound are settled, and their responses cut off.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentkey::http::{BodyError, OnInterrupt};
use agentkey::{AgentKeys, Amount, Charge, Refusal, Rejection};
use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::Method;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::connection_loss::{Answer, Scene, app};
use super::support::{
    Client, Fault, Faults, Ledger, Version, World, capture_logs, is_pay, is_settle, logged, serve,
    soon,
};

/// Routes that never end by themselves, each with a hold of 10 cents and 3 added.
fn endless(world: &World) -> Router {
    async fn start(charge: &Charge) -> Result<(), Rejection> {
        charge.hold(Amount::cents(10)).await?;
        charge.add(Amount::cents(3));
        Ok(())
    }
    async fn waiting(charge: Charge) -> Answer {
        start(&charge).await?;
        std::future::pending().await
    }
    async fn idle(charge: Charge) -> Answer {
        start(&charge).await?;
        let first = stream::iter([Ok::<_, BodyError>(Bytes::from_static(b"chunk."))]);
        let rest = stream::once(async move {
            let _charge = charge;
            std::future::pending().await
        });
        Ok(Body::from_stream(first.chain(rest)).into_response())
    }
    async fn whole(charge: Charge) -> Answer {
        charge.on_interrupt(OnInterrupt::WholeHold);
        idle(charge).await
    }
    async fn busy(charge: Charge) -> Answer {
        start(&charge).await?;
        let chunks = stream::repeat(Bytes::from_static(&[b'x'; 4_096])).map(move |chunk| {
            charge.add(Amount::ZERO);
            Ok::<_, BodyError>(chunk)
        });
        Ok(Body::from_stream(chunks).into_response())
    }
    async fn without_handle(charge: Charge) -> Answer {
        start(&charge).await?;
        let rest = stream::once(async move {
            drop(charge);
            std::future::pending::<()>().await;
            Ok::<_, BodyError>(Bytes::new())
        });
        Ok(Body::from_stream(rest).into_response())
    }
    async fn forgotten(charge: Charge) -> Answer {
        start(&charge).await?;
        charge.detach();
        std::mem::forget(charge);
        Ok("ok".into_response())
    }
    Router::new()
        .route("/waiting", get(waiting))
        .route("/idle", get(idle))
        .route("/whole", get(whole))
        .route("/busy", get(busy))
        .route("/without-handle", get(without_handle))
        .route("/forgotten", get(forgotten))
        .layer(world.layer())
}

/// Serves until the sender is dropped and every connection is closed.
async fn serve_until(
    app: Router,
) -> (std::net::SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) });
    (addr, stop, tokio::spawn(async { server.await.unwrap() }))
}

#[tokio::test]
async fn what_is_open_at_the_bound_is_settled_and_cut_off() {
    for version in Version::BOTH {
        for (path, charged) in [
            ("/waiting", 3),
            ("/idle", 3),
            ("/whole", 10),
            ("/busy", 3),
            ("/without-handle", 3),
            ("/forgotten", 3),
        ] {
            let world = World::new().await;
            let (_, token) = world.key().await;
            let (addr, stop, server) = serve_until(endless(&world)).await;
            let client = Client::new(version, addr, &token);
            let request = client.request(Method::GET, path);
            let seeing = tokio::spawn(async move { client.send(request).await });
            // Nothing is settled before the bound, except what no handle can add to any more.
            match path {
                "/without-handle" => world.until(&Ledger::of(&[("settle", 3)])).await,
                _ => world.until(&Ledger::of(&[]).holding(10)).await,
            }
            drop(stop);
            soon(world.keys.shutdown_within(Duration::ZERO)).await;
            assert_eq!(world.ledger().await, Ledger::of(&[("settle", charged)]), "{path}");
            assert!(world.spy.is_closed());
            let seen = seeing.await.unwrap();
            match path {
                "/waiting" => assert_eq!(seen.refused(), (503, "unavailable".into())),
                "/forgotten" => assert_eq!((&*seen.data, &seen.error), ("ok", &None)),
                _ => assert!(seen.error.is_some(), "{version:?} {path}: it saw no cut: {seen:?}"),
            }
            soon(server).await.unwrap();
        }
    }
}

/// The client of such a stream does not notice, and its connection stays.
#[tokio::test]
async fn a_stream_that_nobody_reads_is_settled_at_the_bound() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let mut stream = TcpStream::connect(serve(endless(&world)).await).await.unwrap();
    let head = format!("GET /busy HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\n\r\n", token.expose());
    stream.write_all(head.as_bytes()).await.unwrap();
    world.until(&Ledger::of(&[]).holding(10)).await;
    soon(world.keys.shutdown_within(Duration::ZERO)).await;
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3)]));
    // It sees the cut as soon as it reads on.
    let mut received = Vec::new();
    let _ = soon(stream.read_to_end(&mut received)).await;
    assert!(!received.ends_with(b"0\r\n\r\n"), "that would be a good end");
}

/// Until the bound, open charges go on as before, and new ones are refused.
#[tokio::test]
async fn what_ends_before_the_bound_is_not_cut_off() {
    let (world, scene) = (World::new().await, Scene::new());
    let (_, token) = world.key().await;
    let client = Client::new(Version::Http1, serve(app(&world, &scene)).await, &token);
    let mut streaming = client.head(client.request(Method::GET, "/streaming")).await.into_body();
    assert_eq!(streaming.frame().await.unwrap().unwrap().into_data().unwrap(), "chunk.");
    let keys = world.keys.clone();
    let hour = Duration::from_secs(60 * 60);
    let shutdown = tokio::spawn(async move { keys.shutdown_within(hour).await });
    let refused = async {
        loop {
            match client.get("/holding").await {
                seen if seen.status == 503 => break seen,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let refused = soon(refused).await;
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(!shutdown.is_finished() && !world.spy.is_closed());
    scene.open();
    assert_eq!(streaming.frame().await.unwrap().unwrap().into_data().unwrap(), "last.");
    assert!(streaming.frame().await.is_none());
    soon(shutdown).await.unwrap();
    assert!(world.spy.is_closed());
    assert_eq!(world.ledger().await.held, Amount::ZERO);
}

/// A handle that is left begins nothing more, and what it adds is not lost without a trace.
#[tokio::test]
async fn a_handle_that_outlives_the_shutdown_begins_nothing_more() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let kept: Arc<Mutex<Option<Charge>>> = Arc::default();
    let keep = kept.clone();
    let handler = async move |charge: Charge| -> Answer {
        charge.add(Amount::cents(3));
        charge.detach();
        *keep.lock().unwrap() = Some(charge);
        Ok("ok".into_response())
    };
    let app = Router::new().route("/", get(handler)).layer(world.layer());
    let client = Client::new(Version::Http1, serve(app).await, &token);
    assert_eq!(client.get("/").await.data, "ok");
    let charge = kept.lock().unwrap().take().unwrap();

    // A payment is in flight: the settle takes it back, and the handle does not get a receipt.
    world.spy.set(Faults::posts(Fault::Hang).only(is_pay));
    let paying = {
        let charge = charge.clone();
        tokio::spawn(async move { charge.pay(Amount::cents(5)).await })
    };
    world.spy.arrived(1, is_pay).await;
    let keys = world.keys.clone();
    let shutdown = tokio::spawn(async move { keys.shutdown_within(Duration::ZERO).await });
    let unavailable = |rejection: Rejection| {
        assert!(matches!(rejection.refusal(), Refusal::Unavailable { .. }), "{rejection}");
    };
    while charge.added().is_positive() {
        tokio::task::yield_now().await;
    }
    unavailable(charge.hold(Amount::cents(1)).await.unwrap_err());
    world.spy.mend();
    unavailable(soon(paying).await.unwrap().unwrap_err());
    soon(shutdown).await.unwrap();
    world.until(&Ledger::of(&[("pay", 5), ("refund", -5), ("settle", 3)])).await;
    unavailable(charge.pay(Amount::cents(1)).await.unwrap_err());

    capture_logs();
    world.spy.set(Faults::posts(Fault::Broken));
    charge.add(Amount::cents(4));
    let key = charge.key();
    drop(charge);
    world.spy.arrived(3, is_settle).await;
    let lost = async {
        while logged(&["could not post a charge", &format!("key={key}"), "cost_micros=40000"])
            .is_empty()
        {
            tokio::task::yield_now().await;
        }
    };
    soon(lost).await;
}

/// The store is down at the bound, or does not even answer.
#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_delays_the_end_by_the_settle_timeout() {
    for fault in [Fault::Down, Fault::Hang] {
        let builder = AgentKeys::builder()
            .request_timeout(Duration::from_secs(1))
            .settle_timeout(Duration::from_secs(5));
        let world = World::on(builder, Box::new(agentkey::MemoryStore::new()));
        let (_, token) = world.key().await;
        let request = http::Request::get("/idle").header("x-api-key", token.expose());
        let request = request.body(Body::empty()).unwrap();
        let response = tower::ServiceExt::oneshot(endless(&world), request).await.unwrap();
        assert_eq!(response.status(), 200);
        world.spy.set(Faults::posts(fault));
        let begun = tokio::time::Instant::now();
        world.keys.shutdown_within(Duration::from_secs(20)).await;
        let took = begun.elapsed().as_secs();
        assert!((25..=27).contains(&took), "{fault:?}: {took} s");
        assert!(world.spy.is_closed());
    }
}
