//! Agents serve themselves: one signs up, mints a narrower key for a helper, opens a session, looks at what the helper spent, and revokes
//! it.
//!
//! `cargo run -p example-self-serve` walks through it, and prints each request as a curl line with its answer.
//! With `-- --serve` it stays up, so that you can paste the lines. `ADDR` overrides the address.

use std::env;
use std::net::SocketAddr;

use agentkey::routes::{SelfServe, Signup};
use agentkey::session::Sessions;
use agentkey::{
    AgentKeyLayer, AgentKeys, Amount, Budget, Charge, Rejection, RequireScope, ScopeSet,
    SqliteStore,
};
use axum::body::Body;
use axum::http::{Method, Request};
use axum::{Json, Router, routing::post};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

type Error = Box<dyn std::error::Error>;

/// What the service sells: 3 cents an answer, for keys with the scope `answer`.
async fn answer(charge: Charge) -> Result<Json<Value>, Rejection> {
    charge.pay(Amount::cents(3)).await?; // refused here: 402 before any work is done
    Ok(Json(json!({ "answer": 42 })))
}

fn app(keys: &AgentKeys) -> Result<Router, Error> {
    // Anybody may sign up: for a day, with these scopes, and with at most a dollar. All of them together have the ceiling
    // of the account `trials`.
    let signup = Signup::new(Budget::lifetime(Amount::cents(100)))
        .scopes(ScopeSet::parse(["answer", "search"])?)
        .sponsor("trials".parse()?);
    let self_serve =
        SelfServe::new(keys).me().mint().manage().sessions().signup(signup).into_router()?;
    let service = Router::new()
        .route("/answer", post(answer).layer(RequireScope::one("answer")?))
        .route_layer(AgentKeyLayer::new(keys));
    Ok(Router::new().merge(service).nest("/v1", self_serve))
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:0".into());
    let store = SqliteStore::in_memory().await?;
    let keys = AgentKeys::builder().sessions(Sessions::new()).build(store)?;
    keys.ensure_account("trials".parse()?, Budget::monthly(Amount::units(20))).await?;
    let listener = tokio::net::TcpListener::bind(&addr).await?;
    let addr = listener.local_addr()?;
    // With the addresses of clients, sign-ups are limited for each.
    let service = app(&keys)?.into_make_service_with_connect_info::<SocketAddr>();
    let server = tokio::spawn(async move { axum::serve(listener, service).await });

    walk(&Agent::new(addr)).await?;
    if env::args().any(|arg| arg == "--serve") {
        println!("\nListening on http://{addr}, keys in memory. Ctrl-C ends it.");
        tokio::signal::ctrl_c().await?;
    }
    server.abort();
    keys.shutdown().await;
    Ok(())
}

async fn walk(agent: &Agent) -> Result<(), Error> {
    println!("# An agent signs up. It has no key yet, and gets one for a day.");
    let signup = json!({ "email": "agent@example.com", "budgets": [{ "limit_cents": 50, "period": "lifetime" }] });
    let made = agent.send("POST", "/v1/signup", None, Some(signup), 201).await?;
    let token = made["token"].as_str().ok_or("an answer with a token")?.to_owned();

    println!("# It mints a narrower key for a helper: fewer scopes, less money, less time.");
    let child = json!({ "name": "helper", "scopes": ["answer"], "expires_in": "1h",
        "budgets": [{ "limit_cents": 5, "period": "day" }] });
    let made = agent.send("POST", "/v1/keys", Some(&token), Some(child), 201).await?;
    let helper = made["token"].as_str().ok_or("an answer with a token")?.to_owned();
    let id = made["key"]["id"].as_i64().ok_or("a key with an id")?;

    println!("# A key never gives what it does not have.");
    let wider = json!({ "scopes": ["answer", "admin"] });
    agent.send("POST", "/v1/keys", Some(&helper), Some(wider), 403).await?;

    println!("# The helper works. Its second answer is beyond its 5 cents a day.");
    agent.send("POST", "/answer", Some(&helper), None, 200).await?;
    agent.send("POST", "/answer", Some(&helper), None, 402).await?;

    println!("# The helper looks at itself. It cannot see the key that made it.");
    agent.send("GET", "/v1/keys/me", Some(&helper), None, 200).await?;

    println!("# The agent opens a session for one task: 15 minutes, and at most 3 cents.");
    let session = json!({ "scopes": ["answer"], "ttl_seconds": 900, "spend_cap_usd": 0.03 });
    let opened = agent.send("POST", "/v1/sessions", Some(&token), Some(session), 201).await?;
    let session = opened["token"].as_str().ok_or("an answer with a token")?.to_owned();
    agent.send("POST", "/answer", Some(&session), None, 200).await?;
    agent.send("GET", "/v1/me", Some(&session), None, 200).await?;

    println!("# Its second answer would cross the cap. It is refused, and the session is over.");
    agent.send("POST", "/answer", Some(&session), None, 402).await?;
    agent.send("GET", "/v1/me", Some(&session), None, 401).await?;

    println!("# The agent sees what its keys have spent, by key.");
    let usage = "/v1/keys/me/usage?subtree=true&group_by=key";
    let usage = agent.send("GET", usage, Some(&token), None, 200).await?;
    assert_eq!(usage["groups"][0]["amount_cents"], 3);

    println!("# It revokes the helper. From the next request on the helper is refused.");
    let reason = json!({ "reason": "done" });
    agent.send("DELETE", &format!("/v1/keys/{id}"), Some(&token), Some(reason), 200).await?;
    agent.send("GET", "/v1/keys/me", Some(&helper), None, 401).await?;
    Ok(())
}

/// An HTTP client that prints what it sends and what it gets.
struct Agent {
    http: Client<HttpConnector, Body>,
    addr: SocketAddr,
}

impl Agent {
    fn new(addr: SocketAddr) -> Self {
        Self { http: Client::builder(TokioExecutor::new()).build_http(), addr }
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
        expected: u16,
    ) -> Result<Value, Error> {
        let url = format!("http://{}{path}", self.addr);
        let mut curl = format!("$ curl -i -X {method} '{url}'");
        let mut request =
            Request::builder().method(Method::from_bytes(method.as_bytes())?).uri(url);
        if let Some(token) = token {
            curl.push_str(&format!(" -H 'Authorization: Bearer {token}'"));
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let sent = match body {
            Some(body) => {
                curl.push_str(&format!(" -H 'Content-Type: application/json' -d '{body}'"));
                request = request.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        println!("\n{curl}");
        let response = self.http.request(request.body(sent)?).await?;
        let status = response.status();
        let answer: Value = serde_json::from_slice(&response.collect().await?.to_bytes())?;
        println!("{status}\n{answer:#}\n");
        assert_eq!(status, expected, "{method} {path}");
        Ok(answer)
    }
}
