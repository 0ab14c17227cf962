//! Agents come with tokens of an identity provider, and agentkey says how much they may spend. The provider changes its
//! signing key while requests go on.
//!
//! `cargo run -p example-oidc` walks through it, and prints each request as a curl line with its answer.
//! With `-- --serve` it stays up, so that you can paste the lines. `ADDR` overrides the address.

mod issuer;

use std::env;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentkey::identity::{JwtVerifier, Subject};
use agentkey::{
    AgentKeyLayer, AgentKeys, Amount, Budget, Charge, NewKey, Rejection, RequireScope, ScopeSet,
};
use axum::body::Body;
use axum::http::{Method, Request};
use axum::{Json, Router, routing::post};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use issuer::Issuer;
use serde_json::{Value, json};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What the service sells: 3 cents an answer, for the scope `answer`.
async fn answer(charge: Charge) -> Result<Json<Value>, Rejection> {
    charge.pay(Amount::cents(3)).await?; // refused here: 402 before any work is done
    Ok(Json(json!({ "answer": 42 })))
}

fn app(keys: &AgentKeys, issuer: &str) -> Result<Router, Error> {
    let verifier = JwtVerifier::discover(issuer)
        .audience("https://api.example.com")
        .cooldown(Duration::from_secs(1)) // 30 seconds by default; the walk should not take as long
        .allow_loopback_http() // the issuer of this example is on this machine
        .build()?;
    let scopes = ScopeSet::parse(["answer", "search"])?;
    // Whoever the issuer knows gets 2 dollars a month on first sight. All of them share the ceiling of `machines`.
    let layer = AgentKeyLayer::new(keys).verifier(verifier).on_first_seen(move |verified| {
        let scopes = scopes.clone();
        async move {
            let account = "machines".parse().map_err(|_| agentkey::Refusal::InvalidKey)?;
            Ok(NewKey::new(account)
                .name(verified.subject.id())
                .scopes(scopes)
                .budget(Budget::monthly(Amount::units(2))))
        }
    });
    Ok(Router::new()
        .route("/answer", post(answer).layer(RequireScope::one("answer")?))
        .layer(layer))
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:0".into());
    let issuer = Issuer::start().await?;
    let keys = AgentKeys::sqlite("sqlite::memory:").await?;
    keys.ensure_account("machines".parse()?, Budget::monthly(Amount::units(20))).await?;
    let listener = tokio::net::TcpListener::bind(&addr).await?;
    let addr = listener.local_addr()?;
    let service = app(&keys, &issuer.url)?;
    let server = tokio::spawn(async move { axum::serve(listener, service).await });

    walk(&Agent::new(addr), &issuer, &keys).await?;
    if env::args().any(|arg| arg == "--serve") {
        println!(
            "\nListening on http://{addr}, keys in memory; the issuer is {}. Ctrl-C ends it.",
            issuer.url
        );
        tokio::signal::ctrl_c().await?;
    }
    server.abort();
    keys.shutdown().await;
    Ok(())
}

async fn walk(agent: &Agent, issuer: &Issuer, keys: &AgentKeys) -> Result<(), Error> {
    println!("# A machine gets a token of its identity provider, and sends it as it is.");
    let token = agent.token(issuer, "client_id=machine-1").await?;
    agent.answer(&token, 200).await?;

    println!(
        "# It has a key now, found by issuer and `sub`, with a budget and without a second token."
    );
    let subject = Subject::new(&issuer.url, "machine-1")?;
    let lineage = keys.find_subject(&subject).await?.ok_or("the subject was seen")?;
    println!("{subject}: spent {}\n", lineage.key().balance.spent());

    println!("# A token narrows what the machine may do. It never widens it.");
    let narrow = agent.token(issuer, "client_id=machine-1&scope=search").await?;
    assert_eq!(agent.answer(&narrow, 403).await?["error"], "insufficient_scope");

    println!("# A token for another service, and one that has ended, are refused.");
    let elsewhere =
        agent.token(issuer, "client_id=machine-1&audience=https://other.example").await?;
    assert_eq!(agent.answer(&elsewhere, 401).await?["error"], "invalid_key");
    let ended = agent.token(issuer, "client_id=machine-1&seconds=0").await?;
    assert_eq!(agent.answer(&ended, 401).await?["error"], "expired_key");

    println!(
        "# The issuer changes its key while requests go on. The first token with it may wait for the cooldown."
    );
    let busy = Busy::start(agent.clone(), agent.token(issuer, "client_id=machine-2").await?);
    let kid = issuer.change_key()?;
    let token = agent.token(issuer, "client_id=machine-3").await?;
    let mut tries = 1;
    while agent.quietly(&token).await?.0 == 401 && tries < 100 {
        tries += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    agent.answer(&token, 200).await?;
    let passed = busy.end().await?;
    println!(
        "{kid} is accepted. Meanwhile {passed} requests came with a token of the old key, and none of them was refused for it.\n"
    );

    println!(
        "# The machine is revoked here. Its token lives on at the issuer, and opens nothing any more."
    );
    keys.revoke(lineage.key().id, None).await?;
    assert_eq!(
        agent.answer(&agent.token(issuer, "client_id=machine-1").await?, 401).await?["error"],
        "revoked_key"
    );
    Ok(())
}

/// Sends requests one after another, until it is ended.
struct Busy {
    is_over: Arc<AtomicBool>,
    running: tokio::task::JoinHandle<Result<u32, Error>>,
}

impl Busy {
    fn start(agent: Agent, token: String) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let running = tokio::spawn({
            let is_over = is_over.clone();
            async move {
                let mut passed = 0;
                // Its 2 dollars buy 66 answers. From then on it gets a 402, which says that the token is good.
                while passed == 0 || !is_over.load(Ordering::Relaxed) {
                    let (status, body) = agent.quietly(&token).await?;
                    match status {
                        200 | 402 => passed += 1,
                        _ => return Err(format!("{status}: {body}").into()),
                    }
                }
                Ok(passed)
            }
        });
        Self { is_over, running }
    }

    async fn end(self) -> Result<u32, Error> {
        self.is_over.store(true, Ordering::Relaxed);
        self.running.await?
    }
}

/// An HTTP client that prints what it sends and what it gets.
#[derive(Clone)]
struct Agent {
    http: Client<HttpConnector, Body>,
    addr: SocketAddr,
}

impl Agent {
    fn new(addr: SocketAddr) -> Self {
        Self { http: Client::builder(TokioExecutor::new()).build_http(), addr }
    }

    /// Gets a token of the issuer.
    async fn token(&self, issuer: &Issuer, asked: &str) -> Result<String, Error> {
        let url = format!("{}/token?grant_type=client_credentials&{asked}", issuer.url);
        println!("\n$ curl -X POST '{url}'");
        let (_, answer) = self.send(&url, None).await?;
        let token = answer["access_token"].as_str().ok_or("an answer with a token")?.to_owned();
        println!("{token}");
        Ok(token)
    }

    async fn answer(&self, token: &str, expected: u16) -> Result<Value, Error> {
        let url = format!("http://{}/answer", self.addr);
        println!("\n$ curl -i -X POST '{url}' -H 'Authorization: Bearer {token}'");
        let (status, answer) = self.send(&url, Some(token)).await?;
        println!("{status}\n{answer:#}\n");
        assert_eq!(status, expected);
        Ok(answer)
    }

    async fn quietly(&self, token: &str) -> Result<(u16, Value), Error> {
        self.send(&format!("http://{}/answer", self.addr), Some(token)).await
    }

    async fn send(&self, url: &str, token: Option<&str>) -> Result<(u16, Value), Error> {
        let mut request = Request::builder().method(Method::POST).uri(url);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = self.http.request(request.body(Body::empty())?).await?;
        let status = response.status().as_u16();
        Ok((status, serde_json::from_slice(&response.collect().await?.to_bytes())?))
    }
}
