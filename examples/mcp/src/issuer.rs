//! A small authorization server, in place of the provider that a service has: it gives tokens to machines by their client credentials
//! (RFC 6749 §4.4), and says so in its metadata (RFC 8414).

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Form, Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Error;

/// The one client that the issuer knows.
pub const CLIENT_ID: &str = "research-agent";
pub const CLIENT_SECRET: &str = "not a secret: this issuer ends with the example";

const KID: &str = "2026-11";

pub struct Issuer {
    pub url: String,
    key: Ed25519KeyPair,
}

#[derive(Deserialize)]
struct TokenRequest {
    grant_type: String,
    client_id: String,
    client_secret: String,
    #[serde(default)]
    scope: String,
    /// The service that the token is for (RFC 8707).
    resource: String,
}

impl Issuer {
    pub fn new(url: String) -> Result<Self, Error> {
        let refused = |_| "the key could not be made";
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(refused)?;
        let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref())
            .map_err(|error| format!("the key could not be read: {error}"))?;
        Ok(Self { url, key })
    }

    pub fn into_router(self) -> Router {
        Router::new()
            .route("/.well-known/oauth-authorization-server", get(metadata))
            .route("/jwks", get(jwks))
            .route("/token", post(token))
            .with_state(Arc::new(self))
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": KID });
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(&header), encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

async fn metadata(State(issuer): State<Arc<Issuer>>) -> Json<Value> {
    let url = &issuer.url;
    Json(json!({
        "issuer": url,
        "authorization_endpoint": format!("{url}/authorize"),
        "token_endpoint": format!("{url}/token"),
        "jwks_uri": format!("{url}/jwks"),
        "response_types_supported": ["code"],
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_post"],
    }))
}

async fn jwks(State(issuer): State<Arc<Issuer>>) -> Json<Value> {
    let x = URL_SAFE_NO_PAD.encode(issuer.key.public_key());
    Json(json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": KID, "x": x }] }))
}

async fn token(State(issuer): State<Arc<Issuer>>, Form(asked): Form<TokenRequest>) -> Response {
    let refused =
        |error| (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response();
    if asked.grant_type != "client_credentials" {
        return refused("unsupported_grant_type");
    }
    if (asked.client_id.as_str(), asked.client_secret.as_str()) != (CLIENT_ID, CLIENT_SECRET) {
        return refused("invalid_client");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let token = issuer.sign(&json!({
        "iss": issuer.url,
        "sub": asked.client_id,
        "aud": asked.resource,
        "scope": asked.scope,
        "iat": now,
        "exp": now + 600,
    }));
    let answer = json!({ "access_token": token, "token_type": "Bearer", "expires_in": 600, "scope": asked.scope });
    Json(answer).into_response()
}
