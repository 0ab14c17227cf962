//! What a token has to be: each of these would open the door if it were accepted.

use std::time::Duration;

use agentkey::ScopeSet;
use agentkey::identity::{JwtAlgorithm, JwtVerifier, Verifier, VerifyError};
use agentkey::jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::*;

#[tokio::test]
async fn a_good_token_says_who_it_is_and_what_it_may() {
    let signer = Signer::ed25519("one");
    let verifier = given(&[signer.jwk()]).build().unwrap();
    let token = signer.token(&claims());
    assert!(verifier.accepts(&token));
    let verified = verify(&verifier, &token).await.unwrap();
    assert_eq!((verified.subject.issuer(), verified.subject.id()), (ISSUER, "machine-7"));
    assert_eq!(verified.scopes, Some(ScopeSet::parse(["read", "proxy.chat"]).unwrap()));
    assert_eq!(verified.expires_at, Some(Timestamp::from_second(NOW + 300).unwrap()));
    assert_eq!(verified.claims["aud"], AUDIENCE);
    assert!(!format!("{verified:?} {verifier:?}").contains("aud"));
}

#[tokio::test]
async fn each_algorithm_verifies_with_its_type_of_key() {
    let (rsa, p256) = (Signer::rsa("rsa"), Signer::p256("p256"));
    let (p384, ed) = (Signer::p384("p384"), Signer::ed25519("ed"));
    // As Entra publishes it, without `alg`.
    let any_rsa = rsa.jwk_with(json!({ "alg": null }));
    let verifier = given(&[any_rsa, p256.jwk(), p384.jwk(), ed.jwk()]).build().unwrap();
    for signer in [&rsa, &p256, &p384, &ed] {
        is_accepted(&verifier, &signer.token(&claims())).await;
    }
    for (signer, alg) in [(&rsa, "PS256"), (&ed, "Ed25519")] {
        let header = json!({ "alg": alg, "kid": signer.kid });
        is_accepted(&verifier, &signer.token_with(&header, &claims().to_string())).await;
    }
    // A key that says its algorithm is for no other one.
    let only_rs256 = given(&[rsa.jwk()]).build().unwrap();
    let header = json!({ "alg": "PS256", "kid": "rsa" });
    is_invalid(&only_rs256, &rsa.token_with(&header, &claims().to_string())).await;
    // Nor is an algorithm accepted that is not on the list.
    let listed = given(&[rsa.jwk(), ed.jwk()]).algorithms([JwtAlgorithm::EdDsa]).build().unwrap();
    is_accepted(&listed, &ed.token(&claims())).await;
    is_invalid(&listed, &rsa.token(&claims())).await;
}

#[tokio::test]
async fn a_signature_of_another_key_is_refused() {
    let (one, other) = (Signer::ed25519("one"), Signer::ed25519("one"));
    let verifier = given(&[one.jwk()]).build().unwrap();
    is_invalid(&verifier, &other.token(&claims())).await;
    let token = one.token(&claims());
    let (message, signature) = token.rsplit_once('.').unwrap();
    is_invalid(&verifier, &format!("{message}.")).await;
    is_invalid(&verifier, &format!("{message}.{}", &signature[1..])).await;
    // The claims of another token, under this one's signature.
    let (header, _) = message.split_once('.').unwrap();
    let widened = encode(&claims_with(json!({ "scope": "admin" })).to_string());
    is_invalid(&verifier, &format!("{header}.{widened}.{signature}")).await;
}

#[tokio::test]
async fn no_algorithm_and_a_confused_one_are_refused() {
    let (rsa, p256, ed) = (Signer::rsa("rsa"), Signer::p256("p256"), Signer::ed25519("ed"));
    let keys = [rsa.jwk(), p256.jwk(), ed.jwk()];
    let all = [JwtAlgorithm::Rs256, JwtAlgorithm::Es256, JwtAlgorithm::EdDsa, JwtAlgorithm::Hs256];
    for verifier in [given(&keys).build().unwrap(), given(&keys).algorithms(all).build().unwrap()] {
        for alg in ["none", "None", "NONE", "", "HS256", "RS1", "ES512"] {
            let header = json!({ "alg": alg, "kid": "rsa" });
            let token = rsa.token_with(&header, &claims().to_string());
            is_invalid(&verifier, &token).await;
            let (unsigned, _) = token.rsplit_once('.').unwrap();
            is_invalid(&verifier, &format!("{unsigned}.")).await;
        }
        // HMAC with what is public: the modulus, and the entry of the set.
        let jwk = rsa.jwk();
        for secret in [jwk["n"].as_str().unwrap(), jwk.to_string().as_str()] {
            for kid in ["rsa", "p256", "ed"] {
                let forger = Signer::secret(kid, secret.as_bytes());
                is_invalid(&verifier, &forger.token(&claims())).await;
            }
        }
        // A kid that names a key of another type.
        for (signer, kid) in [(&rsa, "p256"), (&p256, "ed"), (&ed, "rsa")] {
            let header = json!({ "alg": signer.algorithm(), "kid": kid });
            is_invalid(&verifier, &signer.token_with(&header, &claims().to_string())).await;
        }
        for header in
            [json!({ "kid": "rsa" }), json!({ "alg": 7 }), json!({ "alg": "RS256", "kid": 7 })]
        {
            is_invalid(&verifier, &rsa.token_with(&header, &claims().to_string())).await;
        }
    }
    // A secret in a key set would be known to all who read it.
    let shared = Signer::secret("shared", &[7; 32]);
    let verifier = given(&[shared.jwk(), ed.jwk()]).algorithms(all).build().unwrap();
    is_invalid(&verifier, &shared.token(&claims())).await;
}

#[tokio::test]
async fn a_shared_secret_verifies_its_own_algorithm_alone() {
    let secret = [7; 32];
    let builder = || JwtVerifier::from_secret(ISSUER, &secret).audience(AUDIENCE).clock(&clock());
    let verifier = builder().build().unwrap();
    let signer = Signer::secret("any", &secret);
    is_accepted(&verifier, &signer.token(&claims())).await;
    is_invalid(&verifier, &Signer::secret("any", &[8; 32]).token(&claims())).await;
    let header = json!({ "alg": "HS512" });
    is_invalid(&verifier, &signer.token_with(&header, &claims().to_string())).await;
    is_invalid(&verifier, &Signer::ed25519("any").token(&claims())).await;
    let other = builder().algorithms([JwtAlgorithm::Hs512]).build().unwrap();
    is_invalid(&other, &signer.token(&claims())).await;
}

#[tokio::test]
async fn claims_of_another_issuer_or_audience_are_refused() {
    let signer = Signer::ed25519("one");
    let verifier = given(&[signer.jwk()]).build().unwrap();
    for others in [
        json!({ "iss": "https://other.example" }),
        json!({ "iss": format!("{ISSUER}/") }),
        json!({ "iss": null }),
        json!({ "iss": [ISSUER] }),
        json!({ "aud": "https://other.example" }),
        json!({ "aud": null }),
        json!({ "aud": [] }),
        json!({ "aud": ["https://other.example", 7] }),
        json!({ "aud": { "a": AUDIENCE } }),
        // It is no audience of this verifier.
        json!({ "aud": null, "client_id": AUDIENCE, "azp": AUDIENCE }),
        json!({ "sub": null }),
        json!({ "sub": "" }),
        json!({ "sub": 7 }),
        json!({ "sub": "a\nb" }),
        json!({ "sub": "x".repeat(256) }),
    ] {
        is_invalid(&verifier, &signer.token(&claims_with(others))).await;
    }
    let several = json!({ "aud": ["https://other.example", AUDIENCE] });
    is_accepted(&verifier, &signer.token(&claims_with(several))).await;
}

#[tokio::test]
async fn a_client_id_counts_where_there_is_no_audience() {
    let signer = Signer::ed25519("one");
    let verifier = JwtVerifier::from_jwks(ISSUER, key_set(&[signer.jwk()]))
        .client_id("app-1")
        .require_claim("token_use", "access")
        .clock(&clock())
        .build()
        .unwrap();
    let token = |others| signer.token(&claims_with(others));
    let good = json!({ "aud": null, "client_id": "app-1", "token_use": "access" });
    is_accepted(&verifier, &token(good)).await;
    for others in [
        json!({ "aud": null, "client_id": "app-2", "token_use": "access" }),
        json!({ "aud": null, "client_id": "app-1", "token_use": "id" }),
        json!({ "aud": null, "client_id": "app-1" }),
        json!({ "aud": null, "token_use": "access", "azp": "app-1" }),
        json!({ "aud": "app-2", "client_id": "app-1", "token_use": "access" }),
    ] {
        is_invalid(&verifier, &token(others)).await;
    }
}

/// The end holds to the second, and no clock of the issuer moves it.
#[tokio::test]
async fn a_token_is_accepted_from_its_start_to_its_end() {
    let signer = Signer::ed25519("one");
    let verifier = given(&[signer.jwk()]).build().unwrap();
    let verdict =
        async |others: Value| verify(&verifier, &signer.token(&claims_with(others))).await;
    for (exp, is_over) in [
        (json!(NOW + 1), false),
        (json!(NOW as f64 + 0.5), false),
        (json!(NOW), true),
        (json!(NOW as f64 - 0.5), true),
        (json!(-1), true),
        (json!(i64::MIN), true),
        (json!(i64::MAX), false),
        (json!(1e300), false),
    ] {
        let verdict = verdict(json!({ "exp": exp, "nbf": null, "iat": null })).await;
        assert_eq!(verdict.err(), is_over.then_some(VerifyError::Expired), "{exp}");
    }
    for others in [
        json!({ "exp": null }),
        json!({ "exp": "never" }),
        json!({ "exp": [NOW + 300] }),
        json!({ "nbf": NOW + 61 }),
        json!({ "iat": NOW + 61 }),
        json!({ "nbf": "now" }),
    ] {
        is_invalid(&verifier, &signer.token(&claims_with(others))).await;
    }
    for others in [json!({ "nbf": NOW + 60 }), json!({ "iat": NOW + 60 }), json!({ "iat": 0 })] {
        verdict(others).await.unwrap();
    }

    let lenient = given(&[signer.jwk()])
        .expiry_leeway(Duration::from_secs(10))
        .start_leeway(Duration::ZERO)
        .build()
        .unwrap();
    let late = verify(&lenient, &signer.token(&claims_with(json!({ "exp": NOW - 9 })))).await;
    assert_eq!(late.unwrap().expires_at, Some(Timestamp::from_second(NOW + 1).unwrap()));
    let over = verify(&lenient, &signer.token(&claims_with(json!({ "exp": NOW - 10 })))).await;
    assert_eq!(over, Err(VerifyError::Expired));
    is_invalid(&lenient, &signer.token(&claims_with(json!({ "nbf": NOW + 1 })))).await;
}

#[tokio::test]
async fn a_forged_token_is_not_said_to_have_expired() {
    let (signer, forger) = (Signer::ed25519("one"), Signer::ed25519("one"));
    let verifier = given(&[signer.jwk()]).build().unwrap();
    is_invalid(&verifier, &forger.token(&claims_with(json!({ "exp": NOW - 1 })))).await;
    let elsewhere = claims_with(json!({ "exp": NOW - 1, "aud": "https://other.example" }));
    is_invalid(&verifier, &signer.token(&elsewhere)).await;
}

#[tokio::test]
async fn repeated_members_and_unknown_extensions_are_refused() {
    let signer = Signer::ed25519("one");
    let verifier = given(&[signer.jwk()]).build().unwrap();
    let header = json!({ "alg": "EdDSA", "kid": "one" });
    let claims = claims().to_string();
    for twice in [
        claims.replacen('{', r#"{"sub":"admin","#, 1),
        claims.replacen('{', r#"{"s\u0075b":"admin","#, 1),
        claims.replacen('{', r#"{"aud":"https://other.example","#, 1),
        claims.replacen('{', r#"{"act":{"sub":"a","sub":"b"},"#, 1),
    ] {
        is_invalid(&verifier, &signer.token_with(&header, &twice)).await;
    }
    for others in [json!(["exp"]), json!([]), json!(null)] {
        let header = json!({ "alg": "EdDSA", "kid": "one", "crit": others });
        is_invalid(&verifier, &signer.token_with(&header, &claims)).await;
    }
    let twice = r#"{"alg":"EdDSA","kid":"one","kid":"one"}"#;
    let token = signer.token_with(&header, &claims);
    let (_, rest) = token.split_once('.').unwrap();
    is_invalid(&verifier, &format!("{}.{rest}", encode(twice))).await;
    // A key that the token brings along is not looked at.
    let other = Signer::ed25519("other");
    let header = json!({ "alg": "EdDSA", "jwk": other.jwk(), "jku": "https://other.example" });
    is_invalid(&verifier, &other.token_with(&header, &claims)).await;
}

#[tokio::test]
async fn what_is_no_signed_token_is_refused() {
    let signer = Signer::ed25519("one");
    let verifier = given(&[signer.jwk()]).build().unwrap();
    let token = signer.token(&claims());
    let long = signer.token(&claims_with(json!({ "pad": "x".repeat(100_000) })));
    assert!(long.len() > 100_000 && !verifier.accepts(&long));
    let nested = format!("{}{}", "[".repeat(4_000), "]".repeat(4_000));
    let nested = claims().to_string().replacen('{', &format!(r#"{{"pad":{nested},"#), 1);
    let nested = signer.token_with(&json!({ "alg": "EdDSA", "kid": "one" }), &nested);
    for text in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "eyJhbGciOiJFZERTQSJ9..",
        "ak_0",
        "é.é.é",
        "\0.\0.\0",
        &format!("{token}."),
        &format!(".{token}"),
        &format!("{token} "),
        &format!("{token}=="),
        &token.replace('.', ""),
        &token.replacen('.', "..", 1),
        &token.to_uppercase(),
        &long,
        &nested,
    ] {
        is_invalid(&verifier, text).await;
    }
}

#[tokio::test]
async fn scopes_that_cannot_be_read_narrow() {
    let signer = Signer::ed25519("one");
    let jwks = [signer.jwk()];
    let default = given(&jwks).build().unwrap();
    let entra = given(&jwks).scope_claims(["scp", "roles"]).build().unwrap();
    let none = Some(ScopeSet::none());
    let read = Some(ScopeSet::parse(["read"]).unwrap());
    for (verifier, others, scopes) in [
        (&default, json!({ "scope": null }), None),
        (&default, json!({ "scope": "" }), none.clone()),
        (&default, json!({ "scope": "read  a,b \"x\" img*" }), read.clone()),
        (&default, json!({ "scope": ["read", 7, "two words"] }), read.clone()),
        (&default, json!({ "scope": 7 }), none.clone()),
        (&default, json!({ "scope": { "admin": true } }), none.clone()),
        (&default, json!({ "scope": null, "scp": "read" }), None),
        (&entra, json!({ "scope": "admin", "scp": "read" }), read.clone()),
        (&entra, json!({ "scp": null, "roles": ["read"] }), read.clone()),
        (&entra, json!({ "scp": 7, "roles": ["read"] }), none),
    ] {
        let verified = verify(verifier, &signer.token(&claims_with(others.clone()))).await.unwrap();
        assert_eq!(verified.scopes, scopes, "{others}");
    }
}

#[tokio::test]
async fn a_header_type_may_be_required() {
    let signer = Signer::ed25519("one");
    let verifier = given(&[signer.jwk()]).header_type("at+jwt").build().unwrap();
    let token = |typ: Value| {
        let header = json!({ "alg": "EdDSA", "kid": "one", "typ": typ });
        signer.token_with(&header, &claims().to_string())
    };
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt"] {
        is_accepted(&verifier, &token(json!(typ))).await;
    }
    is_invalid(&verifier, &token(json!("JWT"))).await;
    is_invalid(&verifier, &signer.token(&claims())).await;
}
