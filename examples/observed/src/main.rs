//! What an operator sees of a service: metrics for Prometheus and probes for a load balancer, on a port that clients do not
//! reach.
//!
//! `cargo run -p example-observed`, then paste the lines it prints. `ADDR`, `ADMIN_ADDR` and `DATABASE` override the
//! defaults. `docs/operations.md` says what each figure means, and which alerts to set.

use std::env;
use std::time::Duration;

use agentkey::{AgentKeyLayer, AgentKeys, Amount, Budget, Charge, NewKey, Rejection};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Json, Router, routing::get, routing::post};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

type BoxError = Box<dyn std::error::Error>;

/// Sets 4 cents aside, works, and is charged the 3 that the work cost.
async fn answer(charge: Charge) -> Result<&'static str, Rejection> {
    charge.hold(Amount::cents(4)).await?;
    charge.add(Amount::cents(3));
    Ok("42\n")
}

fn app(keys: &AgentKeys) -> Router {
    Router::new().route("/answer", post(answer)).layer(AgentKeyLayer::new(keys))
}

/// What Prometheus, a load balancer and a supervisor ask for.
fn admin(keys: AgentKeys, prometheus: PrometheusHandle) -> Router {
    let ready = async move || {
        let health = keys.health().await;
        let status = match health.is_ready() {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(health)).into_response()
    };
    Router::new()
        .route("/metrics", get(async move || prometheus.render()))
        // Readiness: without it, the load balancer sends no requests.
        .route("/healthz", get(ready))
        // Liveness does not ask the store: a restart while it is down would lose the settles that wait for it.
        .route("/livez", get(async || "alive\n"))
}

/// Installs the recorder. A handle that is built before it records nothing.
fn prometheus() -> Result<PrometheusHandle, BoxError> {
    let seconds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];
    let requests = [1.0, 4.0, 16.0, 64.0, 256.0, 512.0];
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("agentkey_store_duration_seconds".into()), &seconds)?
        .set_buckets_for_metric(Matcher::Full("agentkey_batch_size".into()), &requests)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).init();
    let var = |name, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let prometheus = prometheus()?;
    let keys = AgentKeys::sqlite(&var("DATABASE", "sqlite::memory:")).await?;
    let listener = TcpListener::bind(var("ADDR", "127.0.0.1:3000")).await?;
    let operators = TcpListener::bind(var("ADMIN_ADDR", "127.0.0.1:3001")).await?;

    let demo = NewKey::new("demo".parse()?).name("demo").budget(Budget::daily(Amount::cents(10)));
    let token = keys.create(demo).await?.token;
    let (addr, admin_addr) = (listener.local_addr()?, operators.local_addr()?);
    println!("A key with 10 cents a day. Try:\n");
    println!("  curl -i http://{admin_addr}/healthz   # 503 while the store does not answer");
    println!("  curl -s http://{admin_addr}/metrics | grep ^agentkey_");
    println!("  curl -X POST -H 'Authorization: Bearer {}' http://{addr}/answer\n", token.expose());
    println!("Listening on http://{addr}, for operators on http://{admin_addr}. Ctrl-C ends it.");

    let (stop, stopped) = oneshot::channel::<()>();
    let server =
        axum::serve(listener, app(&keys)).with_graceful_shutdown(async { drop(stopped.await) });
    let server = tokio::spawn(async { server.await });
    // The probes are answered to the end: a process that shuts down says that it is not ready.
    let probes =
        tokio::spawn(axum::serve(operators, admin(keys.clone(), prometheus)).into_future());

    tokio::signal::ctrl_c().await?;
    drop(stop);
    keys.shutdown_within(Duration::from_secs(20)).await;
    drop(tokio::time::timeout(Duration::from_secs(5), server).await);
    probes.abort();
    Ok(())
}
