//! Requests cut short, and charges that outlive them.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentkey::http::{BodyError, OnExpiry, OnInterrupt};
use agentkey::{AgentKeys, Amount, Charge, Hold, Rejection};
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
    Client, Fault, Faults, Ledger, Version, World, clock, is_hold, is_pay, is_settle, serve, soon,
};

/// What happens in handlers, for tests to wait for; and what they wait for themselves.
#[derive(Clone, Debug)]
struct Scene {
    told: mpsc::UnboundedSender<&'static str>,
    heard: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<&'static str>>>,
    gate: watch::Sender<bool>,
}

impl Scene {
    fn new() -> Self {
        let (told, heard) = mpsc::unbounded_channel();
        Self {
            told,
            heard: Arc::new(tokio::sync::Mutex::new(heard)),
            gate: watch::Sender::new(false),
        }
    }

    fn tell(&self, what: &'static str) {
        self.told.send(what).unwrap();
    }

    async fn hear(&self, what: &str) {
        assert_eq!(soon(self.heard.lock().await.recv()).await, Some(what));
    }

    fn open(&self) {
        self.gate.send_replace(true);
    }

    async fn opened(&self) {
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

type Answer = Result<Response, Rejection>;

fn app(world: &World, scene: &Scene) -> Router {
    app_with(world, scene, |routes| routes)
}

fn app_with(
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
