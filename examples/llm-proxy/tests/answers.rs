//! What the proxy asks of an upstream, and what it makes of an odd answer.

use std::future::IntoFuture;
use std::time::Duration;

use agentkey::model::{Balance, TokenPrice, TokenUsage};
use agentkey::{AgentKeys, Amount, Budget, EntryQuery, NewKey, ScopeSet};
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::{Json, Router};
use example_llm_proxy::{Proxy, app};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::ServiceExt;

const PRICE: TokenPrice = TokenPrice::new(Amount::units(3), Amount::units(15));

/// What became of one request.
struct Answered {
    status: StatusCode,
    body: Value,
    balance: Balance,
    labels: Value,
}

/// Sends a request through the proxy, to an upstream that names its answer by this id and answers with
/// the request that it got.
async fn ask(path: &str, request: Value, request_id: &'static str) -> Answered {
    ask_by(None, path, request, request_id).await
}

/// The same, where the upstream has its own name for the limit.
async fn ask_by(
    chat_limit: Option<String>,
    path: &str,
    request: Value,
    request_id: &'static str,
) -> Answered {
    let echo = move |Json(request): Json<Value>| async move {
        let usage = json!({ "prompt_tokens": 9, "completion_tokens": 2 });
        let text = json!([{ "message": { "content": "Once." } }]);
        let answer = json!({ "choices": text, "usage": usage, "request": request });
        ([("x-request-id", request_id)], Json(answer))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, Router::new().fallback(echo)).into_future());

    let keys = AgentKeys::in_memory().await.unwrap();
    let new = NewKey::new("acme".parse().unwrap())
        .scopes(ScopeSet::parse(["chat"]).unwrap())
        .budget(Budget::lifetime(Amount::cents(10)));
    let created = keys.create(new).await.unwrap();
    let request = Request::post(path)
        .header("authorization", format!("Bearer {}", created.token.expose()))
        .body(Body::from(request.to_string()))
        .unwrap();
    let proxy = Proxy::new(upstream, "sk-ours".to_owned()).unwrap().chat_limit(chat_limit);
    let response = app(&keys, proxy).unwrap().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();

    let query = EntryQuery::for_account("acme".parse().unwrap()).key(created.key.id);
    let entry = async {
        loop {
            match keys.entries(&query).await.unwrap().items.pop() {
                Some(entry) => return entry,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    };
    let entry = tokio::time::timeout(Duration::from_secs(60), entry).await.expect("it is charged");
    let lineage = keys.find_by_id(created.key.id).await.unwrap().unwrap();
    Answered {
        status,
        body: serde_json::from_slice(&body).unwrap(),
        balance: lineage.key().balance,
        labels: json!(entry.note.labels),
    }
}

fn ask_for_a_tale() -> Value {
    json!({ "model": "tales-1", "messages": [{ "role": "user", "content": "Tell me a tale." }] })
}

/// As an SDK asks by default: no stream, and no limit.
#[tokio::test]
async fn the_upstream_is_told_the_limit_that_is_held() {
    let answered = ask("/v1/chat/completions", ask_for_a_tale(), "req_1").await;
    assert_eq!(answered.status, StatusCode::OK);
    assert_eq!(answered.body["request"]["max_completion_tokens"], 4_096);
    assert_eq!(answered.balance.spent(), PRICE.cost(TokenUsage::new(9, 2)));
    assert_eq!(answered.labels["request_id"], "req_1");

    let name = Some("max_tokens".to_owned());
    let answered = ask_by(name, "/v1/chat/completions", ask_for_a_tale(), "req_1").await;
    let asked = &answered.body["request"];
    assert_eq!(
        (&asked["max_tokens"], &asked["max_completion_tokens"]),
        (&4_096.into(), &Value::Null)
    );

    let mut request = ask_for_a_tale();
    request["max_tokens"] = 7.into();
    let answered = ask("/v1/messages", request.clone(), "req_1").await;
    assert_eq!(answered.body["request"], request);
}

/// The model was asked and wrote: its answer is passed on and charged.
#[tokio::test]
async fn a_request_id_that_is_no_label_costs_neither_answer_nor_charge() {
    const LONG: &str = concat!(
        "req_0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    );
    for request_id in [LONG, "req\t1", ""] {
        let answered = ask("/v1/chat/completions", ask_for_a_tale(), request_id).await;
        assert_eq!(answered.status, StatusCode::OK, "{}", answered.body);
        assert_eq!(answered.body["choices"][0]["message"]["content"], "Once.");
        assert_eq!(answered.balance.spent(), PRICE.cost(TokenUsage::new(9, 2)));
        assert!(answered.balance.held.is_zero());
    }
}
