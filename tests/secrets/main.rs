//! No output has a token in it: log lines of every crate at every level, metrics, events and all other rows, panic
//! messages, errors, `Debug` of what the API returns, and refusals.
//!
//! The answers that show a new token once are the one exception. What an application itself logs before the layer has
//! marked the headers as sensitive is its own.

#![cfg(all(feature = "axum", feature = "metrics", feature = "self-serve", feature = "sessions"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[cfg(feature = "postgres")]
#[path = "../support/postgres.rs"]
mod postgres;
#[allow(dead_code, unused_imports)] // a part of it is used here
#[path = "../http/support/mod.rs"]
mod support;

use std::fmt::{Debug, Display};
use std::io;
use std::sync::{Mutex, Once, OnceLock};
use std::time::Duration;

use agentkey::model::{Grace, ManualClock, TokenHash};
use agentkey::routes::{ResourceServer, SelfServe, Signup};
use agentkey::session::{NewSession, Sessions};
use agentkey::store::Store;
use agentkey::{
    AccountId, AgentKeyLayer, AgentKeys, Amount, Budget, Charge, KeyContext, KeyImport, KeyPatch,
    NewKey, Refusal, Rejection, RequireScope, ScopeSet, Token,
};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::Value;
use tower::ServiceExt;
use tracing_subscriber::fmt::format::FmtSpan;

use support::{Client, Fault, Faults, Version, World, serve};

/// Everything that was put out.
static OUTPUT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();

struct Output;

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        OUTPUT.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn put_out(line: &str) {
    io::Write::write_all(&mut Output, format!("{line}\n").as_bytes()).unwrap();
}

/// Takes every log line of the process, every panic message and every metric from now on.
fn capture() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(FmtSpan::FULL)
            .with_writer(|| Output)
            .init(); // with the records of the crate `log`
        let show = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            put_out(&panic.to_string());
            show(panic);
        }));
        let recorder = PrometheusBuilder::new().build_recorder();
        METRICS.set(recorder.handle()).unwrap();
        metrics::set_global_recorder(recorder).unwrap();
    });
}

/// What must not be put out.
#[derive(Default)]
struct Secrets(Vec<(&'static str, String)>);

impl Secrets {
    fn add(&mut self, what: &'static str, token: &str) -> String {
        self.0.push((what, token.to_owned()));
        token.to_owned()
    }

    /// The tokens, and the parts of them that nobody may see: what follows the prefix and the first characters, and the
    /// parts of a session's.
    fn needles(&self) -> Vec<(&'static str, String)> {
        let mut needles = Vec::new();
        for (what, token) in &self.0 {
            needles.push((*what, token.clone()));
            match token.split('.').collect::<Vec<_>>()[..] {
                [_, claims, signature] => {
                    needles.extend([claims, signature].map(|part| (*what, part.to_owned())));
                }
                _ => {
                    let secret = token.rsplit('_').next().unwrap();
                    needles.push((*what, secret[8..].to_owned()));
                    needles.push((*what, secret[..secret.len() - 6].to_owned()));
                }
            }
        }
        needles
    }

    /// Fails if one is in the text, with the line that has it.
    fn are_not_in(&self, place: &str, text: &str) {
        for (what, needle) in self.needles() {
            if let Some(line) = text.lines().find(|line| line.contains(&needle)) {
                let line: String = line.chars().take(2_000).collect();
                panic!("{place} has {what} in it ({needle}): {line}");
            }
        }
    }
}

fn show(what: &(impl Debug + ?Sized)) {
    put_out(&format!("{what:?} {what:#?}"));
}

fn show_error(error: &(impl Debug + Display + ?Sized)) {
    put_out(&format!("{error:?} {error:#?} {error}"));
}

async fn free(key: KeyContext, headers: HeaderMap) -> &'static str {
    show(&key);
    tracing::info!(?headers, ?key, "a handler logs its headers");
    "free"
}

async fn paid(charge: Charge, headers: HeaderMap) -> Result<String, Rejection> {
    charge.hold(Amount::cents(5)).await?;
    let receipt = charge.pay(Amount::cents(2)).await?;
    charge.refund(&receipt, Amount::cents(1)).await?;
    charge.label("model", "small")?;
    charge.add(Amount::cents(3));
    show(&charge);
    tracing::info!(?headers, ?charge, ?receipt, "a handler logs its charge");
    Ok("paid".into())
}

async fn panics(charge: Charge, headers: HeaderMap) -> Result<(), Rejection> {
    charge.hold(Amount::cents(5)).await?;
    panic!("the handler panics with {headers:?} and {charge:?}");
}

fn app(keys: &AgentKeys, layer: AgentKeyLayer) -> Router {
    let signup =
        Signup::new(Budget::lifetime(Amount::cents(50))).scopes(ScopeSet::parse(["read"]).unwrap());
    let own = SelfServe::new(keys).me().mint().manage().sessions().introspect().signup(signup);
    show(&own);
    Router::new()
        .route("/free", get(free))
        .route("/paid", get(paid).post(paid))
        .route("/panics", get(panics))
        .route("/dear", get(async |charge: Charge| charge.hold(Amount::units(900)).await))
        .route("/scoped", get(async || "").layer(RequireScope::one("docs.write").unwrap()))
        .layer(layer)
        .nest("/own", own.layer(AgentKeyLayer::new(keys)).into_router().unwrap())
}

/// The answer, which is put out unless it shows a token.
async fn answer(app: &Router, request: http::request::Builder, body: &str) -> (StatusCode, Value) {
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let response: Response<Body> = app.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    show(&head);
    if let Some(refusal) = head.extensions.get::<Refusal>() {
        show_error(refusal);
        show(&Rejection::from(refusal.clone()));
    }
    let body = body.collect().await.unwrap().to_bytes();
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    if json.get("token").is_none() {
        put_out(&String::from_utf8_lossy(&body));
    }
    (head.status, json)
}

fn bearer(path: &str, token: &str) -> http::request::Builder {
    Request::get(path).header(AUTHORIZATION, format!("Bearer {token}"))
}

fn post(path: &str, token: &str) -> http::request::Builder {
    Request::post(path)
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .header(CONTENT_TYPE, "application/json")
}

fn acme() -> AccountId {
    "acme".parse().unwrap()
}

fn new() -> NewKey {
    NewKey::new(acme()).scopes(ScopeSet::parse(["read", "buy"]).unwrap())
}

/// The token in an answer that shows it once.
fn shown(json: &Value) -> String {
    json["token"].as_str().unwrap_or_else(|| panic!("no token in {json}")).to_owned()
}

async fn use_it(store: Box<dyn Store>, clock: Option<&ManualClock>) -> Secrets {
    let mut secrets = Secrets::default();
    let builder = AgentKeys::builder().sessions(Sessions::new()).request_timeout(Duration::ZERO);
    let world = World::on(builder.settle_timeout(Duration::ZERO), store);
    let keys = &world.keys;
    let budget = Budget::lifetime(Amount::units(2));
    let created = keys.create(new().name("agent").budget(budget)).await.unwrap();
    show(&created);
    show(&created.token);
    let (id, token) = (created.key.id, secrets.add("a key's token", created.token.expose()));
    let layer = world
        .layer()
        .foreign_tokens(true)
        .credential_headers([AUTHORIZATION, "x-api-key".parse().unwrap()]);
    show(&layer);
    show(keys);
    let app = app(keys, layer);

    // Over sockets, with what hyper and h2 log of it.
    let addr = serve(app.clone()).await;
    for version in Version::BOTH {
        let client = Client::new(version, addr, &created.token);
        for path in ["/free", "/paid", "/dear", "/scoped", "/own/keys/me", "/panics"] {
            let mut request = client.request(http::Method::GET, path);
            let credential = request.headers_mut().get_mut(AUTHORIZATION).unwrap();
            credential.set_sensitive(true); // in the logs of the client
            drop(client.send(request).await);
        }
    }

    // Credentials that are refused without a look-up, and tokens that no key has.
    let end = token.len() - 1;
    let other = if token.ends_with('x') { "y" } else { "x" };
    let forged = secrets.add("a token with a wrong checksum", &format!("{}{other}", &token[..end]));
    let cut = secrets.add("a token that is cut off", &token[..end]);
    let unknown = Token::generate(&"ak".parse().unwrap()).unwrap();
    let unknown = secrets.add("a token that no key has", unknown.expose());
    for text in [&forged, &cut, &unknown] {
        for path in ["/free", "/paid", "/own/keys/me"] {
            assert_eq!(answer(&app, bearer(path, text), "").await.0, 401, "{path}");
        }
        match Token::parse(text) {
            Ok(parsed) => show_error(&keys.authorize(&parsed).await.unwrap_err()),
            Err(error) => show_error(&error),
        }
    }
    let without_scheme = Request::get("/free").header(AUTHORIZATION, &token);
    assert_eq!(answer(&app, without_scheme, "").await.0, 401);
    let two = bearer("/free", &token).header("x-api-key", &unknown);
    assert_eq!(answer(&app, two, "").await.0, 400);
    assert_eq!(answer(&app, bearer("/free", &format!("{token} {unknown}")), "").await.0, 401);
    assert_eq!(answer(&app, Request::get("/free"), "").await.0, 401);

    // A token of another program.
    let foreign =
        secrets.add("a foreign token", "sk-live-51HxForeignTokenOfAnotherProgram0123456789");
    let hash = TokenHash::digest(&foreign);
    let import = KeyImport::new(new().name("imported"), hash);
    show(&import);
    show(&keys.import([import]).await.unwrap());
    assert_eq!(answer(&app, bearer("/free", &foreign), "").await.0, 200);
    show_error(&TokenHash::parse(&foreign).unwrap_err());

    // Idempotency.
    let order = || post("/paid", &token).header("idempotency-key", "order-1");
    assert_eq!(answer(&app, order(), "").await.0, 200);
    assert_eq!(answer(&app, order(), "").await.0, 409);
    let bad = post("/paid", &token).header("idempotency-key", "\"");
    assert_eq!(answer(&app, bad, "").await.0, 400);

    // Self-serve, sessions and introspection: tokens that are shown once.
    let body = r#"{"name":"child","scopes":["read"]}"#;
    let (status, json) = answer(&app, post("/own/keys", &token), body).await;
    assert_eq!(status, 201, "{json}");
    let child = secrets.add("a minted token", &shown(&json));
    let path = format!("/own/keys/{}/rotate", json["key"]["id"].to_string().trim_matches('"'));
    let (status, json) = answer(&app, post(&path, &child), "{}").await;
    assert_eq!(status, 200, "{json}");
    let child = secrets.add("a rotated token", &shown(&json));
    let signup = Request::post("/own/signup").header(CONTENT_TYPE, "application/json");
    let (status, json) = answer(&app, signup, r#"{"email":"a@example.com"}"#).await;
    assert_eq!(status, 201, "{json}");
    secrets.add("a token of a sign-up", &shown(&json));
    let (status, json) = answer(&app, post("/own/sessions", &token), r#"{"ttl_seconds":60}"#).await;
    assert_eq!(status, 201, "{json}");
    let session = secrets.add("a session's token", &shown(&json));
    for path in ["/free", "/paid", "/dear", "/scoped", "/own/me"] {
        drop(answer(&app, bearer(path, &session), "").await);
    }
    let opened = keys.open_session(id, NewSession::new()).await.unwrap();
    show(&opened);
    let ended = secrets.add("the token of a session that ended", opened.token.expose());
    keys.revoke(opened.key.id, None).await.unwrap();
    assert_eq!(answer(&app, bearer("/free", &ended), "").await.0, 401);
    let bent = secrets.add("a session's token that is bent", &format!("{session}A"));
    assert_eq!(answer(&app, bearer("/free", &bent), "").await.0, 401);
    for token in [&token, &child, &session, &unknown, &forged] {
        let form = Request::post("/own/introspect")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .extension(ResourceServer);
        drop(answer(&app, form, &format!("token={token}")).await);
    }
    for body in ["{", "[]", r#"{"scopes":["admin"]}"#, r#"{"nonsense":1}"#] {
        assert!(answer(&app, post("/own/keys", &token), body).await.0.is_client_error());
    }

    // Keys that are not in force.
    for state in ["revoked", "disabled", "expired", "rotated"] {
        let of = if state == "expired" { new().expires_in("1h".parse().unwrap()) } else { new() };
        let key = keys.create(of).await.unwrap();
        let text = secrets.add("the token of a key that is not in force", key.token.expose());
        match state {
            "revoked" => drop(keys.revoke(key.key.id, Some("it leaked")).await.unwrap()),
            "disabled" => drop(keys.disable(key.key.id).await.unwrap()),
            "rotated" => {
                let rotated = keys.rotate(key.key.id, Grace::NONE).await.unwrap();
                show(&rotated);
                secrets.add("a rotated token", rotated.token.expose());
            }
            _ => match clock {
                Some(clock) => clock.advance(Duration::from_secs(2 * 60 * 60)),
                None => continue,
            },
        }
        assert_eq!(answer(&app, bearer("/free", &text), "").await.0, 401, "{state}");
        let long = KeyPatch::new().name("n".repeat(256));
        show_error(&keys.update(key.key.id, long).await.unwrap_err());
    }

    // A store that fails in every way.
    for fault in [Fault::Down, Fault::Broken, Fault::Panic] {
        for faults in [Faults::finds(fault), Faults::posts(fault)] {
            world.spy.set(faults);
            for path in ["/free", "/paid", "/own/keys/me"] {
                drop(answer(&app, bearer(path, &token), "").await);
            }
            if let Err(error) = keys.find(&created.token).await {
                show_error(&error);
            }
        }
    }
    world.spy.mend();
    assert_eq!(answer(&app, bearer("/free", &token), "").await.0, 200);
    keys.shutdown().await;
    drop(answer(&app, bearer("/paid", &token), "").await);
    secrets
}

/// Searches everything that was put out, after a look that it was captured at all.
fn search(secrets: &Secrets, wanted: &[&str]) {
    put_out(&METRICS.get().unwrap().render());
    let output = String::from_utf8_lossy(&OUTPUT.lock().unwrap()).into_owned();
    for part in wanted {
        assert!(output.contains(part), "{part} was not captured");
    }
    secrets.are_not_in("the output", &output);
}

const EVERYWHERE: [&str; 7] = [
    "agentkey refused a request",
    "agentkey.request{",
    "h2::",
    "a handler logs its headers",
    "the handler panics with",
    "SECRET: the store panics",
    "agentkey_requests_total{decision=\"invalid_key\"}",
];

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn no_output_has_a_token_in_it() {
    capture();
    let dir = tempfile::tempdir().unwrap();
    let clock = support::clock();
    let options = agentkey::store::SqliteOptions::new(dir.path().join("keys.db")).clock(&clock);
    let store = agentkey::SqliteStore::open(options).await.unwrap();
    let secrets = use_it(Box::new(store), Some(&clock)).await;
    search(&secrets, &EVERYWHERE);
    let mut files = 0;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        secrets.are_not_in(&path.display().to_string(), &String::from_utf8_lossy(&bytes));
        files += usize::from(bytes.windows(7).any(|bytes| bytes == b"created"));
    }
    assert!(files > 0, "the files have the events in them");
}

#[cfg(feature = "postgres")]
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn no_output_has_a_token_in_it_on_postgresql() {
    use sqlx::{AssertSqlSafe, Connection, PgConnection};

    capture();
    let Some(server) = postgres::Server::shared() else { return };
    let database = server.database().await;
    let store = agentkey::PostgresStore::connect(database.url()).await.unwrap();
    let secrets = use_it(Box::new(store), None).await;
    search(&secrets, &[&EVERYWHERE[..], &["sqlx"]].concat());
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    let tables = "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables \
                  WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut connection).await.unwrap();
    let mut text = String::new();
    for table in &tables {
        let rows = AssertSqlSafe(format!("SELECT row_to_json(t)::text FROM {table} t"));
        let rows: Vec<String> = sqlx::query_scalar(rows).fetch_all(&mut connection).await.unwrap();
        text.extend(rows.iter().map(|row| format!("{table}: {row}\n")));
    }
    assert!(text.contains("agentkey_events: {"), "{tables:?}");
    secrets.are_not_in("the database", &text);
    secrets.are_not_in("the log of the server", &server.log());
}
