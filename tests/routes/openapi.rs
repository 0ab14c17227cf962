//! The OpenAPI document: it is what the code says, and each status of each operation has an answer
//! of the router as its example.
//!
//! Each answer is recorded on a store of its own, at the same instant of the test's clock. What is
//! random is replaced: `token`, `start` and the ids of entries.

use std::time::Duration;

use agentkey::model::{Cidrs, Grace, RateLimit};
use agentkey::routes::{
    Principal, ProtectedResource, ResourceServer, SelfServe, SignupDecision, openapi,
};
use agentkey::session::{NewSession, SessionId};
use agentkey::{Amount, KeyId, KeyPatch, Token};
use axum::Router;
use axum::body::Body;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request};
use serde_json::{Value, json};

use super::support::{App, Caller, Seen, acme, request, scopes, signup};

const COMMITTED: &str = "openapi.json";
const RENEW: &str = "AGENTKEY_RENEW=1 cargo test --all-features --test routes openapi";

/// An operation of the document.
pub(crate) struct Operation {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) described: Value,
}

impl Operation {
    /// Such as `GET /keys/{id}`.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn statuses(&self) -> Vec<u16> {
        let responses = self.described["responses"].as_object().unwrap();
        responses.keys().map(|status| status.parse().unwrap()).collect()
    }
}

pub(crate) fn operations() -> Vec<Operation> {
    let document = serde_json::to_value(openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        item.as_object().unwrap().iter().map(|(method, described)| Operation {
            method: method.to_uppercase().parse().unwrap(),
            path: path.clone(),
            described: described.clone(),
        })
    });
    operations.collect()
}

/// A service with keys in every state that an answer needs.
struct World {
    app: App,
    agent: Caller,
    child: Caller,
    session: (SessionId, Token),
}

impl World {
    async fn new(set: impl FnOnce(SelfServe) -> SelfServe) -> Self {
        let mut app = App::with(|serve| set(serve.introspect())).await;
        let resource = ProtectedResource::new("https://api.example.com").unwrap();
        let resource = resource
            .scopes(["read".parse().unwrap()])
            .authorization_server("https://login.example.com");
        app.router = app.router.merge(resource.into_router());
        let agent = app.agent().await;
        let child = app.child_of(&agent).await;
        let new = NewSession::new().scopes(scopes(&["read"])).spend_cap(Amount::cents(10));
        let opened = app.keys.open_session(agent.id, new).await.unwrap();
        let session = (opened.session_id, opened.token);
        app.spend(&agent, 3).await;
        Self { app, agent, child, session }
    }

    /// Returns a request of the agent for one of its keys, or for its session.
    fn request(&self, operation: &Operation, body: &str) -> Request<Body> {
        self.request_by(&self.agent.token, operation, body)
    }

    fn request_by(&self, token: &Token, operation: &Operation, body: &str) -> Request<Body> {
        let id = match operation.path.starts_with("/sessions") {
            true => self.session.0.to_string(),
            false => self.child.id.to_string(),
        };
        let path = operation.path.replace("{id}", &id);
        request(Some(token), operation.method.clone(), &path, body)
    }

    /// Gets the answer with this status.
    async fn answer(operation: &Operation, status: u16) -> Seen {
        let name = operation.name();
        let mut w = Self::new(|serve| match (name.as_str(), status) {
            ("POST /signup", 403) => serve.signup(
                signup().on_signup(|_| async { SignupDecision::refuse("sign-ups are closed") }),
            ),
            ("POST /signup", 429) => {
                serve.signup(signup().limits(1, 1, Duration::from_secs(3_600)))
            }
            _ => serve,
        })
        .await;
        let is_form = name == "POST /introspect";
        let mut request = match (name.as_str(), status) {
            ("POST /signup", 201 | 403 | 429 | 503) => {
                let body = r#"{"email": "agent@example.com", "scopes": ["read"], "expires_in": "12h"}"#;
                if status == 429 {
                    w.app.send(request(None, Method::POST, "/signup", body)).await.is(201);
                }
                request(None, Method::POST, "/signup", body)
            }
            ("GET /keys/me" | "POST /sessions", 404) => {
                let mut request = w.request(operation, "");
                request.extensions_mut().insert(Principal::account(acme()));
                request
            }
            ("GET /me", 200) => w.request_by(&w.session.1, operation, ""),
            ("GET /me", 404) => w.request(operation, ""),
            ("POST /keys", 201) => w.request(
                operation,
                r#"{"name": "helper", "scopes": ["read"], "expires_in": "1h", "budgets": [{"limit_cents": 5, "period": "day"}]}"#,
            ),
            ("POST /keys", 403) => w.request(
                operation,
                r#"{"scopes": ["read", "admin"], "budgets": [{"limit_cents": 1000, "period": "month"}]}"#,
            ),
            ("POST /sessions", 201) => w.request(
                operation,
                r#"{"scopes": ["read"], "ttl_seconds": 900, "spend_cap_usd": 0.25}"#,
            ),
            ("POST /sessions", 403) => w.request(operation, r#"{"scopes": ["read", "admin"]}"#),
            ("PATCH /keys/{id}", 200) => w.request(operation, r#"{"name": "smaller", "scopes": []}"#),
            ("PATCH /keys/{id}", 403) => w.request(operation, r#"{"scopes": ["read", "write.x"]}"#),
            ("POST /keys/{id}/rotate", 200) => w.request(operation, r#"{"grace_seconds": 60}"#),
            ("POST /keys/{id}/rotate", 403) => {
                w.child.id = w.session.0.key();
                w.request_by(&w.session.1, operation, "")
            }
            ("POST /keys/{id}/disable" | "POST /keys/{id}/enable", 403) => {
                w.child.id = w.agent.id;
                w.request(operation, "")
            }
            ("DELETE /keys/{id}" | "DELETE /sessions/{id}", 200) => {
                w.request(operation, r#"{"reason": "done"}"#)
            }
            (_, 403) if operation.method == Method::GET => {
                // The address of the request is not known.
                let elsewhere = Cidrs::parse(["10.0.0.0/8"]).unwrap();
                let patch = KeyPatch::new().allowed_cidrs(Some(elsewhere));
                w.app.keys.update(w.agent.id, patch).await.unwrap();
                w.request(operation, "")
            }
            (_, 403) => {
                let grace = Grace::lasting(Duration::from_secs(60));
                w.app.keys.rotate(w.agent.id, grace).await.unwrap();
                w.request(operation, "")
            }
            (_, 200) => w.request(operation, ""),
            (_, 400) if operation.described.get("requestBody").is_some() && !is_form => {
                w.request(operation, r#"{"colour": "red", "reason": 7}"#)
            }
            (_, 400) if operation.path == "/keys" || operation.path == "/keys/me/usage" => {
                let mut request = w.request(operation, "");
                *request.uri_mut() = format!("{}?limit=0&colour=red", operation.path).parse().unwrap();
                request
            }
            (_, 400) => {
                let mut request = w.request(operation, "");
                request.headers_mut().insert("x-api-key", w.child.token.expose().parse().unwrap());
                request
            }
            (_, 401) => {
                let mut request = w.request(operation, "");
                request.headers_mut().remove(AUTHORIZATION);
                request
            }
            (_, 404) => {
                w.child.id = KeyId::new(987_654);
                w.session.0 = SessionId::new(w.child.id);
                w.request(operation, "")
            }
            (_, 409) => {
                w.app.keys.revoke(w.child.id, None).await.unwrap();
                w.request(operation, "")
            }
            (_, 413) => w.request(operation, &"x".repeat(64 * 1_024 + 1)),
            (_, 415) => {
                let mut request = w.request(operation, "{}");
                request.headers_mut().insert(CONTENT_TYPE, "text/plain".parse().unwrap());
                request
            }
            (_, 429) => {
                let patch = KeyPatch::new().rate_limit(Some(RateLimit::per_minute(1)));
                w.app.keys.update(w.agent.id, patch).await.unwrap();
                w.app.get(&w.agent, "/keys/me").await.is(200);
                w.request(operation, "")
            }
            (_, 503) => w.request(operation, ""),
            _ => panic!("{name} has the status {status}, and this test no request for it"),
        };
        if is_form {
            request.headers_mut().remove(AUTHORIZATION);
            if status != 401 {
                request.extensions_mut().insert(ResourceServer);
            }
            if status != 415 {
                let form = "application/x-www-form-urlencoded";
                request.headers_mut().insert(CONTENT_TYPE, form.parse().unwrap());
            }
            match status {
                200 | 503 => {
                    *request.body_mut() = format!("token={}", w.agent.token.expose()).into()
                }
                400 => *request.body_mut() = "".into(),
                _ => {}
            }
        }
        if status == 503 {
            w.app.keys.shutdown().await;
        }
        w.app.send(request).await
    }
}

/// Replaces what is random: tokens, what is shown of them, and the ids of entries.
fn normalised(mut answer: Value) -> Value {
    match &mut answer {
        Value::Object(members) => {
            for (name, value) in members {
                *value = match (name.as_str(), &*value) {
                    ("token", Value::String(token)) => {
                        let head: String = token.chars().take(3).collect();
                        json!(format!("{head}…"))
                    }
                    ("start", Value::String(_)) => json!("…"),
                    ("id", Value::String(_)) => json!("00000000-0000-7000-8000-000000000000"),
                    _ => normalised(value.take()),
                };
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = normalised(item.take())),
        _ => {}
    }
    answer
}

#[tokio::test]
async fn the_document_is_what_the_code_says_and_its_examples_are_recorded_answers() {
    let mut document = serde_json::to_value(openapi()).unwrap();
    for operation in operations() {
        for status in operation.statuses() {
            let name = format!("{} {status}", operation.name());
            let seen = World::answer(&operation, status).await;
            assert_eq!(seen.status, status, "{name}: {}", String::from_utf8_lossy(&seen.bytes));
            let method = operation.method.as_str().to_lowercase();
            let response =
                &mut document["paths"][&operation.path][method]["responses"][status.to_string()];
            for header in response["headers"].as_object().unwrap().keys() {
                assert!(seen.headers.contains_key(header), "{name}: {header}");
            }
            let media_type = seen.headers[CONTENT_TYPE].to_str().unwrap();
            let content = &mut response["content"].as_object_mut().unwrap();
            assert!(content.len() == 1 && content.contains_key(media_type), "{name}: {media_type}");
            content[media_type]["example"] = normalised(seen.json());
        }
    }
    if std::env::var_os("AGENTKEY_RENEW").is_some() {
        let text = format!("{}\n", serde_json::to_string_pretty(&document).unwrap());
        std::fs::write(COMMITTED, text).unwrap();
    }
    let committed: Value =
        serde_json::from_str(&std::fs::read_to_string(COMMITTED).unwrap()).unwrap();
    assert!(
        committed == document,
        "{COMMITTED} is not what the code says and answers; renew it:\n  {RENEW}"
    );
}

#[tokio::test]
async fn a_router_serves_the_document_of_what_the_host_switched_on() {
    let app = App::with(SelfServe::openapi).await;
    let nested = App { router: Router::new().nest("/v1", app.router.clone()), ..app.clone() };
    let served = nested.send(request(None, Method::GET, "/v1/openapi.json", "")).await.is(200);
    assert_eq!(served["servers"], json!([{"url": "/v1"}]));
    let paths: Vec<_> = served["paths"].as_object().unwrap().keys().cloned().collect();
    let mut expected: Vec<_> = operations().into_iter().map(|operation| operation.path).collect();
    expected.retain(|path| path != "/introspect" && !path.starts_with("/.well-known"));
    expected.dedup();
    assert_eq!(paths, expected);
    let at_root = app.send(request(None, Method::GET, "/openapi.json", "")).await.is(200);
    assert_eq!(at_root["servers"], json!([{"url": "/"}]));

    let few = SelfServe::new(&app.keys).mint().introspect().openapi().into_router().unwrap();
    let few = App { router: few, ..app };
    let served = few.send(request(None, Method::GET, "/openapi.json", "")).await.is(200);
    let paths = served["paths"].as_object().unwrap();
    assert_eq!(paths.keys().collect::<Vec<_>>(), ["/introspect", "/keys"]);
    assert_eq!(paths["/keys"].as_object().unwrap().keys().collect::<Vec<_>>(), ["post"]);
    few.send(request(None, Method::POST, "/openapi.json", "")).await;
}

#[tokio::test]
async fn every_other_method_on_a_path_is_405() {
    let w = World::new(|serve| serve).await;
    let operations = operations();
    for path in operations.iter().map(|operation| &operation.path) {
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            if operations.iter().any(|it| it.path == *path && it.method == method) {
                continue;
            }
            let path = path.replace("{id}", "1");
            let seen = w.app.call(Some(&w.agent.token), method.clone(), &path, "").await;
            assert_eq!(seen.refused(), (405, "method_not_allowed".into()), "{method} {path}");
            assert!(seen.headers.contains_key("allow"), "{method} {path}");
        }
    }
}

/// Checks that the document names an answer that some test got: its status and its media type.
pub(crate) fn is_documented(method: &Method, path: &str, seen: &Seen) {
    thread_local! {
        static OPERATIONS: Vec<Operation> = operations();
    }
    let matches = |template: &str| {
        let (template, path) = (template.split('/'), path.split('/'));
        template.clone().count() == path.clone().count()
            && template.zip(path).all(|(one, other)| one == "{id}" || one == other)
    };
    OPERATIONS.with(|operations| {
        // `/keys/me` is no id.
        let is_fixed = operations.iter().any(|it| it.path == path);
        let is_path = |template: &str| if is_fixed { template == path } else { matches(template) };
        let operation = operations.iter().find(|it| it.method == *method && is_path(&it.path));
        let Some(operation) = operation else { return };
        let response = &operation.described["responses"][seen.status.as_str()];
        // Without a type it is the application's own, by `on_refusal`.
        let Some(media_type) = seen.headers.get(CONTENT_TYPE) else { return };
        let media_type = media_type.to_str().unwrap();
        assert!(
            response["content"].get(media_type).is_some(),
            "the document has no {} {media_type} for {}",
            seen.status,
            operation.name()
        );
    });
}
