//! The main job on one SQLite file: a scoped route, a paid route, and the ledger behind them.
//!
//! `agentkey::routes::SelfServe` adds routes by which agents mint keys themselves: see `examples/self-serve`.
//!
//! `cargo run -p example-quickstart`, then paste the lines it prints. `ADDR` and `DATABASE` override the defaults.

use std::env;
use std::time::Duration;

use agentkey::{AgentKeyLayer, AgentKeys, Amount, Budget, Charge, KeyContext, NewKey, Rejection};
use agentkey::{RequireScope, ScopeSet};
use axum::body::Body;
use axum::http::Request;
use axum::{Json, Router, routing::get, routing::post};
use serde_json::{Value, json};
use tower_http::classify::{ServerErrorsAsFailures, SharedClassifier};
use tower_http::trace::{DefaultOnResponse, TraceLayer};
use tracing::field::Empty;
use tracing::{Level, Span};

/// Free, for keys with the scope `read`.
async fn read(key: KeyContext) -> Json<Value> {
    Json(json!({ "hello": key.key().name, "remaining_cents": key.remaining() }))
}

/// Paid: sets 4 cents aside, works, and is charged the 3 that the work cost.
async fn answer(charge: Charge) -> Result<Json<Value>, Rejection> {
    charge.hold(Amount::cents(4)).await?; // refused here: 402 before any work is done
    charge.label("route", "answer")?;
    charge.add(Amount::cents(3));
    Ok(Json(json!({ "answer": 42 })))
}

fn app(keys: &AgentKeys) -> Result<Router, Box<dyn std::error::Error>> {
    Ok(Router::new()
        .route("/read", get(read).layer(RequireScope::one("read")?))
        .route("/answer", post(answer).layer(RequireScope::one("answer")?))
        .route("/admin", get(read).layer(RequireScope::one("admin")?))
        .layer(AgentKeyLayer::new(keys))
        .layer(log_requests()))
}

type LogRequests = TraceLayer<SharedClassifier<ServerErrorsAsFailures>, fn(&Request<Body>) -> Span>;

/// Logs one line for each response, with the key and the account of the request. Neither its span nor the line has headers
/// in it, and so no token.
fn log_requests() -> LogRequests {
    let span: fn(&Request<Body>) -> Span = |request| {
        let (method, uri) = (request.method(), request.uri());
        // `AgentKeyLayer` sets the two fields that are empty here.
        tracing::info_span!("request", %method, %uri, agentkey.key_id = Empty, agentkey.account = Empty)
    };
    TraceLayer::new_for_http()
        .make_span_with(span)
        .on_response(DefaultOnResponse::new().level(Level::INFO))
}

/// On the first start, makes a key and shows its token, this once.
async fn mint_demo_key(keys: &AgentKeys, addr: &str) -> Result<(), Box<dyn std::error::Error>> {
    let account: agentkey::AccountId = "demo".parse()?;
    if keys.account(&account).await?.is_some() {
        println!("The demo key was shown on the first start. Remove the database to start again.");
        return Ok(());
    }
    let demo = NewKey::new(account)
        .name("demo")
        .scopes(ScopeSet::parse(["read", "answer"])?)
        .budget(Budget::daily(Amount::cents(10)))
        .expires_in("7d".parse()?);
    let created = keys.create(demo).await?;
    let auth = format!("-H 'Authorization: Bearer {}'", created.token.expose());
    println!("A key with the scopes read and answer, 10 cents a day, for 7 days. Try:\n");
    println!("  curl -i {auth} http://{addr}/read");
    println!(
        "  curl -i {auth} -X POST http://{addr}/answer   # 3 cents; the fourth time 1 is left: 402"
    );
    println!("  curl -i {auth} http://{addr}/admin   # the key lacks the scope: 403");
    println!("  curl -i http://{addr}/read   # no key: 401\n");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_max_level(Level::INFO).init();
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let database = env::var("DATABASE").unwrap_or_else(|_| "agentkey-quickstart.db".into());
    let keys = AgentKeys::sqlite(&database).await?;
    let listener = tokio::net::TcpListener::bind(&addr).await?;
    mint_demo_key(&keys, &listener.local_addr()?.to_string()).await?;
    println!("Listening on http://{}, keys in {database}. Ctrl-C ends it.", listener.local_addr()?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server =
        axum::serve(listener, app(&keys)?).with_graceful_shutdown(async { drop(stopped.await) });
    let server = tokio::spawn(async { server.await });

    tokio::signal::ctrl_c().await?;
    drop(stop); // no more connections; responses that have begun may end
    // What is still open after 20 s is charged what was added, and its response is cut off.
    keys.shutdown_within(Duration::from_secs(20)).await;
    // A client that does not read keeps its connection, and the server would wait for it.
    drop(tokio::time::timeout(Duration::from_secs(5), server).await);
    Ok(())
}
