//! An identity provider in this process: discovery, keys, and tokens for machines. A real one is elsewhere.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Map, Value, json};

use crate::Error;

/// The provider. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Issuer {
    pub(crate) url: String,
    /// All of them are published; the last one signs.
    keys: Arc<Mutex<Vec<Key>>>,
}

struct Key {
    kid: String,
    pair: Ed25519KeyPair,
}

impl Issuer {
    pub(crate) async fn start() -> Result<Self, Error> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let issuer = Self { url, keys: Arc::default() };
        issuer.change_key()?;
        let app = Router::new()
            .route("/.well-known/openid-configuration", get(metadata))
            .route("/keys", get(keys))
            .route("/token", post(token))
            .with_state(issuer.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(issuer)
    }

    /// Signs with a new key from now on. The old one stays published, for tokens that live.
    pub(crate) fn change_key(&self) -> Result<String, Error> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let document = document.map_err(|_| "no random numbers")?;
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|_| "a key")?;
        let mut keys = self.keys.lock().map_err(|_| "another thread panicked")?;
        let kid = format!("key-{}", keys.len() + 1);
        keys.push(Key { kid: kid.clone(), pair });
        Ok(kid)
    }

    fn sign(&self, claims: &Value) -> Option<String> {
        let keys = self.keys.lock().ok()?;
        let key = keys.last()?;
        let header = json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": key.kid });
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let message = format!("{}.{}", part(&header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(key.pair.sign(message.as_bytes()));
        Some(format!("{message}.{signature}"))
    }
}

async fn metadata(State(issuer): State<Issuer>) -> Json<Value> {
    let url = &issuer.url;
    Json(
        json!({ "issuer": url, "jwks_uri": format!("{url}/keys"), "token_endpoint": format!("{url}/token") }),
    )
}

async fn keys(State(issuer): State<Issuer>) -> Json<Value> {
    let keys = issuer.keys.lock().map(|keys| keys.iter().map(public).collect::<Vec<_>>());
    Json(json!({ "keys": keys.unwrap_or_default() }))
}

fn public(key: &Key) -> Value {
    let x = URL_SAFE_NO_PAD.encode(key.pair.public_key());
    json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": key.kid, "x": x })
}

/// Gives every machine a token, with what it asks for. A real provider asks for its secret first.
async fn token(
    State(issuer): State<Issuer>,
    Query(asked): Query<Map<String, Value>>,
) -> Json<Value> {
    let text = |name: &str, default: &str| {
        asked.get(name).and_then(Value::as_str).unwrap_or(default).to_owned()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seconds = text("seconds", "300").parse().unwrap_or(300);
    let claims = json!({
        "iss": issuer.url, "sub": text("client_id", "nobody"), "aud": text("audience", "https://api.example.com"),
        "iat": now, "exp": now + seconds, "scope": text("scope", "answer"),
    });
    Json(
        json!({ "access_token": issuer.sign(&claims), "token_type": "Bearer", "expires_in": seconds }),
    )
}
