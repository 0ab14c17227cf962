//! `cargo run -p example-llm-proxy` walks through the proxy over loopback, against an upstream made up. It prints and
//! checks what the ledger says. With `-- --serve` it stays up afterwards.
//!
//! With `UPSTREAM=https://api.openai.com` and `UPSTREAM_KEY` it serves in front of that provider, at the prices of
//! `prices.toml`. `CHAT_LIMIT=max_tokens` is for a provider that refuses `max_completion_tokens`, as Mistral does.
//!
//! With `DATABASE=keys.db` it serves the keys of that file, which the program `agentkey` makes: see README.md.

use std::env;
use std::future::IntoFuture;
use std::time::Duration;

use agentkey::model::{Balance, TokenPrice, TokenUsage};
use agentkey::store::SqliteOptions;
use agentkey::{
    AgentKeys, Amount, Budget, Created, EntryQuery, KeyId, NewKey, ScopeSet, SqliteStore, Token,
};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{Request, StatusCode};
use example_llm_proxy::fake::{self, Fake};
use example_llm_proxy::{BoxError, Proxy, app};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// That of `tales-1` in `prices.toml`.
const PRICE: TokenPrice = TokenPrice::new(Amount::units(3), Amount::units(15));

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt::init();
    let real = env::var("UPSTREAM").ok();
    let mut fake = Fake::start().await?;
    let proxy = match &real {
        Some(upstream) => Proxy::new(upstream.clone(), env::var("UPSTREAM_KEY")?)?
            .chat_limit(env::var("CHAT_LIMIT").ok()),
        None => Proxy::new(fake.url.clone(), fake::KEY.to_owned())?,
    };
    let database = env::var("DATABASE").ok();
    let keys = open(database.as_deref()).await?;
    let listener = TcpListener::bind(env::var("ADDR").as_deref().unwrap_or("127.0.0.1:0")).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = axum::serve(listener, app(&keys, proxy)?)
        .with_graceful_shutdown(async { drop(stopped.await) });
    let serving = tokio::spawn(serving.into_future());

    if real.is_none() && database.is_none() {
        walk(&Agent { keys: keys.clone(), url: url.clone() }, &mut fake).await?;
    }
    if let Some(file) = &database {
        println!("Listening on {url}, keys in {file}. Ctrl-C ends it.");
        tokio::signal::ctrl_c().await?;
    } else if real.is_some() || env::args().any(|arg| arg == "--serve") {
        let token = mint(&keys, Amount::cents(10)).await?.token;
        println!("\nListening on {url}. Ctrl-C ends it. With 10 cents to spend:\n");
        println!("  export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={}", token.expose());
        println!("  export ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY={}", token.expose());
        tokio::signal::ctrl_c().await?;
    }
    drop(stop);
    serving.await??;
    keys.shutdown().await; // every charge is posted before the process ends
    Ok(())
}

/// Opens the keys of a file. Without one they are in memory, and end with the process.
async fn open(database: Option<&str>) -> Result<AgentKeys, BoxError> {
    let Some(file) = database else { return Ok(AgentKeys::in_memory().await?) };
    // What was refused is in the audit trail a second later, for a person who looks on. The default is 30.
    let builder = AgentKeys::builder().sweep_interval(Duration::from_secs(1));
    Ok(builder.build(SqliteStore::open(SqliteOptions::new(file)).await?)?)
}

async fn walk(agent: &Agent, fake: &mut Fake) -> Result<(), BoxError> {
    println!("A stream of each format is charged what the model says that it used.");
    let right = PRICE.cost(TokenUsage::new(fake::PROMPT_TOKENS, 96));
    for (path, limit) in [
        ("/v1/chat/completions", "max_completion_tokens"),
        ("/v1/completions", "max_tokens"),
        ("/v1/responses", "max_output_tokens"),
        ("/v1/messages", "max_tokens"),
    ] {
        for stream in [true, false] {
            let key = mint(&agent.keys, Amount::cents(1)).await?;
            let mut answer =
                agent.ask(path, &key.token, json!({ "stream": stream, limit: 100 })).await?;
            let text = answer.read(usize::MAX).await?;
            assert_eq!(text.matches(fake::PIECE).count(), 16);
            print!("  {path}, {}", if stream { "a stream:   " } else { "an answer:  " });
            let balance = agent.settled(key.key.id).await?;
            assert_eq!((balance.spent(), balance.held), (right, Amount::ZERO));
        }
    }

    println!("\nAn answer that may cost more than is left is refused, and the model is not asked.");
    let asked = fake.calls();
    let key = mint(&agent.keys, Amount::micros(1_000)).await?;
    let mut answer =
        agent.ask("/v1/chat/completions", &key.token, json!({ "max_tokens": 1_000 })).await?;
    assert_eq!(answer.status, StatusCode::PAYMENT_REQUIRED);
    println!("  {}", answer.read(usize::MAX).await?);
    assert_eq!(fake.calls(), asked);

    println!("\nSo is a model without a price.");
    let mut answer =
        agent.ask("/v1/chat/completions", &key.token, json!({ "model": "unheard-of" })).await?;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    println!("  {}", answer.read(usize::MAX).await?);

    println!(
        "\nA stream that finds no more to hold is cut off, before the event that cannot be paid for."
    );
    let limit = Amount::micros(7_000);
    let key = mint(&agent.keys, limit).await?;
    let mut answer =
        agent.ask("/v1/chat/completions", &key.token, json!({ "stream": true })).await?;
    let text = answer.read(usize::MAX).await?;
    println!("  {}", text.trim_end().rsplit("\n\n").next().unwrap_or_default());
    print!("  {} pieces passed on; ", text.matches(fake::PIECE).count());
    let balance = agent.settled(key.key.id).await?;
    let piece = PRICE.cost(TokenUsage::new(0, fake::PIECE_TOKENS));
    assert!(text.contains("budget_exceeded") && balance.held.is_zero());
    assert!(balance.spent() > limit.saturating_sub(piece));
    assert!(balance.spent() <= limit.saturating_add(piece));
    assert!(fake.is_hung_up_on().await);

    println!(
        "\nA client hangs up: so does the proxy, what was streamed is charged, and the rest is free again."
    );
    let key = mint(&agent.keys, Amount::units(10)).await?;
    let mut answer = agent.ask("/v1/messages", &key.token, json!({ "stream": true })).await?;
    let text = answer.read(1_000).await?;
    let pieces = text.matches(fake::PIECE).count() as u64;
    drop(answer);
    assert!(fake.is_hung_up_on().await);
    print!("  {pieces} pieces read; ");
    let balance = agent.settled(key.key.id).await?;
    let read = TokenUsage::new(fake::PROMPT_TOKENS, pieces * fake::PIECE_TOKENS);
    assert!(balance.spent() >= PRICE.cost(read) && balance.held.is_zero());
    Ok(())
}

async fn mint(keys: &AgentKeys, limit: Amount) -> Result<Created, BoxError> {
    let key = NewKey::new("acme".parse()?)
        .scopes(ScopeSet::parse(["chat"])?)
        .budget(Budget::lifetime(limit));
    Ok(keys.create(key).await?)
}

struct Agent {
    keys: AgentKeys,
    url: String,
}

struct Answer {
    status: StatusCode,
    body: Incoming,
}

impl Agent {
    async fn ask(&self, path: &str, token: &Token, members: Value) -> Result<Answer, BoxError> {
        let text = "Tell me a tale.";
        let mut ask = json!({ "model": "tales-1" });
        match path {
            "/v1/completions" => ask["prompt"] = text.into(),
            "/v1/responses" => ask["input"] = text.into(),
            _ => ask["messages"] = json!([{ "role": "user", "content": text }]),
        }
        for (name, value) in members.as_object().into_iter().flatten() {
            ask[name] = value.clone();
        }
        let request = Request::post(format!("{}{path}", self.url))
            .header(AUTHORIZATION, format!("Bearer {}", token.expose()))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::<Bytes>::from(ask.to_string()))?;
        let response = Client::builder(TokioExecutor::new()).build_http().request(request).await?;
        Ok(Answer { status: response.status(), body: response.into_body() })
    }

    /// What the ledger says of a key, once its charge is posted.
    async fn settled(&self, key: KeyId) -> Result<Balance, BoxError> {
        let query = EntryQuery::for_account("acme".parse()?).key(key);
        let entry = async {
            while self.keys.entries(&query).await?.items.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok::<_, BoxError>(())
        };
        tokio::time::timeout(Duration::from_secs(10), entry).await??;
        let lineage = self.keys.find_by_id(key).await?.ok_or("the key is gone")?;
        let balance = lineage.key().balance;
        println!("the ledger: {} spent, {} held", balance.spent(), balance.held);
        Ok(balance)
    }
}

impl Answer {
    /// So many bytes of the body, or more.
    async fn read(&mut self, bytes: usize) -> Result<String, BoxError> {
        let mut text = Vec::new();
        while text.len() < bytes
            && let Some(frame) = self.body.frame().await
        {
            text.extend(frame?.into_data().unwrap_or_default());
        }
        Ok(String::from_utf8(text)?)
    }
}
