//! Tokens that public providers issued, with the keys that they published then. Each file names its
//! source. The clock stands inside their validity.

use agentkey::ScopeSet;
use agentkey::identity::{JwtVerifier, JwtVerifierBuilder, VerifyError};
use agentkey::jiff::Timestamp;
use agentkey::model::ManualClock;
use serde_json::Value;

use crate::support::{is_invalid, verify};

fn read(text: &str) -> (Value, String, JwtVerifierBuilder) {
    let recorded: Value = serde_json::from_str(text).unwrap();
    let token = recorded["token"].as_str().unwrap().to_owned();
    let issuer = recorded["issuer"].as_str().unwrap();
    let builder = JwtVerifier::from_jwks(issuer, recorded["jwks"].to_string());
    (recorded, token, builder)
}

fn at(second: i64) -> ManualClock {
    ManualClock::at(Timestamp::from_second(second).unwrap())
}

#[tokio::test]
async fn google_identity_token_of_a_service_account() {
    let (_, token, builder) = read(include_str!("recorded/google.json"));
    let clock = at(1_587_629_887);
    let verifier = builder.audience("https://example.com/path").clock(&clock).build().unwrap();
    let verified = verify(&verifier, &token).await.unwrap();
    assert_eq!(verified.subject.id(), "104029292853099978293");
    assert_eq!(verified.scopes, None);
    assert_eq!(verified.claims["email_verified"], true);
    clock.set(Timestamp::from_second(1_587_629_888).unwrap());
    assert_eq!(verify(&verifier, &token).await, Err(VerifyError::Expired));
    clock.set(Timestamp::from_second(1_587_626_227).unwrap());
    is_invalid(&verifier, &token).await;
}

/// It has no `aud`.
#[tokio::test]
async fn cognito_access_token() {
    let (_, token, builder) = read(include_str!("recorded/cognito.json"));
    let clock = at(1_617_955_000);
    let verifier = builder
        .client_id("6i0o6sela15jdctgeflkmj4gjo")
        .require_claim("token_use", "access")
        .clock(&clock)
        .build()
        .unwrap();
    let verified = verify(&verifier, &token).await.unwrap();
    assert_eq!(verified.subject.id(), "1bc2a8fb-fc0a-440f-93ae-576e0879d180");
    assert_eq!(verified.scopes, Some(ScopeSet::parse(["email", "openid", "profile"]).unwrap()));
    let (_, token, other_app) = read(include_str!("recorded/cognito.json"));
    is_invalid(&other_app.client_id("another").clock(&clock).build().unwrap(), &token).await;
}
