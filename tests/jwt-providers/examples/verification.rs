//! What verifying one RS256 token takes, by the verifier and by `jsonwebtoken` with each of its providers:
//! `cargo run --release --manifest-path tests/jwt-providers/Cargo.toml --example verification`.
//!
//! It is in this package because it has both providers. Each measures on one thread, in turns, and the best turn counts.

use std::hint::black_box;
use std::time::{Duration, Instant};

use agentkey::identity::{JwtVerifier, Verifier};
use agentkey::jiff::Timestamp;
use agentkey::model::ManualClock;
use jsonwebtoken::crypto::{aws_lc, rust_crypto};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde_json::Value;

const TURNS: usize = 20;
const IN_A_TURN: u32 = 1_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let recorded = include_str!("../../identity/recorded/google.json");
    let recorded: Value = serde_json::from_str(recorded).expect("JSON");
    let token = recorded["token"].as_str().expect("a token");
    match std::env::args().nth(1).as_deref() {
        None => {
            let us = verifier(&recorded, token).await;
            println!("JwtVerifier: {us:?} a token");
            for provider in ["aws_lc_rs", "rust_crypto"] {
                // A process of its own, because a provider is for the whole process.
                let program = std::env::current_exe().expect("a program");
                let status = std::process::Command::new(program).arg(provider).status();
                assert!(status.expect("it runs").success());
            }
        }
        Some(provider) => {
            let installed = match provider {
                "aws_lc_rs" => aws_lc::DEFAULT_PROVIDER.install_default(),
                _ => rust_crypto::DEFAULT_PROVIDER.install_default(),
            };
            installed.expect("none is installed");
            println!("jsonwebtoken with {provider}: {:?} a token", theirs(&recorded, token));
        }
    }
}

async fn verifier(recorded: &Value, token: &str) -> Duration {
    let clock = ManualClock::at(Timestamp::from_second(1_587_626_300).expect("a time"));
    let issuer = recorded["issuer"].as_str().expect("an issuer");
    let verifier = JwtVerifier::from_jwks(issuer, recorded["jwks"].to_string())
        .audience("https://example.com/path")
        .clock(&clock)
        .build()
        .expect("a verifier");
    let mut best = Duration::MAX;
    for _ in 0..TURNS {
        let start = Instant::now();
        for _ in 0..IN_A_TURN {
            assert!(verifier.accepts(token));
            black_box(verifier.verify(token).await.expect("it is valid"));
        }
        best = best.min(start.elapsed() / IN_A_TURN);
    }
    best
}

fn theirs(recorded: &Value, token: &str) -> Duration {
    let jwk: Jwk = serde_json::from_value(recorded["jwks"]["keys"][0].clone()).expect("a key");
    let key = DecodingKey::from_jwk(&jwk).expect("a key");
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_exp = false;
    validation.set_audience(&["https://example.com/path"]);
    validation.set_issuer(&["https://accounts.google.com"]);
    let mut best = Duration::MAX;
    for _ in 0..TURNS {
        let start = Instant::now();
        for _ in 0..IN_A_TURN {
            black_box(decode::<Value>(token, &key, &validation).expect("it is valid"));
        }
        best = best.min(start.elapsed() / IN_A_TURN);
    }
    best
}
