//! The audit trail, as a key and a login of the application see it.

use agentkey::NewKey;
use agentkey::model::{Actor, Origin};
use agentkey::routes::Principal;
use http::Method;
use serde_json::{Value, json};

use super::support::{App, acme, request, scopes};

fn events(page: &Value) -> Vec<(String, Value, Value)> {
    let events = page["events"].as_array().unwrap();
    let event = |it: &Value| {
        (it["kind"].as_str().unwrap().to_owned(), it["key"].clone(), it["actor"].clone())
    };
    events.iter().map(event).collect()
}

#[tokio::test]
async fn a_key_sees_what_was_done_to_its_subtree_and_by_it() {
    let app = App::new().await;
    let agent = app.agent().await;
    let body = r#"{"name": "child", "scopes": ["read"]}"#;
    let child = app.post(&agent, "/keys", body).await.is(201);
    let id = child["key"]["id"].clone();
    let mut change =
        request(Some(&agent.token), Method::PATCH, &format!("/keys/{id}"), r#"{"name": "reader"}"#);
    change.headers_mut().insert("x-request-id", "req-1".parse().unwrap());
    app.send(change).await.is(200);
    let ops = app.keys.with_origin(Origin::by(Actor::principal("ops")).request_id("req-2"));
    ops.revoke(id.as_i64().map(agentkey::KeyId::new).unwrap(), Some("leaked")).await.unwrap();

    let page = app.get(&agent, "/keys/me/events").await.is(200);
    let (own, by_agent) = (json!(agent.id), json!({"type": "key", "id": agent.id}));
    assert_eq!(
        events(&page),
        [
            ("key.created".to_owned(), own.clone(), json!(null)),
            ("key.created".to_owned(), id.clone(), by_agent.clone()),
            ("key.updated".to_owned(), id.clone(), by_agent),
            ("key.revoked".to_owned(), id.clone(), json!(null)),
        ]
    );
    let updated = &page["events"][2];
    assert_eq!(updated["detail"]["changed"], json!({"name": {"from": "child", "to": "reader"}}));
    assert_eq!(
        (&updated["request_id"], &updated["route"]),
        (&json!("req-1"), &json!("/keys/{id}"))
    );
    assert_eq!(updated["lineage"], json!([id, own]));
    assert_eq!(
        (&updated["key_name"], &updated["delegated_by"]),
        (&json!("reader"), &json!("user_7"))
    );
    let revoked = &page["events"][3];
    assert_eq!(
        (&revoked["request_id"], &revoked["detail"]["reason"]),
        (&json!(null), &json!("leaked"))
    );
    assert_eq!(revoked["key_name"], "reader", "the name of a revoked key stays");
    assert!(!page.to_string().contains("ops"), "who is above is not shown");

    let of_child = app.get(&agent, &format!("/keys/{id}/events?kind=key.updated")).await.is(200);
    assert_eq!(of_child["events"], json!([updated]));
    let first = app.get(&agent, "/keys/me/events?limit=3").await.is(200);
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = app.get(&agent, &format!("/keys/me/events?cursor={cursor}")).await.is(200);
    assert_eq!((rest["events"].clone(), &rest["next_cursor"]), (json!([revoked]), &json!(null)));
    for bad in ["kind=lost", "since=now", "limit=0", "cursor=1e31", "subtree=true"] {
        let seen = app.get(&agent, &format!("/keys/me/events?{bad}")).await;
        assert_eq!(seen.refused(), (400, "invalid_request".to_owned()), "{bad}");
    }
}

#[tokio::test]
async fn a_child_sees_nothing_of_what_is_above_it() {
    let app = App::new().await;
    let agent = app.agent().await;
    let child = app.child_of(&agent).await;
    let grandchild = app.child_of(&child).await;
    app.post(&agent, &format!("/keys/{}/disable", grandchild.id), "").await.is(200);
    let page = app.get(&child, "/keys/me/events").await.is(200);
    let disabled = &page["events"][2];
    assert_eq!((&disabled["kind"], &disabled["actor"]), (&json!("key.disabled"), &json!(null)));
    assert_eq!(disabled["lineage"], json!([grandchild.id, child.id]));
    assert_eq!(disabled["route"], json!(null));
    assert_eq!(page["events"].as_array().unwrap().len(), 3);
    let parents = |page: &Value| {
        let made = &page["events"].as_array().unwrap()[..2];
        made.iter().map(|it| it["detail"]["parent"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(parents(&page), [json!(null), json!(child.id)]);
    let page = app.get(&agent, &format!("/keys/{}/events", child.id)).await.is(200);
    assert_eq!(parents(&page), [json!(agent.id), json!(child.id)]);
}

#[tokio::test]
async fn a_login_and_an_account_scope_see_all_of_the_account() {
    let app = App::with(|serve| serve.account_scope("keys.manage".parse().unwrap())).await;
    let agent = app.agent().await;
    let manager = app.create(NewKey::new(acme()).scopes(scopes(&["keys.manage"]))).await;
    let stranger = app.create(NewKey::new("globex".parse().unwrap())).await;
    let path = format!("/keys/{}/disable", agent.id);
    let mut login = request(None, Method::POST, &path, "");
    login.extensions_mut().insert(Principal::account(acme()).named("alice"));
    app.send(login).await.is(200);

    let alice = json!({"type": "principal", "name": "alice"});
    let page = app.get(&manager, &format!("/keys/{}/events", agent.id)).await.is(200);
    assert_eq!(events(&page)[1], ("key.disabled".to_owned(), json!(agent.id), alice));
    assert_eq!(page["events"][1]["route"], "/keys/{id}/disable");
    let own = app.get(&manager, "/keys/me/events").await.is(200);
    assert_eq!(own["events"].as_array().unwrap().len(), 1);
    let path = format!("/keys/{}/events", stranger.id);
    assert_eq!(app.get(&manager, &path).await.refused(), (404, "not_found".to_owned()));

    let mut login = request(None, Method::GET, "/keys/me/events", "");
    login.extensions_mut().insert(Principal::account(acme()));
    let all = app.send(login).await.is(200);
    assert_eq!(all["events"].as_array().unwrap().len(), 3, "those of acme");
}

#[tokio::test]
async fn a_signup_has_its_event() {
    let app = App::new().await;
    let made = app
        .call(None, Method::POST, "/signup", r#"{"name": "agent", "email": "a@example.com"}"#)
        .await
        .is(201);
    let id = agentkey::KeyId::new(made["key"]["id"].as_i64().unwrap());
    let account = app.keys.find_by_id(id).await.unwrap().unwrap().account_id().clone();
    let page = app.keys.events(&agentkey::EventQuery::for_account(account)).await.unwrap();
    let created = page.items.iter().find(|event| event.key == Some(id)).unwrap();
    assert_eq!((created.kind.as_str(), &created.origin.actor), ("key.created", &Actor::Signup));
    assert_eq!(created.origin.route.as_deref(), Some("/signup"));
}
