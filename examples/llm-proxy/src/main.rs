//! An OpenAI-compatible proxy that streams, and charges what the model's tokens really cost.
//!
//! It sets aside what an answer may cost, passes the model's events on as they come, and keeps a running estimate. When
//! the estimate has used up what is set aside, it sets more aside; when nothing is left for that, it cuts the stream
//! off. The last chunk has the real usage, and that is charged. A stream that is cut off, or whose client disconnects,
//! is charged by the estimate.
//!
//! `cargo run -p example-llm-proxy` walks through it over loopback, against a simulated model in this file. It prints
//! and checks what the ledger says. With `-- --serve` it stays up afterwards.

use std::convert::Infallible;
use std::env;
use std::sync::Arc;
use std::time::Duration;

use agentkey::model::Balance;
use agentkey::model::{TokenPrice, TokenUsage};
use agentkey::{
    AgentKeyLayer, AgentKeys, Amount, Budget, Charge, Created, EntryQuery, KeyId, Rejection,
};
use agentkey::{NewKey, RequireScope, ScopeSet, Token};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing::post};
use futures_util::{Stream, StreamExt, stream};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

// --------------------------------------------------------------------------------------------------- the proxy

/// 3.00 for a million tokens read, 15.00 for a million written.
const PRICE: TokenPrice = TokenPrice::new(Amount::units(3), Amount::units(15));
/// For how many tokens of answer money is set aside at a time, where the client does not limit them.
const STEP: u64 = 200;
/// What no event of a model comes near; a longer one is taken for a fault.
const MAX_EVENT: usize = 1 << 20;

struct Proxy {
    http: Client<HttpConnector, Full<Bytes>>,
    model_url: String,
    /// Our own. The agent's goes no further than here.
    model_key: String,
}

/// The members that matter here; the others are passed on as they are.
#[derive(Deserialize, Serialize)]
struct Ask {
    model: String,
    messages: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(default)]
    stream: bool,
    #[serde(flatten)]
    others: Map<String, Value>,
}

fn app(keys: &AgentKeys, proxy: Proxy) -> Result<Router, BoxError> {
    Ok(Router::new()
        .route("/v1/chat/completions", post(chat).layer(RequireScope::one("chat")?))
        .layer(AgentKeyLayer::new(keys))
        .with_state(Arc::new(proxy)))
}

async fn chat(
    State(proxy): State<Arc<Proxy>>,
    charge: Charge,
    Json(mut ask): Json<Ask>,
) -> Result<Response, Error> {
    if !ask.stream {
        return Err(Error::NotStreamed);
    }
    charge.label("model", &ask.model)?;
    let prompt = ask.messages.iter().map(tokens_in).sum();
    let answer = ask.max_tokens.map_or(STEP, u64::from);
    charge.hold(PRICE.cost(TokenUsage::new(prompt, answer))).await?; // 402 before the model is called

    // Without it, the model does not report what it used.
    ask.others.insert("stream_options".into(), json!({ "include_usage": true }));
    let usage = TokenUsage::new(prompt, 0);
    charge.set_cost(PRICE.cost(usage)); // from here on the prompt costs
    let model = proxy
        .ask(&ask)
        .await
        .inspect_err(|_| charge.set_cost(Amount::ZERO))
        .map_err(Error::Model)?;
    let relay = Relay { model, unread: Vec::new(), meter: Meter { charge, usage } };
    let events = stream::unfold(Some(relay), async |relay| relay?.next().await);
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(events)).into_response())
}

impl Proxy {
    async fn ask(&self, ask: &Ask) -> Result<Incoming, BoxError> {
        let request = Request::post(&self.model_url)
            .header(AUTHORIZATION, format!("Bearer {}", self.model_key))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(serde_json::to_vec(ask)?))?;
        let response = self.http.request(request).await?;
        match response.status() {
            StatusCode::OK => Ok(response.into_body()),
            status => Err(format!("it answered {status}").into()),
        }
    }
}

/// Passes the model's events on. It owns the connection to the model and the charge: dropped with the body of the
/// response, it ends both.
struct Relay {
    model: Incoming,
    unread: Vec<u8>,
    meter: Meter,
}

impl Relay {
    /// Returns the next event, and the relay if more may follow.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Option<Self>)> {
        match self.read().await {
            Ok(event) => Some((Ok(event?), Some(self))),
            Err(cut) => Some((Ok(cut.into_event()), None)),
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(event) = self.read_event().await.map_err(Error::Model)? else { return Ok(None) };
        if let Some(chunk) = Chunk::of(&event) {
            self.meter.count(&chunk).await?;
        }
        Ok(Some(event))
    }

    /// Reads up to the next empty line, which ends an event.
    async fn read_event(&mut self) -> Result<Option<Bytes>, BoxError> {
        loop {
            if let Some(end) = end_of_event(&self.unread) {
                let rest = self.unread.split_off(end);
                return Ok(Some(std::mem::replace(&mut self.unread, rest).into()));
            }
            if self.unread.len() > MAX_EVENT {
                return Err("an event does not end".into());
            }
            let Some(frame) = self.model.frame().await else {
                let rest = std::mem::take(&mut self.unread);
                return Ok(Some(rest.into()).filter(|rest: &Bytes| !rest.is_empty()));
            };
            self.unread.extend(frame?.into_data().unwrap_or_default());
        }
    }
}

fn end_of_event(text: &[u8]) -> Option<usize> {
    let ends = [&b"\n\n"[..], b"\n\r\n"].into_iter();
    ends.filter_map(|end| Some(text.windows(end.len()).position(|here| here == end)? + end.len()))
        .min()
}

/// What a stream has used so far: by estimate, until the model reports it. It is charged when the stream ends, however
/// it ends.
struct Meter {
    charge: Charge,
    usage: TokenUsage,
}

impl Meter {
    /// Counts a chunk, and sets more aside when what was set aside is used up.
    async fn count(&mut self, chunk: &Chunk) -> Result<(), Rejection> {
        match &chunk.usage {
            Some(told) => self.usage = told.into(),
            None => {
                self.usage.output +=
                    chunk.choices.iter().map(|choice| tokens_in(&choice.delta)).sum::<u64>()
            }
        }
        let cost = PRICE.cost(self.usage);
        self.charge.set_cost(cost);
        if chunk.usage.is_none() && cost > self.charge.held() {
            self.charge.hold(PRICE.cost(TokenUsage::new(0, STEP))).await?;
        }
        Ok(())
    }
}

/// What a model sends as the data of an event, but for the last one, `[DONE]`.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Told>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Value,
}

#[derive(Deserialize)]
struct Told {
    prompt_tokens: u64,
    completion_tokens: u64,
}

impl Chunk {
    fn of(event: &[u8]) -> Option<Self> {
        let data =
            event.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"data:"))?;
        serde_json::from_slice(data).ok()
    }
}

impl From<&Told> for TokenUsage {
    fn from(told: &Told) -> Self {
        Self::new(told.prompt_tokens, told.completion_tokens)
    }
}

/// An estimate: a token for every four bytes of the strings in a message or delta, whatever they are members of.
fn tokens_in(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len().div_ceil(4) as u64,
        Value::Array(items) => items.iter().map(tokens_in).sum(),
        Value::Object(members) => members.values().map(tokens_in).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

enum Error {
    NotStreamed,
    Charge(Rejection),
    Model(BoxError),
}

impl From<Rejection> for Error {
    fn from(error: Rejection) -> Self {
        Self::Charge(error)
    }
}

impl Error {
    fn into_event(self) -> Bytes {
        format!("data: {}\n\n", self.describe()).into()
    }

    fn describe(&self) -> Value {
        let (code, message) = match self {
            Self::NotStreamed => {
                ("not_streamed", "this proxy streams: send \"stream\": true".to_owned())
            }
            Self::Charge(error) => (error.refusal().code(), error.to_string()),
            Self::Model(error) => {
                tracing::error!(%error, "the model failed");
                ("model_failed", "the model failed".to_owned())
            }
        };
        json!({ "error": { "code": code, "message": message } })
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match self {
            Self::NotStreamed => StatusCode::BAD_REQUEST,
            Self::Charge(error) => return error.into_response(),
            Self::Model(_) => StatusCode::BAD_GATEWAY,
        };
        (status, Json(self.describe())).into_response()
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt::init();
    let model = Model::start().await?;
    let http = Client::builder(TokioExecutor::new()).build_http();
    let proxy = Proxy { http, model_url: model.url.clone(), model_key: "sk-ours".into() };

    let keys = AgentKeys::in_memory().await?; // a service keeps them in a file: `AgentKeys::sqlite("keys.db")`
    let listener = TcpListener::bind(env::var("ADDR").as_deref().unwrap_or("127.0.0.1:0")).await?;
    let url = format!("http://{}/v1/chat/completions", listener.local_addr()?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = axum::serve(listener, app(&keys, proxy)?)
        .with_graceful_shutdown(async { drop(stopped.await) });
    let serving = tokio::spawn(serving.into_future());

    walk(&Agent { keys: keys.clone(), url: url.clone() }, model).await?;
    if env::args().any(|arg| arg == "--serve") {
        let token = mint(&keys, Amount::cents(10)).await?.token;
        let ask = json!({ "model": "tales-1", "stream": true, "messages": [{ "role": "user", "content": "Hi" }] });
        println!("\nListening on {url}. Ctrl-C ends it. With 10 cents to spend:\n");
        println!("  curl -iN -H 'Authorization: Bearer {}' --json '{ask}' {url}", token.expose());
        tokio::signal::ctrl_c().await?;
    }
    drop(stop);
    serving.await??;
    keys.shutdown().await; // every charge is posted before the process ends
    Ok(())
}

// ---------------------------------------------------------------------------------------------------- the walk

async fn walk(agent: &Agent, mut model: Model) -> Result<(), BoxError> {
    println!("A whole stream is charged what the model says that it used.");
    let key = mint(&agent.keys, Amount::cents(1)).await?;
    let mut answer = agent.ask(&key.token, json!({ "max_tokens": 100 })).await?;
    let events = answer.read(usize::MAX).await?;
    let usage =
        events.iter().find_map(|event| Chunk::of(event.as_bytes())?.usage).ok_or("no usage")?;
    let balance = agent.balance(key.key.id).await?;
    println!(
        "  {} events, {} + {} tokens",
        events.len(),
        usage.prompt_tokens,
        usage.completion_tokens
    );
    assert_eq!(events.last().map(String::as_str), Some("data: [DONE]\n\n"));
    assert_eq!((balance.spent(), balance.held), (PRICE.cost((&usage).into()), Amount::ZERO));

    println!("\nAn answer that may cost more than is left is refused, and the model is not asked.");
    let key = mint(&agent.keys, Amount::micros(1_000)).await?;
    let answer = agent.ask(&key.token, json!({ "max_tokens": 1_000 })).await?;
    assert_eq!(answer.status, StatusCode::PAYMENT_REQUIRED);
    assert_eq!(agent.balance(key.key.id).await?.spent(), Amount::ZERO);
    assert_eq!(model.calls.borrow().begun, 1);

    println!(
        "\nA stream that uses up what is set aside, and finds no more to set aside, is cut off."
    );
    let limit = Amount::micros(7_000);
    let key = mint(&agent.keys, limit).await?;
    let mut answer = agent.ask(&key.token, json!({})).await?;
    let events = answer.read(usize::MAX).await?;
    let last = events.last().ok_or("no event")?;
    let balance = agent.balance(key.key.id).await?;
    println!("  {} events, the last: {}", events.len(), last.trim_end());
    assert!(last.contains("budget_exceeded"), "{last}");
    assert!(
        balance.spent() > Amount::micros(6_000)
            && balance.spent() <= limit
            && balance.held.is_zero()
    );
    model.hung_up_on().await?;

    println!(
        "\nA client hangs up: so does the proxy, what was streamed is charged, and the rest is free again."
    );
    let key = mint(&agent.keys, Amount::units(10)).await?;
    let mut answer = agent.ask(&key.token, json!({})).await?;
    let events = answer.read(3).await?;
    let streamed = events.iter().filter_map(|event| Chunk::of(event.as_bytes()));
    let tokens =
        streamed.flat_map(|chunk| chunk.choices).map(|choice| tokens_in(&choice.delta)).sum();
    assert!(agent.balance(key.key.id).await?.held.is_positive());
    drop(answer);
    model.hung_up_on().await?;
    let balance = agent.settled(key.key.id).await?;
    println!("  {} events read, with {tokens} tokens", events.len());
    assert!(balance.spent() >= PRICE.cost(TokenUsage::new(0, tokens)) && balance.held.is_zero());
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
    async fn ask(&self, token: &Token, limits: Value) -> Result<Answer, BoxError> {
        let mut ask = json!({ "model": "tales-1", "stream": true });
        let told = json!({ "messages": [{ "role": "user", "content": "Tell me a tale." }] });
        for (name, value) in [told, limits].iter().filter_map(Value::as_object).flatten() {
            ask.as_object_mut().and_then(|ask| ask.insert(name.clone(), value.clone()));
        }
        let request = Request::post(&self.url)
            .header(AUTHORIZATION, format!("Bearer {}", token.expose()))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::<Bytes>::from(ask.to_string()))?;
        let response = Client::builder(TokioExecutor::new()).build_http().request(request).await?;
        Ok(Answer { status: response.status(), body: response.into_body() })
    }

    /// What the ledger says of a key.
    async fn balance(&self, key: KeyId) -> Result<Balance, BoxError> {
        let lineage = self.keys.find_by_id(key).await?.ok_or("the key is gone")?;
        let balance = lineage.key().balance;
        println!("  the ledger: {} spent, {} set aside", balance.spent(), balance.held);
        Ok(balance)
    }

    /// What it says once nothing is set aside any more.
    async fn settled(&self, key: KeyId) -> Result<Balance, BoxError> {
        let entry = async {
            while self
                .keys
                .entries(&EntryQuery::for_account("acme".parse()?).key(key))
                .await?
                .items
                .is_empty()
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok::<_, BoxError>(())
        };
        tokio::time::timeout(Duration::from_secs(10), entry).await??;
        self.balance(key).await
    }
}

impl Answer {
    /// The first events of the stream.
    async fn read(&mut self, events: usize) -> Result<Vec<String>, BoxError> {
        let mut text = String::new();
        while text.matches("\n\n").count() < events
            && let Some(frame) = self.body.frame().await
        {
            text.push_str(std::str::from_utf8(&frame?.into_data().unwrap_or_default())?);
        }
        Ok(text.split_inclusive("\n\n").take(events).map(str::to_owned).collect())
    }
}

/// A model made up. It tells a tale without end, or of as many tokens as it may, on a server of its own.
struct Model {
    url: String,
    calls: watch::Receiver<Calls>,
}

#[derive(Default)]
struct Calls {
    begun: usize,
    streaming: usize,
}

impl Model {
    async fn start() -> Result<Self, BoxError> {
        let (calls, counted) = watch::channel(Calls::default());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/v1/chat/completions", listener.local_addr()?);
        let app = Router::new().route("/v1/chat/completions", post(tell)).with_state(calls);
        tokio::spawn(axum::serve(listener, app).into_future());
        Ok(Self { url, calls: counted })
    }

    /// Waits until no client listens.
    async fn hung_up_on(&mut self) -> Result<(), BoxError> {
        let silent = self.calls.wait_for(|calls| calls.streaming == 0);
        tokio::time::timeout(Duration::from_secs(10), silent).await??;
        println!("  the model was hung up on");
        Ok(())
    }
}

async fn tell(
    State(calls): State<watch::Sender<Calls>>,
    headers: HeaderMap,
    Json(ask): Json<Ask>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, StatusCode> {
    if headers.get(AUTHORIZATION).is_none_or(|key| key != "Bearer sk-ours") {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let listener = Listener::new(calls);
    let chunks = ask.max_tokens.map_or(u64::MAX, |tokens| u64::from(tokens) / TOKENS_PER_CHUNK);
    let used =
        json!({ "prompt_tokens": 9, "completion_tokens": chunks.saturating_mul(TOKENS_PER_CHUNK) });
    let end = [json!({ "choices": [], "usage": used }).to_string(), "[DONE]".to_owned()];
    let chunk =
        json!({ "choices": [{ "index": 0, "delta": { "content": "once upon a time, " } }] })
            .to_string();
    let tale = stream::iter((0..chunks).map(move |_| chunk.clone()).chain(end));
    Ok(Sse::new(tale.then(move |data| listener.tell(data))))
}

const TOKENS_PER_CHUNK: u64 = 6;

/// Counted for as long as the stream that owns it is there.
struct Listener {
    calls: watch::Sender<Calls>,
}

impl Listener {
    fn new(calls: watch::Sender<Calls>) -> Self {
        calls.send_modify(|calls| {
            calls.begun += 1;
            calls.streaming += 1;
        });
        Self { calls }
    }

    fn tell(&self, data: String) -> impl Future<Output = Result<Event, Infallible>> + use<> {
        async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(Event::default().data(data))
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.calls.send_modify(|calls| calls.streaming -= 1);
    }
}
