//! PackDrop, a marketplace where agents buy, install and sell packs.
//!
//! A purchase is paid at the moment of purchase, given back when delivery fails, and never paid twice under one
//! `Idempotency-Key`. Agents mint keys for their sub-agents, and the account's ceiling stands over all of them.
//!
//! `cargo run -p example-marketplace` walks through it over loopback, printing and asserting every answer;
//! with `-- --serve` it stays up afterwards.

use std::collections::{BTreeMap, HashSet};
use std::env;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentkey::model::ChangeError;
use agentkey::model::EntryKind;
use agentkey::{AccountId, AgentKeyLayer, AgentKeys, Amount, Budget, Charge, Rejection};
use agentkey::{EntryQuery, KeyContext, NewKey, Replayable, RequireBudget, RequireScope};
use agentkey::{ScopeSet, Token};
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{self, Method, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::{Value, json};

// ------------------------------------------------------------------------------------------------- the service

/// What a scan of a published pack costs at most, and for each kilobyte of it.
const SCAN_CEILING: Amount = Amount::cents(10);
const SCAN_PER_KB: Amount = Amount::cents(2);

fn app(market: Arc<Market>) -> Result<Router, Box<dyn std::error::Error>> {
    let needs = RequireScope::one;
    let keys = AgentKeyLayer::new(&market.keys);
    Ok(Router::new()
        .route("/packs", get(browse).layer(needs("browse")?))
        .route(
            "/packs",
            post(publish).layer((needs("publish")?, RequireBudget::hold(SCAN_CEILING))),
        )
        .route("/packs/{name}", patch(reprice).layer(needs("manage_packs")?))
        .route("/packs/{name}/claim", post(claim).layer(needs("claim_free")?))
        .route("/packs/{name}/purchase", post(purchase).layer(needs("purchase")?))
        .route("/packs/{name}/install", post(install).layer(needs("install")?))
        .route("/keys", post(mint))
        .layer(keys)
        .with_state(market))
}

/// The packs and their prices in cents.
async fn browse(State(market): State<Arc<Market>>) -> Json<BTreeMap<String, Amount>> {
    Json(market.shelf().packs.iter().map(|(name, pack)| (name.clone(), pack.price)).collect())
}

async fn claim(
    State(market): State<Arc<Market>>,
    key: KeyContext,
    Path(name): Path<String>,
) -> Result<Json<Value>, Error> {
    let mut shelf = market.shelf();
    if shelf.pack(&name)?.price.is_positive() {
        return Err(NOT_FREE);
    }
    shelf.owned.insert((key.account_id().clone(), name.clone()));
    Ok(Json(json!({ "pack": name, "price_cents": 0 })))
}

/// Pays, delivers, and gives the money back where that fails. A repeated `Idempotency-Key` gets the first receipt, so
/// nothing is paid twice. Delivery can be repeated without harm, also where the first request died in between. After a
/// refund nothing was bought, and the same `Idempotency-Key` can be used again.
async fn purchase(
    State(market): State<Arc<Market>>,
    key: KeyContext,
    Path(name): Path<String>,
    Replayable(charge): Replayable,
) -> Result<Response, Error> {
    let price = market.shelf().pack(&name)?.price;
    charge.reference(&name)?;
    charge.label("route", "purchase")?;
    let receipt = charge.pay(price).await?; // refused here: 402, and nothing was delivered

    if market.deliver(key.account_id(), &name).is_err() {
        charge.refund(&receipt, receipt.amount).await?;
        return Err(REFUNDED);
    }
    let paid = json!({ "pack": name, "order": receipt.entry, "price_cents": price, "replayed": receipt.replayed });
    let status = if receipt.replayed { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(paid)).into_response())
}

async fn install(
    State(market): State<Arc<Market>>,
    key: KeyContext,
    Path(name): Path<String>,
) -> Result<Json<Value>, Error> {
    let shelf = market.shelf();
    let archive = &shelf.pack(&name)?.archive;
    if !shelf.owned.contains(&(key.account_id().clone(), name.clone())) {
        return Err(NOT_OWNED);
    }
    Ok(Json(json!({ "pack": name, "archive": archive })))
}

#[derive(Deserialize)]
struct Draft {
    name: String,
    price_cents: Amount,
    /// May follow later.
    archive: Option<String>,
}

/// Its ceiling was set aside by the layer; what the scan really cost is added here, and the rest goes back.
async fn publish(
    State(market): State<Arc<Market>>,
    key: KeyContext,
    charge: Charge,
    Json(draft): Json<Draft>,
) -> Result<(StatusCode, Json<Value>), Error> {
    charge.label("route", "publish")?;
    let kilobytes = draft.archive.as_ref().map_or(0, |archive| archive.len().div_ceil(1024));
    let cost =
        i64::try_from(kilobytes).ok().and_then(|kilobytes| SCAN_PER_KB.checked_mul(kilobytes));
    let cost = cost.filter(|cost| *cost <= SCAN_CEILING).ok_or(TOO_LARGE)?;
    let price = draft.price_cents.non_negative().map_err(|_| NEGATIVE_PRICE)?;
    let pack = Pack { seller: key.account_id().clone(), price, archive: draft.archive };
    let mut shelf = market.shelf();
    if shelf.packs.contains_key(&draft.name) {
        return Err(NAME_TAKEN);
    }
    shelf.packs.insert(draft.name.clone(), pack);
    charge.add(cost);
    Ok((StatusCode::CREATED, Json(json!({ "pack": draft.name, "scan_cents": cost }))))
}

#[derive(Deserialize)]
struct Reprice {
    price_cents: Amount,
}

async fn reprice(
    State(market): State<Arc<Market>>,
    key: KeyContext,
    Path(name): Path<String>,
    Json(Reprice { price_cents: price }): Json<Reprice>,
) -> Result<Json<Value>, Error> {
    let mut shelf = market.shelf();
    let pack = shelf
        .packs
        .get_mut(&name)
        .filter(|pack| pack.seller == *key.account_id())
        .ok_or(NO_SUCH_PACK)?;
    pack.price = price.non_negative().map_err(|_| NEGATIVE_PRICE)?;
    Ok(Json(json!({ "pack": name, "price_cents": price })))
}

#[derive(Deserialize)]
struct SubAgent {
    name: String,
    scopes: ScopeSet,
    budget: Budget,
}

/// A key for a sub-agent: inside the scopes, budget and expiry of the key that asks, and counted against it.
async fn mint(
    State(market): State<Arc<Market>>,
    key: KeyContext,
    Json(wanted): Json<SubAgent>,
) -> Result<Response, Error> {
    if key.retires_at().is_some() {
        return Err(ROTATED_AWAY);
    }
    let child =
        NewKey::child_of(key.id()).name(wanted.name).scopes(wanted.scopes).budget(wanted.budget);
    let created = market.keys.create(child).await?;
    let body = json!({ "id": created.key.id, "scopes": created.key.scopes, "token": created.token.expose() });
    Ok((StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

/// Why a route did not do what it is for. What the ledger refuses keeps its own response.
enum Error {
    Charge(Rejection),
    Key(agentkey::Error),
    Market(StatusCode, &'static str),
}

const NO_SUCH_PACK: Error = Error::Market(StatusCode::NOT_FOUND, "no such pack, or not yours");
const NOT_FREE: Error =
    Error::Market(StatusCode::UNPROCESSABLE_ENTITY, "the pack is not free; purchase it");
const NOT_OWNED: Error = Error::Market(StatusCode::FORBIDDEN, "claim or purchase the pack first");
const NAME_TAKEN: Error =
    Error::Market(StatusCode::UNPROCESSABLE_ENTITY, "there is a pack of that name");
const NEGATIVE_PRICE: Error =
    Error::Market(StatusCode::UNPROCESSABLE_ENTITY, "a price is zero or more");
const TOO_LARGE: Error =
    Error::Market(StatusCode::PAYLOAD_TOO_LARGE, "a pack has at most 5 kilobytes");
const ROTATED_AWAY: Error =
    Error::Market(StatusCode::FORBIDDEN, "this token was rotated away; use the new one");
const REFUNDED: Error =
    Error::Market(StatusCode::BAD_GATEWAY, "not delivered and paid back; try again");

impl From<Rejection> for Error {
    fn from(error: Rejection) -> Self {
        Self::Charge(error)
    }
}

impl From<agentkey::Error> for Error {
    fn from(error: agentkey::Error) -> Self {
        Self::Key(error)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Charge(error) => return error.into_response(),
            Self::Market(status, text) => (status, text.to_owned()),
            // It says which field, and what is accepted.
            Self::Key(agentkey::Error::Change(error @ ChangeError::Invalid { .. })) => {
                (StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
            }
            Self::Key(agentkey::Error::Change(_)) => {
                (StatusCode::FORBIDDEN, "the key is not in force".into())
            }
            Self::Key(error) => {
                tracing::error!(%error, "a key could not be made");
                (StatusCode::SERVICE_UNAVAILABLE, "try again later".into())
            }
        };
        (status, Json(json!({ "error": text }))).into_response()
    }
}

/// What an application would keep in its own database.
struct Market {
    keys: AgentKeys,
    shelf: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    packs: BTreeMap<String, Pack>,
    owned: HashSet<(AccountId, String)>,
}

struct Pack {
    seller: AccountId,
    price: Amount,
    /// `None` while its upload is not finished.
    archive: Option<String>,
}

struct NotDelivered;

impl Market {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, account: &AccountId, name: &str) -> Result<(), NotDelivered> {
        let mut shelf = self.shelf();
        let there = shelf.packs.get(name).is_some_and(|pack| pack.archive.is_some());
        if !there {
            return Err(NotDelivered);
        }
        shelf.owned.insert((account.clone(), name.to_owned()));
        Ok(())
    }
}

impl Shelf {
    fn pack(&self, name: &str) -> Result<&Pack, Error> {
        self.packs.get(name).ok_or(NO_SUCH_PACK)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt::init();
    let keys = AgentKeys::in_memory().await?; // a service keeps them in a file: `AgentKeys::sqlite("keys.db")`
    let market = Arc::new(Market { keys: keys.clone(), shelf: Mutex::default() });
    let listener =
        tokio::net::TcpListener::bind(env::var("ADDR").as_deref().unwrap_or("127.0.0.1:0")).await?;
    let addr = listener.local_addr()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving =
        axum::serve(listener, app(market)?).with_graceful_shutdown(async { drop(stopped.await) });
    let serving = tokio::spawn(serving.into_future());

    walk(&keys, format!("http://{addr}")).await?;
    if env::args().any(|arg| arg == "--serve") {
        let visitor = NewKey::new("visitor".parse()?).scopes(ScopeSet::unrestricted());
        let visitor = keys.create(visitor.budget(Budget::daily(Amount::units(6)))).await?;
        println!(
            "\nListening on http://{addr}. Ctrl-C ends it. A key with every scope and 6.00 a day:\n"
        );
        println!(
            "  curl -i -H 'Authorization: Bearer {}' http://{addr}/packs",
            visitor.token.expose()
        );
        tokio::signal::ctrl_c().await?;
    }
    drop(stop);
    serving.await??;
    keys.shutdown().await; // every charge is posted before the process ends
    Ok(())
}

// ---------------------------------------------------------------------------------------------------- the walk

async fn walk(keys: &AgentKeys, base: String) -> Result<(), Box<dyn std::error::Error>> {
    let walker = Walker { http: Client::builder(TokioExecutor::new()).build_http(), base };
    let acme: AccountId = "acme".parse()?;
    keys.ensure_account(acme.clone(), Budget::monthly(Amount::units(10))).await?;
    let agent = NewKey::new(acme.clone())
        .name("agent")
        .scopes(ScopeSet::parse(["browse", "claim_free", "purchase", "install"])?)
        .budget(Budget::monthly(Amount::units(20)));
    let agent = keys.create(agent).await?;
    let seller = NewKey::new("packworks".parse()?)
        .name("seller")
        .scopes(ScopeSet::parse(["publish", "manage_packs"])?)
        .budget(Budget::daily(Amount::units(1)));
    let (agent_id, agent, seller) = (agent.key.id, agent.token, keys.create(seller).await?.token);

    println!(
        "The seller publishes: 10 cents are set aside for the scan, 2 are charged for each kilobyte."
    );
    for (name, price, archive) in
        [("hello", 0, "fn hello"), ("quill", 550, "fn quill"), ("atlas", 250, "fn atlas")]
    {
        let draft = json!({ "name": name, "price_cents": price, "archive": archive });
        walker
            .post("/packs", &seller)
            .json(draft)
            .send()
            .await?
            .is(201, json!({ "pack": name, "scan_cents": 2 }));
    }
    let draft = json!({ "name": "ghost", "price_cents": 100, "archive": null });
    walker
        .post("/packs", &seller)
        .json(draft)
        .send()
        .await?
        .is(201, json!({ "pack": "ghost", "scan_cents": 0 }));

    println!("\nIt manages its packs; the agent may not.");
    let price = json!({ "price_cents": 499 });
    walker.patch("/packs/quill", &seller).json(price.clone()).send().await?.is(200, price.clone());
    let refused = walker.patch("/packs/quill", &agent).json(price).send().await?;
    refused.is(403, json!({ "error": "insufficient_scope", "required_scope": "manage_packs" }));

    println!("\nThe agent looks round, claims what is free, and installs it.");
    walker.get("/packs").send().await?.is(401, json!({ "error": "missing_key" }));
    walker.get("/packs").bearer(&agent).send().await?.is(200, json!({ "quill": 499, "hello": 0 }));
    walker.post("/packs/hello/claim", &agent).send().await?.is(200, json!({ "pack": "hello" }));
    walker
        .post("/packs/hello/install", &agent)
        .send()
        .await?
        .is(200, json!({ "archive": "fn hello" }));
    let refused = walker.post("/packs/quill/claim", &agent).send().await?;
    refused.is(422, json!({ "error": "the pack is not free; purchase it" }));
    let refused = walker.post("/packs/quill/install", &agent).send().await?;
    refused.is(403, json!({ "error": "claim or purchase the pack first" }));

    println!(
        "\nIt buys a pack, and its network stutters: one Idempotency-Key buys one thing, once."
    );
    let order = walker.post("/packs/quill/purchase", &agent).idempotency("order-1").send().await?;
    let order = order.is(201, json!({ "price_cents": 499, "replayed": false }));
    let again = walker.post("/packs/quill/purchase", &agent).idempotency("order-1").send().await?;
    let again = again.is(200, json!({ "price_cents": 499, "replayed": true }));
    assert_eq!(order.get("order"), again.get("order"));
    let other = walker.post("/packs/atlas/purchase", &agent).idempotency("order-1").send().await?;
    other.is(409, json!({ "error": "conflict" }));
    walker
        .post("/packs/quill/install", &agent)
        .send()
        .await?
        .is(200, json!({ "archive": "fn quill" }));
    assert_eq!(spent(keys, &acme).await?, Amount::cents(499));

    println!(
        "\nA pack that cannot be delivered is paid back at once; nothing was bought, so the same order may be tried again."
    );
    for _ in 0..2 {
        let refunded =
            walker.post("/packs/ghost/purchase", &agent).idempotency("order-2").send().await?;
        refunded.is(502, json!({ "error": "not delivered and paid back; try again" }));
        assert_eq!(spent(keys, &acme).await?, Amount::cents(499));
    }

    println!(
        "\nIt mints a key for a sub-agent: never wider than its own, and its spending counts on both."
    );
    let budget = json!([{ "limit_cents": 300, "period": "lifetime" }]);
    let wider = json!({ "name": "scout", "scopes": ["publish"], "budget": budget });
    let refused = walker.post("/keys", &agent).json(wider).send().await?;
    let reason = "scopes: go beyond the parent's, which are: browse claim_free install purchase";
    refused.is(422, json!({ "error": reason }));
    let scout = json!({ "name": "scout", "scopes": ["browse", "purchase"], "budget": budget });
    let scout = walker
        .post("/keys", &agent)
        .json(scout)
        .send()
        .await?
        .is(201, json!({ "scopes": ["browse", "purchase"] }));
    let scout = Token::parse(scout.get("token").and_then(Value::as_str).unwrap_or_default())?;
    let refused = walker.post("/packs/hello/claim", &scout).send().await?;
    refused.is(403, json!({ "error": "insufficient_scope", "required_scope": "claim_free" }));
    let refused = walker.post("/packs/quill/purchase", &scout).send().await?;
    refused.is(
        402,
        json!({ "error": "budget_exceeded", "blocked_by": "key", "remaining_cents": 300 }),
    );
    let bought = walker.post("/packs/atlas/purchase", &scout).idempotency("order-1").send().await?;
    bought.is(201, json!({ "price_cents": 250, "replayed": false }));
    assert_eq!(spent(keys, &acme).await?, Amount::cents(749));

    println!(
        "\nThe account's ceiling of 10.00 stands over all its keys, one without a limit of its own too."
    );
    let free_hand = NewKey::new(acme.clone()).name("free hand").scopes(ScopeSet::unrestricted());
    let free_hand = keys.create(free_hand).await?.token;
    let refused = walker.post("/packs/quill/purchase", &free_hand).send().await?;
    refused.is(
        402,
        json!({ "error": "budget_exceeded", "blocked_by": "account", "remaining_cents": 251 }),
    );

    println!("\nThe agent's key is revoked; its sub-agent's is refused from the next request on.");
    keys.revoke(agent_id, None).await?;
    walker.get("/packs").bearer(&scout).send().await?.is(401, json!({ "error": "revoked_key" }));

    println!("\nWhat the ledger has of it:");
    let entries = keys.entries(&EntryQuery::for_account(acme)).await?.items;
    let lines =
        entries.iter().map(|entry| (entry.kind, entry.amount, entry.note.reference.as_deref()));
    let lines: Vec<_> = lines.collect();
    for (kind, amount, reference) in &lines {
        println!("  {:<8}{amount:>6}  {}", kind.as_str(), reference.unwrap_or_default());
    }
    let expected = [
        (EntryKind::Pay, Amount::cents(499), Some("quill")),
        (EntryKind::Pay, Amount::cents(100), Some("ghost")),
        (EntryKind::Refund, Amount::cents(-100), Some("ghost")),
        (EntryKind::Pay, Amount::cents(100), Some("ghost")),
        (EntryKind::Refund, Amount::cents(-100), Some("ghost")),
        (EntryKind::Pay, Amount::cents(250), Some("atlas")),
    ];
    assert_eq!(lines, expected);
    Ok(())
}

async fn spent(
    keys: &AgentKeys,
    account: &AccountId,
) -> Result<Amount, Box<dyn std::error::Error>> {
    let account = keys.account(account).await?.ok_or("the account is gone")?;
    println!(
        "  the account has spent {}, and {} is set aside",
        account.balance.spent(),
        account.balance.held
    );
    Ok(account.balance.spent())
}

/// Asks the service as an agent would: over HTTP.
struct Walker {
    http: Client<HttpConnector, Full<Bytes>>,
    base: String,
}

struct Ask<'a> {
    walker: &'a Walker,
    line: String,
    request: http::request::Builder,
    body: Option<Value>,
}

struct Answer {
    line: String,
    status: StatusCode,
    body: Value,
}

impl Walker {
    fn get(&self, path: &str) -> Ask<'_> {
        self.ask(Method::GET, path)
    }

    fn post(&self, path: &str, token: &Token) -> Ask<'_> {
        self.ask(Method::POST, path).bearer(token)
    }

    fn patch(&self, path: &str, token: &Token) -> Ask<'_> {
        self.ask(Method::PATCH, path).bearer(token)
    }

    fn ask(&self, method: Method, path: &str) -> Ask<'_> {
        let line = format!("{method} {path}");
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        Ask { walker: self, line, request, body: None }
    }
}

impl Ask<'_> {
    fn bearer(mut self, token: &Token) -> Self {
        self.request = self.request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        self
    }

    fn idempotency(mut self, key: &str) -> Self {
        self.line = format!("{} ({key})", self.line);
        self.request = self.request.header("idempotency-key", key);
        self
    }

    fn json(mut self, body: Value) -> Self {
        self.request = self.request.header(CONTENT_TYPE, "application/json");
        self.body = Some(body);
        self
    }

    async fn send(self) -> Result<Answer, Box<dyn std::error::Error>> {
        let body = self.body.map(|body| body.to_string()).unwrap_or_default();
        let response = self.walker.http.request(self.request.body(Full::from(body))?).await?;
        let status = response.status();
        let body = serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?;
        Ok(Answer { line: self.line, status, body })
    }
}

impl Answer {
    /// Prints the answer as it came, and asserts its status and these members of its body.
    fn is(self, status: u16, members: Value) -> Value {
        println!("  {:<42} {}\n      {}", self.line, self.status.as_u16(), self.body);
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        for (name, member) in members.as_object().into_iter().flatten() {
            assert_eq!(self.body.get(name), Some(member), "{}", self.body);
        }
        self.body
    }
}
