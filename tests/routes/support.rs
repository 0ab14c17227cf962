//! A service with the routes, and callers of it.

use agentkey::model::ManualClock;
use agentkey::routes::{SelfServe, Signup};
use agentkey::store::SqliteOptions;
use agentkey::{AccountId, AgentKeys, Amount, Budget, KeyId, NewKey, ScopeSet, SqliteStore, Token};
use axum::Router;
use axum::body::Body;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

pub(crate) const NOON: &str = "2026-01-31T12:00:00Z";

/// The routes on a store of their own, with a clock that a test sets.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) keys: AgentKeys,
    pub(crate) clock: ManualClock,
    pub(crate) router: Router,
}

impl App {
    pub(crate) async fn new() -> Self {
        Self::with(|serve| serve).await
    }

    pub(crate) async fn with(set: impl FnOnce(SelfServe) -> SelfServe) -> Self {
        let clock = ManualClock::at(NOON.parse().unwrap());
        let store = SqliteStore::open(SqliteOptions::new(":memory:").clock(&clock)).await.unwrap();
        let builder = AgentKeys::builder();
        #[cfg(feature = "sessions")]
        let builder = builder.sessions(agentkey::session::Sessions::new());
        let keys = builder.build(store).unwrap();
        let serve = SelfServe::new(&keys).me().mint().manage().signup(signup());
        #[cfg(feature = "sessions")]
        let serve = serve.sessions();
        let router = set(serve).into_router().unwrap();
        Self { keys, clock, router }
    }

    pub(crate) async fn create(&self, new: NewKey) -> Caller {
        let created = self.keys.create(new).await.unwrap();
        Caller { id: created.key.id, token: created.token }
    }

    /// A key of acme that may read and write, and spend a dollar a month and 50 cents a day.
    pub(crate) async fn agent(&self) -> Caller {
        self.create(
            NewKey::new(acme())
                .name("agent")
                .scopes(scopes(&["read", "write.*"]))
                .budget(Budget::monthly(Amount::cents(100)).and_daily(Amount::cents(50)))
                .delegated_by("user_7"),
        )
        .await
    }

    pub(crate) async fn child_of(&self, parent: &Caller) -> Caller {
        let new = NewKey::child_of(parent.id).name("child").scopes(scopes(&["read"]));
        self.create(new.budget(Budget::monthly(Amount::cents(10)))).await
    }

    /// Sends a request. Whatever it asks, the OpenAPI document names its answer.
    pub(crate) async fn send(&self, request: Request<Body>) -> Seen {
        let asked = (request.method().clone(), request.uri().path().to_owned());
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let seen = Seen { status: head.status, headers: head.headers, bytes: body.to_vec() };
        #[cfg(all(feature = "openapi", feature = "sessions"))]
        super::openapi::is_documented(&asked.0, &asked.1, &seen);
        #[cfg(not(all(feature = "openapi", feature = "sessions")))]
        drop(asked);
        seen
    }

    pub(crate) async fn call(
        &self,
        caller: Option<&Token>,
        method: Method,
        path: &str,
        body: &str,
    ) -> Seen {
        self.send(request(caller, method, path, body)).await
    }

    pub(crate) async fn get(&self, caller: &Caller, path: &str) -> Seen {
        self.call(Some(&caller.token), Method::GET, path, "").await
    }

    pub(crate) async fn post(&self, caller: &Caller, path: &str, body: &str) -> Seen {
        self.call(Some(&caller.token), Method::POST, path, body).await
    }

    pub(crate) async fn patch(&self, caller: &Caller, key: KeyId, body: &str) -> Seen {
        self.call(Some(&caller.token), Method::PATCH, &format!("/keys/{key}"), body).await
    }

    pub(crate) async fn delete(&self, caller: &Caller, key: KeyId, body: &str) -> Seen {
        self.call(Some(&caller.token), Method::DELETE, &format!("/keys/{key}"), body).await
    }

    /// Spends as a request does.
    pub(crate) async fn spend(&self, caller: &Caller, cents: i32) {
        let key = self.keys.authorize(&caller.token).await.unwrap();
        let charge = self.keys.charge(&key).await.unwrap();
        charge.label("job", "crawl").unwrap();
        charge.add(Amount::cents(cents));
        charge.settle().await.unwrap();
    }
}

/// A key and its token.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) id: KeyId,
    pub(crate) token: Token,
}

/// What a client saw.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Seen {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| panic!("{self:?}"))
    }

    pub(crate) fn is(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.bytes));
        self.json()
    }

    /// The status and the code of a refusal.
    pub(crate) fn refused(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["error"].as_str().unwrap_or_default().to_owned())
    }

    /// The fields that a refusal names.
    pub(crate) fn fields(&self) -> Vec<String> {
        let errors = self.json()["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect()
    }

    /// The key that an answer with a token made.
    pub(crate) fn created(&self) -> Caller {
        let json = self.json();
        assert_eq!(self.headers["cache-control"], "no-store");
        Caller {
            id: KeyId::new(json["key"]["id"].as_i64().unwrap()),
            token: Token::parse(json["token"].as_str().unwrap()).unwrap(),
        }
    }
}

pub(crate) fn request(
    caller: Option<&Token>,
    method: Method,
    path: &str,
    body: &str,
) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = caller {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
    }
    if !body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

pub(crate) fn acme() -> AccountId {
    "acme".parse().unwrap()
}

pub(crate) fn scopes(list: &[&str]) -> ScopeSet {
    ScopeSet::parse(list).unwrap()
}

pub(crate) fn signup() -> Signup {
    Signup::new(Budget::lifetime(Amount::cents(200)).and_daily(Amount::cents(50)))
        .scopes(scopes(&["read", "write.*"]))
}
