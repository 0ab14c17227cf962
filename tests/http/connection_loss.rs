//! Requests cut short: the client leaves, or something panics.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use agentkey::http::{BodyError, OnExpiry, OnInterrupt};
use agentkey::{Amount, Charge, Hold, Rejection};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::support::{
    Client, Fault, Faults, Ledger, Version, World, is_hold, is_pay, is_settle, serve, soon,
};

/// What happens in handlers, for tests to wait for; and what they wait for themselves.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    told: mpsc::UnboundedSender<&'static str>,
    heard: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<&'static str>>>,
    gate: watch::Sender<bool>,
}

impl Scene {
    pub(super) fn new() -> Self {
        let (told, heard) = mpsc::unbounded_channel();
        Self {
            told,
            heard: Arc::new(tokio::sync::Mutex::new(heard)),
            gate: watch::Sender::new(false),
        }
    }

    pub(super) fn tell(&self, what: &'static str) {
        self.told.send(what).unwrap();
    }

    pub(super) async fn hear(&self, what: &str) {
        assert_eq!(soon(self.heard.lock().await.recv()).await, Some(what));
    }

    pub(super) fn open(&self) {
        self.gate.send_replace(true);
    }

    pub(super) async fn opened(&self) {
        self.gate.subscribe().wait_for(|open| *open).await.unwrap();
    }

    /// Sends a message when it is dropped.
    fn on_drop(&self, what: &'static str) -> OnDrop {
        OnDrop(self.clone(), what)
    }
}

struct OnDrop(Scene, &'static str);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.told.send(self.1);
    }
}

/// A chunk, a cent, and then nothing more until the gate opens.
fn one_chunk(scene: Scene, charge: Charge) -> impl Stream<Item = Result<Bytes, BodyError>> + Send {
    let first = stream::once(async move {
        charge.add(Amount::cents(1));
        (charge, Ok(Bytes::from_static(b"chunk.")))
    });
    let gate = scene.clone();
    first.flat_map(move |(charge, chunk)| {
        let gate = gate.clone();
        let dropped = gate.on_drop("stream dropped");
        let rest = stream::once(async move {
            let _dropped = dropped;
            gate.opened().await;
            charge.add(Amount::cents(1));
            Ok(Bytes::from_static(b"last."))
        });
        stream::iter([chunk]).chain(rest)
    })
}

pub(super) type Answer = Result<Response, Rejection>;

pub(super) fn app(world: &World, scene: &Scene) -> Router {
    app_with(world, scene, |routes| routes)
}

pub(super) fn app_with(
    world: &World,
    scene: &Scene,
    inside: impl FnOnce(Router<Scene>) -> Router<Scene>,
) -> Router {
    async fn start(charge: &Charge) -> Result<(), Rejection> {
        charge.hold(Amount::cents(10)).await?;
        charge.add(Amount::cents(3));
        Ok(())
    }
    async fn forever(State(scene): State<Scene>, charge: Charge) -> Answer {
        start(&charge).await?;
        scene.tell("working");
        scene.opened().await;
        Ok("done".into_response())
    }
    async fn forever_whole(State(scene): State<Scene>, charge: Charge) -> Answer {
        start(&charge).await?;
        charge.on_interrupt(OnInterrupt::WholeHold);
        scene.tell("working");
        scene.opened().await;
        Ok("done".into_response())
    }
    /// The cost went over the hold before the client went away.
    async fn forever_dear(State(scene): State<Scene>, charge: Charge) -> Answer {
        start(&charge).await?;
        charge.add(Amount::cents(9));
        charge.on_interrupt(OnInterrupt::WholeHold);
        scene.tell("working");
        scene.opened().await;
        Ok("done".into_response())
    }
    async fn streaming(State(scene): State<Scene>, charge: Charge) -> Answer {
        start(&charge).await?;
        Ok(Body::from_stream(one_chunk(scene, charge)).into_response())
    }
    async fn streaming_whole(State(scene): State<Scene>, charge: Charge) -> Answer {
        charge.on_interrupt(OnInterrupt::WholeHold);
        streaming(State(scene), charge).await
    }
    async fn paying(State(scene): State<Scene>, charge: Charge) -> Answer {
        let _dropped = scene.on_drop("handler dropped");
        charge.pay(Amount::cents(5)).await?;
        Ok("bought".into_response())
    }
    async fn holding(State(scene): State<Scene>, charge: Charge) -> Answer {
        let _dropped = scene.on_drop("handler dropped");
        start(&charge).await?;
        Ok("done".into_response())
    }
    async fn panicking(charge: Charge) -> Answer {
        start(&charge).await?;
        panic!("a bug in the handler");
    }
    async fn panicking_whole(charge: Charge) -> Answer {
        charge.on_interrupt(OnInterrupt::WholeHold);
        start(&charge).await?;
        panic!("a bug in the handler");
    }
    async fn panicking_body(charge: Charge) -> Answer {
        start(&charge).await?;
        let chunks = (0..2).map(move |number| {
            charge.add(Amount::cents(1));
            assert!(number == 0, "a bug in the body");
            Ok::<_, BodyError>(Bytes::from_static(b"chunk."))
        });
        Ok(Body::from_stream(stream::iter(chunks)).into_response())
    }
    /// Goes on in the background after the response, and adds 4 cents there.
    async fn background(State(scene): State<Scene>, charge: Charge, request: Request) -> Answer {
        start(&charge).await?;
        if request.uri().query() == Some("detach") {
            charge.detach();
        }
        tokio::spawn(async move {
            scene.opened().await;
            charge.add(Amount::cents(4));
        });
        Ok("ok".into_response())
    }
    async fn expiring(State(scene): State<Scene>, charge: Charge, request: Request) -> Answer {
        let fate = match request.uri().query() {
            Some("charge") => OnExpiry::Charge,
            _ => OnExpiry::Release,
        };
        charge
            .hold(Hold::new(Amount::cents(10)).ttl(Duration::from_secs(30)).on_expiry(fate))
            .await?;
        charge.add(Amount::cents(3));
        scene.tell("working");
        scene.opened().await;
        Ok("done".into_response())
    }
    let routes = Router::new()
        .route("/forever", get(forever))
        .route("/forever/whole", get(forever_whole))
        .route("/forever/dear", get(forever_dear))
        .route("/streaming", get(streaming))
        .route("/streaming/whole", get(streaming_whole))
        .route("/paying", get(paying))
        .route("/holding", get(holding))
        .route("/panicking", get(panicking))
        .route("/panicking/whole", get(panicking_whole))
        .route("/panicking/body", get(panicking_body))
        .route("/background", get(background))
        .route("/expiring", get(expiring));
    inside(routes).layer(world.layer()).with_state(scene.clone())
}

/// A client that goes away: over HTTP/1 it closes the connection, over HTTP/2 it resets the stream.
enum Leaving {
    Http1(TcpStream),
    Http2(tokio::task::JoinHandle<()>, mpsc::Receiver<Bytes>),
}

impl Leaving {
    async fn start(version: Version, world: &World, scene: &Scene, path: &str) -> Self {
        let (_, token) = world.key().await;
        let addr = serve(app(world, scene)).await;
        match version {
            Version::Http1 => {
                let mut stream = TcpStream::connect(addr).await.unwrap();
                let request = format!(
                    "GET {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\n\r\n",
                    token.expose()
                );
                stream.write_all(request.as_bytes()).await.unwrap();
                Self::Http1(stream)
            }
            Version::Http2 => {
                let client = Client::new(version, addr, &token);
                let request = client.request(Method::GET, path);
                let (chunks, received) = mpsc::channel(8);
                let task = tokio::spawn(async move {
                    let mut body = client.head(request).await.into_body();
                    while let Some(Ok(frame)) = body.frame().await {
                        chunks.send(frame.into_data().unwrap()).await.unwrap();
                    }
                });
                Self::Http2(task, received)
            }
        }
    }

    async fn receive(&mut self, wanted: &str) {
        match self {
            Self::Http1(stream) => {
                let mut received = Vec::new();
                while !String::from_utf8_lossy(&received).contains(wanted) {
                    assert_ne!(soon(stream.read_buf(&mut received)).await.unwrap(), 0);
                }
            }
            Self::Http2(_, chunks) => assert_eq!(soon(chunks.recv()).await.unwrap(), wanted),
        }
    }

    fn leave(self) {
        match self {
            Self::Http1(stream) => drop(stream),
            Self::Http2(task, _) => task.abort(),
        }
    }
}

#[tokio::test]
async fn the_client_leaves_before_the_handler_is_done() {
    for version in Version::BOTH {
        for (path, charged) in [("/forever", 3), ("/forever/whole", 10), ("/forever/dear", 12)] {
            let (world, scene) = (World::new().await, Scene::new());
            let client = Leaving::start(version, &world, &scene, path).await;
            scene.hear("working").await;
            assert_eq!(world.ledger().await, Ledger::of(&[]).holding(10));
            client.leave();
            world.until(&Ledger::of(&[("settle", charged)])).await;
            assert_eq!(world.spy.count(is_settle), 1, "{version:?} {path}");
        }
    }
}

#[tokio::test]
async fn the_client_leaves_in_the_middle_of_the_body() {
    for version in Version::BOTH {
        for (path, charged) in [("/streaming", 4), ("/streaming/whole", 10)] {
            let (world, scene) = (World::new().await, Scene::new());
            let mut client = Leaving::start(version, &world, &scene, path).await;
            client.receive("chunk.").await;
            assert_eq!(world.ledger().await, Ledger::of(&[]).holding(10));
            client.leave();
            scene.hear("stream dropped").await;
            world.until(&Ledger::of(&[("settle", charged)])).await;
            assert_eq!(world.spy.count(is_settle), 1, "{version:?} {path}");
        }
    }
}

/// One that stays sees the same stream to its end, whatever its policy for interruptions.
#[tokio::test]
async fn a_client_that_stays_is_charged_what_was_added() {
    for version in Version::BOTH {
        for path in ["/streaming", "/streaming/whole"] {
            let (world, scene) = (World::new().await, Scene::new());
            scene.open();
            let (_, token) = world.key().await;
            let client = Client::new(version, serve(app(&world, &scene)).await, &token);
            assert_eq!(client.get(path).await.data, "chunk.last.");
            assert_eq!(world.ledger().await, Ledger::of(&[("settle", 5)]));
        }
    }
}

async fn leave_while(
    posting: fn(&agentkey::ledger::Posting) -> bool,
    path: &str,
    version: Version,
) -> World {
    let (world, scene) = (World::new().await, Scene::new());
    world.spy.set(Faults::posts(Fault::Hang).only(posting));
    let client = Leaving::start(version, &world, &scene, path).await;
    world.spy.arrived(1, posting).await;
    client.leave();
    scene.hear("handler dropped").await;
    world.spy.mend();
    world.spy.arrived(1, is_settle).await;
    world
}

#[tokio::test]
async fn the_client_leaves_while_a_payment_is_in_flight() {
    for version in Version::BOTH {
        let world = leave_while(is_pay, "/paying", version).await;
        // It was committed, but the handler never got the answer, so it is taken back.
        world.until(&Ledger::of(&[("pay", 5), ("refund", -5)])).await;
        assert_eq!((world.spy.count(is_pay), world.spy.count(is_settle)), (1, 1));
    }
}

#[tokio::test]
async fn the_client_leaves_while_a_hold_is_in_flight() {
    for version in Version::BOTH {
        let world = leave_while(is_hold, "/holding", version).await;
        world.until(&Ledger::of(&[])).await;
        assert_eq!((world.spy.count(is_hold), world.spy.count(is_settle)), (1, 1));
    }
}

/// The same while the store loses the answers: what is sent again is not done again.
#[tokio::test]
async fn the_client_leaves_while_answers_get_lost() {
    for (path, posting, wanted) in [
        (
            "/paying",
            is_pay as fn(&agentkey::ledger::Posting) -> bool,
            Ledger::of(&[("pay", 5), ("refund", -5)]),
        ),
        ("/holding", is_hold, Ledger::of(&[])),
    ] {
        let (world, scene) = (World::new().await, Scene::new());
        world.spy.set(Faults::posts(Fault::LoseAnswer).only(posting));
        let client = Leaving::start(Version::Http1, &world, &scene, path).await;
        world.spy.arrived(2, posting).await;
        client.leave();
        scene.hear("handler dropped").await;
        world.spy.mend();
        world.spy.arrived(1, is_settle).await;
        world.until(&wanted).await;
    }
}

async fn catch(request: Request, next: Next) -> Response {
    let caught = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    caught.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

const PANICS: [(&str, i32); 2] = [("/panicking", 3), ("/panicking/whole", 10)];

#[tokio::test]
async fn a_handler_that_panics_is_charged() {
    for version in Version::BOTH {
        for (path, charged) in PANICS {
            let (world, scene) = (World::new().await, Scene::new());
            let (_, token) = world.key().await;
            let client = Client::new(version, serve(app(&world, &scene)).await, &token);
            // Nobody catches it: the connection, or with HTTP/2 the stream, dies of it.
            assert!(client.get(path).await.error.is_some());
            world.until(&Ledger::of(&[("settle", charged)])).await;
            assert_eq!(world.spy.count(is_settle), 1);
        }
    }
}

#[tokio::test]
async fn a_panic_caught_behind_the_layer_is_a_response_like_any_other() {
    for version in Version::BOTH {
        for (path, charged) in PANICS {
            let (world, scene) = (World::new().await, Scene::new());
            let (_, token) = world.key().await;
            let app = app_with(&world, &scene, |routes| routes.layer(from_fn(catch)));
            let seen = Client::new(version, serve(app).await, &token).get(path).await;
            let ledger = world.ledger().await;
            assert_eq!((seen.status.as_u16(), seen.error), (500, None));
            assert_eq!(ledger, Ledger::of(&[("settle", charged)]));
        }
    }
}

#[tokio::test]
async fn a_panic_caught_before_the_layer_is_charged() {
    for version in Version::BOTH {
        for (path, charged) in PANICS {
            let (world, scene) = (World::new().await, Scene::new());
            let (_, token) = world.key().await;
            let client = Client::new(
                version,
                serve(app(&world, &scene).layer(from_fn(catch))).await,
                &token,
            );
            assert_eq!(client.get(path).await.status, 500);
            world.until(&Ledger::of(&[("settle", charged)])).await;
            // The connection and the commit queues still work.
            assert_eq!(client.get(path).await.status, 500);
            world.until(&Ledger::of(&[("settle", charged), ("settle", charged)])).await;
        }
    }
}

#[tokio::test]
async fn a_body_that_panics_is_charged() {
    for version in Version::BOTH {
        let (world, scene) = (World::new().await, Scene::new());
        let (_, token) = world.key().await;
        let seen = Client::new(version, serve(app(&world, &scene)).await, &token)
            .get("/panicking/body")
            .await;
        assert!(seen.error.is_some());
        world.until(&Ledger::of(&[("settle", 5)])).await;
        assert_eq!(world.spy.count(is_settle), 1);
    }
}
