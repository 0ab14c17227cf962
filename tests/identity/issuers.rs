//! Issuers that are slow, down, hostile, or that change their keys.

use std::sync::Arc;
use std::time::Duration;

use agentkey::identity::{JwtVerifier, VerifyError};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::*;

const DISCOVERY: &str = "/.well-known/openid-configuration";

#[tokio::test]
async fn a_thousand_first_tokens_share_one_fetch() {
    let signer = Signer::ed25519("one");
    let word = Arc::new(Semaphore::new(0));
    let issuer = Issuer::start().await;
    issuer.answer("/keys", Answer::Later(word.clone(), key_set(&[signer.jwk()])));
    let verifier = fetching(&issuer, &clock()).build().unwrap();
    let mut waiting = JoinSet::new();
    for _ in 0..1_000 {
        let (verifier, token) = (verifier.clone(), signer.token(&claims()));
        waiting.spawn(async move { is_accepted(&verifier, &token).await });
    }
    word.add_permits(1);
    waiting.join_all().await;
    assert_eq!(issuer.count("/keys"), 1);
}

/// Who began the fetch has left; the others get the keys.
#[tokio::test]
async fn a_client_that_leaves_ends_no_fetch() {
    let signer = Signer::ed25519("one");
    let word = Arc::new(Semaphore::new(0));
    let issuer = Issuer::start().await;
    issuer.answer("/keys", Answer::Later(word.clone(), key_set(&[signer.jwk()])));
    let verifier = fetching(&issuer, &clock()).build().unwrap();
    let token = signer.token(&claims());
    let first = tokio::spawn({
        let (verifier, token) = (verifier.clone(), token.clone());
        async move { verify(&verifier, &token).await }
    });
    while issuer.count("/keys") == 0 {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    word.add_permits(1);
    is_accepted(&verifier, &token).await;
    assert_eq!(issuer.count("/keys"), 1);
}

#[tokio::test]
async fn the_keys_are_found_by_discovery() {
    let signer = Signer::ed25519("one");
    let issuer = Issuer::with_keys(key_set(&[signer.jwk()])).await;
    let name = issuer.url("");
    let metadata = |jwks_uri: &str, name: &str| {
        Answer::Json(json!({ "issuer": name, "jwks_uri": jwks_uri }).to_string())
    };
    let token = signer.token(&claims_with(json!({ "iss": name })));
    let found = |answer: Answer| {
        issuer.answer(DISCOVERY, answer);
        JwtVerifier::discover(&name).audience(AUDIENCE).allow_loopback_http().clock(&clock())
    };
    let verifier = found(metadata(&issuer.url("/keys"), &name)).build().unwrap();
    is_accepted(&verifier, &token).await;
    for answer in [
        // Another issuer's document must not bring keys for this one.
        metadata(&issuer.url("/keys"), &format!("{name}/")),
        metadata(&issuer.url("/keys"), ISSUER),
        metadata("http://issuer.example/keys", &name),
        metadata("file:///etc/passwd", &name),
        metadata("keys", &name),
        Answer::Json("{}".to_owned()),
        Answer::Json("[".to_owned()),
        Answer::Redirect("/other".to_owned()),
    ] {
        is_unavailable(&found(answer).build().unwrap(), &token).await;
    }
    assert_eq!(issuer.count("/other"), 0);
    assert_eq!(issuer.count("/keys"), 1, "no refused document led to the keys");

    issuer.answer("/metadata", metadata(&issuer.url("/keys"), &name));
    let elsewhere = JwtVerifier::from_metadata_url(&name, issuer.url("/metadata"));
    let elsewhere = elsewhere.audience(AUDIENCE).allow_loopback_http().clock(&clock());
    is_accepted(&elsewhere.build().unwrap(), &token).await;
}

#[tokio::test]
async fn an_answer_that_cannot_be_used_is_a_503() {
    let signer = Signer::ed25519("one");
    let token = signer.token(&claims());
    let issuer = Issuer::start().await;
    issuer.answer("/moved", Answer::Json(key_set(&[signer.jwk()])));
    let closed = JwtVerifier::from_jwks_url(ISSUER, "http://127.0.0.1:1/keys");
    let closed = closed.audience(AUDIENCE).allow_loopback_http().build().unwrap();
    is_unavailable(&closed, &token).await;
    for answer in [
        Answer::Status(500),
        Answer::Status(404),
        Answer::Status(204),
        Answer::Redirect(issuer.url("/moved")),
        Answer::TenMegabytes,
        Answer::Json(String::new()),
        Answer::Json("[]".to_owned()),
        Answer::Json("{}".to_owned()),
        Answer::Json(r#"{"keys":{}}"#.to_owned()),
        Answer::Json(r#"{"keys":[]}"#.to_owned()),
        Answer::Json(key_set(&[signer.jwk()]) + "x"),
        Answer::Json(r#"{"keys":[],"keys":[]}"#.to_owned()),
    ] {
        issuer.answer("/keys", answer);
        is_unavailable(&fetching(&issuer, &clock()).build().unwrap(), &token).await;
    }
    assert_eq!(issuer.count("/moved"), 0, "a redirect is not followed");
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let signer = Signer::ed25519("one");
    let issuer = Issuer::start().await;
    issuer.answer("/keys", Answer::Endless);
    let verifier = fetching(&issuer, &clock()).build().unwrap();
    is_unavailable(&verifier, &signer.token(&claims())).await;
    // 8 MB, and what the sockets hold.
    assert!(issuer.bytes_sent() < 32_000_000, "{}", issuer.bytes_sent());
}

#[tokio::test]
async fn an_issuer_that_hangs_holds_up_its_own_unknown_tokens_only() {
    let (signer, other) = (Signer::ed25519("one"), Signer::ed25519("one"));
    let clock = clock();
    let hanging = Issuer::with_keys(key_set(&[signer.jwk()])).await;
    let healthy = Issuer::with_keys(key_set(&[other.jwk()])).await;
    // It would be a minute, so a test that waits for it does not end well.
    let verifier = fetching(&hanging, &clock).build().unwrap();
    let healthy = fetching(&healthy, &clock).build().unwrap();
    is_accepted(&verifier, &signer.token(&claims())).await;

    hanging.answer("/keys", Answer::Hang);
    clock.advance(Duration::from_secs(600));
    let claims = claims_with(json!({ "exp": NOW + 3_000 }));
    for _ in 0..100 {
        is_accepted(&verifier, &signer.token(&claims)).await;
        is_accepted(&healthy, &other.token(&claims)).await;
    }
    let unknown = Signer::ed25519("two").token(&claims);
    let waiting = tokio::spawn(async move { verify(&verifier, &unknown).await });
    while hanging.count("/keys") < 2 {
        tokio::task::yield_now().await;
    }
    is_accepted(&healthy, &other.token(&claims)).await;
    assert!(!waiting.is_finished());
    waiting.abort();

    let impatient = fetching(&hanging, &clock).timeout(Duration::from_millis(50)).build().unwrap();
    is_unavailable(&impatient, &signer.token(&claims)).await;
}

#[tokio::test]
async fn keys_outlast_an_outage_for_a_time_and_then_nobody_can_say() {
    let signer = Signer::ed25519("one");
    let clock = clock();
    let issuer = Issuer::with_keys(key_set(&[signer.jwk()])).await;
    let verifier = fetching(&issuer, &clock).stale_for(Duration::from_secs(1_200)).build().unwrap();
    let claims = claims_with(json!({ "exp": NOW + 30_000 }));
    let token = signer.token(&claims);
    is_accepted(&verifier, &token).await;

    issuer.answer("/keys", Answer::Status(500));
    clock.advance(Duration::from_secs(1_199));
    is_accepted(&verifier, &token).await;
    while issuer.count("/keys") < 2 {
        tokio::task::yield_now().await;
    }
    // A key that is unknown may be a new one, which nobody can say now.
    clock.advance(Duration::from_millis(500));
    is_unavailable(&verifier, &Signer::ed25519("two").token(&claims)).await;
    is_accepted(&verifier, &token).await;
    clock.advance(Duration::from_millis(500));
    is_unavailable(&verifier, &token).await;

    issuer.answer("/keys", Answer::Json(key_set(&[signer.jwk()])));
    clock.advance(Duration::from_secs(5));
    is_accepted(&verifier, &token).await;
}

#[tokio::test]
async fn usable_keys_of_a_strange_set_work() {
    let (rsa, p256) = (Signer::rsa("rsa"), Signer::p256("p256"));
    let (ed, last, private) = (Signer::ed25519("ed"), Signer::ed25519("last"), Signer::p384("enc"));
    let short = "A".repeat(171); // 1,024 bits
    let mut keys = vec![
        json!({ "kty": "RSA", "kid": "short", "e": "AQAB", "n": format!("_{short}") }),
        json!({ "kty": "AKP", "kid": "new", "alg": "ML-DSA-44", "pub": "AAAA" }),
        json!({ "kty": "OKP", "crv": "X25519", "kid": "agreement", "x": "AAAA" }),
        json!({ "kty": "EC", "crv": "secp256k1", "kid": "curve", "x": "AAAA", "y": "AAAA" }),
        json!({ "kty": "RSA", "kid": "broken", "e": "AQAB", "n": "=== no base64 ===" }),
        json!({ "kty": "RSA", "kid": "none" }),
        json!({ "kid": "nothing" }),
        json!("no object"),
        Value::Null,
        ed.jwk_with(json!({ "kid": "wrong", "alg": "RS256" })),
        private.jwk_with(json!({ "use": "enc" })),
        rsa.jwk_with(json!({ "alg": null })),
        p256.jwk_with(json!({ "key_ops": ["verify"] })),
        ed.jwk_with(json!({ "extra": { "a": [1, 2.5] } })),
    ];
    let filler = Signer::ed25519("filler");
    keys.extend((0..9_980).map(|at| filler.jwk_with(json!({ "kid": format!("filler-{at}") }))));
    keys.push(last.jwk());
    let issuer = Issuer::with_keys(key_set(&keys)).await;
    let verifier = fetching(&issuer, &clock()).build().unwrap();
    for signer in [&rsa, &p256, &ed, &last] {
        is_accepted(&verifier, &signer.token(&claims())).await;
    }
    for (signer, kid) in [(&ed, "wrong"), (&private, "enc"), (&rsa, "short"), (&rsa, "broken")] {
        let header = json!({ "alg": signer.algorithm(), "kid": kid });
        is_invalid(&verifier, &signer.token_with(&header, &claims().to_string())).await;
    }
    // Without a `kid`, a few keys are tried and not thousands.
    let nameless = |signer: &Signer| {
        let header = json!({ "alg": signer.algorithm() });
        signer.token_with(&header, &claims().to_string())
    };
    is_accepted(&verifier, &nameless(&p256)).await;
    is_accepted(&verifier, &nameless(&ed)).await;
    is_invalid(&verifier, &nameless(&last)).await;
    assert_eq!(issuer.count("/keys"), 1);
}

/// 10,000 RSA keys fit into the bound of a set, and keys beyond 10,000 are left out.
#[tokio::test]
async fn ten_thousand_rsa_keys_are_kept_and_no_more() {
    let (rsa, beyond) = (Signer::rsa("rsa"), Signer::ed25519("beyond"));
    let mut keys: Vec<_> =
        (1..10_000).map(|at| rsa.jwk_with(json!({ "kid": format!("{at:040}") }))).collect();
    keys.extend([rsa.jwk(), beyond.jwk()]);
    let issuer = Issuer::with_keys(key_set(&keys)).await;
    let verifier = fetching(&issuer, &clock()).build().unwrap();
    is_accepted(&verifier, &rsa.token(&claims())).await;
    is_invalid(&verifier, &beyond.token(&claims())).await;
}

#[tokio::test]
async fn random_kids_cause_one_fetch_in_a_cooldown() {
    let signer = Signer::ed25519("one");
    let clock = clock();
    let issuer = Issuer::with_keys(key_set(&[signer.jwk()])).await;
    let verifier = fetching(&issuer, &clock).build().unwrap();
    let good = signer.token(&claims());
    is_accepted(&verifier, &good).await;
    let forger = Signer::ed25519("");
    let random = |at: usize| {
        let header = json!({ "alg": "EdDSA", "kid": format!("random-{at}") });
        forger.token_with(&header, &claims().to_string())
    };
    for at in 0..10_000 {
        is_invalid(&verifier, &random(at)).await;
        if at % 100 == 0 {
            is_accepted(&verifier, &good).await;
        }
    }
    assert_eq!(issuer.count("/keys"), 1, "the first fetch was within the cooldown");
    clock.advance(Duration::from_secs(30));
    let mut waiting = JoinSet::new();
    for at in 0..1_000 {
        let (verifier, token) = (verifier.clone(), random(at));
        waiting.spawn(async move { is_invalid(&verifier, &token).await });
    }
    waiting.join_all().await;
    is_accepted(&verifier, &good).await;
    assert_eq!(issuer.count("/keys"), 2);
}

#[tokio::test]
async fn a_new_key_works_within_a_cooldown_and_a_removed_one_ends() {
    for has_kid in [true, false] {
        let (old, new) = (Signer::ed25519("old"), Signer::ed25519("new"));
        let jwk = |signer: &Signer| match has_kid {
            true => signer.jwk(),
            false => signer.jwk_with(json!({ "kid": null })),
        };
        let token = |signer: &Signer| match has_kid {
            true => signer.token(&claims()),
            false => signer.token_with(&json!({ "alg": "EdDSA" }), &claims().to_string()),
        };
        let clock = clock();
        let issuer = Issuer::with_keys(key_set(&[jwk(&old)])).await;
        let verifier = fetching(&issuer, &clock).cooldown(Duration::from_secs(7)).build().unwrap();
        is_accepted(&verifier, &token(&old)).await;
        issuer.answer("/keys", Answer::Json(key_set(&[jwk(&new), jwk(&old)])));
        clock.advance(Duration::from_millis(6_999));
        is_invalid(&verifier, &token(&new)).await;
        clock.advance(Duration::from_millis(1));
        is_accepted(&verifier, &token(&new)).await;
        is_accepted(&verifier, &token(&old)).await;

        issuer.answer("/keys", Answer::Json(key_set(&[jwk(&new)])));
        clock.advance(Duration::from_secs(7));
        is_invalid(&verifier, &Signer::ed25519("unknown").token(&claims())).await;
        assert_eq!(issuer.count("/keys"), 3);
        is_invalid(&verifier, &token(&old)).await;
        is_accepted(&verifier, &token(&new)).await;
    }
}

/// Without any unknown key, the keys are fetched again when it is time, and no token waits for it.
#[tokio::test]
async fn keys_are_refreshed_beside_the_requests() {
    let (old, new) = (Signer::ed25519("same"), Signer::ed25519("same"));
    let clock = clock();
    let issuer = Issuer::with_keys(key_set(&[old.jwk()])).await;
    let verifier = fetching(&issuer, &clock).build().unwrap();
    let claims = claims_with(json!({ "exp": NOW + 3_000 }));
    is_accepted(&verifier, &old.token(&claims)).await;
    issuer.answer("/keys", Answer::Json(key_set(&[new.jwk()])));
    clock.advance(Duration::from_secs(599));
    is_accepted(&verifier, &old.token(&claims)).await;
    clock.advance(Duration::from_secs(1));
    // It may still be the old key that decides; the next ones are the new key's.
    while verify(&verifier, &new.token(&claims)).await.is_err() {
        tokio::task::yield_now().await;
    }
    is_invalid(&verifier, &old.token(&claims)).await;
    assert_eq!(issuer.count("/keys"), 2);
}

#[tokio::test]
async fn a_token_of_another_issuer_fetches_nothing() {
    let signer = Signer::ed25519("one");
    let issuer = Issuer::with_keys(key_set(&[signer.jwk()])).await;
    let verifier = fetching(&issuer, &clock()).build().unwrap();
    let other = signer.token(&claims_with(json!({ "iss": "https://other.example" })));
    is_invalid(&verifier, &other).await;
    is_invalid(&verifier, "ak_no_token_of_an_issuer").await;
    let unsigned = json!({ "alg": "none" });
    is_invalid(&verifier, &signer.token_with(&unsigned, &claims().to_string())).await;
    assert_eq!(issuer.count("/keys"), 0);
}

/// The clock of the machine may be set back; the keys are then fetched once more, and not never.
#[tokio::test]
async fn a_clock_that_is_set_back_stops_no_refresh() {
    let (old, new) = (Signer::ed25519("old"), Signer::ed25519("new"));
    let clock = clock();
    clock.advance(Duration::from_secs(86_400));
    let issuer = Issuer::with_keys(key_set(&[old.jwk()])).await;
    let verifier = fetching(&issuer, &clock).build().unwrap();
    let unknown = verify(&verifier, &new.token(&claims())).await;
    assert!(matches!(unknown, Err(VerifyError::Invalid(_))), "{unknown:?}");
    clock.set(agentkey::jiff::Timestamp::from_second(NOW).unwrap());
    issuer.answer("/keys", Answer::Json(key_set(&[new.jwk()])));
    is_accepted(&verifier, &new.token(&claims())).await;
}
