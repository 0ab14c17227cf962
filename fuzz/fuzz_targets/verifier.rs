//! A verifier with given keys never panics, never waits, and accepts nothing that no key signed.
#![no_main]

use std::future::Future;
use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use agentkey::identity::{JwtAlgorithm, JwtVerifier, Verifier};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;

const RECORDED: &str = include_str!("../../tests/identity/recorded/google.json");

fuzz_target!(|input: &[u8]| {
    let Some((mode, input)) = input.split_first() else { return };
    let text = String::from_utf8_lossy(input);
    match mode % 4 {
        // A credential as it comes.
        0 => is_refused(&text),
        // Its parts, encoded, so that the fuzzer need not learn base64.
        1 => {
            let parts: Vec<_> = input.splitn(3, |byte| *byte == 0).map(encode).collect();
            is_refused(&parts.join("."));
        }
        // Claims under a good header.
        2 => {
            let header = br#"{"alg":"RS256","kid":"f9d97b4cae90bcd76aeb20026f6b770cac221783"}"#;
            is_refused(&format!("{}.{}.c2ln", encode(header), encode(input)));
        }
        // A key set.
        _ => drop(JwtVerifier::from_jwks("https://issuer.example", text).audience("a").build()),
    }
});

fn is_refused(credential: &str) {
    static VERIFIER: OnceLock<JwtVerifier> = OnceLock::new();
    let verifier = VERIFIER.get_or_init(|| {
        let recorded: serde_json::Value = serde_json::from_str(RECORDED).unwrap();
        JwtVerifier::from_jwks(recorded["issuer"].as_str().unwrap(), recorded["jwks"].to_string())
            .without_audience()
            .algorithms([JwtAlgorithm::Rs256, JwtAlgorithm::Ps256, JwtAlgorithm::Hs256])
            .build()
            .unwrap()
    });
    let _ = verifier.accepts(credential);
    let verified = pin!(verifier.verify(credential)).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(verified, Poll::Ready(Err(_))), "{credential}");
}

fn encode(part: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(part)
}
