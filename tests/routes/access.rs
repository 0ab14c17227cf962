//! Each operation without a credential, with one that does not work, in grace, and on keys that are
//! not the caller's.

use std::convert::Infallible;
use std::time::Duration;

use agentkey::model::Grace;
use agentkey::routes::SelfServe;
use agentkey::{AgentKeys, KeyId, KeyPatch, NewKey, Token};
use axum::body::Body;
use futures_util::stream;
use http::Method;
use tower::ServiceExt;

use super::support::{App, Caller, acme, request, scopes};

/// All operations with a key, and what of a key they are on.
fn operations(key: KeyId) -> Vec<(Method, String, &'static str)> {
    let of_key = |action: &str| format!("/keys/{key}{action}");
    vec![
        (Method::GET, "/keys/me".into(), ""),
        (Method::GET, "/keys/me/usage".into(), ""),
        (Method::POST, "/keys".into(), "{}"),
        (Method::GET, "/keys".into(), ""),
        (Method::GET, of_key(""), ""),
        (Method::PATCH, of_key(""), r#"{"name": "x"}"#),
        (Method::POST, of_key("/disable"), ""),
        (Method::POST, of_key("/enable"), ""),
        (Method::POST, of_key("/rotate"), ""),
        (Method::POST, of_key("/end-grace"), ""),
        (Method::DELETE, of_key(""), ""),
    ]
}

/// Those that are on the key with the id.
fn on_a_key(key: KeyId) -> Vec<(Method, String, &'static str)> {
    operations(key).split_off(4)
}

async fn refused(
    app: &App,
    token: Option<&Token>,
    operations: Vec<(Method, String, &'static str)>,
    expected: (u16, &str),
) {
    for (method, path, body) in operations {
        let seen = app.call(token, method.clone(), &path, body).await;
        assert_eq!(seen.refused(), (expected.0, expected.1.to_owned()), "{method} {path}");
        assert_eq!(seen.status == 401, seen.headers.contains_key("www-authenticate"));
    }
}

#[tokio::test]
async fn no_operation_without_a_credential_in_force() {
    let app = App::new().await;
    let agent = app.agent().await;
    let child = app.child_of(&agent).await;
    let grandchild = app.child_of(&child).await;
    refused(&app, None, operations(grandchild.id), (401, "missing_key")).await;
    let unknown = Token::generate(&"ak".parse().unwrap()).unwrap();
    refused(&app, Some(&unknown), operations(grandchild.id), (401, "invalid_key")).await;
    for key in [child.id, agent.id] {
        app.keys.update(key, KeyPatch::new().disabled(true)).await.unwrap();
        refused(&app, Some(&child.token), operations(grandchild.id), (401, "disabled_key")).await;
        app.keys.update(key, KeyPatch::new().disabled(false)).await.unwrap();
    }
    app.keys.revoke(agent.id, None).await.unwrap();
    refused(&app, Some(&child.token), operations(grandchild.id), (401, "revoked_key")).await;

    let expiring = app.create(NewKey::new(acme()).expires_in("1m".parse().unwrap())).await;
    app.clock.set("2026-01-31T12:01:00Z".parse().unwrap());
    refused(&app, Some(&expiring.token), operations(expiring.id), (401, "expired_key")).await;
}

#[tokio::test]
async fn what_is_not_the_callers_is_the_same_bytes_as_what_does_not_exist() {
    let app = App::with(|serve| serve.account_scope("admin.keys".parse().unwrap())).await;
    let parent = app.agent().await;
    let caller = app.child_of(&parent).await;
    let sibling = app.child_of(&parent).await;
    let nephew = app.child_of(&sibling).await;
    // Without the account scope on every member, the scope is not effective.
    let stranger = NewKey::new("globex".parse().unwrap()).scopes(scopes(&["admin.keys", "read"]));
    let stranger = app.create(stranger).await;
    let missing = KeyId::new(987_654);
    for (who, caller, targets) in [
        ("child", &caller, vec![parent.id, sibling.id, nephew.id, stranger.id]),
        ("another account's", &stranger, vec![parent.id, caller.id, nephew.id]),
    ] {
        for target in targets {
            for ((method, path, body), (_, none, _)) in
                on_a_key(target).into_iter().zip(on_a_key(missing))
            {
                let seen = app.call(Some(&caller.token), method.clone(), &path, body).await;
                let of_missing = app.call(Some(&caller.token), method.clone(), &none, body).await;
                assert_eq!(seen.refused(), (404, "not_found".into()), "{who}: {method} {path}");
                assert_eq!(seen.bytes, of_missing.bytes, "{who}: {method} {path}");
                assert_eq!(seen.headers, of_missing.headers, "{who}: {method} {path}");
            }
        }
    }
    for id in ["0", "-1", "x", "007", "+7", "1e3", "99999999999999999999", "%ff", "7%20"] {
        let seen = app.get(&caller, &format!("/keys/{id}")).await;
        let of_missing = app.get(&caller, &format!("/keys/{missing}")).await;
        assert_eq!((seen.status.as_u16(), &seen.bytes), (404, &of_missing.bytes), "{id}");
    }
    for key in [parent.id, sibling.id, nephew.id, stranger.id] {
        let lineage = app.keys.find_by_id(key).await.unwrap().unwrap();
        assert!(lineage.check_active().is_ok() && lineage.key().name != "x");
    }
}

#[tokio::test]
async fn a_change_of_what_is_not_the_callers_takes_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.db");
    let keys = AgentKeys::connect(&path.display().to_string()).await.unwrap();
    let router = SelfServe::new(&keys).manage().into_router().unwrap();
    let target = keys.create(NewKey::new(acme())).await.unwrap().key.id;
    let stranger = keys.create(NewKey::new("globex".parse().unwrap())).await.unwrap();
    let lock = rusqlite::Connection::open(&path).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    for (method, path, body) in on_a_key(target).into_iter().filter(|it| it.0 != Method::GET) {
        let request = request(Some(&stranger.token), method.clone(), &path, body);
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 404, "{method} {path}");
    }
    drop(lock);
    keys.shutdown().await;
}

#[tokio::test]
async fn a_token_in_its_grace_may_only_read() {
    let app = App::new().await;
    let agent = app.agent().await;
    let child = app.child_of(&agent).await;
    let new = app.keys.rotate(agent.id, Grace::lasting(Duration::from_secs(60))).await.unwrap();
    for (method, path, body) in operations(child.id) {
        let seen = app.call(Some(&agent.token), method.clone(), &path, body).await;
        if method == Method::GET {
            seen.is(200);
        } else {
            assert_eq!(seen.refused(), (403, "retiring_token".into()), "{method} {path}");
        }
    }
    let new = Caller { id: agent.id, token: new.token };
    app.post(&new, "/keys", "").await.is(201);
    app.clock.set("2026-01-31T12:00:59.999999Z".parse().unwrap());
    app.get(&agent, "/keys/me").await.is(200);
    app.clock.set("2026-01-31T12:01:00Z".parse().unwrap());
    assert_eq!(app.get(&agent, "/keys/me").await.refused(), (401, "invalid_key".into()));
}

#[tokio::test]
async fn a_token_that_is_rotated_away_while_its_request_is_read_changes_nothing() {
    let app = App::new().await;
    let mut agent = app.agent().await;
    let child = app.child_of(&agent).await;
    for (method, path, _) in operations(child.id).into_iter().filter(|it| it.0 != Method::GET) {
        // The look-up of the token is before the body ends.
        let (keys, id) = (app.keys.clone(), agent.id);
        let (sender, rotated) = tokio::sync::oneshot::channel();
        let body = stream::once(async move {
            sender.send(keys.rotate(id, Grace::NONE).await.unwrap()).unwrap();
            Ok::<_, Infallible>("{}")
        });
        let stolen = request(Some(&agent.token), method.clone(), &path, "{}");
        let seen = app.send(stolen.map(|_| Body::from_stream(body))).await;
        assert_eq!(seen.refused(), (403, "retiring_token".into()), "{method} {path}");
        agent.token = rotated.await.unwrap().token;
    }
    app.post(&agent, "/keys", "").await.is(201);
}

#[tokio::test]
async fn a_key_may_show_rotate_and_revoke_itself_and_nothing_else() {
    let app = App::with(|serve| serve.account_scope("read".parse().unwrap())).await;
    let agent = app.agent().await;
    for (action, body) in [("/disable", ""), ("/enable", "")] {
        let seen = app.post(&agent, &format!("/keys/{}{action}", agent.id), body).await;
        assert_eq!(seen.refused(), (403, "own_key".into()), "{action}");
    }
    let seen = app.patch(&agent, agent.id, r#"{"name": "x"}"#).await;
    assert_eq!(seen.refused(), (403, "own_key".into()));
    app.get(&agent, &format!("/keys/{}", agent.id)).await.is(200);
    let new = app.post(&agent, &format!("/keys/{}/rotate", agent.id), "").await.created();
    assert_eq!(app.get(&agent, "/keys/me").await.status, 401);
    let gone = app.delete(&new, agent.id, r#"{"reason": "leaked"}"#).await.is(200);
    assert_eq!((&gone["state"], &gone["revoked_reason"]), (&"revoked".into(), &"leaked".into()));
    assert_eq!(app.get(&new, "/keys/me").await.refused(), (401, "revoked_key".into()));
}

#[tokio::test]
async fn the_account_scope_shows_narrows_and_ends_and_gives_nothing_more() {
    let app = App::with(|serve| serve.account_scope("keys.manage".parse().unwrap())).await;
    let manager = app.create(NewKey::new(acme()).scopes(scopes(&["keys.manage"]))).await;
    let agent = app.agent().await;
    let of_agent = |action: &str| format!("/keys/{}{action}", agent.id);
    app.get(&manager, &of_agent("")).await.is(200);
    assert_eq!(app.get(&manager, "/keys").await.is(200)["keys"].as_array().unwrap().len(), 2);
    let narrower = app.patch(&manager, agent.id, r#"{"scopes": ["read"]}"#).await.is(200);
    assert_eq!(narrower["scopes"], serde_json::json!(["read"]));
    let wider = app.patch(&manager, agent.id, r#"{"scopes": ["read", "write.x"]}"#).await;
    assert_eq!(wider.refused(), (403, "beyond_caller".into()));
    let token = app.post(&manager, &of_agent("/rotate"), "").await;
    assert_eq!(token.refused(), (403, "outside_subtree".into()), "it is wider than the manager");
    app.post(&manager, &of_agent("/disable"), "").await.is(200);
    let enabled = app.post(&manager, &of_agent("/enable"), "").await;
    assert_eq!(enabled.refused(), (403, "outside_subtree".into()));
    app.delete(&manager, agent.id, "").await.is(200);
}
