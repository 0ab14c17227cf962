//! Opening, showing and ending sessions, by whom, and within what.

use std::time::Duration;

use agentkey::model::Grace;
use agentkey::routes::{Minting, Principal, SelfServe};
use agentkey::{AgentKeys, Amount, Budget, KeyPatch, MemoryStore, NewKey, Token};
use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

use super::support::{App, Caller, Seen, acme, request, scopes};

async fn open(app: &App, caller: &Caller, body: &str) -> (String, Token, Value) {
    let seen = app.post(caller, "/sessions", body).await;
    let answer = seen.is(201);
    assert_eq!(seen.headers["cache-control"], "no-store");
    let token = Token::parse_session(answer["token"].as_str().unwrap()).unwrap();
    (answer["session_id"].as_str().unwrap().to_owned(), token, answer)
}

async fn call(app: &App, token: &Token, method: Method, path: &str, body: &str) -> Seen {
    app.call(Some(token), method, path, body).await
}

async fn me(app: &App, token: &Token) -> Seen {
    call(app, token, Method::GET, "/me", "").await
}

#[tokio::test]
async fn a_key_opens_a_session_that_sees_itself_and_ends() {
    let app = App::new().await;
    let agent = app.agent().await;
    let body = r#"{"scopes": ["read"], "ttl_seconds": 3600, "spend_cap_usd": 0.25}"#;
    let (id, token, mut answer) = open(&app, &agent, body).await;
    answer["token"] = json!("eyJ…");
    assert_eq!(
        answer,
        json!({
            "session_id": id, "token": "eyJ…", "expires_at": "2026-01-31T13:00:00Z",
            "scopes": ["read"], "spend_cap_usd": 0.25, "spend_cap_cents": 25,
        })
    );
    app.spend(&Caller { id: agent.id, token: Token::parse_session(token.expose()).unwrap() }, 10)
        .await;
    assert_eq!(
        me(&app, &token).await.is(200),
        json!({
            "session_id": id, "state": "active", "scopes": ["read"],
            "expires_at": "2026-01-31T13:00:00Z", "spend_cap_usd": 0.25, "spend_cap_cents": 25,
            "budgets": [{
                "scope": "key", "period": "lifetime", "limit_cents": 25, "spent_cents": 10,
                "held_cents": 0, "remaining_cents": 15, "resets_at": null,
            }],
            "remaining_cents": 15, "delegated_by": "user_7", "revoked_at": null,
            "revoked_reason": null,
        })
    );
    // The routes of keys know it as a child.
    assert_eq!(call(&app, &token, Method::GET, "/keys/me", "").await.is(200)["prefix"], "session:");
    // It ends itself.
    let path = format!("/sessions/{id}");
    let ended = call(&app, &token, Method::DELETE, &path, r#"{"reason": "done"}"#).await.is(200);
    assert_eq!((&ended["state"], &ended["revoked_reason"]), (&json!("revoked"), &json!("done")));
    assert_eq!(me(&app, &token).await.refused(), (401, "revoked_key".into()));
    // Its parent ends another one.
    let (id, token, _) = open(&app, &agent, "").await;
    app.call(Some(&agent.token), Method::DELETE, &format!("/sessions/{id}"), "").await.is(200);
    assert_eq!(me(&app, &token).await.refused(), (401, "revoked_key".into()));
}

#[tokio::test]
async fn what_is_left_out_is_the_parents_and_the_end_is_never_later() {
    let app = App::with(|serve| serve.max_lifetime("2h".parse().unwrap())).await;
    let agent = app.agent().await;
    let (_, token, answer) = open(&app, &agent, "").await;
    assert_eq!(answer["scopes"], json!(["read", "write.*"]));
    assert_eq!(answer["expires_at"], "2026-01-31T13:00:00Z");
    assert_eq!(
        (&answer["spend_cap_usd"], &answer["spend_cap_cents"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(me(&app, &token).await.json()["remaining_cents"], 50);
    let (_, _, answer) = open(&app, &agent, r#"{"ttl_seconds": 86400}"#).await;
    assert_eq!(answer["expires_at"], "2026-01-31T14:00:00Z");
    app.keys.update(agent.id, KeyPatch::new().expires_in("5m".parse().unwrap())).await.unwrap();
    let (_, token, answer) = open(&app, &agent, r#"{"ttl_seconds": 86400}"#).await;
    assert_eq!(answer["expires_at"], "2026-01-31T12:05:00Z");
    app.clock.set("2026-01-31T12:04:59.999999Z".parse().unwrap());
    me(&app, &token).await.is(200);
    app.clock.set("2026-01-31T12:05:00Z".parse().unwrap());
    assert_eq!(me(&app, &token).await.refused(), (401, "expired_key".into()));
}

#[tokio::test]
async fn what_is_beyond_the_caller_is_403_and_what_makes_no_sense_is_400() {
    let app = App::new().await;
    let new = NewKey::new(acme()).scopes(scopes(&["read"]));
    let agent = app.create(new.budget(Budget::lifetime(Amount::cents(100)))).await;
    let answer = async |body: &str| {
        let seen = app.post(&agent, "/sessions", body).await;
        let (status, code) = seen.refused();
        format!("{status} {code} {}", seen.fields().join(","))
    };
    for (body, expected) in [
        (r#"{"scopes": ["read", "admin"]}"#, "403 beyond_caller scopes"),
        (r#"{"scopes": null}"#, "403 beyond_caller scopes"),
        (r#"{"spend_cap_usd": 1000}"#, "403 beyond_caller spend_cap_usd"),
        (r#"{"spend_cap_cents": 100000}"#, "403 beyond_caller spend_cap_cents"),
        (r#"{"ttl_seconds": 59}"#, "400 invalid_request ttl_seconds"),
        (r#"{"ttl_seconds": 86401}"#, "400 invalid_request ttl_seconds"),
        (r#"{"ttl_seconds": null}"#, "400 invalid_request ttl_seconds"),
        (r#"{"ttl_seconds": 0}"#, "400 invalid_request ttl_seconds"),
        (r#"{"ttl_seconds": -1}"#, "400 invalid_request ttl_seconds"),
        (r#"{"ttl_seconds": 1e30}"#, "400 invalid_request ttl_seconds"),
        (r#"{"ttl_seconds": "60"}"#, "400 invalid_request ttl_seconds"),
        (r#"{"spend_cap_usd": null}"#, "400 invalid_request spend_cap_usd"),
        (r#"{"spend_cap_usd": -1}"#, "400 invalid_request spend_cap_usd"),
        (r#"{"spend_cap_usd": 1e30}"#, "400 invalid_request spend_cap_usd"),
        (r#"{"spend_cap_usd": "10"}"#, "400 invalid_request spend_cap_usd"),
        (r#"{"spend_cap_usd": 0.0000001}"#, "400 invalid_request spend_cap_usd"),
        (r#"{"spend_cap_usd": 1000000000.5}"#, "400 invalid_request spend_cap_usd"),
        (r#"{"spend_cap_cents": null}"#, "400 invalid_request spend_cap_cents"),
        (r#"{"spend_cap_cents": -1}"#, "400 invalid_request spend_cap_cents"),
        (r#"{"spend_cap_cents": 1e30}"#, "400 invalid_request spend_cap_cents"),
        (r#"{"spend_cap_cents": "10"}"#, "400 invalid_request spend_cap_cents"),
        (r#"{"spend_cap_cents": 1, "spend_cap_usd": 0.01}"#, "400 invalid_request spend_cap_usd"),
        (
            r#"{"ttl_seconds": 1, "spend_cap_usd": -1, "scopes": 7, "delegated_by": "x"}"#,
            "400 invalid_request scopes,spend_cap_usd,ttl_seconds,delegated_by",
        ),
    ] {
        assert_eq!(answer(body).await, expected, "{body}");
    }
}

#[tokio::test]
async fn dollars_are_read_by_their_decimal_text() {
    let app = App::new().await;
    let new = NewKey::new(acme()).scopes(scopes(&["read"]));
    let rich = app.create(new).await;
    for (text, micros) in [
        ("0", 0),
        ("0.00", 0),
        ("0.1", 100_000),
        ("0.29", 290_000),
        ("1.005", 1_005_000),
        ("0.000001", 1),
        ("4.35", 4_350_000),
        ("123456789.123457", 123_456_789_123_457),
        ("1000000000", 1_000_000_000_000_000),
    ] {
        let (id, _, answer) = open(&app, &rich, &format!(r#"{{"spend_cap_usd": {text}}}"#)).await;
        let session = app.keys.session(id.parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(session.key().budget, Budget::lifetime(Amount::micros(micros)), "{text}");
        let shown: f64 = text.parse().unwrap();
        assert_eq!(answer["spend_cap_usd"].as_f64(), Some(shown), "{text}");
    }
}

#[tokio::test]
async fn a_session_makes_no_keys_tokens_and_sessions() {
    let app = App::new().await;
    let agent = app.agent().await;
    let child = app.child_of(&agent).await;
    let (id, token, _) = open(&app, &agent, "").await;
    let key = id.strip_prefix("ses_").unwrap();
    for (path, expected) in [
        ("/sessions".to_owned(), (403, "session_key")),
        ("/keys".to_owned(), (403, "session_key")),
        (format!("/keys/{key}/rotate"), (403, "session_key")),
        (format!("/keys/{key}/disable"), (403, "own_key")),
        (format!("/keys/{}/disable", child.id), (404, "not_found")),
    ] {
        let refused = call(&app, &token, Method::POST, &path, "").await.refused();
        assert_eq!(refused, (expected.0, expected.1.to_owned()), "{path}");
    }
    // Nor does its parent rotate it, or mint under it.
    let rotate = format!("/keys/{key}/rotate");
    let seen = app.post(&agent, &rotate, "").await;
    assert_eq!((seen.refused().0, seen.fields()), (400, vec!["key".to_owned()]));
}

#[tokio::test]
async fn only_the_session_and_what_is_above_it_see_it() {
    let app = App::new().await;
    let agent = app.agent().await;
    let child = app.child_of(&agent).await;
    let sibling = app.child_of(&agent).await;
    let stranger = app.create(NewKey::new("globex".parse().unwrap())).await;
    let (id, token, _) = open(&app, &child, "").await;
    let (_, other, _) = open(&app, &sibling, "").await;
    let path = format!("/sessions/{id}");
    let missing = app.call(Some(&child.token), Method::DELETE, "/sessions/ses_987654", "").await;
    assert_eq!(missing.refused(), (404, "not_found".into()));
    for caller in [&sibling.token, &stranger.token, &other] {
        let seen = app.call(Some(caller), Method::DELETE, &path, "").await;
        assert_eq!((seen.status, seen.bytes), (missing.status, missing.bytes.clone()));
    }
    // A key is no session, whoever asks for it as one; and an id has one spelling.
    for id in [
        format!("ses_{}", child.id),
        child.id.to_string(),
        "ses_".into(),
        format!("ses_0{}", &id[4..]),
    ] {
        let seen =
            app.call(Some(&agent.token), Method::DELETE, &format!("/sessions/{id}"), "").await;
        assert_eq!((seen.status, seen.bytes), (missing.status, missing.bytes.clone()), "{id}");
    }
    assert_eq!(app.get(&agent, "/me").await.refused(), (404, "not_found".into()));
    for (method, path) in
        [(Method::POST, "/sessions"), (Method::GET, "/me"), (Method::DELETE, &*path)]
    {
        let seen = app.call(None, method.clone(), path, "").await;
        assert_eq!(seen.refused(), (401, "missing_key".into()), "{method} {path}");
        let other_method = app.call(Some(&token), Method::PUT, path, "").await;
        assert_eq!(other_method.refused(), (405, "method_not_allowed".into()), "{path}");
    }
    // The grandparent ends it.
    app.call(Some(&agent.token), Method::DELETE, &path, "").await.is(200);
}

#[tokio::test]
async fn a_token_in_its_grace_and_keys_that_make_no_keys_open_none() {
    let app = App::new().await;
    let agent = app.agent().await;
    let (id, _, _) = open(&app, &agent, "").await;
    app.keys.rotate(agent.id, Grace::lasting(Duration::from_secs(60))).await.unwrap();
    let refused = app.post(&agent, "/sessions", "").await.refused();
    assert_eq!(refused, (403, "retiring_token".into()));
    let ended = app.call(Some(&agent.token), Method::DELETE, &format!("/sessions/{id}"), "").await;
    assert_eq!(ended.refused(), (403, "retiring_token".into()));

    let app = App::with(|serve| serve.minting(Minting::Never)).await;
    let agent = app.agent().await;
    let refused = app.post(&agent, "/sessions", "").await.refused();
    assert_eq!(refused, (403, "minting_disabled".into()));
    // A login that stands for an account has no key that would be the parent.
    let mut login = request(None, Method::POST, "/sessions", "").map(Body::from);
    login.extensions_mut().insert(Principal::account(acme()));
    assert_eq!(app.send(login).await.refused(), (404, "not_found".into()));
}

#[tokio::test]
async fn the_routes_need_sessions_of_the_handle() {
    let keys = AgentKeys::new(MemoryStore::new()).unwrap();
    let error = SelfServe::new(&keys).sessions().into_router().unwrap_err().to_string();
    assert!(error.contains("Builder::sessions"), "{error}");
}
