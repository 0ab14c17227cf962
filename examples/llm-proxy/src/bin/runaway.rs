//! `cargo run -p example-llm-proxy --bin runaway` is an agent that calls the proxy in a loop, and heeds no refusal. It has
//! `OPENAI_BASE_URL` and `OPENAI_API_KEY`, as the SDK has them.
//!
//! It prints each answer that differs from the one before, and ends when its key is revoked.

use std::env;
use std::time::Duration;

use axum::http::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use example_llm_proxy::BoxError;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// So long it works on each answer.
const PAUSE: Duration = Duration::from_millis(100);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let (base, key) = (env::var("OPENAI_BASE_URL")?, env::var("OPENAI_API_KEY")?);
    let http = Client::builder(TokioExecutor::new()).build_http();
    let mut before = String::new();
    loop {
        let answer = ask(&http, &base, &key).await?;
        if answer != before {
            println!("{answer}");
        }
        if answer.ends_with("revoked_key") {
            return Ok(());
        }
        before = answer;
        tokio::time::sleep(PAUSE).await;
    }
}

/// The status of an answer, and for a refusal its code.
async fn ask(
    http: &Client<HttpConnector, Full<Bytes>>,
    base: &str,
    key: &str,
) -> Result<String, BoxError> {
    let ask = json!({
        "model": "tales-1", "max_completion_tokens": 100,
        "messages": [{ "role": "user", "content": "Tell me a tale." }],
    });
    let request = Request::post(format!("{base}/chat/completions"))
        .header(AUTHORIZATION, format!("Bearer {key}"))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::from(ask.to_string()))?;
    let answer = http.request(request).await?;
    let (status, retry_after) = (answer.status(), answer.headers().get(RETRY_AFTER).cloned());
    let body: Value = serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?;
    Ok(match (body["error"]["code"].as_str(), retry_after) {
        (None, _) => status.as_u16().to_string(),
        // How long it is to wait changes with every answer.
        (Some(code), Some(_)) => format!("{} {code}, with Retry-After", status.as_u16()),
        (Some(code), None) => format!("{} {code}", status.as_u16()),
    })
}
