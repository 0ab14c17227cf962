//! Issuers that listen on a socket, and tokens that they sign.

mod issuer;
mod keys;

use std::time::Duration;

use agentkey::identity::{JwtVerifier, JwtVerifierBuilder, Verified, Verifier, VerifyError};
use agentkey::model::ManualClock;
pub(crate) use issuer::{Answer, Issuer};
pub(crate) use keys::{Signer, encode};
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://issuer.example";
pub(crate) const AUDIENCE: &str = "https://api.example.com";
/// What the tests' clock shows at first: 2026-11-27T00:00:00Z.
pub(crate) const NOW: i64 = 1_795_737_600;

pub(crate) fn clock() -> ManualClock {
    ManualClock::at(agentkey::jiff::Timestamp::from_second(NOW).unwrap())
}

/// Claims that are accepted.
pub(crate) fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "machine-7", "iat": NOW, "nbf": NOW, "exp": NOW + 300,
        "scope": "read proxy.chat",
    })
}

/// The accepted claims with some that are others, or are left out where they are null.
pub(crate) fn claims_with(others: Value) -> Value {
    let mut claims = claims();
    let object = claims.as_object_mut().unwrap();
    for (name, value) in others.as_object().unwrap() {
        match value {
            Value::Null => drop(object.remove(name)),
            value => drop(object.insert(name.clone(), value.clone())),
        }
    }
    claims
}

pub(crate) fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// A verifier with these keys, at the tests' clock.
pub(crate) fn given(keys: &[Value]) -> JwtVerifierBuilder {
    JwtVerifier::from_jwks(ISSUER, key_set(keys)).audience(AUDIENCE).clock(&clock())
}

/// A verifier that fetches its keys from `/keys` of an issuer.
pub(crate) fn fetching(issuer: &Issuer, clock: &ManualClock) -> JwtVerifierBuilder {
    JwtVerifier::from_jwks_url(ISSUER, issuer.url("/keys"))
        .audience(AUDIENCE)
        .allow_loopback_http()
        .timeout(Duration::from_secs(60))
        .clock(clock)
}

/// Verifies as the layer does: only what the verifier accepts.
pub(crate) async fn verify(verifier: &impl Verifier, token: &str) -> Result<Verified, VerifyError> {
    let verified = verifier.verify(token).await;
    assert!(verified.is_err() || verifier.accepts(token));
    verified
}

pub(crate) async fn is_accepted(verifier: &impl Verifier, token: &str) {
    let verified = verify(verifier, token).await.expect("it is accepted");
    assert_eq!(verified.subject.id(), "machine-7");
}

pub(crate) async fn is_invalid(verifier: &impl Verifier, token: &str) {
    match verify(verifier, token).await {
        Err(VerifyError::Invalid(reason)) => assert!(token.is_empty() || !reason.contains(token)),
        other => panic!("{other:?}: {token}"),
    }
}

pub(crate) async fn is_unavailable(verifier: &impl Verifier, token: &str) {
    match verify(verifier, token).await {
        Err(VerifyError::Unavailable { reason, retry_after }) => {
            assert!(!reason.contains(token) && !retry_after.is_zero());
        }
        other => panic!("{other:?}"),
    }
}
