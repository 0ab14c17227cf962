//! The places of open charges: bounded for each account, so that one key leaves places for the others.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use agentkey::{AgentKeys, Amount, Budget, Charge, MemoryStore, NewKey, Rejection, Token};
use axum::body::Body;
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, FuturesUnordered, StreamExt};
use http::Request;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::ServiceExt;

use super::support::{Client, Ledger, Version, World, acme, clock, serve, soon};

/// A stream without an end, and a handler that waits for the body of its request.
fn app(world: &World) -> Router {
    let endless = async |charge: Charge| -> Result<Body, Rejection> {
        charge.hold(Amount::micros(1)).await?;
        let chunks = stream::repeat(Bytes::from_static(&[b'x'; 4_096]));
        let chunks = chunks.map(move |chunk| {
            charge.add(Amount::ZERO);
            Ok::<_, Infallible>(chunk)
        });
        Ok(Body::from_stream(chunks))
    };
    let json = async |charge: Charge, Json(_): Json<Value>| charge.add(Amount::cents(1));
    Router::new().route("/endless", get(endless)).route("/json", post(json)).layer(world.layer())
}

/// A key of an account, with 1 cent to spend.
async fn cent(world: &World, account: &str) -> Token {
    let new = NewKey::new(account.parse().unwrap()).budget(Budget::lifetime(Amount::cents(1)));
    world.create(new).await.1
}

/// Sends the head of a request, and nothing more.
async fn begin(addr: SocketAddr, line: &str, token: &Token) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head = format!(
        "{line} HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-type: application/json\r\n",
        token.expose()
    );
    let length = if line.starts_with("POST") { "content-length: 2\r\n" } else { "" };
    stream.write_all(format!("{head}{length}\r\n").as_bytes()).await.unwrap();
    stream
}

/// Reads the head of the response, and nothing more.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

fn is_full(head: &str) -> bool {
    head.starts_with("http/1.1 503") && head.contains("retry-after: 1")
}

async fn assert_served(addr: SocketAddr, token: &Token) {
    let client = Client::new(Version::Http1, addr, token);
    let mut request = client.request(http::Method::POST, "/json");
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    *request.body_mut() = Bytes::from_static(b"{}").into();
    let seen = client.send(request).await;
    assert_eq!((seen.status.as_u16(), &*seen.data), (200, ""));
}

#[tokio::test]
async fn unread_streams_of_one_key_leave_places_for_other_accounts() {
    let world = World::with(AgentKeys::builder().max_open_charges(50)).await;
    let (greedy, other) = (cent(&world, "acme").await, cent(&world, "other").await);
    let sibling = world.create(NewKey::new(acme())).await.1;
    let addr = serve(app(&world)).await;
    let opening = (0..60).map(|_| async {
        let mut stream = begin(addr, "GET /endless", &greedy).await;
        (head(&mut stream).await, stream)
    });
    let streams = join_all(opening).await;
    let served = streams.iter().filter(|(head, _)| head.starts_with("http/1.1 200")).count();
    let full = streams.iter().filter(|(head, _)| is_full(head)).count();
    assert_eq!((served, full), (13, 47), "a quarter of the places, rounded up");

    assert_served(addr, &other).await;
    // The bound is the account's: another key of it has no place either.
    let refused = Client::new(Version::Http1, addr, &sibling).get("/endless").await;
    assert_eq!(refused.refused(), (503, "unavailable".into()));

    drop(streams);
    world.until(&Ledger::of(&[])).await;
    assert_served(addr, &greedy).await;
}

/// The charge is open before the body of the request is there, and the sender may never send it.
#[tokio::test]
async fn requests_that_never_send_their_body_leave_places_for_other_accounts() {
    let builder = AgentKeys::builder().max_open_charges(50).max_open_charges_per_account(20);
    let world = World::with(builder).await;
    let (greedy, other) = (cent(&world, "acme").await, cent(&world, "other").await);
    let addr = serve(app(&world)).await;
    let streams = join_all((0..60).map(|_| begin(addr, "POST /json", &greedy))).await;
    let mut heads: FuturesUnordered<_> = streams
        .into_iter()
        .map(|mut stream| async {
            let head = head(&mut stream).await;
            (head, stream)
        })
        .collect();
    for _ in 0..40 {
        let (head, _) = soon(heads.next()).await.unwrap();
        assert!(is_full(&head), "{head}");
    }
    assert_served(addr, &other).await;
}

/// The place of a charge of the maximum age is free. The charge itself goes on, and shutdown waits for it.
#[tokio::test(start_paused = true)]
async fn a_charge_of_the_maximum_age_gives_its_place_back() {
    let builder = AgentKeys::builder()
        .max_open_charges(2)
        .max_open_charges_per_account(1)
        .max_hold_age(Duration::from_secs(300));
    let world = World::on(builder, Box::new(MemoryStore::with_clock(&clock())));
    let (first, second, third) =
        (cent(&world, "acme").await, cent(&world, "b").await, cent(&world, "c").await);
    let app = app(&world);
    let ask = async |token: &Token| {
        let request = Request::get("/endless").header("x-api-key", token.expose());
        app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    };
    let (old, also_old) = (ask(&first).await, ask(&second).await);
    assert_eq!([old.status(), also_old.status()], [200, 200]);
    tokio::time::sleep(Duration::from_secs(299)).await;
    assert_eq!(ask(&first).await.status(), 503, "its account has one place");
    assert_eq!(ask(&third).await.status(), 503, "there are two places");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let young = ask(&first).await;
    assert_eq!(young.status(), 200);
    assert_eq!(ask(&first).await.status(), 503);
    let last = ask(&third).await;
    assert_eq!(last.status(), 200);

    // The end of a charge that had no place any more frees none.
    drop(also_old);
    assert_eq!(ask(&second).await.status(), 503);
    drop((young, last));
    let keys = world.keys.clone();
    let mut shutdown = std::pin::pin!(keys.shutdown());
    let minute = Duration::from_secs(60);
    assert!(tokio::time::timeout(minute, &mut shutdown).await.is_err(), "one is still open");
    drop(old);
    soon(shutdown).await;
}
