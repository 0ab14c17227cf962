//! Machines come with tokens of Clerk, and agentkey says how much they may spend: a verifier of your own, on agentkey's
//! trait, against a stand-in for Clerk's API on this machine.
//!
//! `cargo run -p example-clerk` walks through it, and prints each request as a curl line with its answer.
//! With `-- --serve` it stays up, so that you can paste the lines. `ADDR` overrides the address. With
//! `CLERK_MACHINE_SECRET_KEY`, the service asks Clerk itself, and tokens of your machines work with `-- --serve`.

mod clerk;
mod stand_in;

use std::env;

use agentkey::identity::Subject;
use agentkey::{
    AgentKeyLayer, AgentKeys, Amount, Budget, Charge, NewKey, Refusal, Rejection, RequireScope,
    ScopeSet,
};
use axum::{Json, Router, routing::post};
use clerk::{ClerkVerifier, ISSUER};
use serde_json::{Value, json};
use stand_in::{MACHINE_SECRET, StandIn};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What the service sells: 3 cents an answer, for the scope `answer`.
async fn answer(charge: Charge) -> Result<Json<Value>, Rejection> {
    charge.pay(Amount::cents(3)).await?; // refused here: 402 before any work is done
    Ok(Json(json!({ "answer": 42 })))
}

fn app(keys: &AgentKeys, verifier: ClerkVerifier) -> Result<Router, Error> {
    let scopes = ScopeSet::parse(["answer"])?;
    let layer = AgentKeyLayer::new(keys).verifier(verifier).on_first_seen(move |verified| {
        let scopes = scopes.clone();
        async move {
            // Claims of the token that Clerk vouches for say whose machine it is.
            let team = verified.claims.get("team").and_then(Value::as_str).unwrap_or("others");
            let account = team.parse().map_err(|_| Refusal::InvalidKey)?;
            let budget = Budget::daily(Amount::cents(5));
            Ok(NewKey::new(account).name(verified.subject.id()).scopes(scopes).budget(budget))
        }
    });
    Ok(Router::new()
        .route("/answer", post(answer).layer(RequireScope::one("answer")?))
        .layer(layer))
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    // The TLS of the client that asks Clerk.
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "it has a provider")?;
    let stand_in = StandIn::default();
    let (api, secret) = match env::var("CLERK_MACHINE_SECRET_KEY") {
        Ok(secret) => ("https://api.clerk.com".to_owned(), secret),
        Err(_) => (stand_in.start().await?, MACHINE_SECRET.to_owned()),
    };
    let keys = AgentKeys::sqlite("sqlite::memory:").await?;
    let listener =
        tokio::net::TcpListener::bind(env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:0".into()))
            .await?;
    let addr = listener.local_addr()?;
    let service = app(&keys, ClerkVerifier::new(&api, &secret)?)?;
    let server = tokio::spawn(async move { axum::serve(listener, service).await });

    if api != "https://api.clerk.com" {
        walk(&format!("http://{addr}/answer"), &stand_in, &keys).await?;
    }
    if env::args().any(|arg| arg == "--serve") {
        println!("\nListening on http://{addr}, keys in memory. Ctrl-C ends it.");
        tokio::signal::ctrl_c().await?;
    }
    server.abort();
    keys.shutdown().await;
    Ok(())
}

async fn walk(url: &str, clerk: &StandIn, keys: &AgentKeys) -> Result<(), Error> {
    let machine = "mch_2xhFjEI5X2qWRvtV13BzSj8H6Dk";
    println!(
        "# A machine sends the token that Clerk gave it. On first sight it gets 5 cents a day."
    );
    clerk.set("mt_first", machine, json!({}))?;
    send(url, "mt_first", 200).await?;

    println!(
        "# It is the machine that has the budget, and not the token: another one finds it spent."
    );
    clerk.set("mt_second", machine, json!({}))?;
    let refused = send(url, "mt_second", 402).await?;
    assert_eq!(refused["error"], "budget_exceeded");

    println!("# What Clerk does not vouch for is refused.");
    assert_eq!(send(url, "mt_unknown", 401).await?["error"], "invalid_key");
    clerk.set("mt_first", machine, json!({ "expired": true }))?;
    assert_eq!(send(url, "mt_first", 401).await?["error"], "expired_key");
    clerk.set("mt_first", machine, json!({ "revoked": true, "revocation_reason": "leaked" }))?;
    assert_eq!(send(url, "mt_first", 401).await?["error"], "invalid_key");

    println!("# The machine is disabled here, whatever Clerk says of its tokens.");
    let subject = Subject::new(ISSUER, machine)?;
    let lineage = keys.find_subject(&subject).await?.ok_or("the subject was seen")?;
    keys.disable(lineage.key().id).await?;
    assert_eq!(send(url, "mt_second", 401).await?["error"], "disabled_key");
    Ok(())
}

/// Sends a request, and prints it and its answer.
async fn send(url: &str, token: &str, expected: u16) -> Result<Value, Error> {
    println!("\n$ curl -i -X POST '{url}' -H 'Authorization: Bearer {token}'");
    let response =
        reqwest::Client::builder().no_proxy().build()?.post(url).bearer_auth(token).send().await?;
    let status = response.status();
    let answer: Value = response.json().await?;
    println!("{status}\n{answer:#}\n");
    assert_eq!(status, expected);
    Ok(answer)
}
