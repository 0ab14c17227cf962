//! What every route makes of a body: its size, its type, its members.

use std::sync::Arc;

use agentkey::KeyQuery;
use agentkey::routes::SignupDecision;
use axum::body::Body;
use http::{Method, Request};
use tokio::sync::Notify;
use tower::ServiceExt;

use super::support::{App, acme, request, signup};

#[tokio::test]
async fn one_answer_names_every_bad_field() {
    let app = App::new().await;
    let agent = app.agent().await;
    let body = r#"{"name": 7, "scopes": ["a b"], "expires_in": "soon", "metadata": [], "parent": 1, "delegated_by": "x",
        "budgets": [{"limit_cents": -1, "period": "year"}, {"period": "day", "limit": 2}, 3]}"#;
    let seen = app.post(&agent, "/keys", body).await;
    assert_eq!(seen.refused(), (400, "invalid_request".into()));
    assert_eq!(
        seen.fields(),
        [
            "name",
            "scopes",
            "budgets[0].limit_cents",
            "budgets[0].period",
            "budgets[1].limit",
            "budgets[1].limit_cents",
            "budgets[2]",
            "expires_in",
            "metadata",
            "parent",
            "delegated_by",
        ]
    );
    assert_eq!(seen.headers["content-type"], "application/problem+json");
}

#[tokio::test]
async fn unknown_members_are_all_named_however_many() {
    let app = App::new().await;
    let agent = app.agent().await;
    let names: Vec<_> = (0..7_000).map(|n| format!("{n:x}")).collect();
    let body = format!(r#"{{"{}": 0}}"#, names.join("\":0,\""));
    let in_body = app.post(&agent, "/keys", &body).await;
    let in_query = app.get(&agent, &format!("/keys?{}", names.join("&"))).await;
    assert_eq!((in_body.fields().len(), in_query.fields().len()), (7_000, 7_000));
}

#[tokio::test]
async fn members_that_are_not_known_or_there_twice_are_refused_everywhere() {
    let app = App::new().await;
    let agent = app.agent().await;
    let child = app.child_of(&agent).await;
    let of_child = |action: &str| format!("/keys/{}{action}", child.id);
    for (method, path) in [
        (Method::POST, "/keys".to_owned()),
        (Method::PATCH, of_child("")),
        (Method::DELETE, of_child("")),
        (Method::POST, of_child("/rotate")),
        (Method::POST, of_child("/disable")),
        (Method::POST, of_child("/enable")),
        (Method::POST, "/signup".to_owned()),
    ] {
        let known = if path == "/signup" { r#""email": "a@example.com", "# } else { "" };
        let body = format!(r#"{{{known}"limit_cents": 5, "x": 1, "x": 1}}"#);
        let seen = app.call(Some(&agent.token), method.clone(), &path, &body).await;
        assert_eq!(seen.status, 400, "{method} {path}");
        assert_eq!(seen.fields(), ["x", "limit_cents"], "{method} {path}");
        for body in ["[]", "null", "\"\"", "{", "{}{}"] {
            let seen = app.call(Some(&agent.token), method.clone(), &path, body).await;
            assert_eq!(seen.refused(), (400, "invalid_request".into()), "{method} {path} {body}");
            assert_eq!(seen.fields(), [""], "{method} {path} {body}");
        }
        let large = format!(r#"{{"name": "{}"}}"#, "x".repeat(64 * 1_024));
        let seen = app.call(Some(&agent.token), method.clone(), &path, &large).await;
        assert_eq!(seen.refused(), (413, "body_too_large".into()), "{method} {path}");
        let mut form = request(Some(&agent.token), method.clone(), &path, "{}");
        form.headers_mut().insert("content-type", "text/plain".parse().unwrap());
        let seen = app.send(form).await;
        assert_eq!(seen.refused(), (415, "unsupported_media_type".into()), "{method} {path}");
    }
    let key = app.get(&agent, &of_child("")).await.is(200);
    assert_eq!((&key["state"], &key["name"]), (&"active".into(), &"child".into()));
}

#[tokio::test]
async fn a_body_may_have_64_kb() {
    let app = App::new().await;
    let agent = app.agent().await;
    let body = format!("{{{}}}", " ".repeat(64 * 1_024 - 2));
    app.post(&agent, "/keys", &body).await.is(201);
    let seen = app.post(&agent, "/keys", &format!(" {body}")).await;
    assert_eq!(seen.status, 413);
}

#[tokio::test]
async fn another_method_is_a_problem_document_too() {
    let app = App::new().await;
    let agent = app.agent().await;
    for (method, path, allow) in [
        (Method::PUT, "/keys/1", "GET,HEAD,PATCH,DELETE"),
        (Method::GET, "/keys/1/rotate", "POST"),
        (Method::DELETE, "/keys/me", "GET,HEAD"),
        (Method::GET, "/signup", "POST"),
    ] {
        let seen = app.call(Some(&agent.token), method, path, "").await;
        assert_eq!(seen.refused(), (405, "method_not_allowed".into()), "{path}");
        assert_eq!(seen.headers["allow"], allow, "{path}");
    }
}

#[tokio::test]
async fn a_change_runs_to_its_end_when_the_client_leaves() {
    let (asked, may_answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let hook = {
        let (asked, may_answer) = (asked.clone(), may_answer.clone());
        move |_| {
            let (asked, may_answer) = (asked.clone(), may_answer.clone());
            async move {
                asked.notify_one();
                may_answer.notified().await;
                SignupDecision::accept()
            }
        }
    };
    let app = App::with(|serve| serve.signup(signup().sponsor(acme()).on_signup(hook))).await;
    let body = r#"{"email": "a@example.com"}"#;
    let request: Request<Body> = request(None, Method::POST, "/signup", body);
    let client = tokio::spawn(app.router.clone().oneshot(request));
    asked.notified().await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    may_answer.notify_one();
    let made = async {
        while app.keys.keys(&KeyQuery::for_account(acme())).await.unwrap().items.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), made).await.expect("it is made");
}

#[tokio::test]
async fn the_hosts_layer_maps_every_refusal() {
    let keys = agentkey::AgentKeys::new(agentkey::MemoryStore::new()).unwrap();
    let layer = agentkey::AgentKeyLayer::new(&keys).on_refusal(|_, mut response| {
        response.headers_mut().insert("x-docs", "/docs".parse().unwrap());
        response
    });
    let serve = agentkey::routes::SelfServe::new(&keys).me().mint().manage().signup(signup());
    let router = serve.layer(layer).into_router().unwrap();
    let key = keys.create(agentkey::NewKey::new(acme())).await.unwrap();
    for (token, method, path, status) in [
        (None, Method::GET, "/keys/me", 401),
        (Some(&key.token), Method::GET, "/keys/987654", 404),
        (Some(&key.token), Method::POST, "/keys/1/disable", 403),
        (None, Method::POST, "/signup", 400),
        (None, Method::GET, "/signup", 405),
        (Some(&key.token), Method::PUT, "/keys", 405),
    ] {
        let seen = router.clone().oneshot(request(token, method, path, "")).await.unwrap();
        assert_eq!(
            (seen.status().as_u16(), seen.headers()["x-docs"].as_bytes()),
            (status, &b"/docs"[..]),
            "{path}"
        );
    }
}
