//! What the layer itself costs, in instructions, when the key is in memory:
//! `cargo bench -p agentkey-benches --bench overhead`.
//!
//! A tower service is called again and again, without a socket, behind nothing, behind
//! [`AgentKeyLayer`](agentkey::AgentKeyLayer), and behind that with [`RequireScope`](agentkey::RequireScope). Keys are in a
//! [`MemoryStore`] with a cache, so that a look-up waits for nothing.
//!
//! Each runs under callgrind twice, with N requests and with 2 N; the difference, divided by N, is what a request
//! takes, and what starting takes is not in it. `REQUESTS` overrides N. It needs valgrind, and by hand it is:
//!
//! ```text
//! cargo bench -p agentkey-benches --bench overhead --no-run
//! valgrind --tool=callgrind --callgrind-out-file=layer.out target/release/deps/overhead-… layer 20000
//! callgrind_annotate layer.out
//! ```
//!
//! valgrind's processor has no instructions for SHA-256, so the hash of the token costs more there than on most others;
//! it is a row of its own.

#[path = "../support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use agentkey::{AgentKeyLayer, AgentKeys, MemoryStore, RequireScope, Token};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};

use support::{Result, service, setting};

/// What is called, and what it is.
const SUBJECTS: [(&str, &str); 5] = [
    ("bare", "bare service"),
    ("layer", "AgentKeyLayer, from the cache"),
    ("scope", "AgentKeyLayer, from the cache, and RequireScope"),
    ("uncached", "AgentKeyLayer, looked up in MemoryStore"),
    ("hash", "of that, to parse and hash the token"),
];

/// Calls it so many times; how long that took.
async fn run(subject: &str, requests: usize) -> Result<Duration> {
    let cached = AgentKeys::builder().cache(Duration::from_secs(3_600)).build(MemoryStore::new())?;
    let keys = if subject == "uncached" { AgentKeys::new(MemoryStore::new())? } else { cached };
    let token = service::make_keys(&keys, 1, 1).await?.remove(0);
    let inner = service_fn(async |request: Request<Full<Bytes>>| {
        black_box(request);
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
    });
    let layer = AgentKeyLayer::new(&keys);
    match subject {
        "bare" => call(inner, &token, requests).await,
        "layer" | "uncached" => call(layer.layer(inner), &token, requests).await,
        "scope" => {
            call(layer.layer(RequireScope::one("read")?.layer(inner)), &token, requests).await
        }
        "hash" => {
            let start = Instant::now();
            for _ in 0..requests {
                black_box(Token::parse(black_box(&token))?.hash());
            }
            Ok(start.elapsed())
        }
        other => Err(format!("no such subject: {other}").into()),
    }
}

async fn call<S, B>(mut service: S, token: &str, requests: usize) -> Result<Duration>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let bearer = http::HeaderValue::try_from(format!("Bearer {token}"))?;
    let start = Instant::now();
    for _ in 0..requests {
        let request =
            Request::get("/").header("authorization", bearer.clone()).body(Full::default())?;
        let response = service.ready().await?.call(request).await?;
        assert!(response.status().is_success(), "{}", response.status());
        let body = response.into_body().collect().await.map_err(|error| format!("{error:?}"))?;
        black_box(body.to_bytes());
    }
    Ok(start.elapsed())
}

/// Instructions of a run under callgrind. None where there is no valgrind.
fn instructions(subject: &str, requests: usize) -> Result<Option<f64>> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.arg(std::env::current_exe()?).args([subject, &requests.to_string()]);
    let output = match valgrind.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        output => output?,
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(said.into());
    }
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .ok_or("callgrind tells no figure")?;
    Ok(Some(collected.1.trim().parse()?))
}

fn main() -> Result<()> {
    let words: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let requests = setting("REQUESTS", 20_000).max(1);
    if let [subject, count] = &words[..] {
        let time = timed(subject, count.parse()?)?;
        println!("{subject}: {count} requests in {time:?}");
        return Ok(());
    }

    println!("{requests} and {} requests\n", 2 * requests);
    println!(
        "| | instructions a request | more than bare | ns a request, without callgrind |\n|---|---|---|---|"
    );
    let mut bare = None;
    for (subject, name) in SUBJECTS {
        let nanoseconds = timed(subject, 20 * requests)?.as_nanos() as f64 / (20 * requests) as f64;
        let (Some(one), Some(two)) =
            (instructions(subject, requests)?, instructions(subject, 2 * requests)?)
        else {
            println!("| {name} | valgrind is missing | | {nanoseconds:.0} |");
            continue;
        };
        let each = (two - one) / requests as f64;
        let more = each - *bare.get_or_insert(each);
        let more = if subject == "hash" { "–".to_owned() } else { format!("{more:.0}") };
        println!("| {name} | {each:.0} | {more} | {nanoseconds:.0} |");
    }
    Ok(())
}

/// On one thread, which does nothing else.
fn timed(subject: &str, requests: usize) -> Result<Duration> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(subject, requests))
}
