//! Whatever text comes, a verifier answers, and accepts nothing that the issuer did not sign.

use agentkey::identity::{JwtAlgorithm, JwtVerifier, Verifier};
use proptest::prelude::*;
use serde_json::json;

use crate::support::*;

struct Fixture {
    verifier: JwtVerifier,
    /// Good tokens, one of each type of key.
    tokens: Vec<String>,
}

fn fixture() -> Fixture {
    let signers = [Signer::rsa("rsa"), Signer::p256("p256"), Signer::ed25519("ed")];
    let keys: Vec<_> = signers.iter().map(Signer::jwk).collect();
    let verifier = given(&keys)
        .algorithms([
            JwtAlgorithm::Rs256,
            JwtAlgorithm::Es256,
            JwtAlgorithm::EdDsa,
            JwtAlgorithm::Hs256,
        ])
        .build()
        .unwrap();
    Fixture { verifier, tokens: signers.iter().map(|signer| signer.token(&claims())).collect() }
}

/// A verifier with given keys never waits.
fn is_accepted_now(verifier: &JwtVerifier, text: &str) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _ = verifier.accepts(text);
    runtime.block_on(verifier.verify(text)).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_refused(text in any::<String>(), parts in prop::collection::vec(any::<Vec<u8>>(), 0..5)) {
        let Fixture { verifier, .. } = fixture();
        prop_assert!(!is_accepted_now(&verifier, &text));
        let parts: Vec<_> = parts.iter().map(|part| encode(&String::from_utf8_lossy(part))).collect();
        prop_assert!(!is_accepted_now(&verifier, &parts.join(".")));
    }

    #[test]
    fn a_changed_token_is_refused(
        which in 0..3_usize, at in any::<prop::sample::Index>(), byte in 0x20..0x7f_u8, cut in any::<bool>(),
    ) {
        let Fixture { verifier, tokens } = fixture();
        let token = &tokens[which];
        prop_assert!(is_accepted_now(&verifier, token));
        let mut changed = token.clone().into_bytes();
        let at = at.index(changed.len());
        if cut { changed.remove(at); } else { changed[at] = byte }
        let changed = String::from_utf8(changed).unwrap();
        prop_assume!(changed != *token);
        prop_assert!(!is_accepted_now(&verifier, &changed), "{changed}");
    }

    /// Headers and claims of every shape, which no key of the issuer signed.
    #[test]
    fn unsigned_claims_are_refused(
        alg in prop::sample::select(vec!["none", "HS256", "RS256", "PS256", "ES256", "EdDSA", "Ed25519"]),
        kid in prop::option::of(prop::sample::select(vec!["rsa", "p256", "ed", "unknown"])),
        signature in prop::collection::vec(any::<u8>(), 0..300),
        sub in any::<String>(),
    ) {
        let Fixture { verifier, .. } = fixture();
        let forger = Signer::secret("", &signature);
        let mut header = json!({ "alg": alg });
        if let Some(kid) = kid { header["kid"] = json!(kid) }
        let token = forger.token_with(&header, &claims_with(json!({ "sub": sub })).to_string());
        prop_assert!(!is_accepted_now(&verifier, &token));
        let (message, _) = token.rsplit_once('.').unwrap();
        let raw = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, &signature);
        let forged = format!("{message}.{raw}");
        prop_assert!(!is_accepted_now(&verifier, &forged));
    }
}
