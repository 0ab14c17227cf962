//! Every refusal as the client gets it: status, headers and the exact document.

use std::time::Duration;

use agentkey::model::{ManualClock, ScopeError};
use agentkey::{
    AgentKeyLayer, Amount, Budget, Charge, KeyContext, KeyPatch, NewKey, Refusal, Rejection,
    Replayable, RequireBudget, RequireScope, ScopeSet, Token,
};
use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use http::{Method, Request, StatusCode};
use tower::ServiceExt;

use super::support::{
    Client, Fault, Faults, Ledger, Seen, Version, World, acme, capture_logs, clock, dollar, logged,
    serve,
};

fn scopes<const N: usize>(scopes: [&str; N]) -> ScopeSet {
    ScopeSet::parse(scopes).unwrap()
}

pub(super) fn ask(path: &str) -> http::request::Builder {
    Request::get(path)
}

pub(super) fn ask_with(path: &str, token: &Token) -> http::request::Builder {
    ask(path).header("authorization", format!("Bearer {}", token.expose()))
}

pub(super) async fn answer(app: &Router, request: http::request::Builder) -> Seen {
    let request = request.body(Body::empty()).unwrap();
    Seen::read(app.clone().oneshot(request).await.unwrap()).await
}

pub(super) type Answer = Result<&'static str, Rejection>;

/// Holds 10 cents and spends them, or does what the query says.
pub(super) async fn paid(charge: Charge, request: axum::extract::Request) -> Answer {
    match request.uri().query() {
        Some("label") => charge.label("", "x")?,
        Some("negative") => charge.hold(Amount::cents(-1)).await?,
        Some("refund") => {
            let receipt = charge.pay(Amount::cents(5)).await?;
            charge.refund(&receipt, Amount::cents(2)).await?;
            charge.refund(&receipt, Amount::cents(4)).await.map(drop)?;
        }
        _ => {
            charge.hold(Amount::cents(10)).await?;
            charge.add(Amount::cents(10));
        }
    }
    Ok("paid")
}

pub(super) fn app(layer: &AgentKeyLayer) -> Router {
    Router::new()
        .route("/free", get(async |_: KeyContext| "free"))
        .route(
            "/open",
            get(async |key: Option<KeyContext>| if key.is_some() { "keyed" } else { "anonymous" }),
        )
        .route("/scoped", get(async || "scoped").layer(RequireScope::one("docs.write").unwrap()))
        .route("/any", get(async || "any").layer(RequireScope::any(["a.b", "docs.write"]).unwrap()))
        .route(
            "/all",
            get(async || "all").layer(RequireScope::all(["read", "docs.write"]).unwrap()),
        )
        .route(
            "/mixed",
            get(async || "mixed")
                .layer(RequireScope::one("docs.write").unwrap().or_anonymous(true)),
        )
        .route("/paid", get(paid).post(paid))
        .route("/other", post(paid))
        .route("/budget", get(async || "in budget").layer(RequireBudget::hold(Amount::cents(30))))
        .layer(layer.clone())
}

/// A refused request, and all that its client gets.
pub(super) struct Row {
    request: http::request::Builder,
    status: u16,
    document: String,
    challenge: Option<&'static str>,
    retry_after: Option<&'static str>,
    should_retry: Option<&'static str>,
    code: &'static str,
}

pub(super) fn row(
    request: http::request::Builder,
    status: u16,
    code: &'static str,
    document: &str,
) -> Row {
    let title = StatusCode::from_u16(status).unwrap().canonical_reason().unwrap();
    let document =
        format!(r#"{{"title":"{title}","status":{status},"error":"{code}","detail":{document}}}"#);
    Row { request, status, document, challenge: None, retry_after: None, should_retry: None, code }
}

impl Row {
    fn challenge(mut self, challenge: &'static str) -> Self {
        self.challenge = Some(challenge);
        self
    }

    pub(super) fn retry_after(mut self, seconds: &'static str) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    fn no_retry(mut self) -> Self {
        self.should_retry = Some("false");
        self
    }

    pub(super) fn check(&self, seen: &Seen) {
        assert_eq!(seen.data, self.document);
        assert_eq!(seen.status.as_u16(), self.status, "{}", self.document);
        assert_eq!(
            seen.header("content-type"),
            Some("application/problem+json"),
            "{}",
            self.document
        );
        assert_eq!(seen.header("cache-control"), Some("no-store"), "{}", self.document);
        assert_eq!(seen.header("www-authenticate"), self.challenge, "{}", self.document);
        assert_eq!(seen.header("retry-after"), self.retry_after, "{}", self.document);
        assert_eq!(seen.header("x-should-retry"), self.should_retry, "{}", self.document);
    }
}

const INVALID: &str =
    r#"Bearer error="invalid_token", error_description="the API key is not valid""#;
const NO_SCHEME: &str = r#"Bearer error="invalid_token", error_description="the Authorization header has no scheme; send Bearer, a space and the API key""#;
const REVOKED: &str =
    r#"Bearer error="invalid_token", error_description="the API key was revoked""#;
const EXPIRED: &str =
    r#"Bearer error="invalid_token", error_description="the API key has expired""#;
const DISABLED: &str =
    r#"Bearer error="invalid_token", error_description="the API key is disabled""#;

/// Every row of the contract that needs no outage and no second request in flight, in a world made for it.
async fn rows(world: &World, clock: &ManualClock) -> Vec<Row> {
    let unknown = agentkey::Token::generate(&"ak".parse().unwrap()).unwrap();
    let reader = world
        .create(NewKey::new(acme()).scopes(scopes(["read", "docs.read"])).budget(dollar()))
        .await;
    let revoked = world.key().await;
    let orphan = world.create(NewKey::child_of(revoked.0)).await;
    world.keys.revoke(revoked.0, None).await.unwrap();
    let expired = world.key().await;
    let late = world.create(NewKey::child_of(expired.0)).await;
    world.keys.update(expired.0, KeyPatch::new().expires_in("1h".parse().unwrap())).await.unwrap();
    let disabled = world.key().await;
    let under = world.create(NewKey::child_of(disabled.0)).await;
    world.keys.disable(disabled.0).await.unwrap();
    clock.advance(Duration::from_secs(3_600));
    let both = ask_with("/free", &reader.1).header("x-api-key", unknown.expose());
    let scoped = r#""the API key lacks the scope for this route","required_scope":"docs.write","key_scopes":["docs.read","read"]"#;
    let any = scoped.replace("docs.write", "a.b docs.write");
    let all = scoped.replace("docs.write", "read docs.write");

    let once = world.create(NewKey::new(acme()).budget(Budget::lifetime(Amount::cents(5)))).await;
    let daily = world.create(NewKey::new(acme()).budget(Budget::daily(Amount::cents(5)))).await;
    let fits_never =
        world.create(NewKey::new(acme()).budget(Budget::daily(Amount::cents(25)))).await;
    let nothing = world.create(NewKey::new(acme()).budget(Budget::lifetime(Amount::ZERO))).await;
    let budget = r#""the budget does not cover this request""#;
    let figures = |limit: &str, remaining: &str, required: &str, period: &str, resets: &str| {
        format!(
            r#"{budget},"limit_cents":{limit},"spent_cents":0,"held_cents":0,"remaining_cents":{remaining},"required_cents":{required},"period":"{period}","resets_at":{resets},"blocked_by":"key""#
        )
    };
    vec![
        row(ask("/free"), 401, "missing_key", r#""this route needs an API key""#)
            .challenge("Bearer"),
        row(ask_with("/free", &unknown), 401, "invalid_key", r#""the API key is not valid""#)
            .challenge(INVALID),
        row(
            ask("/free").header("x-api-key", "noise"),
            401,
            "invalid_key",
            r#""the API key is not valid""#,
        )
        .challenge(INVALID),
        row(ask_with("/free", &revoked.1), 401, "revoked_key", r#""the API key was revoked""#)
            .challenge(REVOKED),
        row(ask_with("/free", &orphan.1), 401, "revoked_key", r#""the API key was revoked""#)
            .challenge(REVOKED),
        row(ask_with("/free", &expired.1), 401, "expired_key", r#""the API key has expired""#)
            .challenge(EXPIRED),
        row(ask_with("/free", &late.1), 401, "expired_key", r#""the API key has expired""#)
            .challenge(EXPIRED),
        row(ask_with("/free", &disabled.1), 401, "disabled_key", r#""the API key is disabled""#)
            .challenge(DISABLED),
        row(ask_with("/free", &under.1), 401, "disabled_key", r#""the API key is disabled""#)
            .challenge(DISABLED),
        row(
            both,
            400,
            "ambiguous_credentials",
            r#""the request has two different credentials, in authorization and x-api-key; send one""#,
        ),
        row(
            ask("/free").header("authorization", reader.1.expose()),
            401,
            "invalid_key",
            r#""the Authorization header has no scheme; send Bearer, a space and the API key""#,
        )
        .challenge(NO_SCHEME),
        row(ask_with("/scoped", &reader.1), 403, "insufficient_scope", scoped)
            .challenge(r#"Bearer error="insufficient_scope", scope="docs.write""#),
        row(ask_with("/any", &reader.1), 403, "insufficient_scope", &any)
            .challenge(r#"Bearer error="insufficient_scope", scope="a.b docs.write""#),
        row(ask_with("/all", &reader.1), 403, "insufficient_scope", &all)
            .challenge(r#"Bearer error="insufficient_scope", scope="read docs.write""#),
        row(
            ask_with("/paid", &once.1),
            402,
            "budget_exceeded",
            &figures("5", "5", "10", "lifetime", "null"),
        ),
        row(
            ask_with("/budget", &once.1),
            402,
            "budget_exceeded",
            &figures("5", "5", "30", "lifetime", "null"),
        ),
        // A new day brings 5 cents, which is never enough for 10: waiting does not help.
        row(
            ask_with("/paid", &daily.1),
            402,
            "budget_exceeded",
            &figures("5", "5", "10", "day", "null"),
        ),
        row(
            ask_with("/budget", &fits_never.1),
            402,
            "budget_exceeded",
            &figures("25", "25", "30", "day", "null"),
        ),
        // A key without money is for free routes: it is refused where the handler takes its `Charge`.
        row(
            ask_with("/paid", &nothing.1),
            402,
            "budget_exceeded",
            &figures("0", "0", "0", "lifetime", "null"),
        ),
        row(
            ask_with("/paid?label", &reader.1),
            400,
            "invalid_label",
            r#""a label's name is 1 to 64 characters, none of them a control character""#,
        ),
        row(
            ask_with("/paid?negative", &reader.1),
            400,
            "negative_amount",
            r#""an amount must not be negative""#,
        ),
        row(
            ask_with("/paid?refund", &reader.1),
            409,
            "refund_too_large",
            r#""the refund is more than the entry has left","left_cents":3"#,
        )
        .no_retry(),
    ]
}

#[tokio::test]
async fn the_contract() {
    let clock = clock();
    let world = World::at(&clock).await;
    let app = app(&world.layer());
    for row in rows(&world, &clock).await {
        let request = row.request.try_clone();
        let seen = answer(&app, request).await;
        row.check(&seen);
        // Typed, for the application to count.
        assert_eq!(seen.refusal.as_ref().map(Refusal::code), Some(row.code));
    }
}

trait TryClone {
    fn try_clone(&self) -> Self;
}

impl TryClone for http::request::Builder {
    fn try_clone(&self) -> Self {
        let mut clone =
            Request::builder().method(self.method_ref().unwrap()).uri(self.uri_ref().unwrap());
        *clone.headers_mut().unwrap() = self.headers_ref().unwrap().clone();
        clone
    }
}

/// What goes over the wire is what the service answered.
#[tokio::test]
async fn the_contract_over_sockets() {
    for version in Version::BOTH {
        let clock = clock();
        let world = World::at(&clock).await;
        let (_, token) = world.key().await;
        let client = Client::new(version, serve(app(&world.layer())).await, &token);
        for row in rows(&world, &clock).await {
            let mut request =
                client.request(Method::GET, &row.request.uri_ref().unwrap().to_string());
            request.headers_mut().remove("authorization");
            request.headers_mut().extend(row.request.headers_ref().unwrap().clone());
            row.check(&client.send(request).await);
        }
    }
}

#[tokio::test]
async fn the_status_of_a_budget_refusal_is_the_applications_to_choose() {
    for (status, title) in [(403, "Forbidden"), (429, "Too Many Requests")] {
        let world = World::at(&clock()).await;
        let (_, token) =
            world.create(NewKey::new(acme()).budget(Budget::lifetime(Amount::ZERO))).await;
        let app = app(&world.layer().budget_status(StatusCode::from_u16(status).unwrap()));
        for path in ["/paid", "/budget"] {
            let seen = answer(&app, ask_with(path, &token)).await;
            assert_eq!(seen.refused(), (status, "budget_exceeded".into()));
            assert_eq!(
                (&seen.json()["title"], &seen.json()["status"]),
                (&title.into(), &status.into())
            );
            assert_eq!(seen.header("www-authenticate"), None);
        }
    }
}

#[test]
fn a_scope_layer_that_would_refuse_every_request_is_an_error() {
    for (layer, error) in [
        (RequireScope::any([]), ScopeError::NoScopes),
        (RequireScope::any(["read", "a,b"]), ScopeError::Comma),
        (RequireScope::one("img*"), ScopeError::Wildcard),
        (RequireScope::all(["*.x"]), ScopeError::Wildcard),
    ] {
        assert_eq!(layer.err(), Some(error));
    }
    assert!(RequireScope::all([]).is_ok());
}

/// The SDKs of OpenAI and Anthropic retry a 409 and a 429, unless this header says not to.
#[tokio::test]
async fn clients_are_advised_not_to_retry_what_is_refused_again() {
    let clock = clock();
    let world = World::at(&clock).await;
    let once = world.create(NewKey::new(acme()).budget(Budget::lifetime(Amount::ZERO))).await.1;
    let daily = world.create(NewKey::new(acme()).budget(Budget::daily(Amount::cents(15)))).await.1;
    let too_many = app(&world.layer().budget_status(StatusCode::TOO_MANY_REQUESTS));
    let seen = answer(&too_many, ask_with("/paid", &once)).await;
    assert_eq!((seen.status.as_u16(), seen.header("retry-after")), (429, None));
    assert_eq!(seen.header("x-should-retry"), Some("false"));
    let conflict = app(&world.layer().budget_status(StatusCode::CONFLICT));
    let seen = answer(&conflict, ask_with("/paid", &once)).await;
    assert_eq!((seen.status.as_u16(), seen.header("x-should-retry")), (409, Some("false")));
    // A new window has room, so waiting helps.
    assert_eq!(answer(&too_many, ask_with("/paid", &daily)).await.status, 200);
    let seen = answer(&too_many, ask_with("/paid", &daily)).await;
    assert_eq!((seen.status.as_u16(), seen.header("retry-after")), (429, Some("86400")));
    assert_eq!(seen.header("x-should-retry"), None);
    let seen = answer(&conflict, ask_with("/paid", &daily)).await;
    assert_eq!((seen.status.as_u16(), seen.header("x-should-retry")), (409, None));
    // No client retries a 402.
    let seen = answer(&app(&world.layer()), ask_with("/paid", &once)).await;
    assert_eq!((seen.status.as_u16(), seen.header("x-should-retry")), (402, None));
    // An `in_flight` or `unavailable` passes, and no other 409 does.
    for (refusal, wanted) in [
        (Refusal::InFlight, None),
        (Refusal::Unavailable { retry_after: Duration::from_secs(1) }, None),
        (Refusal::PostingConflict, Some("false")),
        (Refusal::HoldExpired, Some("false")),
        (Refusal::RefundTooLarge { left: Amount::ZERO }, Some("false")),
        (Refusal::NotInForce, Some("false")),
    ] {
        let response = refusal.to_response();
        let value = response.headers().get("x-should-retry").map(|value| value.as_bytes());
        assert_eq!(value, wanted.map(str::as_bytes), "{}", refusal.code());
    }
}

#[tokio::test]
async fn what_is_left_is_in_a_header_where_there_is_a_limit() {
    let world = World::new().await;
    let limited = world.create(NewKey::new(acme()).budget(dollar())).await.1;
    let free = world.create(NewKey::new(acme())).await.1;
    let app = app(&world.layer());
    let remaining = async |app: &Router, path: &str, token: &Token| {
        let seen = answer(app, ask_with(path, token)).await;
        seen.header("agentkey-remaining-cents").map(str::to_owned)
    };
    assert_eq!(remaining(&app, "/free", &limited).await.as_deref(), Some("100"));
    assert_eq!(remaining(&app, "/paid", &limited).await.as_deref(), Some("90"));
    assert_eq!(remaining(&app, "/free", &limited).await.as_deref(), Some("90"));
    assert_eq!(remaining(&app, "/paid", &free).await, None);
    // What the account has left counts, too.
    world.keys.set_account_budget(&acme(), Budget::lifetime(Amount::cents(50))).await.unwrap();
    assert_eq!(remaining(&app, "/free", &free).await.as_deref(), Some("30"));
    assert_eq!(remaining(&app, "/paid", &limited).await.as_deref(), Some("20"));
    let off = super::refusals::app(&world.layer().remaining_header(false));
    assert_eq!(remaining(&off, "/free", &limited).await, None);
    assert_eq!(remaining(&off, "/paid", &limited).await, None);
}

#[tokio::test]
async fn the_realm_is_sent_and_cannot_break_out_of_its_quotes() {
    let world = World::new().await;
    let (_, token) = world.create(NewKey::new(acme())).await;
    let app = app(&world.layer().realm("my \"api\", x=\\\"1\r\n"));
    let challenge =
        async |request| answer(&app, request).await.header("www-authenticate").unwrap().to_owned();
    assert_eq!(challenge(ask("/free")).await, r#"Bearer realm="my api, x=1""#);
    assert_eq!(
        challenge(ask("/free").header("x-api-key", "noise")).await,
        r#"Bearer realm="my api, x=1", error="invalid_token", error_description="the API key is not valid""#
    );
    assert_eq!(
        challenge(ask_with("/scoped", &token)).await,
        r#"Bearer realm="my api, x=1", error="insufficient_scope", scope="docs.write""#
    );
}

#[tokio::test]
async fn a_challenge_says_where_the_metadata_are_and_which_scopes_to_ask_for() {
    let world = World::new().await;
    let (_, token) = world.create(NewKey::new(acme())).await;
    let layer = world.layer().resource_metadata("https://api.test/.well-known/x\", y=\"1\r\n");
    let challenge = async |layer: &agentkey::AgentKeyLayer, request| {
        answer(&app(layer), request).await.header("www-authenticate").unwrap().to_owned()
    };
    let metadata = r#"resource_metadata="https://api.test/.well-known/x,y=1""#;
    assert_eq!(challenge(&layer, ask("/free")).await, format!("Bearer {metadata}"));
    let layer = layer.challenge_scopes(["read".parse().unwrap(), "docs.*".parse().unwrap()]);
    assert_eq!(
        challenge(&layer, ask("/free")).await,
        format!(r#"Bearer scope="read docs.*", {metadata}"#)
    );
    assert_eq!(
        challenge(&layer, ask("/free").header("x-api-key", "noise")).await,
        format!(
            r#"Bearer error="invalid_token", error_description="the API key is not valid", scope="read docs.*", {metadata}"#
        )
    );
    assert_eq!(
        challenge(&layer, ask_with("/scoped", &token)).await,
        format!(r#"Bearer error="insufficient_scope", scope="docs.write", {metadata}"#)
    );
}

#[tokio::test]
async fn an_optional_layer_lets_requests_without_a_credential_through_and_no_others() {
    let world = World::new().await;
    let (id, token) = world.key().await;
    let app = app(&world.layer().optional(true).realm("r"));
    for (path, wanted) in [("/open", "anonymous"), ("/mixed", "mixed")] {
        assert_eq!(answer(&app, ask(path)).await.data, wanted);
    }
    for path in ["/free", "/scoped", "/paid", "/budget"] {
        let seen = answer(&app, ask(path)).await;
        assert_eq!(seen.refused(), (401, "missing_key".into()), "{path}");
        assert_eq!(seen.header("www-authenticate"), Some("Bearer realm=\"r\""), "{path}");
    }
    // A token without its scheme is meant as a credential.
    let seen = answer(&app, ask("/open").header("authorization", token.expose())).await;
    assert_eq!(seen.refused(), (401, "invalid_key".into()));
    for path in ["/open", "/mixed", "/free"] {
        let seen = answer(&app, ask(path).header("x-api-key", "noise")).await;
        assert_eq!(seen.refused(), (401, "invalid_key".into()), "{path}");
    }
    assert_eq!(answer(&app, ask_with("/open", &token)).await.data, "keyed");
    world.keys.revoke(id, None).await.unwrap();
    assert_eq!(
        answer(&app, ask_with("/open", &token)).await.refused(),
        (401, "revoked_key".into())
    );
    // Without `or_anonymous`, and without `optional`, no request gets through without a key.
    let strict = super::refusals::app(&world.layer());
    assert_eq!(answer(&strict, ask("/mixed")).await.refused(), (401, "missing_key".into()));
}

/// A store that is down is the service's fault, whatever the route asks for: it never looks like a bad key.
#[tokio::test]
async fn a_store_that_is_down_is_a_503_and_fails_open_where_that_is_set() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    for fault in [Fault::Down, Fault::Broken, Fault::Panic] {
        world.spy.set(Faults::finds(fault));
        let closed = app(&world.layer());
        for path in ["/free", "/open", "/scoped", "/mixed", "/paid", "/budget"] {
            let seen = answer(&closed, ask_with(path, &token)).await;
            row(ask(path), 503, "unavailable", r#""the key store is not available""#)
                .retry_after("1")
                .check(&seen);
        }
        let open = app(&world.layer().fail_open(true));
        assert_eq!(answer(&open, ask_with("/open", &token)).await.data, "anonymous");
        // A scope is not waived for a key that could not be looked up, also where requests without one get through.
        for path in ["/free", "/scoped", "/mixed", "/paid", "/budget"] {
            let seen = answer(&open, ask_with(path, &token)).await;
            row(ask(path), 503, "unavailable", r#""the key store is not available""#)
                .retry_after("1")
                .check(&seen);
        }
        // Noise is refused all the same.
        assert_eq!(answer(&open, ask("/open").header("x-api-key", "noise")).await.refused().0, 401);
        world.spy.mend();
        assert_eq!(answer(&open, ask_with("/open", &token)).await.data, "keyed");
    }
}

#[tokio::test]
async fn the_application_maps_every_refusal() {
    let world = World::new().await;
    let (_, token) = world.create(NewKey::new(acme()).budget(Budget::lifetime(Amount::ZERO))).await;
    let app = app(&world.layer().on_refusal(|refused, mut response| {
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        let code = refused.refusal.code();
        response.headers_mut().insert("x-code", code.parse().unwrap());
        response.map(|body| [b"mapped: ", &body[..]].concat().into())
    }));
    for (request, code) in [
        (ask("/free"), "missing_key"),
        (ask("/free").header("x-api-key", "noise"), "invalid_key"),
        (ask_with("/scoped", &token), "insufficient_scope"),
        (ask_with("/paid", &token), "budget_exceeded"),
        (ask_with("/budget", &token), "budget_exceeded"),
        (ask_with("/paid", &token).header("idempotency-key", "no good"), "invalid_idempotency_key"),
    ] {
        let seen = answer(&app, request).await;
        assert_eq!((seen.status.as_u16(), seen.header("x-code")), (418, Some(code)));
        assert!(seen.data.starts_with("mapped: {\"title\""), "{}", seen.data);
        assert_eq!(seen.header("content-length"), Some(seen.data.len().to_string().as_str()));
        assert_eq!(seen.refusal.unwrap().code(), code);
    }
    world.spy.set(Faults::finds(Fault::Down));
    assert_eq!(answer(&app, ask_with("/free", &token)).await.header("x-code"), Some("unavailable"));
}

#[tokio::test]
async fn the_application_gets_the_key_and_the_request_of_a_refusal() {
    let clock = clock();
    let world = World::at(&clock).await;
    let (id, token) = world.create(NewKey::new(acme()).budget(dollar())).await;
    let (gone, revoked) = world.key().await;
    world.keys.revoke(gone, None).await.unwrap();
    let (late, expired) = world.create(NewKey::new(acme()).expires_in("1h".parse().unwrap())).await;
    clock.advance(Duration::from_secs(3_600));
    let layer = world.layer().on_refusal(|refused, mut response| {
        let head = refused.parts;
        assert!(head.headers.get("authorization").is_none_or(|token| token.is_sensitive()));
        let key = refused.key.map_or("none".to_owned(), |key| key.to_string());
        let trace = head.headers["x-trace"].to_str().unwrap();
        let seen = format!("{} {} {} {key} {trace}", refused.refusal.code(), head.method, head.uri);
        response.headers_mut().insert("x-seen", seen.parse().unwrap());
        response
    });
    let unknown = Token::generate(&"ak".parse().unwrap()).unwrap();
    let (strict, open) = (app(&layer), app(&layer.optional(true)));
    for (app, token, path, code, key) in [
        (&strict, None, "/free?a=b", "missing_key", None),
        (&strict, Some(&unknown), "/free", "invalid_key", None),
        (&strict, Some(&revoked), "/free", "revoked_key", Some(gone)),
        (&strict, Some(&expired), "/free", "expired_key", Some(late)),
        (&strict, Some(&token), "/scoped", "insufficient_scope", Some(id)),
        (&strict, Some(&token), "/paid?negative", "negative_amount", Some(id)),
        (&open, None, "/scoped", "missing_key", None),
        (&open, None, "/paid", "missing_key", None),
    ] {
        let request =
            token.map_or(ask(path), |token| ask_with(path, token)).header("x-trace", "t7");
        let key = key.map_or("none".to_owned(), |key| key.to_string());
        let seen = answer(app, request).await;
        assert_eq!(seen.header("x-seen"), Some(&*format!("{code} GET {path} {key} t7")));
    }
}

#[tokio::test]
async fn a_forgotten_layer_is_a_500_whose_log_tells_the_mend() {
    capture_logs();
    let app = Router::new()
        .route("/key", get(async |_: KeyContext| ""))
        .route("/option", get(async |_: Option<KeyContext>| ""))
        .route("/charge", get(async |_: Charge| ""))
        .route("/replayable", get(async |_: Replayable| ""))
        .route(
            "/scope",
            get(async || "").layer(RequireScope::one("read").unwrap().or_anonymous(true)),
        )
        .route("/budget", get(async || "").layer(RequireBudget::hold(Amount::cents(1))));
    for (path, who) in [
        ("/key", "KeyContext"),
        ("/option", "Option<KeyContext>"),
        ("/charge", "Charge"),
        ("/replayable", "Replayable"),
        ("/scope", "RequireScope"),
        ("/budget", "RequireBudget"),
    ] {
        let seen = answer(&app, ask(path)).await;
        row(ask(path), 500, "misconfigured", r#""the service is misconfigured""#).check(&seen);
        let found =
            format!(" {who} found no key in the request's extensions. Is `AgentKeyLayer` missing");
        let logged =
            logged(&["ERROR", &found, "add `.layer(AgentKeyLayer::new(&keys))` after the routes"]);
        assert_eq!(logged.len(), 1, "{who}");
    }
}

/// Refusals by the ledger in the course of a request, under an `Idempotency-Key`.
#[tokio::test]
async fn the_contract_of_idempotency() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let app = app(&world.layer());
    let keyed = |request: http::request::Builder| request.header("idempotency-key", "order-1");
    assert_eq!(answer(&app, keyed(ask_with("/paid", &token))).await.data, "paid");
    let entries =
        world.keys.entries(&agentkey::EntryQuery::for_account(acme())).await.unwrap().items;
    let charged =
        format!(r#""the Idempotency-Key was charged already","entry":"{}""#, entries[0].id);
    let seen = answer(&app, keyed(ask_with("/paid", &token))).await;
    row(ask("/paid"), 409, "already_charged", &charged).no_retry().check(&seen);
    for request in [
        ask_with("/paid", &token).method(Method::POST),
        ask_with("/other", &token).method(Method::POST),
    ] {
        let seen = answer(&app, keyed(request)).await;
        row(ask("/paid"), 409, "conflict", r#""the Idempotency-Key was used for another request""#)
            .no_retry()
            .check(&seen);
    }
    let seen = answer(&app, ask_with("/paid", &token).header("idempotency-key", "no good")).await;
    let detail = r#""Idempotency-Key must be sent once, as 1 to 255 visible ASCII characters without quotes and backslashes""#;
    row(ask("/paid"), 400, "invalid_idempotency_key", detail).check(&seen);
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 10)]));
}
