//! A proxy for language models: it routes, and has a price table. The meter is agentkey's.
//!
//! An agent uses the SDK of OpenAI or Anthropic with this proxy's URL and its agentkey token. The provider's own key stays
//! here.

pub mod fake;

use std::sync::Arc;

use agentkey::llm::{Format, Meter, PriceTable, Prompt, TokenEstimator};
use agentkey::{AgentKeyLayer, AgentKeys, Amount, Charge, Rejection, RequireScope};
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing::post};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tiktoken_rs::CoreBPE;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where requests go, and what they cost.
pub struct Proxy {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// The URL of the provider, without a path.
    upstream: String,
    /// Our own key there. The agent's goes no further than here.
    upstream_key: String,
    chat_limit: Option<String>,
    prices: PriceTable,
    tokenizer: Tokenizer,
}

impl Proxy {
    /// Returns a proxy with the prices of `prices.toml`.
    ///
    /// # Errors
    ///
    /// Where this machine has no root certificates.
    pub fn new(upstream: String, upstream_key: String) -> Result<Self, BoxError> {
        let https = HttpsConnectorBuilder::new()
            .with_native_roots()?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            http: Client::builder(TokioExecutor::new()).build(https),
            upstream,
            upstream_key,
            chat_limit: None,
            prices: toml::from_str(include_str!("../prices.toml"))?,
            tokenizer: Tokenizer(Arc::new(tiktoken_rs::o200k_base()?)),
        })
    }

    /// Sets what the provider calls the most tokens of a Chat Completion, where it is not `max_completion_tokens`.
    #[must_use]
    pub fn chat_limit(mut self, name: Option<String>) -> Self {
        self.chat_limit = name;
        self
    }
}

/// OpenAI's own tokenizer, for the estimate while an answer streams. Its tables are in the crate.
#[derive(Clone)]
struct Tokenizer(Arc<CoreBPE>);

/// The most bytes that the tokenizer gets at once. A run of a million blanks makes it panic, and one
/// of letters takes it the square of its length. In pieces, a text counts at most a few tokens more.
const PIECE: usize = 4096;

impl TokenEstimator for Tokenizer {
    fn tokens(&self, text: &str) -> u64 {
        let (mut rest, mut tokens) = (text, 0);
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE));
            tokens += self.0.encode_ordinary(piece).len() as u64;
            rest = after;
        }
        tokens
    }
}

/// Returns the routes.
///
/// # Errors
///
/// None: the scope is a valid one.
pub fn app(keys: &AgentKeys, proxy: Proxy) -> Result<Router, BoxError> {
    // An SDK reads a refusal in the shape of its provider.
    let layer = AgentKeyLayer::new(keys).on_refusal(|request, response| {
        match Format::of_path(request.parts.uri.path()) {
            Some(format) => format.refusal(request.refusal, response),
            None => response,
        }
    });
    let forward = || post(forward);
    Ok(Router::new()
        .route("/v1/chat/completions", forward())
        .route("/v1/completions", forward())
        .route("/v1/responses", forward())
        .route("/v1/messages", forward())
        .layer(RequireScope::one("chat")?)
        .layer(layer)
        .with_state(Arc::new(proxy)))
}

async fn forward(
    State(proxy): State<Arc<Proxy>>,
    charge: Charge,
    request: Request,
) -> Result<Response, Error> {
    let (head, body) = request.into_parts();
    let format = Format::of_path(head.uri.path()).ok_or(Error::BadRequest)?;
    let body = axum::body::to_bytes(body, 4 << 20).await.map_err(|_| Error::BadRequest)?;
    // A long prompt takes the tokenizer a while.
    let (tokenizer, request) = (proxy.tokenizer.clone(), body.clone());
    let read = tokio::task::spawn_blocking(move || Prompt::read(&request, &tokenizer));
    let prompt = read.await.map_err(|_| Error::BadRequest)?.map_err(|_| Error::BadRequest)?;
    let model = prompt.model.clone().unwrap_or_default();
    let price = proxy.prices.price(&model).map_err(|_| Error::UnknownModel(model.clone()))?;
    let mut meter = Meter::new(price).estimator(proxy.tokenizer.clone()).prompt(prompt);
    if proxy.prices.has_hidden_reasoning(&model) {
        meter = meter.hidden_reasoning(true).max_output(MAX_REASONED);
    }
    charge.label("model", model)?;
    charge.label("upstream", proxy.upstream.as_str())?;
    if let Some(name) = &proxy.chat_limit {
        meter = meter.chat_limit_name(name);
    }
    let body = meter.to_upstream(format, &body).map_err(|_| Error::BadRequest)?;
    charge.hold_for(&meter).await?; // 402 before the model is asked
    let answer = proxy.send(&head.uri, &head.headers, body).await.map_err(|error| {
        // Where the connection broke later, the model may have read the prompt, and that is charged.
        if is_unsent(&*error) {
            charge.set_cost(Amount::ZERO);
        }
        Error::Upstream(error)
    })?;
    // The model was asked. From here on, nothing may come between its answer and the charge.
    if let Some(id) = REQUEST_IDS.into_iter().find_map(|name| answer.headers().get(name))
        && let Err(error) = charge.label("request_id", String::from_utf8_lossy(id.as_bytes()))
    {
        tracing::warn!(?error, "the upstream's request id is no label");
    }
    Ok(charge.meter(answer, format, meter).map(Body::new))
}

/// Whether the request never reached the upstream.
fn is_unsent(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|it| it.is_connect())
}

/// The most tokens of an answer with hidden reasoning, where its request does not say.
const MAX_REASONED: u64 = 16_384;

/// By which header OpenAI and Anthropic name a request.
const REQUEST_IDS: [&str; 2] = ["x-request-id", "request-id"];

impl Proxy {
    async fn send(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<axum::http::Response<Incoming>, BoxError> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = axum::http::Request::post(format!("{}{path}", self.upstream))
            .header(CONTENT_TYPE, "application/json");
        // OpenAI and what is compatible reads the first of them, Anthropic the second.
        request = request
            .header(AUTHORIZATION, format!("Bearer {}", self.upstream_key))
            .header("x-api-key", &self.upstream_key);
        for name in ["anthropic-version", "anthropic-beta"] {
            if let Some(value) = headers.get(name) {
                request = request.header(name, value);
            }
        }
        let mut answer = self.http.request(request.body(Full::from(body))?).await?;
        // What is about the connection stays behind.
        let passed = ["content-type", "content-encoding", "x-should-retry", RETRY_AFTER.as_str()];
        let passed = passed.into_iter().chain(REQUEST_IDS).filter_map(|name| {
            let value = answer.headers().get(name)?.clone();
            Some((HeaderName::from_static(name), value))
        });
        *answer.headers_mut() = passed.collect();
        Ok(answer)
    }
}

enum Error {
    BadRequest,
    UnknownModel(String),
    Charge(Rejection),
    Upstream(BoxError),
}

impl From<Rejection> for Error {
    fn from(error: Rejection) -> Self {
        Self::Charge(error)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, kind, code, message) = match self {
            Self::Charge(rejection) => return rejection.into_response(),
            Self::BadRequest => (
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                "invalid_json",
                "the body is not a JSON object".to_owned(),
            ),
            Self::UnknownModel(model) => (
                StatusCode::NOT_FOUND,
                "invalid_request_error",
                "model_not_found",
                format!("the model {model:?} has no price here"),
            ),
            Self::Upstream(error) => {
                tracing::error!(%error, "the upstream failed");
                (
                    StatusCode::BAD_GATEWAY,
                    "api_error",
                    "upstream_failed",
                    "the model could not be asked".to_owned(),
                )
            }
        };
        // Both SDKs read `error`; Anthropic's reads the outer type too.
        let error = json!({ "message": message, "type": kind, "code": code });
        (status, Json(json!({ "type": "error", "error": error }))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_the_largest_request_is_counted_whatever_it_is() {
        let tokenizer = Tokenizer(Arc::new(tiktoken_rs::o200k_base().unwrap()));
        for (piece, least) in [(" ", 31_000), ("a", 500_000), ("語", 1_300_000), ("", 0)] {
            let text = piece.repeat((4 << 20) / piece.len().max(1));
            assert!(tokenizer.tokens(&text) >= least, "{piece:?}");
        }
        assert_eq!(tokenizer.tokens("once upon a time, "), 6);
    }
}
