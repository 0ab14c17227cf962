//! Lists, patches, rotations, pauses and revocations.

use agentkey::routes::Principal;
use agentkey::{AgentKeys, NewKey};
use http::Method;
use serde_json::{Value, json};

use super::support::{App, Caller, acme, request, scopes};

fn names(page: &Value) -> Vec<&str> {
    page["keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap()).collect()
}

async fn named(keys: &AgentKeys, parent: &Caller, name: &str) -> Caller {
    let created = keys.create(NewKey::child_of(parent.id).name(name)).await.unwrap();
    Caller { id: created.key.id, token: created.token }
}

#[tokio::test]
async fn a_list_is_the_subtree_in_pages() {
    let app = App::new().await;
    let agent = app.agent().await;
    let other = app.agent().await;
    let a = named(&app.keys, &agent, "a").await;
    named(&app.keys, &other, "not mine").await;
    let b = named(&app.keys, &a, "b of a").await;
    named(&app.keys, &agent, "c").await;
    let page = app.get(&agent, "/keys").await.is(200);
    assert_eq!(names(&page), ["agent", "a", "b of a", "c"]);
    assert_eq!(page["next_cursor"], json!(null));
    assert_eq!(names(&app.get(&a, "/keys").await.is(200)), ["a", "b of a"]);

    let (mut seen, mut path) = (Vec::new(), "/keys?limit=1".to_owned());
    loop {
        let page = app.get(&agent, &path).await.is(200);
        seen.extend(names(&page).into_iter().map(str::to_owned));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/keys?limit=1&cursor={cursor}");
    }
    assert_eq!(seen, ["agent", "a", "b of a", "c"]);

    app.delete(&agent, a.id, "").await.is(200);
    app.keys.revoke(b.id, None).await.unwrap();
    for (query, expected) in [
        ("state=active", &["agent", "c"] as &[&str]),
        ("state=revoked", &["a", "b of a"]),
        ("state=revoked&name=of", &["b of a"]),
        ("name=nothing", &[]),
    ] {
        let page = app.get(&agent, &format!("/keys?{query}")).await.is(200);
        assert_eq!(names(&page), expected, "{query}");
    }
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("state=gone", "state"),
        ("cursor=1k", "cursor"),
        ("cursor=1e37", "cursor"),
        ("order=name", "order"),
        ("name=a&name=b", "name"),
    ] {
        let seen = app.get(&agent, &format!("/keys?{query}")).await;
        assert_eq!((seen.status.as_u16(), seen.fields()), (400, vec![field.into()]), "{query}");
    }
}

#[tokio::test]
async fn descendants_of_a_revoked_key_are_shown_as_revoked() {
    let app = App::new().await;
    let agent = app.agent().await;
    let child = app.child_of(&agent).await;
    let grandchild = app.child_of(&child).await;
    app.delete(&agent, child.id, r#"{"reason": "done"}"#).await.is(200);
    let seen = app.get(&agent, &format!("/keys/{}", grandchild.id)).await.is(200);
    assert_eq!((&seen["state"], &seen["revoked_at"]), (&json!("revoked"), &json!(null)));
    assert_eq!(app.get(&grandchild, "/keys/me").await.refused(), (401, "revoked_key".into()));
    let again = app.delete(&agent, child.id, r#"{"reason": "again"}"#).await.is(200);
    assert_eq!(again["revoked_reason"], "done");
    let late = app.patch(&agent, child.id, r#"{"name": "x"}"#).await;
    assert_eq!(late.refused(), (409, "not_in_force".into()));
}

#[tokio::test]
async fn a_patch_only_narrows() {
    let app = App::new().await;
    let agent = app.agent().await;
    let body = r#"{"scopes": ["read", "write.a"], "expires_in": "2h",
        "budgets": [{"limit_cents": 9, "period": "day"}, {"limit_cents": 40, "period": "month"}]}"#;
    let child = app.post(&agent, "/keys", body).await.created();
    for (body, fields) in [
        (r#"{"scopes": ["read", "write.b"]}"#, vec!["scopes"]),
        (r#"{"scopes": null}"#, vec!["scopes"]),
        (r#"{"budgets": []}"#, vec!["budgets"]),
        (r#"{"budgets": null}"#, vec!["budgets"]),
        (r#"{"budgets": [{"limit_cents": 9, "period": "day"}]}"#, vec!["budgets"]),
        (
            r#"{"budgets": [{"limit_cents": 9, "period": "calendar_day"}, {"limit_cents": 40, "period": "month"}]}"#,
            vec!["budgets"],
        ),
        (
            r#"{"budgets": [{"limit_cents": 10, "period": "day"}, {"limit_cents": 40, "period": "month"}]}"#,
            vec!["budgets"],
        ),
        (r#"{"expires_in": "3h"}"#, vec!["expires_at"]),
        (r#"{"expires_at": null}"#, vec!["expires_at"]),
        (r#"{"expires_at": null, "scopes": ["read", "admin"]}"#, vec!["scopes", "expires_at"]),
    ] {
        let seen = app.patch(&agent, child.id, body).await;
        assert_eq!(seen.refused(), (403, "beyond_caller".into()), "{body}");
        assert_eq!(seen.fields(), fields, "{body}: {}", seen.json());
    }
    let body = r#"{"name": "slower", "scopes": ["read"], "expires_in": "1h", "metadata": null,
        "budgets": [{"limit_cents": 40, "period": "month"}, {"limit_cents": 0, "period": "day"}, {"limit_cents": 41, "period": "lifetime"}]}"#;
    let key = app.patch(&agent, child.id, body).await.is(200);
    assert_eq!((&key["name"], &key["scopes"]), (&json!("slower"), &json!(["read"])));
    assert_eq!(key["expires_at"], "2026-01-31T13:00:00Z");
    assert_eq!(key["budgets"].as_array().unwrap().len(), 3);
    let same = app.patch(&agent, child.id, "{}").await.is(200);
    assert_eq!(same, key);

    // The application's own login may give back what is within the parent.
    let mut login = request(
        None,
        Method::PATCH,
        &format!("/keys/{}", child.id),
        r#"{"scopes": ["read", "write.b"]}"#,
    );
    login.extensions_mut().insert(Principal::account(acme()));
    app.send(login).await.is(200);
    let mut login =
        request(None, Method::PATCH, &format!("/keys/{}", child.id), r#"{"scopes": ["admin"]}"#);
    login.extensions_mut().insert(Principal::account(acme()));
    assert_eq!(app.send(login).await.refused(), (403, "beyond_caller".into()));
    let mut login = request(None, Method::PATCH, &format!("/keys/{}", child.id), "{}");
    login.extensions_mut().insert(Principal::account("globex".parse().unwrap()));
    assert_eq!(app.send(login).await.refused(), (404, "not_found".into()));
}

#[tokio::test]
async fn a_rotation_answers_with_the_new_token_and_ends_the_old_one() {
    let app = App::new().await;
    let agent = app.agent().await;
    let child = app.child_of(&agent).await;
    let path = format!("/keys/{}/rotate", child.id);
    let second = app.post(&agent, &path, r#"{"grace_seconds": 60}"#).await.created();
    assert_eq!(second.id, child.id);
    for token in [&child, &second] {
        app.get(token, "/keys/me").await.is(200);
    }
    // A rotation without grace ends the grace of earlier ones at once.
    let third = app.post(&second, &path, "").await.created();
    for token in [&child, &second] {
        assert_eq!(app.get(token, "/keys/me").await.refused(), (401, "invalid_key".into()));
    }
    app.get(&third, "/keys/me").await.is(200);
    // So does the request to end it, which leaves the current token as it is.
    let fourth = app.post(&third, &path, r#"{"grace_seconds": 60}"#).await.created();
    let end = format!("/keys/{}/end-grace", child.id);
    assert_eq!(app.post(&third, &end, "").await.refused(), (403, "retiring_token".into()));
    for caller in [&fourth, &agent] {
        assert_eq!(app.post(caller, &end, "").await.is(200)["state"], "active");
    }
    assert_eq!(app.get(&third, "/keys/me").await.refused(), (401, "invalid_key".into()));
    app.get(&fourth, "/keys/me").await.is(200);
    let third = fourth;
    let seen = app.post(&third, &path, r#"{"grace_seconds": 2592001}"#).await;
    assert_eq!((seen.status.as_u16(), seen.fields()), (400, vec!["grace_seconds".into()]));
}

#[tokio::test]
async fn a_key_pauses_what_it_made() {
    let app = App::new().await;
    let agent = app.agent().await;
    let child = app.child_of(&agent).await;
    let grandchild = app.child_of(&child).await;
    let path = |key: &Caller, action: &str| format!("/keys/{}/{action}", key.id);
    let paused = app.post(&agent, &path(&child, "disable"), "").await.is(200);
    assert_eq!(
        (&paused["state"], &paused["disabled_at"]),
        (&json!("disabled"), &json!("2026-01-31T12:00:00Z"))
    );
    assert_eq!(app.get(&grandchild, "/keys/me").await.refused(), (401, "disabled_key".into()));
    let seen = app.get(&agent, &format!("/keys/{}", grandchild.id)).await.is(200);
    assert_eq!(seen["state"], "disabled");
    app.post(&agent, &path(&child, "enable"), "{}").await.is(200);
    app.get(&grandchild, "/keys/me").await.is(200);
}

#[tokio::test]
async fn a_login_stands_for_a_whole_account() {
    let app = App::new().await;
    let agent = app.agent().await;
    let child = app.child_of(&agent).await;
    let new = NewKey::new("globex".parse().unwrap()).scopes(scopes(&["read"]));
    let stranger = app.create(new).await;
    let as_acme = |method, path: String| {
        let mut request = request(None, method, &path, "");
        request.extensions_mut().insert(Principal::account(acme()));
        app.send(request)
    };
    assert_eq!(
        as_acme(Method::GET, "/keys".into()).await.is(200)["keys"].as_array().unwrap().len(),
        2
    );
    let seen = as_acme(Method::GET, format!("/keys/{}", child.id)).await.is(200);
    assert_eq!(seen["parent"], agent.id.get());
    for action in ["disable", "enable", "rotate"] {
        as_acme(Method::POST, format!("/keys/{}/{action}", agent.id)).await.is(200);
    }
    as_acme(Method::DELETE, format!("/keys/{}", agent.id)).await.is(200);
    let foreign = as_acme(Method::DELETE, format!("/keys/{}", stranger.id)).await;
    assert_eq!(foreign.refused(), (404, "not_found".into()));
    assert_eq!(as_acme(Method::GET, "/keys/me".into()).await.refused(), (404, "not_found".into()));
    as_acme(Method::GET, "/keys/me/usage".into()).await.is(200);
}
