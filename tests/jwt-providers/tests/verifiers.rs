//! Verifiers in a build that has both cryptographic features of `jsonwebtoken`, and both of `rustls`.

use std::panic::catch_unwind;

use agentkey::identity::{JwtVerifier, Verifier};
use agentkey::jiff::Timestamp;
use agentkey::model::ManualClock;
use jsonwebtoken::{EncodingKey, Header, encode};
use rustls::crypto::CryptoProvider;

#[tokio::test]
async fn tokens_are_verified_and_no_provider_is_installed() {
    let key = EncodingKey::from_secret(&[1; 32]);
    let encode = || encode(&Header::default(), &serde_json::json!({}), &key);
    catch_unwind(encode).expect_err("jsonwebtoken has two providers, and takes neither");

    let recorded: serde_json::Value =
        serde_json::from_str(include_str!("../../identity/recorded/google.json")).unwrap();
    let issuer = recorded["issuer"].as_str().unwrap();
    let clock = ManualClock::at(Timestamp::from_second(1_587_626_300).unwrap());
    let verifier = JwtVerifier::from_jwks(issuer, recorded["jwks"].to_string())
        .audience("https://example.com/path")
        .clock(&clock)
        .build()
        .unwrap();
    let verified = verifier.verify(recorded["token"].as_str().unwrap()).await.unwrap();
    assert_eq!(verified.subject.id(), "104029292853099978293");

    catch_unwind(rustls::ClientConfig::builder).expect_err("rustls has two providers as well");
    JwtVerifier::discover(issuer).audience("https://example.com/path").build().unwrap();
    assert!(CryptoProvider::get_default().is_none(), "it is left to the application");
}
