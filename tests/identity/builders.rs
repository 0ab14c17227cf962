//! What a verifier cannot be built with.

use std::time::Duration;

use agentkey::identity::{IntrospectionVerifier, JwtVerifier, VerifierBuildError};

use crate::support::*;

fn url_error(builder: agentkey::identity::JwtVerifierBuilder) -> bool {
    matches!(builder.audience("a").build(), Err(VerifierBuildError::Url { .. }))
}

#[test]
fn only_https_is_fetched_from_elsewhere() {
    for url in [
        "http://issuer.example/keys",
        "http://127.0.0.1.issuer.example/keys",
        "http://localhost.issuer.example/keys",
        "http://[::2]/keys",
        "http://0.0.0.0/keys",
        "ftp://127.0.0.1/keys",
        "file:///keys",
        "https://user:secret@issuer.example/keys",
        "https://issuer.example/keys#fragment",
        "/keys",
        "",
    ] {
        let builder = || JwtVerifier::from_jwks_url(ISSUER, url);
        assert!(url_error(builder()) && url_error(builder().allow_loopback_http()), "{url}");
        assert!(!format!("{:?}", builder().audience("a").build()).contains("secret"));
    }
    for url in ["http://127.0.0.1:80/keys", "http://localhost/keys", "http://[::1]/keys"] {
        let builder = || JwtVerifier::from_jwks_url(ISSUER, url);
        assert!(url_error(builder()) && !url_error(builder().allow_loopback_http()), "{url}");
    }
    JwtVerifier::discover("https://issuer.example/tenant").audience("a").build().unwrap();
    assert!(url_error(JwtVerifier::discover("http://issuer.example")));
}

#[test]
fn options_out_of_their_range_are_named() {
    let jwk = Signer::ed25519("one").jwk();
    let error = |builder: agentkey::identity::JwtVerifierBuilder| builder.build().unwrap_err();
    let seconds = Duration::from_secs;
    let one = || given(std::slice::from_ref(&jwk));
    for (builder, text) in [
        (one().expiry_leeway(seconds(301)), "expiry_leeway is 301s"),
        (one().start_leeway(seconds(301)), "start_leeway is 301s"),
        (one().cooldown(Duration::ZERO), "cooldown is 0ns"),
        (one().refresh_every(Duration::ZERO), "refresh_every is 0ns"),
        (one().stale_for(seconds(599)), "stale_for is 599s"),
        (one().timeout(Duration::ZERO), "timeout is 0ns"),
        (given(&[]), "the key set cannot be used: none of them can be used"),
        (JwtVerifier::from_jwks(ISSUER, "no JSON").audience("a"), "the key set cannot be used"),
        (
            JwtVerifier::from_jwks("", key_set(std::slice::from_ref(&jwk))).audience("a"),
            "an issuer has",
        ),
        (
            JwtVerifier::from_jwks(ISSUER, key_set(std::slice::from_ref(&jwk))),
            "say for whom tokens are",
        ),
        (JwtVerifier::from_secret(ISSUER, &[7; 31]).audience("a"), "at least 32 bytes"),
    ] {
        let error = error(builder).to_string();
        assert!(error.contains(text), "{error}");
    }
    JwtVerifier::from_jwks(ISSUER, key_set(std::slice::from_ref(&jwk)))
        .without_audience()
        .build()
        .unwrap();

    let builder =
        || IntrospectionVerifier::builder(ISSUER, "https://issuer.example/i", "id", "s3cret");
    assert_eq!(builder().build().unwrap_err(), VerifierBuildError::NoForm);
    let built = |builder: agentkey::identity::IntrospectionVerifierBuilder| {
        builder.prefix("opq_").build().map(drop).map_err(|error| error.to_string())
    };
    assert!(built(builder().cache_for(seconds(301))).unwrap_err().contains("cache_for is 301s"));
    assert!(built(builder().max_concurrent(0)).unwrap_err().contains("max_concurrent is 0"));
    built(builder()).unwrap();
}

#[test]
fn debug_shows_no_secret() {
    let secret = "a secret that must not be shown, ever";
    let jwt = || JwtVerifier::from_secret(ISSUER, secret.as_bytes()).audience("a");
    let opaque = || {
        let url = "https://issuer.example/introspect";
        IntrospectionVerifier::builder(ISSUER, url, "client", secret).prefix("opq_")
    };
    let shown = format!("{:?} {:?}", jwt(), jwt().build());
    let shown = shown + &format!("{:?} {:?}", opaque(), opaque().build());
    assert!(shown.contains(ISSUER) && !shown.contains("must not"), "{shown}");
}
