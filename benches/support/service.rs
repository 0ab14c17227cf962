//! A service with routes to measure.

use std::io;
use std::net::SocketAddr;

use agentkey::{
    AgentKeyLayer, AgentKeys, Amount, Budget, Charge, KeyContext, NewKey, Rejection, RequireScope,
    ScopeSet,
};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Router, routing::get};

use super::Result;

pub fn bare() -> Router {
    Router::new().route("/bare", get(async || "ok"))
}

/// Behind keys that [`make_keys`] makes.
pub fn keyed(keys: &AgentKeys) -> Router {
    keyed_by(AgentKeyLayer::new(keys)).merge(refused(keys))
}

pub fn keyed_by(layer: AgentKeyLayer) -> Router {
    Router::new()
        .route("/read", get(read))
        .route("/add", get(add))
        .route("/pay", get(pay))
        .route("/hold", get(hold))
        .layer((layer, RequireScope::one("read").expect("a scope")))
}

/// A route whose scope no key has. Each refusal is counted in an event, and is answered with 200, which is what the client
/// of the benches takes.
pub fn refused(keys: &AgentKeys) -> Router {
    Router::new()
        .route("/refused", get(read))
        .layer((AgentKeyLayer::new(keys), RequireScope::one("refused").expect("a scope")))
        .layer(axum::middleware::map_response(async |mut response: Response| {
            *response.status_mut() = StatusCode::OK;
            response
        }))
}

/// Behind a layer that verifies tokens of another issuer.
pub fn of_subjects(layer: AgentKeyLayer) -> Router {
    let scope = RequireScope::one("read").expect("a scope");
    Router::new().route("/jwt", get(read)).layer((layer, scope))
}

async fn read(key: KeyContext) -> &'static str {
    std::hint::black_box(key.id());
    "ok"
}

/// One posting, before the head of the response.
async fn add(charge: Charge) -> &'static str {
    charge.add(Amount::micros(1));
    "ok"
}

/// One posting, which the handler waits for.
async fn pay(charge: Charge) -> std::result::Result<&'static str, Rejection> {
    charge.pay(Amount::micros(1)).await?;
    Ok("ok")
}

/// Two postings.
async fn hold(charge: Charge) -> std::result::Result<&'static str, Rejection> {
    charge.hold(Amount::micros(2)).await?;
    charge.add(Amount::micros(1));
    Ok("ok")
}

/// At a port of its own.
pub async fn serve(app: Router) -> io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(addr)
}

/// The tokens of so many keys, dealt out to so many accounts.
pub async fn make_keys(keys: &AgentKeys, count: usize, accounts: usize) -> Result<Vec<String>> {
    let mut tokens = Vec::with_capacity(count);
    for number in 0..count {
        let account = format!("acme-{}-of-{accounts}", number % accounts);
        tokens.push(
            keys.create(policy(NewKey::new(account.parse()?))?).await?.token.expose().to_owned(),
        );
    }
    Ok(tokens)
}

/// The token of a key minted from a key, and so on: so many in all.
pub async fn make_lineage(keys: &AgentKeys, depth: usize) -> Result<String> {
    let mut last = keys.create(policy(NewKey::new("family".parse()?))?).await?;
    for _ in 1..depth {
        last = keys.create(policy(NewKey::child_of(last.key.id))?).await?;
    }
    Ok(last.token.expose().to_owned())
}

pub(super) fn policy(new: NewKey) -> Result<NewKey> {
    Ok(new.scopes(ScopeSet::parse(["read"])?).budget(Budget::monthly(Amount::units(1_000))))
}
