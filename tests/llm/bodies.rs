//! How a metered body ends, and what is charged then.

use std::sync::atomic::Ordering;

use agentkey::llm::{Format, Meter, TokenEstimator};
use agentkey::{AgentKeys, Amount};

use crate::support::{ASK, DONE, End, PRICE, Setting, Upstream, W, World, event, w_with};

const TEN: Amount = Amount::units(10);

fn setting(upstream: Upstream, meter: Meter) -> Setting {
    Setting { upstream, format: Format::ChatCompletions, meter }
}

#[tokio::test]
async fn what_an_answer_may_cost_at_first_is_held_before_the_model_is_asked() {
    for (request, held) in [
        (ASK.to_owned(), 15 + 256 * 15),
        (ASK.replace("\"stream\":true", "\"stream\":true,\"max_tokens\":100"), 15 + 100 * 15),
        (ASK.replace("\"stream\":true", "\"stream\":true,\"max_tokens\":64000"), 15 + 256 * 15),
        (ASK.replace("\"stream\":true", "\"max_tokens\":64000"), 15 + 64_000 * 15),
        (ASK.replace("\"stream\":true", "\"stream\":false"), 15 + 4_096 * 15),
        (ASK.replace("\"stream\":true", "\"n\":3"), 15 + 3 * 4_096 * 15),
    ] {
        let world = World::new(TEN).await;
        let upstream = Upstream::default().end(End::Hangs);
        let answer = world.send(setting(upstream, Meter::new(PRICE)), &request).await;
        assert_eq!(world.ledger().await, (0, held), "{request}");
        drop(answer);
        let is_stream = request.contains("\"stream\":true");
        assert_eq!(world.settled().await, if is_stream { 15 } else { held }, "{request}");

        let poor = World::new(Amount::micros(held - 1)).await;
        let upstream = Upstream::default();
        let seen = upstream.seen.clone();
        let answer = poor.send(setting(upstream, Meter::new(PRICE)), &request).await;
        assert_eq!(answer.status, 402, "{request}");
        assert!(!seen.is_asked.load(Ordering::SeqCst));
        assert_eq!(poor.ledger().await, (0, 0));
    }
}

#[tokio::test]
async fn an_upstream_that_breaks_off_is_charged_for_what_was_passed_on() {
    let world = World::new(TEN).await;
    let upstream =
        Upstream::events([event(W), event(w_with(r#""usage":{"completion_tokens":1}"#))]);
    let ended = world.ask(upstream.end(End::Fails)).await.read_all().await;
    assert_eq!(ended.text.matches(W).count(), 1);
    assert!(ended.error.unwrap().contains("broke off"));
    assert_eq!(world.settled().await, 15 + 2 * 75);
}

#[tokio::test]
async fn trailers_come_behind_the_last_event() {
    let world = World::new(TEN).await;
    let upstream = Upstream::events([event(W), "data: {\"choices\"".to_owned()]);
    let ended = world.ask(upstream.end(End::Trailers)).await.read_all().await;
    assert!(ended.text.ends_with("data: {\"choices\""));
    assert_eq!(ended.trailers.unwrap()["x-checksum"], "1");
    // What is no whole event, and no JSON, counts by its bytes.
    assert_eq!(world.settled().await, 15 + 75 + 3 * 15);
}

#[tokio::test]
async fn an_answer_that_says_that_the_upstream_failed_costs_nothing() {
    let world = World::new(TEN).await;
    let refusal = r#"{"error":{"message":"slow down","type":"rate_limit_error"}}"#;
    let mut upstream = Upstream::events([refusal]).header("retry-after", "7");
    upstream.status = http::StatusCode::TOO_MANY_REQUESTS;
    let answer = world.ask(upstream).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.headers["retry-after"]),
        (429, &"7".parse().unwrap())
    );
    assert_eq!(answer.read_all().await.text, refusal);
    assert_eq!(world.ledger().await, (0, 0));
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_upstream() {
    let world = World::new(TEN).await;
    let upstream = Upstream::events((0..1_000).map(|_| event(W)));
    let seen = upstream.seen.clone();
    let mut answer = world.ask(upstream).await;
    answer.read(1).await;
    let read = seen.read.load(Ordering::SeqCst);
    assert!(read <= 2, "{read} events were read for one that was passed on");
    let (spent, held) = world.ledger().await;
    assert!(spent == 0 && held > 0);
}

#[tokio::test]
async fn an_encoded_answer_fails() {
    for encoding in ["gzip", "br"] {
        let world = World::new(TEN).await;
        let upstream = Upstream::events(["\u{1f}\u{8b}"]).header("content-encoding", encoding);
        let ended = world.ask(upstream).await.read_all().await;
        assert!(ended.text.is_empty() && ended.error.is_some());
        assert_eq!(world.settled().await, 15);
    }
    let world = World::new(TEN).await;
    let upstream = Upstream::events([event(W)])
        .header("content-encoding", "identity")
        .header("content-encoding", "gzip");
    assert!(world.ask(upstream).await.read_all().await.text.is_empty());
    let world = World::new(TEN).await;
    let upstream = Upstream::events([event(W)]).header("content-encoding", "identity");
    assert_eq!(world.ask(upstream).await.read_all().await.text, event(W));
}

#[tokio::test]
async fn an_event_beyond_the_bound_is_not_passed_on() {
    let meter = || Meter::new(PRICE).max_event(1_000);
    let world = World::new(TEN).await;
    let endless = "a".repeat(10_000);
    let upstream = Upstream::events([event(W), format!("data: {endless}")]).end(End::Hangs);
    let seen = upstream.seen.clone();
    let ended = world.send(setting(upstream, meter()), ASK).await.read_all().await;
    assert!(ended.text.starts_with(&event(W)) && !ended.text.contains("aaa"), "{}", ended.text);
    assert_eq!(ended.last_event()["error"]["code"], "upstream_failed");
    assert_eq!(world.settled().await, 15 + 75);
    assert!(seen.is_hung_up.load(Ordering::SeqCst));

    // What stands before it in the same piece is passed on and charged.
    let world = World::new(TEN).await;
    let upstream = Upstream::events([format!("{}{}data: {endless}\n\n", event(W), event(W))]);
    let ended = world.send(setting(upstream, meter()), ASK).await.read_all().await;
    assert_eq!(ended.text.matches(W).count(), 2);
    assert_eq!(ended.last_event()["error"]["code"], "upstream_failed");
    assert_eq!(world.settled().await, 15 + 2 * 75);

    let world = World::new(TEN).await;
    let whole = format!("{{\"choices\":[\"{endless}\"]}}");
    let ended = world.send(setting(Upstream::events([whole]), meter()), ASK).await.read_all().await;
    assert!(ended.text.is_empty() && ended.error.unwrap().contains("longer than the bound"));
    assert_eq!(world.settled().await, 15);
}

#[tokio::test]
async fn the_length_of_an_upstream_is_not_passed_on() {
    let world = World::new(TEN).await;
    let upstream = Upstream::events([event(W)]).header("content-length", "83");
    let answer = world.ask(upstream).await;
    assert!(!answer.headers.contains_key("content-length"));
}

#[tokio::test]
async fn a_key_that_is_revoked_meanwhile_gets_no_more() {
    let world = World::new(TEN).await;
    let upstream = Upstream::events((0..1_000).map(|_| event(W)));
    let mut answer = world.ask(upstream).await;
    answer.read(100).await;
    world.keys.revoke(world.key, Some("leaked")).await.unwrap();
    let ended = answer.read_all().await;
    assert_eq!(ended.last_event()["error"]["code"], "revoked_key", "{:?}", ended.last_event());
    let spent = world.settled().await;
    // What was held before was given.
    assert!((3_000..5_000).contains(&spent), "{spent}");
}

/// Two streams at once share what is left, and both are cut.
#[tokio::test]
async fn concurrent_streams_do_not_overrun_their_limit() {
    let limit = 100_000;
    let world = World::new(Amount::micros(limit)).await;
    let stream = || Upstream::events((0..2_000).map(|_| event(W)));
    let streams = (0..4).map(|_| async { world.ask(stream()).await.read_all().await });
    let ended = futures_util::future::join_all(streams).await;
    assert!(ended.iter().all(|ended| ended.is_cut()));
    let passed: usize = ended.iter().map(|ended| ended.text.matches(W).count()).sum();
    let spent = world.settled().await;
    assert_eq!(spent, 4 * 15 + (passed as i64 + 4) * 75);
    assert!(spent <= limit + 4 * 75, "{spent}");
}

#[tokio::test]
async fn text_behind_the_end_counts_too() {
    let world = World::new(TEN).await;
    let told = r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":4}}"#;
    let upstream = Upstream::events([event(W), event(told), DONE.to_owned(), event(W)]);
    world.ask(upstream).await.read_all().await;
    assert_eq!(world.settled().await, 15 + 2 * 75);
}

#[tokio::test]
async fn an_estimator_of_the_application_is_asked() {
    struct Letters;
    impl TokenEstimator for Letters {
        fn tokens(&self, text: &str) -> u64 {
            text.chars().count() as u64
        }
    }
    let world = World::new(TEN).await;
    let meter = Meter::new(PRICE).estimator(Letters);
    let upstream = Upstream::events([event(W)]);
    world.send(setting(upstream, meter), ASK).await.read_all().await;
    assert_eq!(world.settled().await, 15 + 18 * 15);
}

/// A store that cannot be asked holds nothing, so nothing more is passed on.
#[tokio::test]
async fn shutdown_cuts_a_stream_off() {
    let world = World::new(TEN).await;
    let upstream = Upstream::events([event(W)]).end(End::Hangs);
    let mut answer = world.ask(upstream).await;
    answer.read(event(W).len()).await;
    let keys: AgentKeys = world.keys.clone();
    keys.shutdown_within(std::time::Duration::ZERO).await;
    assert!(answer.read_all().await.error.unwrap().contains("shut down"));
}
