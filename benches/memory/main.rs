//! What a request in flight takes of memory: `cargo bench -p agentkey-benches --bench memory`.
//!
//! Handlers wait until all requests are there. For each route a process of its own runs `REQUESTS` of them, then as many
//! more; the figure is how much its resident memory grew by the second half, so that what is needed once is not in it.
//! Requests go to the router as a service, so there are no connections, which are hyper's. Keys are on an SQLite file.

#[path = "../support/mod.rs"]
mod support;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use agentkey::{AgentKeyLayer, AgentKeys, Amount, Charge, KeyContext, Rejection};
use axum::body::Body;
use axum::{Router, extract::State, routing::get};
use http::Request;
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::ServiceExt;

use support::{Result, argument, service, setting};

/// Paths, and what happens there.
const ROUTES: [(&str, &str); 4] = [
    ("/bare", "bare axum"),
    ("/key", "authenticated"),
    ("/charge", "authenticated, a charge open"),
    ("/hold", "authenticated, a charge open, money on hold"),
];

/// At once, on their way to the handler. The memory for that is of the first half.
const WAVE: usize = 500;

/// Where requests wait.
#[derive(Clone)]
struct Gate {
    there: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    async fn pass(&self) -> &'static str {
        self.there.add_permits(1);
        let _ = self.open.acquire().await;
        "ok"
    }
}

fn app(keys: &AgentKeys, gate: Gate) -> Router {
    async fn key(State(gate): State<Gate>, _key: KeyContext) -> &'static str {
        gate.pass().await
    }
    async fn charge(State(gate): State<Gate>, _charge: Charge) -> &'static str {
        gate.pass().await
    }
    async fn hold(
        State(gate): State<Gate>,
        charge: Charge,
    ) -> std::result::Result<&'static str, Rejection> {
        charge.hold(Amount::micros(1)).await?;
        Ok(gate.pass().await)
    }
    Router::new()
        .route("/key", get(key))
        .route("/charge", get(charge))
        .route("/hold", get(hold))
        .layer(AgentKeyLayer::new(keys))
        .route("/bare", get(async |State(gate): State<Gate>| gate.pass().await))
        .with_state(gate)
}

/// Bytes for each request, in this process.
async fn grown(path: &str, requests: usize) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let store = agentkey::SqliteStore::connect(dir.path().join("keys.db")).await?;
    // No hold is renewed while this is measured.
    let keys = AgentKeys::builder().hold_ttl(Duration::from_secs(3_600)).build(store)?;
    let tokens = service::make_keys(&keys, 1_000, 1_000).await?;
    let gate = Gate { there: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) };
    let app = app(&keys, gate.clone());
    let mut running = JoinSet::new();
    let mut resident = Vec::new();
    for half in 0..2 {
        for begun in (0..requests).step_by(WAVE) {
            let wave = WAVE.min(requests - begun);
            for number in 0..wave {
                let bearer = format!("Bearer {}", tokens[(begun + number) % tokens.len()]);
                let request =
                    Request::get(path).header("authorization", bearer).body(Body::empty())?;
                running.spawn(answer(app.clone(), request));
            }
            tokio::select! {
                there = gate.there.acquire_many(wave.try_into()?) => there?.forget(),
                Some(ended) = running.join_next() => return Err(format!("ended early: {:?}", ended?).into()),
            }
        }
        resident.push(resident_bytes()?);
        assert_eq!(running.len(), (half + 1) * requests, "all in flight");
    }
    gate.open.close();
    while let Some(answered) = running.join_next().await {
        answered??;
    }
    keys.shutdown().await;
    Ok((resident[1] - resident[0]) / requests as f64)
}

async fn answer(app: Router, request: Request<Body>) -> Result<()> {
    let response = app.oneshot(request).await?;
    if !response.status().is_success() {
        return Err(response.status().to_string().into());
    }
    response.into_body().collect().await?;
    Ok(())
}

fn resident_bytes() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
}

fn main() -> Result<()> {
    let requests = setting("REQUESTS", 10_000).max(1);
    if let Some(path) = argument() {
        let runtime = tokio::runtime::Runtime::new()?;
        println!("{}", runtime.block_on(grown(&path, requests))?);
        return Ok(());
    }

    println!("{requests} requests in flight, and {requests} more\n");
    println!("| in flight | bytes a request | more than bare axum |\n|---|---|---|");
    let mut bare = None;
    for (path, name) in ROUTES {
        let output = Command::new(std::env::current_exe()?).arg(path).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let bytes: f64 = said
            .trim()
            .parse()
            .map_err(|_| format!("{path}: {}", String::from_utf8_lossy(&output.stderr)))?;
        println!("| {name} | {bytes:.0} | {:.0} |", bytes - *bare.get_or_insert(bytes));
    }
    Ok(())
}
