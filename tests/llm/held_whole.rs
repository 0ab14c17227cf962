//! Answers of which the most that they may cost is held before the model is asked, and what of it is charged.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agentkey::llm::{Format, FourBytes, Meter, Prompt};
use agentkey::{AgentKeyLayer, AgentKeys, Amount, Budget, Charge, NewKey, Rejection};
use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use http::{Request, StatusCode};
use serde_json::json;
use tower::ServiceExt;

use crate::support::{ASK, DONE, End, PRICE, Setting, Upstream, W, World, event};

const TEN: Amount = Amount::units(10);

/// What is held for a request of five tokens that names no limit.
const MOST: i64 = 15 + 4_096 * 15;

fn whole_ask() -> String {
    ASK.replace(r#""stream":true,"#, "")
}

fn whole(upstream: Upstream) -> Setting {
    Setting { upstream, format: Format::ChatCompletions, meter: Meter::new(PRICE) }
}

fn reasoning(upstream: Upstream) -> Setting {
    Setting { meter: Meter::new(PRICE).hidden_reasoning(true), ..whole(upstream) }
}

/// An answer of a thousand tokens, and its usage.
fn tale() -> String {
    let usage = json!({ "prompt_tokens": 5, "completion_tokens": 1_000 });
    let message = json!({ "message": { "content": "tale".repeat(1_000) } });
    json!({ "choices": [message], "usage": usage }).to_string()
}

const FINISH: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}"#;

/// A usage with three thousand tokens that are in no event.
const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3005,"completion_tokens_details":{"reasoning_tokens":3000}}}"#;
const USED: i64 = 15 + 3_005 * 15;

fn reasoned() -> [String; 4] {
    [event(W), event(FINISH), event(USAGE), DONE.to_owned()]
}

#[tokio::test]
async fn a_whole_answer_that_nobody_reads_to_its_end_is_charged_its_hold() {
    let (bytes, ask) = (tale(), whole_ask());
    let all_but_one = &bytes.as_bytes()[..bytes.len() - 1];
    for end in [End::Hangs, End::Fails] {
        let world = World::new(TEN).await;
        let upstream = Upstream::pieces(all_but_one, 1_000).end(end.clone());
        let answer = world.send(whole(upstream), &ask).await;
        match end {
            End::Fails => assert!(answer.read_all().await.error.is_some()),
            // It reads all that there is, and leaves.
            _ => assert!(futures_util::future::poll_immediate(answer.read_all()).await.is_none()),
        }
        assert_eq!(world.settled().await, MOST, "{end:?}");
    }
    // A client that leaves when the model has answered pays the usage.
    let world = World::new(TEN).await;
    let mut answer = world.send(whole(Upstream::pieces(bytes.as_bytes(), 1_000)), &ask).await;
    answer.read(1).await;
    drop(answer);
    assert_eq!(world.settled().await, 15 + 1_000 * 15);
}

#[tokio::test]
async fn a_client_that_leaves_before_the_model_answers_is_charged_the_hold() {
    async fn proxy(charge: Charge, body: Bytes) -> Result<(), Rejection> {
        let meter = Meter::new(PRICE).prompt(Prompt::read(&body, &FourBytes).unwrap());
        charge.hold_for(&meter).await?;
        std::future::pending().await
    }
    let keys = AgentKeys::new(agentkey::MemoryStore::new()).unwrap();
    let new = NewKey::new("acme".parse().unwrap()).budget(Budget::lifetime(TEN));
    let created = keys.create(new).await.unwrap();
    let app = Router::new().route("/", post(proxy)).layer(AgentKeyLayer::new(&keys));
    let balance = async || {
        let lineage = keys.find_by_id(created.key.id).await.unwrap().unwrap();
        let balance = &lineage.key().balance;
        (balance.spent().as_micros(), balance.held.as_micros())
    };
    for (ask, charged) in [(whole_ask(), MOST), (ASK.to_owned(), MOST + 15)] {
        let request = Request::post("/")
            .header("authorization", format!("Bearer {}", created.token.expose()))
            .body(Body::from(ask))
            .unwrap();
        let call = tokio::spawn(app.clone().oneshot(request));
        while balance().await.1 == 0 {
            tokio::task::yield_now().await;
        }
        call.abort();
        while balance().await.1 > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(balance().await.0, charged, "the hold, and of a stream the prompt");
    }
}

#[tokio::test]
async fn an_upstream_that_refuses_costs_nothing_though_the_client_leaves() {
    for ask in [whole_ask(), ASK.to_owned()] {
        let world = World::new(TEN).await;
        let upstream = Upstream {
            status: StatusCode::TOO_MANY_REQUESTS,
            ..Upstream::events(["{\"error\":"]).end(End::Hangs)
        };
        let mut answer = world.send(reasoning(upstream), &ask).await;
        answer.read(1).await;
        drop(answer);
        while world.ledger().await.1 > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(world.ledger().await, (0, 0));
    }
}

#[tokio::test]
async fn streams_with_hidden_reasoning_do_not_overrun_their_limit() {
    let limit = 3 * MOST;
    let world = Arc::new(World::new(Amount::micros(limit)).await);
    let asked = Arc::new(AtomicUsize::new(0));
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..7 {
        let (world, asked) = (world.clone(), asked.clone());
        streams.spawn(async move {
            let answer = world.send(reasoning(Upstream::events(reasoned())), ASK).await;
            if answer.status == 200 {
                asked.fetch_add(1, Ordering::SeqCst);
                let ended = answer.read_all().await;
                assert!(!ended.is_cut() && ended.text.ends_with(DONE));
            }
        });
    }
    streams.join_all().await;
    let spent = world.settled().await;
    assert!(spent <= limit, "{spent}");
    assert_eq!(spent, asked.load(Ordering::SeqCst) as i64 * USED);
}

#[tokio::test]
async fn hidden_reasoning_is_not_free_for_a_client_that_hangs_up() {
    let events = reasoned();
    let mut read = 0;
    for (event, charged) in events.iter().zip([MOST, MOST, MOST, USED]) {
        read += event.len();
        let world = World::new(TEN).await;
        let mut answer = world.send(reasoning(Upstream::events(&events)), ASK).await;
        answer.read(read).await;
        assert_eq!(answer.text.len(), read);
        drop(answer);
        assert_eq!(world.settled().await, charged, "after {event}");
    }
}

/// A gateway in Go whose field has `omitempty` leaves a zero out.
#[tokio::test]
async fn a_limit_of_zero_holds_as_no_limit_does() {
    let ask = ASK.replace(r#""stream":true,"#, r#""max_tokens":0,"#);
    let world = World::new(Amount::micros(MOST - 1)).await;
    let answer = world.send(whole(Upstream::events([tale()])), &ask).await;
    assert_eq!(answer.status, 402);
}
