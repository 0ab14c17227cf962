//! Repeated requests under one `Idempotency-Key`: charged once, however they come.

use std::sync::Arc;
use std::time::Duration;

use agentkey::{
    Amount, Budget, Charge, EntryQuery, KeyPatch, NewKey, Rejection, Replayable, Token,
};
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::routing::post;
use http::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::support::{
    Client, Fault, Faults, Ledger, Seen, Version, World, acme, clock, is_open, is_pay, is_settle,
    serve, soon,
};

/// Handlers report that they have begun, and wait until the test lets them continue.
#[derive(Clone)]
struct Gate {
    begun: mpsc::UnboundedSender<()>,
    open: watch::Sender<bool>,
}

impl Gate {
    fn new(open: bool) -> (Self, mpsc::UnboundedReceiver<()>) {
        let (begun, entered) = mpsc::unbounded_channel();
        (Self { begun, open: watch::Sender::new(open) }, entered)
    }

    async fn pass(&self) {
        let _ = self.begun.send(());
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
    }
}

type Answer = Result<String, Rejection>;

async fn pay(State(gate): State<Gate>, charge: Charge) -> Answer {
    gate.pass().await;
    charge.pay(Amount::cents(5)).await?;
    Ok("paid".into())
}

async fn pay_early(State(gate): State<Gate>, charge: Charge) -> Answer {
    charge.pay(Amount::cents(5)).await?;
    gate.pass().await;
    Ok("paid".into())
}

async fn meter(State(gate): State<Gate>, charge: Charge) -> Answer {
    charge.hold(Amount::cents(10)).await?;
    gate.pass().await;
    charge.add(Amount::cents(3));
    Ok("metered".into())
}

async fn meter_late(State(gate): State<Gate>, charge: Charge) -> Answer {
    gate.pass().await;
    charge.hold(Amount::cents(10)).await?;
    charge.add(Amount::cents(5));
    Ok("metered".into())
}

/// Charges nothing.
async fn look(State(gate): State<Gate>, charge: Charge) -> Answer {
    charge.hold(Amount::cents(10)).await?;
    gate.pass().await;
    Ok("looked".into())
}

/// Pays the cents that the order names first, with the reference it names then; `+` does more than that.
async fn replayable(
    State(gate): State<Gate>,
    Replayable(charge): Replayable,
    request: Request,
) -> Answer {
    let order = request.headers().get("x-order").unwrap().to_str().unwrap();
    let (cents, reference) = order.split_once('-').unwrap();
    charge.reference(reference.trim_end_matches(['+', '!', '*']))?;
    if reference.ends_with('!') {
        charge.hold(Amount::cents(1)).await?;
    }
    let receipt = charge.pay(Amount::cents(cents.parse().unwrap())).await?;
    gate.pass().await;
    if reference.ends_with('+') {
        charge.pay(receipt.amount).await?;
    }
    if reference.ends_with('*') {
        charge.refund(&receipt, Amount::cents(1)).await?;
    }
    Ok(format!("{} {} {}", receipt.entry, receipt.amount.as_micros(), receipt.replayed))
}

fn app(world: &World, gate: Gate) -> Router {
    Router::new()
        .route("/pay", post(pay).put(pay))
        .route("/pay/early", post(pay_early))
        .route("/meter", post(meter))
        .route("/meter/late", post(meter_late))
        .route("/look", post(look))
        .route("/replayable", post(replayable))
        .layer(world.layer())
        .with_state(gate)
}

async fn open_world() -> (World, Client) {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let client = Client::new(Version::Http1, serve(app(&world, Gate::new(true).0)).await, &token);
    (world, client)
}

/// A world in which handlers wait in the middle.
async fn gated_world() -> (World, Client, Gate, mpsc::UnboundedReceiver<()>) {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let (gate, entered) = Gate::new(false);
    let client = Client::new(Version::Http1, serve(app(&world, gate.clone())).await, &token);
    (world, client, gate, entered)
}

fn in_background(
    client: &Client,
    path: &'static str,
    key: &'static str,
) -> tokio::task::JoinHandle<Seen> {
    let client = client.clone();
    tokio::spawn(async move { client.post(path, key).await })
}

fn refused(code: &str) -> (u16, String) {
    (409, code.into())
}

#[tokio::test]
async fn one_after_the_other() {
    for (path, done, ledger) in [
        ("/pay", "paid", Ledger::of(&[("pay", 5)])),
        ("/meter", "metered", Ledger::of(&[("settle", 3)])),
    ] {
        let (world, client) = open_world().await;
        assert_eq!(client.post(path, "k").await.data, done);
        let entry = world.keys.entries(&EntryQuery::for_account(acme())).await.unwrap().items[0].id;
        for key in ["k", "\"k\"", " k "] {
            let again = client.post(path, key).await;
            assert_eq!(again.refused(), refused("already_charged"));
            assert_eq!(again.json()["entry"], entry.to_string());
        }
        assert_eq!(world.ledger().await, ledger);
        // Another key is another request.
        assert_eq!(client.post(path, "K").await.data, done);
        assert_eq!(world.ledger().await.entries.len(), 2);
    }
}

#[tokio::test]
async fn while_the_first_is_running() {
    for (path, done) in
        [("/pay", "paid"), ("/pay/early", "paid"), ("/meter", "metered"), ("/look", "looked")]
    {
        let (world, client, gate, mut entered) = gated_world().await;
        let first = in_background(&client, path, "k");
        soon(entered.recv()).await.unwrap();
        let again = client.post(path, "k").await;
        assert_eq!(again.refused(), refused("in_flight"), "{path}");
        assert_eq!(again.header("retry-after"), Some("1"));
        assert_eq!(client.order("5-", "k").await.refused(), refused("conflict"), "{path}");
        gate.open.send_replace(true);
        assert_eq!(first.await.unwrap().data, done);
        assert!(world.ledger().await.entries.len() <= 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_are_charged_once() {
    for path in ["/pay", "/meter"] {
        let world = World::new().await;
        let (_, token) = world.key().await;
        let addr = serve(app(&world, Gate::new(true).0)).await;
        let clients = Version::BOTH.map(|version| Client::new(version, addr, &token));
        let mut requests = tokio::task::JoinSet::new();
        for number in 0..50 {
            let client = clients[number % 2].clone();
            requests.spawn(async move { client.post(path, "k").await });
        }
        let mut done = 0;
        while let Some(seen) = requests.join_next().await {
            let seen = seen.unwrap();
            if seen.status == 200 {
                done += 1;
            } else {
                let (status, code) = seen.refused();
                assert!(
                    status == 409 && ["in_flight", "already_charged"].contains(&&*code),
                    "{status} {code}"
                );
            }
        }
        assert_eq!(done, 1);
        let ledger = world.ledger().await;
        assert_eq!((ledger.entries.len(), ledger.held), (1, Amount::ZERO));
    }
}

#[tokio::test]
async fn another_method_or_path_is_a_conflict() {
    let (world, client) = open_world().await;
    assert_eq!(client.post("/pay", "k").await.data, "paid");
    for (method, path) in
        [(Method::PUT, "/pay"), (Method::POST, "/meter"), (Method::POST, "/pay?twice")]
    {
        let mut request = client.request(method, path);
        request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
        assert_eq!(client.send(request).await.refused(), refused("conflict"), "{path}");
    }
    assert_eq!(world.ledger().await, Ledger::of(&[("pay", 5)]));
}

/// One client's key means nothing to another's.
#[tokio::test]
async fn the_keys_of_two_agents_do_not_meet() {
    let world = World::new().await;
    let addr = serve(app(&world, Gate::new(true).0)).await;
    for _ in 0..2 {
        let (_, token) = world.key().await;
        assert_eq!(Client::new(Version::Http1, addr, &token).post("/pay", "k").await.data, "paid");
    }
    assert_eq!(world.ledger().await, Ledger::of(&[("pay", 5), ("pay", 5)]));
}

/// A request that was charged nothing may be retried, also one that the budget did not cover, once the limit is raised.
#[tokio::test]
async fn the_key_is_free_again_when_nothing_was_charged() {
    let (world, client) = open_world().await;
    assert_eq!(client.post("/look", "k").await.data, "looked");
    assert_eq!(client.post("/pay", "k").await.data, "paid");
    assert_eq!(world.ledger().await, Ledger::of(&[("pay", 5)]));

    let (id, token) =
        world.create(NewKey::new(acme()).budget(Budget::lifetime(Amount::cents(4)))).await;
    let poor = Client::new(Version::Http1, serve(app(&world, Gate::new(true).0)).await, &token);
    for _ in 0..2 {
        assert_eq!(poor.post("/pay", "k").await.refused(), (402, "budget_exceeded".into()));
    }
    world
        .keys
        .update(id, KeyPatch::new().budget(Budget::lifetime(Amount::cents(5))))
        .await
        .unwrap();
    assert_eq!(poor.post("/pay", "k").await.data, "paid");
    // Nothing is left now, but what was charged is said first.
    assert_eq!(poor.post("/pay", "k").await.refused(), refused("already_charged"));
    assert_eq!(world.ledger().await, Ledger::of(&[("pay", 5), ("pay", 5)]));
}

#[tokio::test]
async fn a_handler_may_answer_a_replay_with_the_first_receipt() {
    let (world, client) = open_world().await;
    let first = client.order("5-order", "k").await.data;
    assert!(first.ends_with(" 50000 false"), "{first}");
    for _ in 0..2 {
        let again = client.order("5-order", "k").await.data;
        assert_eq!(again, first.replace("false", "true"));
    }
    // Another amount or another reference: not the same purchase.
    for order in ["6-order", "5-other"] {
        assert_eq!(client.order(order, "k").await.refused(), refused("conflict"), "{order}");
    }
    // A replay gives one receipt, and sets no money aside.
    for order in ["5-order+", "5-order!"] {
        assert_eq!(client.order(order, "k").await.refused(), refused("already_charged"), "{order}");
    }
    assert_eq!(world.ledger().await, Ledger::of(&[("pay", 5)]));
    // The receipt is good for a refund; after it, the payment is no proof of a purchase any more.
    assert_eq!(client.order("5-order*", "k").await.status, 200);
    assert_eq!(world.ledger().await.spent, Amount::cents(4));
    assert_eq!(client.order("5-order", "k").await.refused(), refused("already_charged"));
}

#[tokio::test]
async fn a_payment_that_its_own_request_gave_back_is_paid_again() {
    let (world, client) = open_world().await;
    for _ in 0..2 {
        let failed = client.order("1-order*", "k").await.data;
        assert!(failed.ends_with(" false"), "no receipt of money that went back: {failed}");
        assert_eq!(world.ledger().await.spent, Amount::ZERO);
    }
    let bought = client.order("1-order", "k").await.data;
    assert!(bought.ends_with(" false"), "{bought}");
    assert_eq!(client.order("1-order", "k").await.data, bought.replace("false", "true"));
    assert_eq!(world.ledger().await.spent, Amount::cents(1));
}

#[tokio::test]
async fn a_replay_waits_its_turn_and_gets_no_receipt_of_work() {
    let (world, client, gate, mut entered) = gated_world().await;
    let ordering = client.clone();
    let first = tokio::spawn(async move { ordering.order("5-order", "k").await });
    soon(entered.recv()).await.unwrap();
    assert_eq!(client.order("5-order", "k").await.refused(), refused("in_flight"));
    gate.open.send_replace(true);
    assert_eq!(first.await.unwrap().status, 200);
    assert!(client.order("5-order", "k").await.data.ends_with("true"));
    assert_eq!(world.ledger().await, Ledger::of(&[("pay", 5)]));

    // What was metered is no payment; its replay is refused before the handler runs.
    let routes = Router::new().route(
        "/",
        post(async |Replayable(charge): Replayable| -> Answer {
            charge.add(Amount::cents(2));
            Ok("metered".into())
        }),
    );
    let (_, token) = world.key().await;
    let client = Client::new(Version::Http1, serve(routes.layer(world.layer())).await, &token);
    assert_eq!(client.post("/", "k").await.data, "metered");
    assert_eq!(client.post("/", "k").await.refused(), refused("already_charged"));
    assert_eq!(world.ledger().await, Ledger::of(&[("pay", 5), ("settle", 2)]));
}

/// Buys what the body names, without a reference: the amounts are equal.
async fn unnamed(Replayable(charge): Replayable, item: String) -> Answer {
    charge.pay(Amount::cents(5)).await?;
    Ok(item)
}

/// Answers a replay from its own records.
async fn recorded(Replayable(charge): Replayable, item: String) -> Answer {
    if !item.is_empty() {
        charge.reference(item)?;
    }
    if let Some(first) = charge.replayed()? {
        assert!(first.replayed);
        return Ok(format!("delivered before, for {}", first.amount));
    }
    charge.pay(Amount::cents(5)).await?;
    Ok("delivered".into())
}

#[tokio::test]
async fn one_payment_delivers_one_item() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let routes = Router::new().route("/unnamed", post(unnamed)).route("/recorded", post(recorded));
    let client = Client::new(Version::Http1, serve(routes.layer(world.layer())).await, &token);
    let buy = async |path: &str, key: &str, item: &'static str| {
        let mut request = client.request(Method::POST, path);
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        client.send(request.map(|_| item.into())).await
    };

    // Three items of one price, and no reference: nothing tells them apart.
    assert_eq!(buy("/unnamed", "a", "item 1").await.data, "item 1");
    for item in ["item 2", "item 3", "item 1"] {
        let again = buy("/unnamed", "a", item).await;
        assert_eq!(again.refused(), refused("already_charged"), "{item}");
    }
    assert_eq!(world.ledger().await, Ledger::of(&[("pay", 5)]));

    assert_eq!(buy("/recorded", "b", "item 1").await.data, "delivered");
    assert_eq!(buy("/recorded", "b", "item 1").await.data, "delivered before, for 0.05");
    for other in ["item 2", ""] {
        assert_eq!(buy("/recorded", "b", other).await.refused(), refused("conflict"), "{other}");
    }
    assert_eq!(buy("/recorded", "c", "").await.data, "delivered");
    assert_eq!(buy("/recorded", "c", "").await.refused(), refused("already_charged"));
    assert_eq!(world.ledger().await, Ledger::of(&[("pay", 5), ("pay", 5), ("pay", 5)]));
}

/// The layer is inside the nested routers, which see `/buy` alone.
#[tokio::test]
async fn nested_routes_are_told_apart() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let shop = || {
        let buy = async |Replayable(charge): Replayable| -> Answer {
            charge.reference("order")?;
            Ok(charge.pay(Amount::cents(5)).await?.replayed.to_string())
        };
        Router::new().route("/buy", post(buy)).layer(world.layer())
    };
    let app = Router::new()
        .nest("/cheap", shop())
        .nest("/other", Router::new().nest("/inner", shop()))
        .nest_service("/service", shop());
    let client = Client::new(Version::Http1, serve(app).await, &token);
    let others = ["/other/inner/buy", "/service/buy", "/cheap/buy?twice"];
    assert_eq!(client.post("/cheap/buy", "k").await.data, "false");
    for path in others {
        assert_eq!(client.post(path, "k").await.refused(), refused("conflict"), "{path}");
    }
    assert_eq!(client.post("/cheap/buy", "k").await.data, "true");
    assert_eq!(world.ledger().await, Ledger::of(&[("pay", 5)]));
}

struct OnDrop(mpsc::UnboundedSender<()>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

async fn send_raw(addr: std::net::SocketAddr, token: &Token, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let token = token.expose();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {token}\r\nidempotency-key: k\r\ncontent-length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// The retry of a client that gave up: charged once in total, wherever the first attempt was when it was dropped.
#[tokio::test]
async fn a_client_that_leaves_and_retries_is_charged_once() {
    for (dropped_in, ledger) in [
        (is_open as fn(&agentkey::ledger::Posting) -> bool, Ledger::of(&[("pay", 5)])),
        (is_pay, Ledger::of(&[("pay", 5), ("refund", -5), ("pay", 5)])),
    ] {
        let world = World::new().await;
        let (_, token) = world.key().await;
        let (gone, mut left) = mpsc::unbounded_channel();
        let watched = axum::middleware::from_fn(move |request, next: Next| {
            let on_drop = OnDrop(gone.clone());
            async move {
                let _on_drop = on_drop;
                next.run(request).await
            }
        });
        let addr = serve(app(&world, Gate::new(true).0).layer(watched)).await;
        world.spy.set(Faults::posts(Fault::Hang).only(dropped_in));
        let stream = send_raw(addr, &token, "/pay").await;
        world.spy.arrived(1, dropped_in).await;
        drop(stream);
        soon(left.recv()).await.unwrap();
        world.spy.mend();
        world.spy.arrived(1, is_settle).await;
        let client = Client::new(Version::Http1, addr, &token);
        assert_eq!(client.post("/pay", "k").await.data, "paid");
        assert_eq!(client.post("/pay", "k").await.refused(), refused("already_charged"));
        assert_eq!(world.ledger().await, ledger);
    }
}

/// The client leaves after the handler got its receipt: the payment stands, and a retry is `already_charged`.
#[tokio::test]
async fn a_client_that_leaves_after_the_payment_has_paid() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let (gate, mut entered) = Gate::new(false);
    let addr = serve(app(&world, gate)).await;
    let stream = send_raw(addr, &token, "/pay/early").await;
    soon(entered.recv()).await.unwrap();
    drop(stream);
    world.spy.arrived(1, is_settle).await;
    let client = Client::new(Version::Http1, addr, &token);
    assert_eq!(client.post("/pay/early", "k").await.refused(), refused("already_charged"));
    assert_eq!(world.ledger().await, Ledger::of(&[("pay", 5)]));
}

/// The store works and loses every answer for a while: what is sent again is the same posting.
#[tokio::test]
async fn lost_answers_charge_once() {
    let (world, client) = open_world().await;
    world.spy.set(Faults::posts(Fault::LoseAnswer));
    let request = in_background(&client, "/pay", "k");
    world.spy.arrived(3, is_open).await;
    world.spy.set(Faults::posts(Fault::LoseAnswer).only(is_pay));
    world.spy.arrived(3, is_pay).await;
    world.spy.set(Faults::posts(Fault::LoseAnswer).only(is_settle));
    world.spy.arrived(3, is_settle).await;
    world.spy.mend();
    assert_eq!(request.await.unwrap().data, "paid");
    assert_eq!(client.post("/pay", "k").await.refused(), refused("already_charged"));
    assert_eq!(world.ledger().await, Ledger::of(&[("pay", 5)]));
}

/// A request given up for dead loses its claim to the next one; should it live after all, it must not pay too.
#[tokio::test]
async fn a_claim_that_has_run_out_passes_to_the_next_and_the_first_begins_nothing_more() {
    for (path, kind) in [("/pay", "pay"), ("/meter/late", "settle")] {
        let clock = clock();
        let world = World::at(&clock).await;
        let (_, token) = world.key().await;
        let (gate, mut entered) = Gate::new(false);
        let addr = serve(app(&world, gate.clone())).await;
        let client = Client::new(Version::Http1, addr, &token);
        let first = in_background(&client, path, "k");
        soon(entered.recv()).await.unwrap();
        clock.advance(Duration::from_secs(59));
        assert_eq!(client.post(path, "k").await.refused(), refused("in_flight"));
        clock.advance(Duration::from_secs(1));
        let second = in_background(&client, path, "k");
        soon(entered.recv()).await.unwrap();
        gate.open.send_replace(true);
        let mut answers =
            [first.await.unwrap().status.as_u16(), second.await.unwrap().status.as_u16()];
        answers.sort_unstable();
        assert_eq!(answers, [200, 409], "{path}");
        assert_eq!(client.post(path, "k").await.refused(), refused("already_charged"));
        assert_eq!(world.ledger().await, Ledger::of(&[(kind, 5)]));
    }
}

/// `Charge` can be taken twice in a request, by a layer and a handler: it is one charge, and one claim.
#[tokio::test]
async fn one_request_takes_the_claim_once() {
    let world = Arc::new(World::new().await);
    let (_, token) = world.key().await;
    let routes = Router::new().route(
        "/",
        post(async |one: Charge, two: Charge, Replayable(three): Replayable| -> Answer {
            one.hold(Amount::cents(10)).await?;
            two.add(Amount::cents(1));
            three.add(Amount::cents(1));
            assert_eq!((one.added(), three.held()), (Amount::cents(2), Amount::cents(10)));
            Ok("once".into())
        })
        .layer(agentkey::RequireBudget::hold(Amount::ZERO)),
    );
    let client = Client::new(Version::Http2, serve(routes.layer(world.layer())).await, &token);
    assert_eq!(client.post("/", "k").await.data, "once");
    assert_eq!(world.spy.count(is_open), 1);
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 2)]));
}
