//! Rate limits and address ranges of keys, as callers set and see them.

use agentkey::http::PeerAddress;
use agentkey::model::{Cidrs, RateLimit};
use agentkey::routes::{Principal, SelfServe};
use agentkey::{AgentKeyLayer, KeyPatch, NewKey};
use http::Method;
use serde_json::json;

use super::support::{App, Caller, Seen, acme, request};

async fn call(app: &App, caller: &Caller, method: Method, path: &str, body: &str) -> Seen {
    let mut request = request(Some(&caller.token), method, path, body);
    request.extensions_mut().insert(PeerAddress("10.0.0.1".parse().unwrap()));
    app.send(request).await
}

fn ten() -> Cidrs {
    Cidrs::parse(["10.0.0.0/8"]).unwrap()
}

#[tokio::test]
async fn a_child_gets_any_rate_and_no_address_beyond_its_parents() {
    let app = App::new().await;
    let new = NewKey::new(acme()).rate_limit(RateLimit::per_minute(60)).allowed_cidrs(ten());
    let parent = app.create(new).await;
    let mint = async |body: &str| call(&app, &parent, Method::POST, "/keys", body).await;
    let silent = mint("{}").await.is(201);
    assert_eq!(silent["key"]["rate_limit"], json!(null));
    assert_eq!(silent["key"]["allowed_cidrs"], json!(null));
    let body = r#"{"rate_limit": {"requests": 900, "window_seconds": 60, "in_flight": 2},
        "allowed_cidrs": ["10.1.0.0/16", "10.2.3.4"]}"#;
    let made = mint(body).await;
    let limit = json!({"requests": 900, "window_seconds": 60, "burst": 900, "in_flight": 2});
    let ranges = json!(["10.1.0.0/16", "10.2.3.4/32"]);
    let key = &made.is(201)["key"];
    assert_eq!((&key["rate_limit"], &key["allowed_cidrs"]), (&limit, &ranges));
    let child = made.created();
    // The child is not where its ranges are, and its parent's other child is.
    assert_eq!(call(&app, &child, Method::GET, "/keys/me", "").await.refused().0, 403);

    let beyond = mint(r#"{"allowed_cidrs": ["10.0.0.0/7"]}"#).await;
    assert_eq!(beyond.refused(), (403, "beyond_caller".into()));
    assert_eq!(beyond.fields(), ["allowed_cidrs"]);
    let wrong = r#"{"allowed_cidrs": ["10.0.0.1/8"], "rate_limit": {"requests": 5}}"#;
    let wrong = mint(wrong).await;
    assert_eq!(wrong.refused(), (400, "invalid_request".into()));
    assert_eq!(wrong.fields(), ["rate_limit", "allowed_cidrs"]);
}

#[tokio::test]
async fn a_parent_narrows_a_child_and_lifts_nothing() {
    let app = App::new().await;
    let parent = app.create(NewKey::new(acme()).allowed_cidrs(ten())).await;
    let limit = RateLimit::per_minute(10).in_flight(3);
    let child = app.create(NewKey::child_of(parent.id).rate_limit(limit)).await;
    let path = format!("/keys/{}", child.id);
    let patch = async |body: &str| call(&app, &parent, Method::PATCH, &path, body).await;
    for body in [
        r#"{"rate_limit": null}"#,
        r#"{"rate_limit": {"requests": 11, "window_seconds": 60, "in_flight": 3}}"#,
        r#"{"rate_limit": {"requests": 10, "window_seconds": 60}}"#,
        r#"{"rate_limit": {"in_flight": 3}}"#,
    ] {
        let seen = patch(body).await;
        assert_eq!(seen.refused(), (403, "beyond_caller".into()), "{body}");
        assert_eq!(seen.fields(), ["rate_limit"]);
    }
    let slower = r#"{"rate_limit": {"requests": 1, "window_seconds": 60, "in_flight": 1},
        "allowed_cidrs": ["10.1.0.0/16"]}"#;
    let seen = patch(slower).await.is(200);
    assert_eq!(
        (&seen["rate_limit"]["burst"], &seen["allowed_cidrs"]),
        (&json!(1), &json!(["10.1.0.0/16"]))
    );
    for body in [r#"{"allowed_cidrs": null}"#, r#"{"allowed_cidrs": ["10.0.0.0/15"]}"#] {
        assert_eq!(patch(body).await.fields(), ["allowed_cidrs"], "{body}");
    }
    assert_eq!(patch(r#"{"name": "a"}"#).await.is(200)["allowed_cidrs"], json!(["10.1.0.0/16"]));
    // The application lifts the key's own, and its parent's ranges still bind.
    let lifted = KeyPatch::new().rate_limit(None).allowed_cidrs(None);
    app.keys.update(child.id, lifted).await.unwrap();
    assert_eq!(call(&app, &child, Method::GET, "/keys/me", "").await.status, 200);
    assert_eq!(app.get(&child, "/keys/me").await.refused(), (403, "address_not_allowed".into()));
}

#[tokio::test]
async fn a_login_gives_a_root_key_no_more_than_the_service_gives() {
    let mut app = App::new().await;
    let layer = AgentKeyLayer::new(&app.keys).rate_limit(RateLimit::per_minute(100));
    let routes = SelfServe::new(&app.keys).layer(layer).me().mint().manage();
    app.router = routes.into_router().unwrap();
    let login = async |method, path: &str, body: &str| {
        let mut request = request(None, method, path, body);
        request.extensions_mut().insert(Principal::account(acme()));
        app.send(request).await
    };
    let faster = r#"{"rate_limit": {"requests": 101, "window_seconds": 60}}"#;
    let slower = r#"{"rate_limit": {"requests": 20, "window_seconds": 60}}"#;
    let seen = login(Method::POST, "/keys", faster).await;
    assert_eq!(
        (seen.refused(), seen.fields()),
        ((403, "beyond_caller".into()), vec!["rate_limit".into()])
    );
    let made = login(Method::POST, "/keys", slower).await.created();
    let path = format!("/keys/{}", made.id);
    assert_eq!(login(Method::PATCH, &path, faster).await.fields(), ["rate_limit"]);
    // Null is the service's default.
    assert_eq!(login(Method::PATCH, &path, r#"{"rate_limit": null}"#).await.status, 200);
    let seen = app.get(&made, "/keys/me").await;
    assert_eq!(seen.headers["ratelimit-policy"], "\"key\";q=100;w=60");
    // A key mints no more requests for itself.
    let child = app.post(&made, "/keys", faster).await.created();
    let seen = app.get(&child, "/keys/me").await;
    assert_eq!(seen.headers["ratelimit-policy"], "\"ancestor\";q=100;w=60");
    assert_eq!(seen.headers["ratelimit"], "\"ancestor\";r=97;t=1");
}

#[cfg(feature = "sessions")]
#[tokio::test]
async fn a_session_has_the_limits_of_its_key() {
    let app = App::new().await;
    let new = NewKey::new(acme()).rate_limit(RateLimit::per_minute(3)).allowed_cidrs(ten());
    let key = app.create(new).await;
    let opened = call(&app, &key, Method::POST, "/sessions", "{}").await.is(201);
    let mut seen = Vec::new();
    for from in ["192.0.2.1", "10.0.0.9", "10.0.0.9", "10.0.0.9"] {
        let mut request = request(None, Method::GET, "/me", "");
        let bearer = format!("Bearer {}", opened["token"].as_str().unwrap());
        request.headers_mut().insert("authorization", bearer.parse().unwrap());
        request.extensions_mut().insert(PeerAddress(from.parse().unwrap()));
        seen.push(app.send(request).await.status.as_u16());
    }
    assert_eq!(seen, [403, 200, 200, 429]);
}
