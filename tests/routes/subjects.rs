//! Subjects as callers: they mint as keys do, within what their credential allows.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentkey::identity::{Subject, Verified, Verifier, VerifyFuture};
use agentkey::routes::SelfServe;
use agentkey::{AgentKeyLayer, Amount, Budget, NewKey, Token};
use http::Method;
use serde_json::json;

use super::support::{App, Caller, NOON, acme, scopes};

/// Whatever begins with `ext.` is this subject, and says this.
#[derive(Clone, Debug)]
struct One(Arc<Mutex<Verified>>);

impl Verifier for One {
    fn accepts(&self, credential: &str) -> bool {
        credential.starts_with("ext.")
    }

    fn verify<'a>(&'a self, _: &'a str) -> VerifyFuture<'a> {
        let verified = self.0.lock().unwrap().clone();
        Box::pin(async { Ok(verified) })
    }
}

impl One {
    /// From now on the credential allows this, for an hour.
    fn narrow(&self, list: &[&str]) {
        let mut verified = self.0.lock().unwrap();
        verified.scopes = Some(scopes(list));
        let noon: agentkey::jiff::Timestamp = NOON.parse().unwrap();
        verified.expires_at = Some(noon + Duration::from_secs(3_600));
    }
}

/// The routes with a verifier, and a subject that may read and write and spend a dollar a month.
async fn machine() -> (App, One, Caller) {
    let mut app = App::new().await;
    let subject = Subject::new("https://issuer.example", "machine-7").unwrap();
    let new = NewKey::new(acme())
        .scopes(scopes(&["read", "write.*"]))
        .budget(Budget::monthly(Amount::cents(100)));
    let key = app.keys.ensure_subject(subject.clone(), new).await.unwrap();
    let verifier = One(Arc::new(Mutex::new(Verified::new(subject))));
    let layer = AgentKeyLayer::new(&app.keys).verifier(verifier.clone());
    let serve = SelfServe::new(&app.keys).layer(layer).me().mint().manage();
    #[cfg(feature = "sessions")]
    let serve = serve.sessions();
    app.router = serve.into_router().unwrap();
    let token = Token::parse_foreign("ext.machine-7").unwrap();
    (app, verifier, Caller { id: key.id, token })
}

#[tokio::test]
async fn a_subject_sees_itself_and_mints_under_its_ceiling() {
    let (app, _, caller) = machine().await;
    let me = app.get(&caller, "/keys/me").await.is(200);
    assert_eq!(me["id"], json!(caller.id));
    assert_eq!(me["subject"], json!({"issuer": "https://issuer.example", "sub": "machine-7"}));
    assert_eq!((&me["prefix"], &me["start"]), (&json!("subject:"), &json!("")));
    assert_eq!(me["effective_scopes"], json!(["read", "write.*"]));
    let child = app.post(&caller, "/keys", "{}").await;
    assert_eq!(child.is(201)["key"]["subject"], json!(null));
    app.spend(&child.created(), 70).await;
    let me = app.get(&caller, "/keys/me").await.is(200);
    assert_eq!(me["remaining_cents"], json!(30));
    let wider = app.post(&caller, "/keys", r#"{"scopes": ["delete"]}"#).await;
    assert_eq!((wider.status.as_u16(), wider.fields()), (403, vec!["scopes".to_owned()]));

    let rotated = app.post(&caller, "/keys/me/rotate", "").await;
    assert!(rotated.status.is_client_error(), "{rotated:?}");
    let rotated = app.post(&caller, &format!("/keys/{}/rotate", caller.id), "").await;
    assert_eq!((rotated.status.as_u16(), rotated.fields()), (400, vec!["key".to_owned()]));
    app.keys.revoke(caller.id, None).await.unwrap();
    assert_eq!(app.get(&caller, "/keys/me").await.refused(), (401, "revoked_key".to_owned()));
}

#[tokio::test]
async fn nothing_is_minted_beyond_the_credential() {
    let (app, verifier, caller) = machine().await;
    let wide = app.post(&caller, "/keys", "{}").await.created();
    verifier.narrow(&["read", "delete"]);
    let me = app.get(&caller, "/keys/me").await.is(200);
    assert_eq!(me["scopes"], json!(["read", "write.*"]));
    assert_eq!(me["effective_scopes"], json!(["read"]));

    let minted = app.post(&caller, "/keys", "{}").await.is(201);
    assert_eq!(minted["key"]["scopes"], json!(["read"]));
    assert_eq!(minted["key"]["expires_at"], json!("2026-01-31T13:00:00Z"));
    for (body, field) in [
        (json!({"scopes": ["write.a"]}), "scopes"),
        (json!({"scopes": ["delete"]}), "scopes"),
        (json!({"scopes": null}), "scopes"),
        (json!({"expires_at": null}), "expires_at"),
        (json!({"expires_in": "2h"}), "expires_at"),
    ] {
        let refused = app.post(&caller, "/keys", &body.to_string()).await;
        assert_eq!(
            (refused.status.as_u16(), refused.fields()),
            (403, vec![field.to_owned()]),
            "{body}"
        );
    }
    // The token of a key that may do more would be more than the credential allows.
    let rotate = format!("/keys/{}/rotate", wide.id);
    let refused = app.post(&caller, &rotate, "").await;
    let beyond = vec!["scopes".to_owned(), "expires_at".to_owned()];
    assert_eq!((refused.status.as_u16(), refused.fields()), (403, beyond));
    let narrow = minted["key"]["id"].as_i64().unwrap();
    app.post(&caller, &format!("/keys/{narrow}/rotate"), "").await.is(200);
    // So would be a key that works again. To take away is allowed.
    app.post(&caller, &format!("/keys/{}/disable", wide.id), "").await.is(200);
    let enable = format!("/keys/{}/enable", wide.id);
    let refused = app.post(&caller, &enable, "").await;
    assert_eq!((refused.status.as_u16(), refused.fields()), (403, vec!["scopes".to_owned()]));
    verifier.narrow(&["read", "write.*"]);
    app.post(&caller, &enable, "").await.is(200);
    app.call(Some(&caller.token), Method::DELETE, &format!("/keys/{}", wide.id), "").await.is(200);
}

#[cfg(feature = "sessions")]
#[tokio::test]
async fn a_session_stays_within_the_credential() {
    let (app, verifier, caller) = machine().await;
    verifier.narrow(&["read"]);
    let opened = app.post(&caller, "/sessions", r#"{"ttl_seconds": 7200}"#).await.is(201);
    assert_eq!(opened["scopes"], json!(["read"]));
    assert_eq!(opened["expires_at"], json!("2026-01-31T13:00:00Z"));
    let refused = app.post(&caller, "/sessions", r#"{"scopes": ["write.a"]}"#).await;
    assert_eq!((refused.status.as_u16(), refused.fields()), (403, vec!["scopes".to_owned()]));
}
