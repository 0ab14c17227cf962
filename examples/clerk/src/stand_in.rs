//! A stand-in for Clerk's API on this machine, with the shape of its answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::Error;

/// The secret of the machine that asks, which Clerk's dashboard shows.
pub(crate) const MACHINE_SECRET: &str = "ak_stand_in_machine_secret";

/// The tokens that it knows, by their secret. Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct StandIn(Arc<Mutex<HashMap<String, Value>>>);

impl StandIn {
    /// Starts it, and returns its address.
    pub(crate) async fn start(&self) -> Result<String, Error> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let app =
            Router::new().route("/v1/m2m_tokens/verify", post(verify)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(url)
    }

    /// Knows a token of a machine from now on, with some members that are not as usual.
    pub(crate) fn set(&self, token: &str, machine: &str, others: Value) -> Result<(), Error> {
        let mut object = json!({
            "object": "machine_to_machine_token", "id": "mt_f7f0ba8c3b4843ce7d85fcdd5e71853e", "subject": machine,
            "claims": { "team": "search" }, "scopes": [], "revoked": false, "revocation_reason": null,
            "expired": false, "expiration": null, "created_at": 1716883200, "updated_at": 1716883200,
        });
        if let (Some(object), Value::Object(others)) = (object.as_object_mut(), others) {
            object.extend(others);
        }
        self.0.lock().map_err(|_| "another thread panicked")?.insert(token.to_owned(), object);
        Ok(())
    }
}

async fn verify(
    State(stand_in): State<StandIn>,
    headers: HeaderMap,
    Json(asked): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let error =
        |code: &str| json!({ "errors": [{ "message": code, "long_message": code, "code": code }] });
    let expected = format!("Bearer {MACHINE_SECRET}");
    if headers.get("authorization").is_none_or(|value| value != expected.as_str()) {
        return (StatusCode::UNAUTHORIZED, Json(error("authentication_invalid")));
    }
    let known =
        stand_in.0.lock().ok().and_then(|known| known.get(asked["token"].as_str()?).cloned());
    match known {
        Some(token) => (StatusCode::OK, Json(token)),
        None => (StatusCode::NOT_FOUND, Json(error("resource_not_found"))),
    }
}
