//! Holds of long responses: renewed while the charge lives, up to an age. The clock is a `ManualClock`.

use std::time::Duration;

use agentkey::http::OnExpiry;
use agentkey::ledger::{Action, Posting};
use agentkey::model::ManualClock;
use agentkey::{AgentKeys, Amount, Builder, Charge, Hold, KeyId, MemoryStore, Rejection, Token};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tower::ServiceExt;

use super::support::{Fault, Faults, Ledger, Seen, World, clock};

fn is_renew(posting: &Posting) -> bool {
    matches!(posting.action, Action::Renew { .. })
}

/// A response that streams as long as the test wants it to, and then adds 3 cents.
struct Streaming {
    world: World,
    clock: ManualClock,
    key: KeyId,
    token: Token,
    app: Router,
    chunks: mpsc::UnboundedSender<()>,
    body: Option<Body>,
}

impl Streaming {
    async fn start(builder: Builder, hold: Hold) -> Self {
        let clock = clock();
        let world = World::on(builder, Box::new(MemoryStore::with_clock(&clock)));
        let (key, token) = world.key().await;
        let (chunks, wanted) = mpsc::unbounded_channel();
        let wanted = std::sync::Arc::new(tokio::sync::Mutex::new(wanted));
        let stream = get(async move |charge: Charge| -> Result<Body, Rejection> {
            charge.hold(hold).await?;
            let frames =
                futures_util::stream::unfold((charge, wanted), async |(charge, wanted)| {
                    let more = wanted.lock().await.recv().await;
                    if more.is_none() {
                        charge.add(Amount::cents(3));
                        return None;
                    }
                    Some((Ok::<_, std::convert::Infallible>("chunk."), (charge, wanted)))
                });
            Ok(Body::from_stream(frames))
        });
        let app = Router::new()
            .route("/", stream)
            .route("/claimed", get(async |_: Charge| "begun"))
            .layer(world.layer());
        let mut streaming = Self { world, clock, key, token, app, chunks, body: None };
        let response = streaming.ask("/").await;
        assert_eq!(response.status(), 200);
        streaming.body = Some(response.into_body());
        streaming.chunk().await;
        streaming
    }

    async fn ask(&self, path: &str) -> Response<Body> {
        let request = Request::get(path)
            .header("x-api-key", self.token.expose())
            .header("idempotency-key", "k");
        self.app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn chunk(&mut self) {
        self.chunks.send(()).unwrap();
        let frame = self.body.as_mut().unwrap().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "chunk.");
    }

    /// Lets time pass, on the clock of the store and on that of the runtime.
    async fn pass(&self, time: Duration) {
        let step = Duration::from_secs(5);
        let mut passed = Duration::ZERO;
        while passed < time {
            self.clock.advance(step);
            tokio::time::sleep(step).await;
            passed += step;
        }
    }

    async fn end(self) -> (World, Seen) {
        drop(self.chunks);
        let seen = Seen::read(Response::new(self.body.unwrap())).await;
        (self.world, seen)
    }
}

fn held() -> Ledger {
    Ledger::of(&[]).holding(10)
}

#[tokio::test(start_paused = true)]
async fn a_long_stream_keeps_its_hold_and_its_claim() {
    for ttl in [None, Some(Duration::from_secs(15)), Some(Duration::from_secs(300))] {
        let hold =
            ttl.map_or(Hold::new(Amount::cents(10)), |ttl| Hold::new(Amount::cents(10)).ttl(ttl));
        let mut streaming = Streaming::start(AgentKeys::builder(), hold).await;
        for _ in 0..14 {
            streaming.pass(Duration::from_secs(60)).await;
            assert_eq!(streaming.world.ledger().await, held(), "{ttl:?}");
            let replay = Seen::read(streaming.ask("/").await).await;
            assert_eq!(replay.refused(), (409, "in_flight".into()));
            streaming.chunk().await;
        }
        assert!(streaming.world.spy.count(is_renew) >= 8, "{ttl:?}");
        let (world, seen) = streaming.end().await;
        assert_eq!(seen.error, None);
        assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3)]));
        // Nothing is renewed that is over.
        let renewed = world.spy.count(is_renew);
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert_eq!(world.spy.count(is_renew), renewed);
    }
}

#[tokio::test(start_paused = true)]
async fn no_hold_gets_over_the_longest_age_and_the_cost_is_posted_all_the_same() {
    let builder = || AgentKeys::builder().max_hold_age(Duration::from_secs(300));
    for (fate, run_out, settled) in [
        (OnExpiry::Release, Ledger::of(&[]), Ledger::of(&[("settle", 3)])),
        (
            OnExpiry::Charge,
            Ledger::of(&[("expiry", 10)]),
            Ledger::of(&[("expiry", 10), ("refund", -10), ("settle", 3)]),
        ),
    ] {
        let mut streaming =
            Streaming::start(builder(), Hold::new(Amount::cents(10)).on_expiry(fate)).await;
        streaming.pass(Duration::from_secs(295)).await;
        assert_eq!(streaming.world.ledger().await, held());
        streaming.pass(Duration::from_secs(5)).await;
        assert_eq!(streaming.world.ledger().await, run_out, "{fate:?}");
        // The response itself goes on, and its claim with it.
        streaming.pass(Duration::from_secs(600)).await;
        streaming.chunk().await;
        assert_eq!(Seen::read(streaming.ask("/").await).await.refused(), (409, "in_flight".into()));
        let (world, seen) = streaming.end().await;
        assert_eq!(seen.error, None);
        assert_eq!(world.ledger().await, settled, "{fate:?}");
    }
}

/// A handle that was forgotten, or that a task without an end keeps: nothing tells it from work that goes on. It
/// keeps the claim up to the maximum age.
#[tokio::test(start_paused = true)]
async fn a_claim_of_work_behind_the_response_does_not_get_over_the_longest_age() {
    async fn endless(charge: Charge) {
        let _charge = charge;
        std::future::pending().await
    }
    let max_age = Duration::from_secs(300);
    let second = Duration::from_secs(1);
    for (added, again) in [(3, (409, "already_charged")), (0, (200, "done"))] {
        for hold in [None, Some(Duration::from_secs(15)), Some(Duration::from_secs(300))] {
            for is_forgotten in [true, false] {
                let clock = clock();
                let builder = AgentKeys::builder().max_hold_age(max_age);
                let world = World::on(builder, Box::new(MemoryStore::with_clock(&clock)));
                let (_, token) = world.key().await;
                let handler = get(async move |charge: Charge| -> Result<&str, Rejection> {
                    if let Some(ttl) = hold {
                        charge.hold(Hold::new(Amount::cents(10)).ttl(ttl)).await?;
                    }
                    charge.add(Amount::cents(added));
                    match is_forgotten {
                        true => std::mem::forget(charge),
                        false => drop(tokio::spawn(endless(charge))),
                    }
                    Ok("done")
                });
                let app = Router::new().route("/", handler).layer(world.layer());
                let ask = async || {
                    let request = Request::get("/")
                        .header("x-api-key", token.expose())
                        .header("idempotency-key", "k")
                        .body(Body::empty())
                        .unwrap();
                    Seen::read(app.clone().oneshot(request).await.unwrap()).await
                };
                assert_eq!(ask().await.data, "done");
                let pass = async |seconds| {
                    for _ in 0..seconds {
                        clock.advance(second);
                        tokio::time::sleep(second).await;
                    }
                };
                // The two clocks are a second apart at most.
                pass(298).await;
                assert_eq!(ask().await.refused(), (409, "in_flight".into()), "{added} {hold:?}");
                pass(4).await;
                let seen = ask().await;
                let said = match seen.status.as_u16() {
                    200 => (200, seen.data),
                    _ => seen.refused(),
                };
                assert_eq!(said, (again.0, again.1.to_owned()), "{added} {hold:?} {is_forgotten}");
            }
        }
    }
}

/// A hold that is younger than the claim of its request outlives it.
#[tokio::test(start_paused = true)]
async fn a_hold_behind_the_response_is_renewed_beyond_the_age_of_the_claim() {
    let clock = clock();
    let builder = AgentKeys::builder().max_hold_age(Duration::from_secs(300));
    let world = World::on(builder, Box::new(MemoryStore::with_clock(&clock)));
    let (_, token) = world.key().await;
    let handler = get(async |charge: Charge| {
        charge.detach();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(200)).await;
            charge.hold(Amount::cents(10)).await.unwrap();
            std::future::pending::<()>().await;
        });
        "begun"
    });
    let app = Router::new().route("/", handler).layer(world.layer());
    let request = Request::get("/").header("x-api-key", token.expose());
    let request = request.header("idempotency-key", "k").body(Body::empty()).unwrap();
    assert_eq!(Seen::read(app.oneshot(request).await.unwrap()).await.data, "begun");
    for second in 1..=450 {
        clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_secs(1)).await;
        if second > 205 {
            assert_eq!(world.ledger().await, held(), "{second} s");
        }
    }
}

/// An outage shorter than the hold's time to live costs nothing; a longer one ends the hold and loses no cost.
#[tokio::test(start_paused = true)]
async fn renewal_gets_over_an_outage() {
    let mut streaming = Streaming::start(AgentKeys::builder(), Amount::cents(10).into()).await;
    streaming.pass(Duration::from_secs(60)).await;
    streaming.world.spy.set(Faults::posts(Fault::Down).only(is_renew));
    streaming.pass(Duration::from_secs(30)).await;
    streaming.world.spy.mend();
    streaming.pass(Duration::from_secs(120)).await;
    assert_eq!(streaming.world.ledger().await, held());
    streaming.world.spy.set(Faults::posts(Fault::Down).only(is_renew));
    streaming.pass(Duration::from_secs(90)).await;
    assert_eq!(streaming.world.ledger().await, Ledger::of(&[]));
    streaming.world.spy.mend();
    streaming.chunk().await;
    let (world, _) = streaming.end().await;
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3)]));
}

/// A revoked key is not renewed: its hold runs out, and its work is charged when it ends.
#[tokio::test(start_paused = true)]
async fn a_revoked_key_is_not_renewed() {
    let mut streaming = Streaming::start(AgentKeys::builder(), Amount::cents(10).into()).await;
    streaming.pass(Duration::from_secs(120)).await;
    streaming.world.keys.revoke(streaming.key, None).await.unwrap();
    assert_eq!(streaming.world.ledger().await, held());
    streaming.pass(Duration::from_secs(60)).await;
    assert_eq!(streaming.world.ledger().await, Ledger::of(&[]));
    streaming.chunk().await;
    let (world, _) = streaming.end().await;
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3)]));
}

/// The account gets no more requests: the sweep ends what a lost process held.
#[tokio::test(start_paused = true)]
async fn the_sweep_ends_what_is_not_renewed() {
    let streaming = Streaming::start(
        AgentKeys::builder(),
        Hold::new(Amount::cents(10)).on_expiry(OnExpiry::Charge),
    )
    .await;
    streaming.world.spy.set(Faults::posts(Fault::Down));
    streaming.pass(Duration::from_secs(120)).await;
    let entries = agentkey::EntryQuery::for_account(super::support::acme());
    // Reading entries ends no hold; the sweep has.
    let entries = streaming.world.keys.entries(&entries).await.unwrap().items;
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].kind.as_str(), entries[0].amount), ("expiry", Amount::cents(10)));
}
