//! Two layers on the way of one request: with one key it has one charge, and takes its `Idempotency-Key` once.

use std::time::Duration;

use agentkey::http::OnInterrupt;
use agentkey::{
    AgentKeyLayer, AgentKeys, Amount, Charge, KeyContext, NewKey, Rejection, Replayable,
};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures_util::stream;
use http::{Method, StatusCode};

use super::connection_loss::Answer;
use super::support::{Client, Ledger, Version, World, acme, is_open, is_settle, serve};

/// A charge of the outer layer, begun before what is inside it.
async fn before(charge: Charge, request: Request, next: Next) -> Answer {
    charge.hold(Amount::cents(10)).await?;
    charge.add(Amount::cents(1));
    Ok(next.run(request).await)
}

/// The same, begun after it.
async fn after(key: KeyContext, request: Request, next: Next) -> Answer {
    let response = next.run(request).await;
    Charge::begin(&key).await?.add(Amount::cents(1));
    Ok(response)
}

async fn metered(charge: Charge) -> Answer {
    charge.hold(Amount::cents(5)).await?;
    charge.add(Amount::cents(2));
    Ok("done".into_response())
}

async fn streamed(charge: Charge) -> Answer {
    let rest = stream::once(async move {
        charge.add(Amount::cents(2));
        Ok::<_, std::convert::Infallible>("done")
    });
    Ok(Body::from_stream(rest).into_response())
}

fn routes() -> Router {
    Router::new().route("/metered", post(metered)).route("/streamed", post(streamed))
}

#[tokio::test]
async fn a_request_takes_its_idempotency_key_once_behind_two_layers() {
    for path in ["/metered", "/streamed"] {
        for is_before in [true, false] {
            let world = World::new().await;
            let (_, token) = world.key().await;
            let inner = routes().layer(world.layer());
            let both = match is_before {
                true => inner.layer(from_fn(before)),
                false => inner.layer(from_fn(after)),
            };
            let client =
                Client::new(Version::Http1, serve(both.layer(world.layer())).await, &token);
            let seen = client.post(path, "k").await;
            assert_eq!((seen.status.as_u16(), &*seen.data), (200, "done"), "{path} {is_before}");
            assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3)]), "{path} {is_before}");
            assert_eq!((world.spy.count(is_open), world.spy.count(is_settle)), (1, 1));
            let again = client.post(path, "k").await;
            assert_eq!(again.refused(), (409, "already_charged".into()));
            // Without the header it is one charge too.
            let request = client.request(Method::POST, path);
            assert_eq!(client.send(request).await.data, "done");
            assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3), ("settle", 3)]));
        }
    }
}

/// One place among the open charges suffices, and three layers are as good as two.
#[tokio::test]
async fn a_request_takes_one_place_behind_three_layers() {
    let world = World::with(AgentKeys::builder().max_open_charges(1)).await;
    let (_, token) = world.key().await;
    let app = routes().layer(world.layer()).layer(from_fn(before)).layer(world.layer());
    let app = app.layer(from_fn(before)).layer(world.layer());
    let client = Client::new(Version::Http2, serve(app).await, &token);
    assert_eq!(client.post("/metered", "k").await.data, "done");
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 4)]));
}

/// With another key the inner charge is another one, and so is its claim.
#[tokio::test]
async fn layers_with_two_keys_charge_both() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let (_, other) = world.create(NewKey::new(acme())).await;
    let inner = world.layer().credential_headers(["x-other".parse().unwrap()]);
    let app = routes().layer(inner).layer(from_fn(before)).layer(world.layer());
    let client = Client::new(Version::Http1, serve(app).await, &token);
    let mut request = client.request(Method::POST, "/metered");
    request.headers_mut().insert("x-other", other.expose().parse().unwrap());
    request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
    assert_eq!(client.send(request).await.data, "done");
    assert_eq!(world.spy.count(is_open), 2);
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 2), ("settle", 1)]));
}

/// What is refused behind a layer is answered as that layer says.
#[tokio::test]
async fn each_layer_answers_what_is_refused_behind_it() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let dear = post(async |charge: Charge| charge.hold(Amount::units(2)).await);
    let outer_dear = async |charge: Charge, request: Request, next: Next| {
        if request.uri().path() == "/outer" {
            charge.hold(Amount::units(2)).await?;
        }
        Ok::<_, Rejection>(next.run(request).await)
    };
    let app = Router::new()
        .route("/inner", dear.clone())
        .route("/outer", dear)
        .layer(world.layer().budget_status(StatusCode::TOO_MANY_REQUESTS))
        .layer(from_fn(outer_dear))
        .layer(world.layer().budget_status(StatusCode::FORBIDDEN).remaining_header(false));
    let client = Client::new(Version::Http1, serve(app).await, &token);
    for (path, status) in [("/inner", 429), ("/outer", 403)] {
        assert_eq!(client.post(path, path).await.refused(), (status, "budget_exceeded".into()));
    }
}

/// The inner layer says what is left, also of what the outer charge has added.
#[tokio::test]
async fn one_layer_that_says_what_is_left_suffices() {
    for (inner_says, outer_says) in [(true, false), (false, true), (false, false)] {
        let world = World::new().await;
        let (_, token) = world.key().await;
        let inner = world.layer().remaining_header(inner_says);
        let app = routes().layer(inner).layer(from_fn(before));
        let app = app.layer(world.layer().remaining_header(outer_says));
        let client = Client::new(Version::Http1, serve(app).await, &token);
        let seen = client.post("/metered", "k").await;
        let left = (inner_says || outer_says).then_some("97");
        assert_eq!(seen.header("agentkey-remaining-cents"), left);
    }
}

/// A replay is decided by the first that takes the charge.
#[tokio::test]
async fn a_replay_gets_the_first_receipt_behind_two_layers() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let buy = async |Replayable(charge): Replayable| -> Answer {
        charge.reference("order")?;
        let receipt = charge.pay(Amount::cents(5)).await?;
        Ok(format!("{} {}", receipt.entry, receipt.replayed).into_response())
    };
    let outer = async |Replayable(_): Replayable, request: Request, next: Next| -> Response {
        next.run(request).await
    };
    let app = Router::new().route("/", post(buy)).layer(world.layer()).layer(from_fn(outer));
    let client = Client::new(Version::Http1, serve(app.layer(world.layer())).await, &token);
    let first = client.post("/", "k").await.data;
    assert!(first.ends_with("false"), "{first}");
    assert_eq!(client.post("/", "k").await.data, first.replace("false", "true"));
    assert_eq!(world.ledger().await, Ledger::of(&[("pay", 5)]));
}

/// A timeout between the layers is seen as an interruption, as one outside of a single layer is.
#[tokio::test]
async fn an_interruption_between_two_layers_is_one() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let (working, works) = tokio::sync::watch::channel(false);
    let forever = async move |charge: Charge| -> Answer {
        charge.on_interrupt(OnInterrupt::WholeHold);
        charge.hold(Amount::cents(10)).await?;
        working.send_replace(true);
        std::future::pending().await
    };
    let timeout = from_fn(move |request: Request, next: Next| {
        let mut works = works.clone();
        async move {
            tokio::select! {
                response = next.run(request) => response,
                _ = works.wait_for(|works| *works) => StatusCode::GATEWAY_TIMEOUT.into_response(),
            }
        }
    });
    let layer = || AgentKeyLayer::new(&world.keys);
    let app = Router::new().route("/", post(forever)).layer(layer()).layer(timeout).layer(layer());
    let client = Client::new(Version::Http1, serve(app).await, &token);
    assert_eq!(client.post("/", "k").await.status, 504);
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 10)]));
    tokio::time::timeout(Duration::from_secs(60), world.keys.shutdown()).await.unwrap();
}
