//! Opaque tokens, and issuers that are asked about them.

use std::sync::Arc;
use std::time::Duration;

use agentkey::ScopeSet;
use agentkey::identity::{
    IntrospectionVerifier, IntrospectionVerifierBuilder, Verifier, VerifyError,
};
use agentkey::jiff::Timestamp;
use agentkey::model::ManualClock;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::*;

fn asking(issuer: &Issuer, clock: &ManualClock) -> IntrospectionVerifierBuilder {
    IntrospectionVerifier::builder(ISSUER, issuer.url("/introspect"), "api", "s3cret")
        .prefix("opq_")
        .allow_loopback_http()
        .timeout(Duration::from_secs(60))
        .clock(clock)
}

fn active(others: Value) -> Answer {
    let mut answer =
        json!({ "active": true, "sub": "machine-7", "scope": "read", "exp": NOW + 300 });
    answer.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
    answer.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    Answer::Json(answer.to_string())
}

async fn issuer(answer: Answer) -> Issuer {
    let issuer = Issuer::start().await;
    issuer.answer("/introspect", answer);
    issuer
}

#[tokio::test]
async fn the_issuer_is_asked_as_rfc_7662_says() {
    let issuer = issuer(active(json!({ "client_id": "c" }))).await;
    let verifier = asking(&issuer, &clock()).build().unwrap();
    assert!(verifier.accepts("opq_1") && !verifier.accepts("opq") && !verifier.accepts("ak_1"));
    let verified = verify(&verifier, "opq_a+b c").await.unwrap();
    assert_eq!((verified.subject.issuer(), verified.subject.id()), (ISSUER, "machine-7"));
    assert_eq!(verified.scopes, Some(ScopeSet::parse(["read"]).unwrap()));
    assert_eq!(verified.expires_at, Some(Timestamp::from_second(NOW + 300).unwrap()));
    assert_eq!(verified.claims["client_id"], "c");

    let post = IntrospectionVerifier::builder(ISSUER, issuer.url("/introspect"), "a:b", "s+/ %");
    let post = post.prefix("opq_").allow_loopback_http().clock(&clock());
    verify(&post.client_secret_post().build().unwrap(), "opq_1").await.unwrap();
    let basic = IntrospectionVerifier::builder(ISSUER, issuer.url("/introspect"), "a:b", "s+/ %");
    let basic = basic.accept_if(|token| token.len() == 5).allow_loopback_http().clock(&clock());
    verify(&basic.build().unwrap(), "opq_1").await.unwrap();

    let requests = issuer.requests();
    let (head, body) = requests[0].split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /introspect HTTP/1.1"));
    assert!(head.contains("content-type: application/x-www-form-urlencoded"));
    assert!(head.contains("accept: application/json"));
    // `printf api:s3cret | base64`
    assert!(head.contains("authorization: Basic YXBpOnMzY3JldA=="));
    assert_eq!(body, "token=opq_a%2Bb+c");
    let (head, body) = requests[1].split_once("\r\n\r\n").unwrap();
    assert!(!head.contains("authorization"));
    assert_eq!(body, "token=opq_1&client_id=a%3Ab&client_secret=s%2B%2F+%25");
    // `printf 'a%%3Ab:s%%2B%%2F+%%25' | base64`
    assert!(requests[2].contains("authorization: Basic YSUzQWI6cyUyQiUyRislMjU="));
}

#[tokio::test]
async fn what_the_issuer_says_decides() {
    let issuer = issuer(active(json!({}))).await;
    let verifier = asking(&issuer, &clock()).build().unwrap();
    let verdict = async |answer: Answer| {
        issuer.answer("/introspect", answer);
        verify(&verifier, "opq_1").await
    };
    let json = |text: &str| Answer::Json(text.to_owned());
    for answer in [
        json(r#"{"active":false}"#),
        json(r#"{"active":false,"sub":"machine-7"}"#),
        active(json!({ "iss": "https://other.example" })),
        active(json!({ "sub": null })),
        active(json!({ "sub": 7 })),
        active(json!({ "nbf": NOW + 61 })),
        active(json!({ "exp": "soon" })),
    ] {
        assert!(matches!(verdict(answer).await, Err(VerifyError::Invalid(_))));
    }
    assert_eq!(verdict(active(json!({ "exp": NOW }))).await, Err(VerifyError::Expired));
    assert_eq!(verdict(active(json!({ "exp": null }))).await.unwrap().expires_at, None);
    for answer in [
        json("{}"),
        json(r#"{"active":"true"}"#),
        json(r#"{"active":1}"#),
        json(r#"{"active":false,"active":true,"sub":"machine-7"}"#),
        json("[true]"),
        json(""),
        // The client's credentials are wrong, which is no fault of the token.
        Answer::Status(401),
        Answer::Status(500),
        Answer::Redirect(issuer.url("/other")),
        Answer::TenMegabytes,
    ] {
        assert!(matches!(verdict(answer).await, Err(VerifyError::Unavailable { .. })));
    }
    assert_eq!(issuer.count("/other"), 0);
    verdict(active(json!({ "iss": ISSUER }))).await.unwrap();

    let strict = asking(&issuer, &clock()).audience(AUDIENCE).build().unwrap();
    is_invalid(&strict, "opq_1").await;
    issuer.answer("/introspect", active(json!({ "aud": [AUDIENCE] })));
    is_accepted(&strict, "opq_1").await;
}

#[tokio::test]
async fn a_credential_of_another_form_is_not_sent() {
    let issuer = issuer(active(json!({}))).await;
    let verifier = asking(&issuer, &clock()).build().unwrap();
    let long = format!("opq_{}", "x".repeat(100_000));
    for other in ["ak_1", "eyJhbGciOi", long.as_str()] {
        assert!(!verifier.accepts(other));
        is_invalid(&verifier, other).await;
    }
    assert!(issuer.requests().is_empty());
}

#[tokio::test]
async fn nothing_is_kept_unless_asked_for() {
    let issuer = issuer(active(json!({}))).await;
    let verifier = asking(&issuer, &clock()).build().unwrap();
    for _ in 0..3 {
        is_accepted(&verifier, "opq_1").await;
    }
    assert_eq!(issuer.count("/introspect"), 3);
}

#[tokio::test]
async fn an_answer_is_kept_for_its_time_and_never_past_the_end() {
    let issuer = issuer(active(json!({}))).await;
    let clock = clock();
    let verifier = asking(&issuer, &clock).cache_for(Duration::from_secs(60)).build().unwrap();
    is_accepted(&verifier, "opq_1").await;
    issuer.answer("/introspect", Answer::Json(r#"{"active":false}"#.to_owned()));
    clock.advance(Duration::from_micros(59_999_999));
    is_accepted(&verifier, "opq_1").await;
    is_invalid(&verifier, "opq_2").await;
    is_invalid(&verifier, "opq_2").await;
    assert_eq!(issuer.count("/introspect"), 3, "a negative answer is not kept");
    clock.advance(Duration::from_micros(1));
    is_invalid(&verifier, "opq_1").await;

    issuer.answer("/introspect", active(json!({ "exp": NOW + 70 })));
    is_accepted(&verifier, "opq_3").await;
    clock.advance(Duration::from_micros(9_999_999));
    is_accepted(&verifier, "opq_3").await;
    let asked = issuer.count("/introspect");
    clock.advance(Duration::from_micros(1));
    assert_eq!(verify(&verifier, "opq_3").await, Err(VerifyError::Expired));
    assert_eq!(issuer.count("/introspect"), asked + 1);
}

#[tokio::test]
async fn an_outage_is_a_503_and_kept_answers_go_on() {
    let issuer = issuer(active(json!({}))).await;
    let verifier = asking(&issuer, &clock())
        .cache_for(Duration::from_secs(60))
        .timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    is_accepted(&verifier, "opq_1").await;
    for answer in [Answer::Hang, Answer::Status(503)] {
        issuer.answer("/introspect", answer);
        is_unavailable(&verifier, "opq_2").await;
        is_accepted(&verifier, "opq_1").await;
    }
}

#[tokio::test]
async fn requests_with_one_token_share_a_question() {
    let word = Arc::new(Semaphore::new(0));
    let answer = json!({ "active": true, "sub": "machine-7" }).to_string();
    let issuer = issuer(Answer::Later(word.clone(), answer)).await;
    let verifier = asking(&issuer, &clock()).build().unwrap();
    let first = tokio::spawn({
        let verifier = verifier.clone();
        async move { verify(&verifier, "opq_1").await }
    });
    while issuer.count("/introspect") == 0 {
        tokio::task::yield_now().await;
    }
    let mut waiting = JoinSet::new();
    for _ in 0..500 {
        let verifier = verifier.clone();
        waiting.spawn(async move { is_accepted(&verifier, "opq_1").await });
    }
    // The client whose request asked leaves, and the question goes on.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    word.add_permits(1);
    waiting.join_all().await;
    assert_eq!(issuer.count("/introspect"), 1);
}

/// The issuer never sees more questions at once than it may, and an excess of tokens is refused.
#[tokio::test]
async fn questions_are_bounded() {
    let word = Arc::new(Semaphore::new(0));
    let answer = json!({ "active": true, "sub": "machine-7" }).to_string();
    let issuer = issuer(Answer::Later(word.clone(), answer)).await;
    let verifier = asking(&issuer, &clock()).max_concurrent(3).build().unwrap();
    let mut waiting = JoinSet::new();
    for at in 0..1_024 {
        let verifier = verifier.clone();
        waiting.spawn(async move { is_accepted(&verifier, &format!("opq_{at}")).await });
    }
    while issuer.count("/introspect") < 3 {
        tokio::task::yield_now().await;
    }
    // All of them wait now, for the spawned tasks ran before the three questions arrived.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(issuer.count("/introspect"), 3);
    is_unavailable(&verifier, "opq_excess").await;
    word.add_permits(2_000);
    waiting.join_all().await;
    assert_eq!(issuer.count("/introspect"), 1_024);
    is_accepted(&verifier, "opq_excess").await;
}
