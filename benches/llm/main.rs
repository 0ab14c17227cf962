//! What the meter costs: `cargo bench -p agentkey-benches --bench llm`.
//!
//! An upstream, a proxy and a client are on sockets of their own, all on this machine. The proxy passes the same answer on
//! once plainly and once metered, in turns. The figure is bytes per second through the meter, as a part of those without
//! it.

#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::time::Instant;

use agentkey::llm::{Format, Meter};
use agentkey::model::TokenPrice;
use agentkey::{AgentKeyLayer, AgentKeys, Amount, Budget, Charge, MemoryStore, NewKey};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PRICE: TokenPrice = TokenPrice::new(Amount::units(3), Amount::units(15));

const WORDS: [&str; 8] = [" once", " upon", " a", " time", ",", " there", " lived", " \\\"Ann\\\""];

#[tokio::main]
async fn main() -> support::Result<()> {
    let rounds = support::setting("ROUNDS", 9);
    let events = events(support::setting("MEGABYTES", 16) << 20);
    let length = events.iter().map(String::len).sum::<usize>();
    println!("{} events of {} bytes", events.len(), length / events.len());

    let chunks = events.iter().map(|event| format!("{:x}\r\n{event}\r\n", event.len()));
    let chunked = format!("{}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n", head());
    let chunked = format!("{chunked}{}0\r\n\r\n", chunks.collect::<String>());
    let to_the_end = format!("{}\r\nconnection: close\r\n\r\n{}", head(), events.concat());
    for (name, answer) in [("an event a chunk", chunked), ("as the socket gives it", to_the_end)] {
        let (proxy, token) = proxy(upstream(answer).await?).await?;
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..=rounds {
            for (path, rates) in ["/plain", "/metered"].into_iter().zip(&mut rates) {
                let start = Instant::now();
                let read = download(proxy, path, &token).await?;
                if read < length {
                    return Err(format!("{path} ended after {read} bytes").into());
                }
                // The first round warms up.
                if round > 0 {
                    rates.push(length as f64 / 1e6 / start.elapsed().as_secs_f64());
                }
            }
        }
        let [plain, metered] = rates;
        let ratios: Vec<_> = metered.iter().zip(&plain).map(|(one, other)| one / other).collect();
        println!(
            "{name}: {:.0} MB/s plain, {:.0} MB/s metered, {:.2} of plain ({:.2}–{:.2}, n = {rounds})",
            support::median(&plain),
            support::median(&metered),
            support::median(&ratios),
            support::quantile(&ratios, 0.0),
            support::quantile(&ratios, 1.0),
        );
    }

    let stream = Bytes::from(events.concat());
    let rates = (0..rounds).map(|_| {
        let (start, mut meter) = (Instant::now(), Meter::new(PRICE));
        stream.chunks(1 << 14).try_for_each(|piece| meter.feed(piece))?;
        std::hint::black_box(meter.cost());
        Ok(length as f64 / 1e6 / start.elapsed().as_secs_f64())
    });
    let rates = rates.collect::<support::Result<Vec<_>>>()?;
    println!("the meter alone: {:.0} MB/s", support::median(&rates));
    Ok(())
}

fn head() -> &'static str {
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream"
}

/// Chunks as OpenAI sends them, with a word and a padding of its own in each.
fn events(bytes: usize) -> Vec<String> {
    let (mut events, mut length, mut seed) = (Vec::new(), 0, 1_u64);
    while length < bytes {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let word = WORDS[(seed >> 32) as usize % WORDS.len()];
        let padding = &format!("{seed:016x}")[..(seed >> 40) as usize % 16];
        let event = format!(
            "data: {{\"id\":\"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\"model\":\"gpt-5-2026-08-07\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_44added55e\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{word}\"}},\"logprobs\":null,\"finish_reason\":null}}],\"usage\":null,\"obfuscation\":\"{padding}\"}}\n\n",
        );
        length += event.len();
        events.push(event);
    }
    events
}

/// Answers every connection with these bytes.
async fn upstream(answer: String) -> support::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let answer = Bytes::from(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 1 << 12];
                // The request has no body, and arrives as a whole.
                let _read = stream.read(&mut request).await?;
                stream.write_all(&answer).await?;
                stream.shutdown().await
            });
        }
    });
    Ok(addr)
}

#[derive(Clone)]
struct Proxy {
    http: Client<HttpConnector, Body>,
    upstream: SocketAddr,
}

impl Proxy {
    async fn ask(&self) -> Result<axum::http::Response<Incoming>, StatusCode> {
        let uri = Uri::try_from(format!("http://{}/", self.upstream));
        let uri = uri.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        self.http.get(uri).await.map_err(|_| StatusCode::BAD_GATEWAY)
    }
}

async fn plain(State(proxy): State<Proxy>, _: Charge) -> Result<Response, StatusCode> {
    Ok(proxy.ask().await?.map(Body::new))
}

async fn metered(State(proxy): State<Proxy>, charge: Charge) -> Result<Response, StatusCode> {
    let meter = Meter::new(PRICE);
    charge.hold_for(&meter).await.map_err(|_| StatusCode::PAYMENT_REQUIRED)?;
    Ok(charge.meter(proxy.ask().await?, Format::ChatCompletions, meter).map(Body::new))
}

/// Returns where the proxy is, and a token for it.
async fn proxy(upstream: SocketAddr) -> support::Result<(SocketAddr, String)> {
    let keys = AgentKeys::new(MemoryStore::new())?;
    let new = NewKey::new("acme".parse()?).budget(Budget::lifetime(Amount::units(1_000_000)));
    let token = keys.create(new).await?.token.expose().to_owned();
    let http = Client::builder(TokioExecutor::new()).build_http();
    let app = Router::new()
        .route("/plain", get(plain))
        .route("/metered", get(metered))
        .layer(AgentKeyLayer::new(&keys))
        .with_state(Proxy { http, upstream });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok((addr, token))
}

/// Reads a response to the end of its connection, and returns how many bytes came.
async fn download(proxy: SocketAddr, path: &str, token: &str) -> support::Result<usize> {
    let mut stream = TcpStream::connect(proxy).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let (mut buffer, mut read) = (vec![0; 1 << 16], 0);
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(read),
            more => read += more,
        }
    }
}
