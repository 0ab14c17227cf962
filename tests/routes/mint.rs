//! `POST /keys`: what a child may get, and what it inherits.

use agentkey::routes::{Minting, Principal};
use agentkey::{Amount, Budget, NewKey, ScopeSet};
use http::Method;
use serde_json::json;

use super::support::{App, acme, request, scopes};

#[tokio::test]
async fn a_child_inherits_what_the_request_leaves_out() {
    let app = App::new().await;
    let root = app
        .create(
            NewKey::new(acme())
                .scopes(scopes(&["read", "pay"]))
                .delegated_by("user_7")
                .expires_in("2h".parse().unwrap()),
        )
        .await;
    let narrower =
        NewKey::child_of(root.id).scopes(scopes(&["read", "other"]).intersect(&scopes(&["read"])));
    let caller = app.create(narrower).await;
    let seen = app.post(&caller, "/keys", "").await;
    let key = &seen.is(201)["key"];
    assert_eq!(key["scopes"], json!(["read"]), "the caller's effective scopes");
    assert_eq!(key["expires_at"], "2026-01-31T14:00:00Z", "the lineage's end");
    assert_eq!(key["delegated_by"], "user_7");
    assert_eq!(key["parent"], caller.id.get());
    assert_eq!(key["state"], "active");
    assert_eq!((&key["budgets"], &key["remaining_cents"]), (&json!([]), &json!(null)));
    let child = seen.created();
    assert_eq!(app.get(&child, "/keys/me").await.is(200)["id"], child.id.get());

    // The caller's scopes are its effective ones, as they are at that instant.
    app.keys.update(root.id, agentkey::KeyPatch::new().scopes(scopes(&["pay"]))).await.unwrap();
    assert_eq!(app.post(&caller, "/keys", "{}").await.is(201)["key"]["scopes"], json!([]));
}

#[tokio::test]
async fn a_value_is_taken_and_shown() {
    let app = App::new().await;
    let agent = app.agent().await;
    let body = r#"{"name": "crawler", "scopes": ["write.files"], "metadata": {"team": "search"}, "expires_in": "1h",
        "budgets": [{"limit_cents": 5.25, "period": "day"}, {"limit_cents": 0, "period": "lifetime"}]}"#;
    let key = app.post(&agent, "/keys", body).await.is(201)["key"].clone();
    assert_eq!((&key["name"], &key["scopes"]), (&json!("crawler"), &json!(["write.files"])));
    assert_eq!(key["metadata"], json!({"team": "search"}));
    assert_eq!(key["expires_at"], "2026-01-31T13:00:00Z");
    assert_eq!(
        key["budgets"],
        json!([
            {"scope": "key", "period": "day", "limit_cents": 5.25, "spent_cents": 0, "held_cents": 0,
             "remaining_cents": 5.25, "resets_at": "2026-02-01T12:00:00Z"},
            {"scope": "key", "period": "lifetime", "limit_cents": 0, "spent_cents": 0, "held_cents": 0,
             "remaining_cents": 0, "resets_at": null},
        ])
    );
    assert_eq!(key["remaining_cents"], 0);
}

#[tokio::test]
async fn what_is_beyond_the_caller_is_refused_whole_and_named() {
    let app = App::new().await;
    let agent = app.agent().await;
    for (body, fields) in [
        (r#"{"scopes": ["read", "admin"]}"#, vec!["scopes"]),
        (r#"{"scopes": ["*"]}"#, vec!["scopes"]),
        (r#"{"scopes": null}"#, vec!["scopes"]),
        (r#"{"budgets": [{"limit_cents": 50.0001, "period": "day"}]}"#, vec!["budgets"]),
        (r#"{"budgets": [{"limit_cents": 51, "period": "calendar_day"}]}"#, vec!["budgets"]),
        (r#"{"budgets": [{"limit_cents": 101, "period": "week"}]}"#, vec!["budgets"]),
        (
            r#"{"scopes": ["admin"], "budgets": [{"limit_cents": 101, "period": "month"}]}"#,
            vec!["scopes", "budgets"],
        ),
    ] {
        let seen = app.post(&agent, "/keys", body).await;
        assert_eq!(seen.refused(), (403, "beyond_caller".into()), "{body}");
        assert_eq!(seen.fields(), fields, "{body}");
    }
    let named = app.post(&agent, "/keys", r#"{"scopes": ["read", "admin"]}"#).await.json();
    assert!(named["detail"].as_str().unwrap().ends_with("may not do: admin"), "{named}");
    let wide =
        app.post(&agent, "/keys", r#"{"budgets": [{"limit_cents": 101, "period": "month"}]}"#);
    let text = String::from_utf8(wide.await.bytes).unwrap();
    assert!(!text.contains("100"), "no figure of the parent: {text}");
    assert_eq!(app.get(&agent, "/keys").await.is(200)["keys"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn no_child_outlives_its_parent() {
    let app = App::new().await;
    let new = NewKey::new(acme()).scopes(scopes(&["read"])).expires_in("1h".parse().unwrap());
    let agent = app.create(new).await;
    for (body, status) in [
        (r#"{"expires_in": "1h"}"#, 201),
        (r#"{"expires_at": "2026-01-31T13:00:00Z"}"#, 201),
        (r#"{"expires_at": "2026-01-31T13:00:00.000001Z"}"#, 403),
        (r#"{"expires_in": "61m"}"#, 403),
        (r#"{"expires_at": null}"#, 403),
        (r#"{"expires_at": "2026-01-31T12:00:00Z"}"#, 400),
        (r#"{"expires_in": "0m"}"#, 400),
        (r#"{"expires_in": "7days"}"#, 400),
        (r#"{"expires_in": null}"#, 400),
        (r#"{"expires_in": "1h", "expires_at": null}"#, 400),
    ] {
        let seen = app.post(&agent, "/keys", body).await;
        assert_eq!(seen.status, status, "{body}: {seen:?}");
    }
}

#[tokio::test]
async fn the_host_sets_a_lifetime_and_a_budget_for_all_keys_made_here() {
    let app = App::with(|serve| {
        serve.max_lifetime("1d".parse().unwrap()).default_budget(Budget::daily(Amount::cents(70)))
    })
    .await;
    let agent = app.agent().await;
    let key = app.post(&agent, "/keys", "").await.is(201)["key"].clone();
    assert_eq!(key["expires_at"], "2026-02-01T12:00:00Z");
    assert_eq!(key["budgets"][0]["limit_cents"], 50, "cut to what the parent may spend in a day");
    let own = app.post(&agent, "/keys", r#"{"budgets": []}"#).await.is(201)["key"].clone();
    assert_eq!(own["budgets"], json!([{"scope": "inherited", "remaining_cents": 50}]));
    let null = app.post(&agent, "/keys", r#"{"budgets": null}"#).await.is(201)["key"].clone();
    assert_eq!(null["remaining_cents"], 50, "null skips no ceiling");
    for body in [r#"{"expires_in": "25h"}"#, r#"{"expires_at": null}"#] {
        let seen = app.post(&agent, "/keys", body).await;
        assert_eq!((seen.status.as_u16(), seen.fields()), (403, vec!["expires_at".into()]));
    }
}

#[tokio::test]
async fn depth_and_number_of_children_are_capped() {
    let app = App::with(|serve| serve.max_depth(2).max_children(2)).await;
    let agent = app.agent().await;
    let first = app.post(&agent, "/keys", "").await.created();
    assert_eq!(app.post(&first, "/keys", "").await.refused(), (403, "too_deep".into()));
    app.post(&agent, "/keys", r#"{"expires_in": "1h"}"#).await.is(201);
    assert_eq!(app.post(&agent, "/keys", "").await.refused(), (403, "too_many_children".into()));
    app.delete(&agent, first.id, "").await.is(200);
    app.post(&agent, "/keys", r#"{"expires_in": "1h"}"#).await.is(201);
    assert_eq!(app.post(&agent, "/keys", "").await.status, 403);
    app.clock.set("2026-01-31T13:00:00Z".parse().unwrap());
    app.post(&agent, "/keys", "").await.is(201);
}

#[tokio::test]
async fn the_policy_of_minting_is_the_hosts() {
    let never = App::with(|serve| serve.minting(Minting::Never)).await;
    let agent = never.agent().await;
    let child = never.child_of(&agent).await;
    let rotate = format!("/keys/{}/rotate", child.id);
    for path in ["/keys", &rotate] {
        // The policy comes before the body.
        let seen = never.post(&agent, path, "[").await;
        assert_eq!(seen.refused(), (403, "minting_disabled".into()), "{path}");
    }
    never.delete(&agent, child.id, "").await.is(200);
    let mut login = request(None, Method::POST, "/keys", r#"{"scopes": ["read"]}"#);
    login.extensions_mut().insert(Principal::account(acme()));
    let made = never.send(login).await;
    assert_eq!(made.is(201)["key"]["parent"], json!(null));

    let scoped =
        App::with(|serve| serve.minting(Minting::WithScope("write.keys".parse().unwrap()))).await;
    let agent = scoped.agent().await;
    let reader = scoped.post(&agent, "/keys", r#"{"scopes": ["read"]}"#).await.created();
    let seen = scoped.post(&reader, "/keys", "").await;
    assert_eq!(seen.refused(), (403, "insufficient_scope".into()));
    assert_eq!(seen.json()["required_scope"], "write.keys");
}

#[tokio::test]
async fn a_login_of_the_application_makes_keys_of_its_account() {
    let app = App::new().await;
    let login = |principal, body| {
        let mut login = request(None, Method::POST, "/keys", body);
        login.extensions_mut().insert(principal);
        login
    };
    let key = app.send(login(Principal::account(acme()), "")).await.is(201)["key"].clone();
    assert_eq!(key["scopes"], json!([]), "a login has no scopes to inherit");
    let agent = app.agent().await;
    let seen = app.send(login(Principal::key(agent.id), r#"{"scopes": ["admin"]}"#)).await;
    assert_eq!(seen.refused(), (403, "beyond_caller".into()), "it is bound as the key is");
    app.keys.revoke(agent.id, None).await.unwrap();
    let seen = app.send(login(Principal::key(agent.id), "")).await;
    assert_eq!(seen.refused(), (401, "revoked_key".into()));
}

#[tokio::test]
async fn an_unrestricted_caller_may_give_everything() {
    let app = App::new().await;
    let agent = app.create(NewKey::new(acme()).scopes(ScopeSet::unrestricted())).await;
    let made = app.post(&agent, "/keys", r#"{"scopes": null, "expires_at": null}"#).await.is(201);
    assert_eq!(made["key"]["scopes"], json!(null));
    let made = app.post(&agent, "/keys", "").await.is(201);
    assert_eq!(made["key"]["effective_scopes"], json!(null));
}
