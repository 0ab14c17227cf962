//! What the meter costs: `cargo bench -p agentkey-benches --bench llm`.
//!
//! A client reads a stream of a model through a proxy over loopback, once passed on plainly and once metered, in turns.
//! The upstream's stream is in memory, and each of its frames is one event, as providers send them, or 16 KiB. The figure
//! is bytes per second through the meter, as a part of those without it.

#[path = "../support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use agentkey::llm::{Format, Meter};
use agentkey::model::TokenPrice;
use agentkey::{AgentKeyLayer, AgentKeys, Amount, Budget, Charge, NewKey, Rejection};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use http_body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PRICE: TokenPrice = TokenPrice::new(Amount::units(3), Amount::units(15));

/// A chunk as OpenAI sends it.
const EVENT: &str = "data: {\"id\":\"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\"model\":\"gpt-5-2026-08-07\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_44added55e\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" time\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null,\"obfuscation\":\"x8BqZk\"}\n\n";

/// So many frames, one after the other.
struct Frames {
    frame: Bytes,
    left: usize,
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(self.frame.clone()))))
    }
}

struct Upstream {
    frame: Bytes,
    frames: usize,
}

impl Upstream {
    fn answer(&self) -> axum::http::Response<Frames> {
        let body = Frames { frame: self.frame.clone(), left: self.frames };
        axum::http::Response::new(body)
    }
}

async fn plain(State(upstream): State<Arc<Upstream>>, charge: Charge) -> Response {
    drop(charge);
    upstream.answer().map(Body::new)
}

async fn metered(
    State(upstream): State<Arc<Upstream>>,
    charge: Charge,
) -> Result<Response, Rejection> {
    let meter = Meter::new(PRICE);
    charge.hold_for(&meter).await?;
    Ok(charge.meter(upstream.answer(), Format::ChatCompletions, meter).map(Body::new))
}

#[tokio::main]
async fn main() -> support::Result<()> {
    let rounds = support::setting("ROUNDS", 15);
    let megabytes = support::setting("MEGABYTES", 16);
    for (name, frame) in [
        ("an event a frame", Bytes::from_static(EVENT.as_bytes())),
        ("16 KiB a frame", Bytes::from(EVENT.repeat(16_384 / EVENT.len()))),
    ] {
        let frames = (megabytes << 20) / frame.len();
        let bytes = (frames * frame.len()) as f64;
        let dir = tempfile::tempdir()?;
        let keys = AgentKeys::sqlite(dir.path().join("keys.db").to_str().ok_or("a path")?).await?;
        let new = NewKey::new("acme".parse()?).budget(Budget::lifetime(Amount::units(1_000_000)));
        let token = keys.create(new).await?.token;
        let app = Router::new()
            .route("/plain", get(plain))
            .route("/metered", get(metered))
            .layer(AgentKeyLayer::new(&keys))
            .with_state(Arc::new(Upstream { frame, frames }));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        tokio::spawn(async move { axum::serve(listener, app).await });

        let mut ratios = Vec::new();
        let mut rates = Vec::new();
        for _ in 0..rounds {
            let mut rate = [0.0; 2];
            for (path, rate) in ["/plain", "/metered"].into_iter().zip(&mut rate) {
                let start = Instant::now();
                let read = download(addr, path, token.expose()).await?;
                if (read as f64) < bytes {
                    return Err(format!("{path} ended after {read} bytes").into());
                }
                *rate = bytes / start.elapsed().as_secs_f64();
            }
            ratios.push(rate[1] / rate[0]);
            rates.push(rate[1] / 1e6);
        }
        println!(
            "{name}: {:.0} MB/s metered, {:.2} of plain ({:.2}–{:.2}, n = {rounds})",
            support::median(&rates),
            support::median(&ratios),
            support::quantile(&ratios, 0.0),
            support::quantile(&ratios, 1.0),
        );
    }
    Ok(())
}

/// Reads a response to its end, and returns its length. HTTP/1.0, so that the body ends with the connection.
async fn download(addr: std::net::SocketAddr, path: &str, token: &str) -> support::Result<usize> {
    let mut stream = TcpStream::connect(addr).await?;
    let head = format!("GET {path} HTTP/1.0\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let (mut buffer, mut read) = (vec![0; 1 << 16], 0);
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(read),
            more => read += more,
        }
    }
}
