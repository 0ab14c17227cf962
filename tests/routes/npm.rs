//! The rows of the table in `docs/self-serve.md`: the requests of the npm package, and our answers.

use std::time::Duration;

use agentkey::{Amount, Budget, NewKey, ScopeSet};
use http::Method;
use serde_json::json;

use super::support::{App, Caller, acme, scopes, signup};

#[tokio::test]
async fn sign_ups() {
    let app =
        App::with(|serve| serve.signup(signup().limits(100, 100, Duration::from_secs(60)))).await;
    let limit =
        |cents: &str| format!(r#""budgets": [{{"limit_cents": {cents}, "period": "day"}}]"#);
    for (members, status) in [
        ("", 201),
        (r#""scopes": ["admin"]"#, 400),
        (r#""scopes": "read""#, 400),
        (r#""scopes": null"#, 400),
        (&limit("51"), 400),
        (&limit("-1"), 400),
        (&limit("\"10\""), 400),
        (&limit("1e30"), 400),
        (&limit("0"), 201),
        (r#""budgets": [{"limit_cents": 1, "period": "year"}]"#, 400),
        (r#""budgets": [{"limit_cents": 1}]"#, 400),
        (r#""expires_in": "soon""#, 400),
        (r#""expires_in": 24"#, 400),
        (r#""expires_in": """#, 400),
        (r#""expires_in": "9999mo""#, 400),
        (r#""expires_in": "0h""#, 400),
        (r#""budget_cents": 5"#, 400),
    ] {
        let comma = if members.is_empty() { "" } else { ", " };
        let body = format!(r#"{{"email": "a@example.com"{comma}{members}}}"#);
        let seen = app.call(None, Method::POST, "/signup", &body).await;
        assert_eq!(seen.status.as_u16(), status, "{members}: {seen:?}");
    }
    for body in ["", "{}", r#"{"email": "a@"}"#] {
        assert_eq!(app.call(None, Method::POST, "/signup", body).await.status, 400, "{body}");
    }
    let mut callers = Vec::new();
    for _ in 0..2 {
        let body = r#"{"email": "b@example.com"}"#;
        callers.push(app.call(None, Method::POST, "/signup", body).await.created());
    }
    assert_eq!(app.delete(&callers[0], callers[1].id, "").await.status, 404);
}

#[tokio::test]
async fn looking_at_oneself() {
    let app = App::new().await;
    assert_eq!(app.call(None, Method::GET, "/keys/me", "").await.status, 401);
    let agent = app.agent().await;
    app.spend(&agent, 60).await;
    assert_eq!(app.get(&agent, "/keys/me").await.is(200)["remaining_cents"], 0);
}

#[tokio::test]
async fn children() {
    let app = App::new().await;
    let new = NewKey::new(acme()).scopes(scopes(&["read"])).expires_in("1h".parse().unwrap());
    let agent = app.create(new.budget(Budget::monthly(Amount::cents(100)))).await;
    for (body, status) in [
        ("{}", 201),
        (r#"{"scopes": ["read", "admin"]}"#, 403),
        (r#"{"scopes": "admin"}"#, 400),
        (r#"{"scopes": null}"#, 403),
        (r#"{"budgets": [{"limit_cents": 100, "period": "month"}]}"#, 201),
        (r#"{"budgets": [{"limit_cents": 100, "period": "day"}]}"#, 201),
        (r#"{"budgets": [{"limit_cents": 101, "period": "month"}]}"#, 403),
        (r#"{"budgets": [{"limit_cents": 101, "period": "day"}]}"#, 403),
        (r#"{"expires_in": "2h"}"#, 403),
        (r#"{"expires_in": "soon"}"#, 400),
        (r#"{"delegated_by": "user_9"}"#, 400),
    ] {
        assert_eq!(app.post(&agent, "/keys", body).await.status.as_u16(), status, "{body}");
    }
    // A child without a budget has the room of its lineage, and counts on it.
    let child = app.post(&agent, "/keys", "").await.created();
    app.spend(&child, 90).await;
    assert_eq!(app.get(&agent, "/keys/me").await.is(200)["remaining_cents"], 10);
    app.keys.revoke(agent.id, None).await.unwrap();
    assert_eq!(app.get(&child, "/keys/me").await.refused(), (401, "revoked_key".into()));

    let admin = app.create(NewKey::new(acme()).scopes(scopes(&["admin"]))).await;
    assert_eq!(app.post(&admin, "/keys", "").await.is(201)["key"]["scopes"], json!(["admin"]));
}

#[tokio::test]
async fn revocations() {
    let app = App::new().await;
    let agent = app.agent().await;
    let (child, sibling) = (app.child_of(&agent).await, app.child_of(&agent).await);
    let new = NewKey::new("globex".parse().unwrap()).scopes(ScopeSet::none());
    let stranger = app.create(new).await;
    let delete = |caller: &Caller, id: String| {
        let token = caller.token.expose().to_owned();
        let app = &app;
        async move {
            let token = agentkey::Token::parse(&token).unwrap();
            let path = format!("/keys/{id}");
            app.call(Some(&token), Method::DELETE, &path, "").await.status.as_u16()
        }
    };
    let of_child = format!("{}abc", child.id);
    for id in [&stranger.id.to_string(), "987654", "x", &of_child, "99999999999"] {
        assert_eq!(delete(&agent, id.to_owned()).await, 404, "{id}");
    }
    for id in [agent.id, sibling.id] {
        assert_eq!(delete(&child, id.to_string()).await, 404, "{id}");
    }
    assert_eq!(delete(&agent, child.id.to_string()).await, 200);
    assert_eq!(delete(&agent, child.id.to_string()).await, 200);
    assert_eq!(delete(&agent, agent.id.to_string()).await, 200);
}
