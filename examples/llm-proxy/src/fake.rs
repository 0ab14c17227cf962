//! An upstream made up: it tells a tale without end, or of as many tokens as it may, in the formats of OpenAI and Anthropic.
//!
//! The shapes are those of the types in the Python packages openai 3.57 and anthropic 2.14, and both SDKs read them.

use std::convert::Infallible;
use std::future::IntoFuture;
use std::time::Duration;

use agentkey::llm::Format;
use axum::body::{Body, Bytes};
use axum::extract::{OriginalUri, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// The key of the proxy at this upstream.
pub const KEY: &str = "sk-ours";

/// What it says again and again: [`PIECE_TOKENS`] tokens.
pub const PIECE: &str = "once upon a time, ";
/// How many tokens a piece is, by OpenAI's tokenizer too.
pub const PIECE_TOKENS: u64 = 6;
/// How many tokens it counts a prompt.
pub const PROMPT_TOKENS: u64 = 9;

/// The upstream, on a server of its own.
pub struct Fake {
    /// Where it is.
    pub url: String,
    calls: watch::Receiver<Calls>,
}

#[derive(Default)]
struct Calls {
    begun: usize,
    streaming: usize,
}

impl Fake {
    /// Starts it on a free port.
    ///
    /// # Errors
    ///
    /// Where there is none.
    pub async fn start() -> std::io::Result<Self> {
        let (calls, counted) = watch::channel(Calls::default());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let app = Router::new().fallback(tell).with_state(calls);
        tokio::spawn(axum::serve(listener, app).into_future());
        Ok(Self { url, calls: counted })
    }

    /// Returns how many requests came.
    pub fn calls(&self) -> usize {
        self.calls.borrow().begun
    }

    /// Waits until it streams to nobody. Returns false where that does not come.
    pub async fn is_hung_up_on(&mut self) -> bool {
        let silent = self.calls.wait_for(|calls| calls.streaming == 0);
        tokio::time::timeout(Duration::from_secs(10), silent)
            .await
            .is_ok_and(|silent| silent.is_ok())
    }
}

async fn tell(
    State(calls): State<watch::Sender<Calls>>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(format) = Format::of_path(uri.path()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let ours = format!("Bearer {KEY}");
    let is_ours = headers.get(AUTHORIZATION).is_some_and(|key| key.as_bytes() == ours.as_bytes());
    let Ok(ask) = serde_json::from_slice::<Value>(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    if !is_ours {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let listener = Listener::new(calls);
    let limits = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
    let tokens = limits.iter().find_map(|limit| ask[limit].as_u64());
    let id = [(HeaderName::from_static("x-request-id"), "req_1")];
    if ask["stream"] != true {
        let pieces = tokens.unwrap_or(60) / PIECE_TOKENS;
        return (id, Json(whole(format, pieces))).into_response();
    }
    let pieces = tokens.map_or(u64::MAX, |tokens| tokens / PIECE_TOKENS);
    let tale = (0..pieces).map(move |_| piece(format));
    let events = stream::iter(begin(format).into_iter().chain(tale).chain(end(format, pieces)));
    let events = events.then(move |event| listener.hear(event));
    (id, [(CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

fn event(data: Value) -> String {
    match data["type"].as_str() {
        Some(name) => format!("event: {name}\ndata: {data}\n\n"),
        None => format!("data: {data}\n\n"),
    }
}

fn chunk(choices: Value, usage: Value) -> String {
    event(json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_790_000_000, "model": "tales-1",
        "choices": choices, "usage": usage,
    }))
}

fn completion_usage(pieces: u64) -> Value {
    let tokens = pieces.saturating_mul(PIECE_TOKENS);
    json!({ "prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens, "total_tokens": PROMPT_TOKENS.saturating_add(tokens) })
}

fn response_usage(pieces: u64) -> Value {
    let tokens = pieces.saturating_mul(PIECE_TOKENS);
    json!({
        "input_tokens": PROMPT_TOKENS, "input_tokens_details": { "cached_tokens": 0, "cache_write_tokens": 0 },
        "output_tokens": tokens, "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": PROMPT_TOKENS.saturating_add(tokens),
    })
}

fn response(status: &str, output: Value, usage: Value) -> Value {
    json!({
        "id": "resp_1", "object": "response", "created_at": 1_790_000_000, "model": "tales-1", "status": status,
        "output": output, "usage": usage, "parallel_tool_calls": true, "tool_choice": "auto", "tools": [],
    })
}

fn message(content: Value, output_tokens: u64) -> Value {
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "tales-1", "content": content,
        "stop_reason": null, "stop_sequence": null,
        "usage": { "input_tokens": PROMPT_TOKENS, "output_tokens": output_tokens },
    })
}

fn begin(format: Format) -> Vec<String> {
    match format {
        Format::ChatCompletions => {
            vec![chunk(
                json!([{ "index": 0, "delta": { "role": "assistant", "content": "" }, "finish_reason": null }]),
                Value::Null,
            )]
        }
        Format::Responses => vec![event(
            json!({ "type": "response.created", "sequence_number": 0, "response": response("in_progress", json!([]), Value::Null) }),
        )],
        Format::Messages => vec![
            event(json!({ "type": "message_start", "message": message(json!([]), 1) })),
            event(
                json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
            ),
        ],
        _ => Vec::new(),
    }
}

fn piece(format: Format) -> String {
    match format {
        Format::Responses => event(json!({
            "type": "response.output_text.delta", "sequence_number": 1, "item_id": "msg_1", "output_index": 0,
            "content_index": 0, "delta": PIECE, "logprobs": [],
        })),
        Format::Messages => event(json!({
            "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": PIECE },
        })),
        Format::Completions => {
            chunk(json!([{ "index": 0, "text": PIECE, "finish_reason": null }]), Value::Null)
        }
        _ => chunk(
            json!([{ "index": 0, "delta": { "content": PIECE }, "finish_reason": null }]),
            Value::Null,
        ),
    }
}

fn end(format: Format, pieces: u64) -> Vec<String> {
    let tokens = pieces.saturating_mul(PIECE_TOKENS);
    match format {
        Format::Responses => vec![event(json!({
            "type": "response.completed", "sequence_number": 2,
            "response": response("completed", json!([]), response_usage(pieces)),
        }))],
        Format::Messages => vec![
            event(json!({ "type": "content_block_stop", "index": 0 })),
            event(json!({
                "type": "message_delta", "delta": { "stop_reason": "end_turn", "stop_sequence": null },
                "usage": { "output_tokens": tokens },
            })),
            event(json!({ "type": "message_stop" })),
        ],
        _ => vec![
            chunk(
                json!([{ "index": 0, "delta": {}, "text": "", "finish_reason": "stop" }]),
                Value::Null,
            ),
            chunk(json!([]), completion_usage(pieces)),
            "data: [DONE]\n\n".to_owned(),
        ],
    }
}

fn whole(format: Format, pieces: u64) -> Value {
    let text = PIECE.repeat(usize::try_from(pieces).unwrap_or(0));
    match format {
        Format::Responses => {
            let content = json!([{ "type": "output_text", "text": text, "annotations": [] }]);
            let output = json!([{ "id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": content }]);
            response("completed", output, response_usage(pieces))
        }
        Format::Messages => {
            message(json!([{ "type": "text", "text": text }]), pieces.saturating_mul(PIECE_TOKENS))
        }
        Format::Completions => json!({
            "id": "cmpl-1", "object": "text_completion", "created": 1_790_000_000, "model": "tales-1",
            "choices": [{ "index": 0, "text": text, "finish_reason": "stop", "logprobs": null }],
            "usage": completion_usage(pieces),
        }),
        _ => json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1_790_000_000, "model": "tales-1",
            "choices": [{ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": "stop" }],
            "usage": completion_usage(pieces),
        }),
    }
}

/// Counted for as long as the stream that owns it is there.
struct Listener {
    calls: watch::Sender<Calls>,
}

impl Listener {
    fn new(calls: watch::Sender<Calls>) -> Self {
        calls.send_modify(|calls| {
            calls.begun += 1;
            calls.streaming += 1;
        });
        Self { calls }
    }

    fn hear(&self, event: String) -> impl Future<Output = Result<String, Infallible>> + use<> {
        async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(event)
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.calls.send_modify(|calls| calls.streaming -= 1);
    }
}
