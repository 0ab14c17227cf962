//! Handles of a charge that are gone long before their response ends, or live on after it.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use agentkey::http::{BodyError, OnInterrupt};
use agentkey::{Amount, Charge, KeyContext, Rejection, Token};
use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tower::{Layer, ServiceExt};

use super::support::{
    Client, Fault, Faults, Ledger, Version, World, clock, is_settle, serve, soon,
};

type Answer = Result<Response, Rejection>;

/// The handler's work continues when the test opens the gate; the test gets a message when it is over.
#[derive(Clone)]
struct Work {
    gate: watch::Sender<bool>,
    over: mpsc::UnboundedSender<()>,
}

impl Work {
    fn new() -> (Self, mpsc::UnboundedReceiver<()>) {
        let (over, ended) = mpsc::unbounded_channel();
        (Self { gate: watch::Sender::new(false), over }, ended)
    }

    async fn go_on(&self) {
        self.gate.subscribe().wait_for(|open| *open).await.unwrap();
    }
}

/// Sends a message when it is dropped.
struct Over(mpsc::UnboundedSender<()>);

impl Drop for Over {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// A client that reads no further than the first chunk.
async fn first_chunk(app: Router, token: &Token) -> (TcpStream, Client) {
    let addr = serve(app).await;
    let mut stream = send(addr, "GET /", token).await;
    read_until(&mut stream, "chunk.").await;
    (stream, Client::new(Version::Http1, addr, token))
}

async fn send(addr: std::net::SocketAddr, line: &str, token: &Token) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\n\r\n", token.expose());
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn read_until(stream: &mut TcpStream, wanted: &str) {
    let mut received = Vec::new();
    while !String::from_utf8_lossy(&received).contains(wanted) {
        assert_ne!(
            soon(stream.read_buf(&mut received)).await.unwrap(),
            0,
            "{}",
            String::from_utf8_lossy(&received)
        );
    }
}

async fn pay(charge: Charge) -> Answer {
    charge.pay(Amount::cents(1)).await?;
    Ok("paid".into_response())
}

/// One chunk, by a task that does the rest of the work when it may go on.
fn produce<F: Future<Output = ()> + Send>(
    work: Work,
    charge: Charge,
    rest: impl FnOnce(Charge) -> F + Send + 'static,
) -> Response {
    let (chunk, body) = mpsc::channel(1);
    tokio::spawn(async move {
        let _over = Over(work.over.clone());
        chunk.send(Bytes::from_static(b"chunk.")).await.unwrap();
        work.go_on().await;
        rest(charge).await;
    });
    let next = async |mut body: mpsc::Receiver<Bytes>| body.recv().await.map(|chunk| (chunk, body));
    Body::from_stream(stream::unfold(body, next).map(Ok::<_, BodyError>)).into_response()
}

#[tokio::test]
async fn the_claim_is_charged_when_a_handle_outlives_the_response_and_adds_no_more() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let (work, _) = Work::new();
    let in_background = work.clone();
    let handler = async move |charge: Charge| {
        charge.hold(Amount::cents(10)).await?;
        charge.add(Amount::cents(3));
        tokio::spawn(async move {
            in_background.go_on().await;
            drop(charge);
        });
        Ok::<_, Rejection>("done")
    };
    let app = Router::new().route("/", post(handler)).layer(world.layer());
    let client = Client::new(Version::Http1, serve(app).await, &token);
    assert_eq!(client.post("/", "k").await.data, "done");
    assert_eq!(client.post("/", "k").await.refused(), (409, "in_flight".into()));
    work.gate.send_replace(true);
    world.spy.arrived(2, is_settle).await;
    assert_eq!(client.post("/", "k").await.refused(), (409, "already_charged".into()));
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3)]));
}

#[tokio::test]
async fn the_claim_is_charged_when_a_payment_is_given_back_after_the_response_and_not_the_work() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let (work, _) = Work::new();
    let in_background = work.clone();
    let handler = async move |charge: Charge| {
        let receipt = charge.pay(Amount::cents(5)).await?;
        charge.add(Amount::cents(3));
        tokio::spawn(async move {
            in_background.go_on().await;
            charge.refund(&receipt, Amount::cents(5)).await.unwrap();
        });
        Ok::<_, Rejection>("done")
    };
    let app = Router::new().route("/", post(handler)).layer(world.layer());
    let client = Client::new(Version::Http1, serve(app).await, &token);
    assert_eq!(client.post("/", "k").await.data, "done");
    work.gate.send_replace(true);
    world.spy.arrived(2, is_settle).await;
    assert_eq!(client.post("/", "k").await.refused(), (409, "already_charged".into()));
    assert_eq!(world.ledger().await, Ledger::of(&[("pay", 5), ("settle", 3), ("refund", -5)]));
}

/// As far as the ledger knows: the handle never comes back.
#[tokio::test]
async fn the_claim_is_charged_when_the_process_dies_after_the_response() {
    let clock = clock();
    let world = World::at(&clock).await;
    let (_, token) = world.key().await;
    let handler = async |charge: Charge| {
        charge.add(Amount::cents(3));
        std::mem::forget(charge);
        "done"
    };
    let app = Router::new().route("/", post(handler)).layer(world.layer());
    let client = Client::new(Version::Http1, serve(app).await, &token);
    assert_eq!(client.post("/", "k").await.data, "done");
    clock.advance(Duration::from_secs(61));
    assert_eq!(client.post("/", "k").await.refused(), (409, "already_charged".into()));
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3)]));
}

/// An upstream reports its cost after the client has left.
#[tokio::test]
async fn what_is_added_after_the_whole_hold_was_charged_counts_against_it() {
    for (added, ledger) in [(8, &[("settle", 10)][..]), (12, &[("settle", 10), ("settle", 2)])] {
        let world = World::new().await;
        let (_, token) = world.key().await;
        let (work, mut ended) = Work::new();
        let in_background = work.clone();
        let chat = async move |charge: Charge| {
            charge.on_interrupt(OnInterrupt::WholeHold);
            charge.hold(Amount::cents(10)).await?;
            let rest = async move |charge: Charge| charge.add(Amount::cents(added));
            Ok::<_, Rejection>(produce(in_background.clone(), charge, rest))
        };
        let app = Router::new().route("/", get(chat)).route("/pay", get(pay)).layer(world.layer());
        let (stream, client) = first_chunk(app, &token).await;
        drop(stream);
        world.until(&Ledger::of(&[("settle", 10)])).await;
        work.gate.send_replace(true);
        soon(ended.recv()).await;
        assert_eq!(client.get("/pay").await.data, "paid"); // behind whatever was settled
        assert_eq!(world.ledger().await, Ledger::of(&[ledger, &[("pay", 1)]].concat()));
    }
}

#[tokio::test]
async fn a_hold_that_is_taken_after_the_client_has_left_is_not_interrupted_by_that() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let (work, mut ended) = Work::new();
    let in_background = work.clone();
    let job = async move |charge: Charge| {
        charge.on_interrupt(OnInterrupt::WholeHold);
        charge.hold(Amount::cents(5)).await?;
        let rest = async move |charge: Charge| {
            charge.hold(Amount::cents(10)).await.unwrap();
            charge.add(Amount::cents(7));
        };
        Ok::<_, Rejection>(produce(in_background.clone(), charge, rest))
    };
    let app = Router::new().route("/", get(job)).route("/pay", get(pay)).layer(world.layer());
    let (stream, client) = first_chunk(app, &token).await;
    drop(stream);
    world.until(&Ledger::of(&[("settle", 5)])).await;
    work.gate.send_replace(true);
    soon(ended.recv()).await;
    assert_eq!(client.get("/pay").await.data, "paid");
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 5), ("settle", 2), ("pay", 1)]));
}

/// The body itself lets go of the last handle, or a task beside it does; then the stream idles, until the client leaves.
/// What may still be charged whole, if the body fails, is settled then, and not as interrupted.
#[tokio::test]
async fn a_stream_that_goes_on_after_its_last_handle_is_settled_at_once_and_not_interrupted_later()
{
    for (beside, whole) in [(false, false), (true, false), (false, true), (true, true)] {
        let world = World::new().await;
        let (_, token) = world.key().await;
        let (work, mut ended) = Work::new();
        let of_handler = work.clone();
        let events = async move |charge: Charge| {
            let work = of_handler.clone();
            charge.on_interrupt(if whole { OnInterrupt::WholeHold } else { OnInterrupt::Added });
            charge.hold(Amount::cents(10)).await?;
            let over = Over(work.over.clone());
            let rest = async move {
                let _over = over;
                let finish = async move {
                    let _over = Over(work.over.clone());
                    let charge = charge;
                    work.go_on().await;
                    charge.add(Amount::cents(3));
                };
                if beside {
                    tokio::spawn(finish);
                } else {
                    finish.await;
                }
                std::future::pending().await
            };
            let first = stream::iter([Ok::<_, BodyError>(Bytes::from_static(b"chunk."))]);
            Ok::<_, Rejection>(Body::from_stream(first.chain(stream::once(rest))).into_response())
        };
        let app =
            Router::new().route("/", get(events)).route("/pay", get(pay)).layer(world.layer());
        let (stream, client) = first_chunk(app, &token).await;
        work.gate.send_replace(true);
        soon(ended.recv()).await; // the work
        if !whole {
            world.until(&Ledger::of(&[("settle", 3)])).await;
        }
        drop(stream);
        soon(ended.recv()).await; // the body
        world.until(&Ledger::of(&[("settle", 3)])).await;
        assert_eq!(client.get("/pay").await.data, "paid");
        assert_eq!(
            world.ledger().await,
            Ledger::of(&[("settle", 3), ("pay", 1)]),
            "{beside} {whole}"
        );
    }
}

/// The response goes on, and may take another handle: it is one request under its key all the same.
#[tokio::test]
async fn a_body_may_take_another_handle_after_its_last_one() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let (work, _) = Work::new();
    let of_handler = work.clone();
    let handler = async move |key: KeyContext| {
        let work = of_handler.clone();
        let charge = Charge::begin(&key).await?;
        let rest = async move {
            charge.add(Amount::cents(1));
            drop(charge);
            work.go_on().await;
            let charge =
                Charge::begin(&key).await.map_err(|error| BodyError::from(error.to_string()))?;
            charge.add(Amount::cents(3));
            Ok::<_, BodyError>(Bytes::from_static(b"done"))
        };
        Ok::<_, Rejection>(Body::from_stream(stream::once(rest)).into_response())
    };
    let app = Router::new().route("/", post(handler)).layer(world.layer());
    let client = Client::new(Version::Http1, serve(app).await, &token);
    let first = client.clone();
    let first = tokio::spawn(async move { first.post("/", "k").await });
    world.until(&Ledger::of(&[("settle", 1)])).await;
    assert_eq!(client.post("/", "k").await.refused(), (409, "in_flight".into()));
    work.gate.send_replace(true);
    assert_eq!(first.await.unwrap().data, "done");
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 1), ("settle", 3)]));
    assert_eq!(client.post("/", "k").await.refused(), (409, "already_charged".into()));
}

/// The end of the response waits for what was settled early, too.
#[tokio::test]
async fn the_end_waits_for_what_was_settled_before_it() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let (work, _) = Work::new();
    let of_handler = work.clone();
    let handler = async move |charge: Charge| {
        let work = of_handler.clone();
        let rest = async move {
            charge.add(Amount::cents(3));
            drop(charge);
            work.go_on().await;
            Ok::<_, BodyError>(Bytes::from_static(b"done"))
        };
        Body::from_stream(stream::once(rest))
    };
    let app = Router::new().route("/", get(handler)).layer(world.layer());
    let client = Client::new(Version::Http1, serve(app).await, &token);
    world.spy.set(Faults::posts(Fault::Hang).only(is_settle));
    let seen = tokio::spawn(async move { client.get("/").await });
    world.spy.arrived(1, is_settle).await;
    work.gate.send_replace(true);
    for _ in 0..100 {
        tokio::task::yield_now().await;
        assert!(!seen.is_finished(), "it ended before the commit");
    }
    world.spy.mend();
    assert_eq!(seen.await.unwrap().data, "done");
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3)]));
}

/// A handler that is still running may begin its charge again.
#[tokio::test]
async fn a_handler_that_is_cut_off_or_panics_between_two_handles_was_interrupted() {
    for panics in [false, true] {
        let world = World::new().await;
        let (_, token) = world.key().await;
        let (work, _) = Work::new();
        let of_handler = work.clone();
        let handler = async move |key: KeyContext| {
            let charge = Charge::begin(&key).await?;
            charge.on_interrupt(OnInterrupt::WholeHold);
            charge.hold(Amount::cents(10)).await?;
            drop(charge);
            of_handler.gate.send_replace(true);
            assert!(!panics, "an upstream that makes no sense");
            std::future::pending::<()>().await;
            Ok::<_, Rejection>("done")
        };
        let app = Router::new().route("/", get(handler)).layer(world.layer());
        let request =
            Request::get("/").header("x-api-key", token.expose()).body(Body::empty()).unwrap();
        let asked = tokio::spawn(app.oneshot(request));
        work.go_on().await;
        asked.abort();
        assert!(asked.await.is_err());
        world.until(&Ledger::of(&[("settle", 10)])).await;
    }
}

/// The upstream's failure drops the charge, and the body reports the error a little later.
#[tokio::test]
async fn a_body_that_fails_after_its_last_handle_was_interrupted() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let (work, mut ended) = Work::new();
    let of_handler = work.clone();
    let handler = async move |charge: Charge| {
        let work = of_handler.clone();
        charge.on_interrupt(OnInterrupt::WholeHold);
        charge.hold(Amount::cents(10)).await?;
        let rest = async move {
            drop(charge);
            let _ = work.over.send(());
            work.go_on().await;
            Err::<Bytes, _>(BodyError::from("upstream"))
        };
        let first = stream::iter([Ok::<_, BodyError>(Bytes::from_static(b"chunk."))]);
        Ok::<_, Rejection>(Body::from_stream(first.chain(stream::once(rest))).into_response())
    };
    let app = Router::new().route("/", get(handler)).layer(world.layer());
    let client = Client::new(Version::Http1, serve(app).await, &token);
    let seen = tokio::spawn(async move { client.get("/").await });
    soon(ended.recv()).await;
    work.gate.send_replace(true);
    assert!(seen.await.unwrap().error.is_some());
    world.until(&Ledger::of(&[("settle", 10)])).await;
}

/// Whatever executor it is of: a waker may own anything, and is not kept longer than its task.
#[tokio::test]
async fn a_waker_goes_without_a_lock_and_with_its_body() {
    struct Owner(#[expect(dead_code, reason = "owned")] std::sync::Mutex<Option<Charge>>);
    impl std::task::Wake for Owner {
        fn wake(self: Arc<Self>) {}
    }
    let world = World::new().await;
    let (_, token) = world.key().await;
    let kept = Arc::new(std::sync::Mutex::new(None));
    let of_handler = kept.clone();
    let handler = async move |charge: Charge| {
        *of_handler.lock().unwrap() = Some(charge.clone());
        charge.detach();
        let rest = async move {
            let _charge = charge;
            std::future::pending::<Result<Bytes, BodyError>>().await
        };
        Body::from_stream(stream::once(rest))
    };
    let app = Router::new().route("/", get(handler)).layer(world.layer());
    let request =
        Request::get("/").header("x-api-key", token.expose()).body(Body::empty()).unwrap();
    let mut body = Box::pin(app.oneshot(request).await.unwrap().into_body());
    let mut poll = |waker: Waker| {
        body.as_mut().poll_frame(&mut std::task::Context::from_waker(&waker)).is_pending()
    };
    let charge = kept.lock().unwrap().take();
    let other = charge.clone();
    assert!(poll(Arc::new(Owner(std::sync::Mutex::new(charge))).into()));
    let last = Arc::new(Owner(std::sync::Mutex::new(None)));
    let of_last = Arc::downgrade(&last);
    // The one before goes here, with a handle in it.
    assert!(poll(last.into()));
    drop(body);
    assert!(of_last.upgrade().is_none());
    drop(other);
}

/// A server that cannot send on does not look at the body meanwhile.
#[tokio::test]
async fn a_body_that_is_not_polled_after_the_last_handle_was_not_interrupted() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let (work, mut ended) = Work::new();
    let of_handler = work.clone();
    let events = async move |charge: Charge| {
        let work = of_handler.clone();
        charge.on_interrupt(OnInterrupt::WholeHold);
        charge.hold(Amount::cents(10)).await?;
        tokio::spawn(async move {
            let _over = Over(work.over.clone());
            let charge = charge;
            work.go_on().await;
            charge.add(Amount::cents(3));
        });
        let first = stream::iter([Ok::<_, BodyError>(Bytes::from_static(b"chunk."))]);
        Ok::<_, Rejection>(Body::from_stream(first.chain(stream::pending())).into_response())
    };
    let app = Router::new().route("/", get(events)).layer(world.layer());
    let request =
        Request::get("/").header("x-api-key", token.expose()).body(Body::empty()).unwrap();
    let mut body = app.oneshot(request).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().unwrap().is_data());
    work.gate.send_replace(true);
    soon(ended.recv()).await;
    drop(body);
    world.until(&Ledger::of(&[("settle", 3)])).await;
}

/// A tunnel has no body: a server drops what it is given, without a look at it.
#[tokio::test]
async fn the_head_of_an_answer_to_connect_waits_for_the_commit() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let (work, mut ended) = Work::new();
    let over = Arc::new(std::sync::Mutex::new(Some(Over(work.over.clone()))));
    let service =
        world.layer().layer(tower::service_fn(move |request: Request<hyper::body::Incoming>| {
            let over = over.lock().unwrap().take();
            async move {
                let charge =
                    Charge::begin(request.extensions().get::<KeyContext>().unwrap()).await.unwrap();
                charge.add(Amount::cents(3));
                let body = stream::once(async move {
                    drop((charge, over));
                    Ok::<_, BodyError>(Bytes::from_static(b"hello"))
                });
                Ok::<_, Infallible>(Response::new(Body::from_stream(body)))
            }
        }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper_util::service::TowerToHyperService::new(service);
        let io = hyper_util::rt::TokioIo::new(stream);
        hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .with_upgrades()
            .await
    });
    world.spy.set(Faults::posts(Fault::Hang).only(is_settle));
    let mut client = send(addr, "CONNECT x:80", &token).await;
    soon(ended.recv()).await; // the body is gone
    world.spy.arrived(1, is_settle).await;
    assert!(client.try_read(&mut [0]).is_err(), "nothing was answered yet");
    world.spy.mend();
    read_until(&mut client, "\r\n\r\n").await;
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3)]));
}
