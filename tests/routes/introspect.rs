//! Introspection, and the metadata of the resource.

use std::time::Duration;

use agentkey::model::{Cidrs, Grace};
use agentkey::routes::{ProtectedResource, ResourceServer};
use agentkey::{Amount, Budget, NewKey};
use axum::Router;
use axum::body::Body;
use http::header::CONTENT_TYPE;
use http::{Method, Request};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::support::{App, Seen, acme, request, scopes};

async fn ask(app: &App, form: &str) -> Seen {
    let form = Request::post("/introspect")
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .extension(ResourceServer)
        .body(Body::from(form.to_owned()));
    app.send(form.unwrap()).await
}

async fn introspect(app: &App, token: &str) -> Value {
    let seen = ask(app, &format!("token={token}&token_type_hint=access_token")).await;
    assert_eq!(seen.headers["cache-control"], "no-store");
    seen.is(200)
}

#[tokio::test]
async fn a_token_in_force_is_shown_and_another_is_inactive_and_nothing_more() {
    let app = App::with(|serve| serve.introspect()).await;
    let new = NewKey::new(acme())
        .scopes(scopes(&["write.*", "read"]))
        .budget(Budget::lifetime(Amount::cents(100)))
        .expires_in("1h".parse().unwrap());
    let key = app.create(new).await;
    app.spend(&key, 30).await;
    let shown = introspect(&app, key.token.expose()).await;
    assert_eq!(
        shown,
        json!({
            "active": true, "scope": "read write.*", "client_id": key.id.to_string(),
            "sub": "acme", "token_type": "Bearer", "exp": 1_769_864_400, "iat": 1_769_860_800,
            "account": "acme", "remaining_cents": 70,
            "budgets": [{
                "scope": "key", "period": "lifetime", "limit_cents": 100, "spent_cents": 30,
                "held_cents": 0, "remaining_cents": 70, "resets_at": null,
            }],
        })
    );
    let agent = app.agent().await;
    let shown = introspect(&app, agent.token.expose()).await;
    assert_eq!((&shown["sub"], &shown["exp"]), (&json!("user_7"), &Value::Null));
    // A token in its grace ends with it.
    app.keys.rotate(agent.id, Grace::lasting(Duration::from_secs(60))).await.unwrap();
    assert_eq!(introspect(&app, agent.token.expose()).await["exp"], 1_769_860_860);

    let inactive = json!({"active": false});
    for token in ["nonsense", "", "%F0%9F%92%A9", "eyJ.e.s", &"x".repeat(3_000)] {
        assert_eq!(introspect(&app, token).await, inactive, "{token}");
    }
    app.keys.disable(key.id).await.unwrap();
    assert_eq!(introspect(&app, key.token.expose()).await, inactive);
    // Nobody says from where the token came.
    let office = Cidrs::parse(["192.0.2.0/24"]).unwrap();
    let bound = app.create(NewKey::new(acme()).allowed_cidrs(office)).await;
    let child = app.create(NewKey::child_of(bound.id)).await;
    for token in [&bound.token, &child.token] {
        assert_eq!(introspect(&app, token.expose()).await, inactive);
    }
    app.keys.enable(key.id).await.unwrap();
    app.clock.set("2026-01-31T13:00:00Z".parse().unwrap());
    assert_eq!(introspect(&app, key.token.expose()).await, inactive);
    app.keys.revoke(agent.id, None).await.unwrap();
    assert_eq!(introspect(&app, agent.token.expose()).await, inactive);
}

#[cfg(feature = "sessions")]
#[tokio::test]
async fn a_session_is_introspected_as_a_key() {
    use agentkey::session::NewSession;

    let app = App::with(|serve| serve.introspect()).await;
    let agent = app.agent().await;
    let session = app.keys.open_session(agent.id, NewSession::new()).await.unwrap();
    let shown = introspect(&app, session.token.expose()).await;
    assert_eq!((&shown["active"], &shown["exp"]), (&json!(true), &json!(1_769_864_400)));
    assert_eq!(shown["client_id"], session.key.id.to_string());
    let forged = format!("{}A", &session.token.expose()[..session.token.expose().len() - 2]);
    assert_eq!(introspect(&app, &forged).await, json!({"active": false}));
    app.clock.set("2026-01-31T13:00:00Z".parse().unwrap());
    assert_eq!(introspect(&app, session.token.expose()).await, json!({"active": false}));
}

#[tokio::test]
async fn only_a_server_that_the_application_knows_may_ask() {
    let app = App::with(|serve| serve.introspect()).await;
    let agent = app.agent().await;
    for token in [None, Some(&agent.token)] {
        let seen = app.call(token, Method::POST, "/introspect", "").await;
        assert_eq!(seen.refused(), (401, "missing_key".into()));
    }
    let without = App::new().await;
    assert_eq!(without.call(None, Method::POST, "/introspect", "").await.status, 404);
}

#[tokio::test]
async fn a_request_that_is_no_form_with_one_token_is_refused() {
    let app = App::with(|serve| serve.introspect()).await;
    for form in ["", "token_type_hint=x", "token=a&token=b"] {
        let seen = ask(&app, form).await;
        assert_eq!((seen.refused().0, seen.fields()), (400, vec!["token".to_owned()]), "{form}");
    }
    let large = ask(&app, &format!("token={}", "x".repeat(70_000))).await;
    assert_eq!(large.refused(), (413, "body_too_large".into()));
    let mut json = request(None, Method::POST, "/introspect", r#"{"token": "x"}"#);
    json.extensions_mut().insert(ResourceServer);
    assert_eq!(app.send(json).await.refused(), (415, "unsupported_media_type".into()));
    let get = app.call(None, Method::GET, "/introspect", "").await;
    assert_eq!(get.refused(), (405, "method_not_allowed".into()));
}

#[tokio::test]
async fn a_resource_says_where_it_is_and_what_it_takes() {
    let get = async |router: Router, path: &str| {
        let response = router.oneshot(request(None, Method::GET, path, "")).await.unwrap();
        let status = response.status();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        (status.as_u16(), serde_json::from_slice::<Value>(&body).unwrap_or_default())
    };
    let well_known = "/.well-known/oauth-protected-resource";
    let resource = ProtectedResource::new("https://api.example.com/mcp").unwrap();
    assert_eq!(resource.metadata_url(), format!("https://api.example.com{well_known}/mcp"));
    let resource = resource
        .scopes(["read".parse().unwrap()])
        .authorization_server("https://login.example.com")
        .name("Example")
        .documentation("https://docs.example.com");
    let (status, metadata) = get(resource.into_router(), &format!("{well_known}/mcp")).await;
    assert_eq!(status, 200);
    assert_eq!(
        metadata,
        json!({
            "resource": "https://api.example.com/mcp",
            "authorization_servers": ["https://login.example.com"],
            "scopes_supported": ["read"],
            "bearer_methods_supported": ["header"],
            "resource_name": "Example",
            "resource_documentation": "https://docs.example.com",
        })
    );
    let root = ProtectedResource::new("http://localhost:8080/").unwrap();
    assert_eq!(root.metadata_url(), format!("http://localhost:8080{well_known}"));
    let (status, metadata) = get(root.into_router(), well_known).await;
    assert_eq!((status, &metadata["resource"]), (200, &json!("http://localhost:8080/")));
    for bad in [
        "",
        "api.example.com",
        "/mcp",
        "ftp://x/",
        "https://x/?q",
        "https://x/#f",
        "https://u@x/",
        "https://x/{id}",
    ] {
        assert!(ProtectedResource::new(bad).is_err(), "{bad}");
    }
}
