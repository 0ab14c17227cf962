//! Errors in the shape that the SDKs of the providers read.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use serde_json::{Map, Value, json};

use super::format::Format;
use crate::model::Refusal;

/// An error that a client reads.
#[derive(Debug)]
pub(super) struct ClientError {
    format: Format,
    /// The members of `error`.
    error: Map<String, Value>,
}

impl ClientError {
    /// Returns the error of a refusal. The figures of its problem document are members of it.
    pub(super) fn refused(format: Format, refusal: &Refusal, problem: &[u8]) -> Self {
        let mut error = head(&refusal.to_string(), type_of(format, refusal), refusal.code());
        let problem: Map<String, Value> = serde_json::from_slice(problem).unwrap_or_default();
        error.extend(
            problem
                .into_iter()
                .filter(|(name, _)| !["title", "status", "error", "detail"].contains(&&**name)),
        );
        Self { format, error }
    }

    /// Returns the error of an upstream whose answer could not be metered.
    pub(super) fn unreadable(format: Format) -> Self {
        let kind = if format == Format::Messages { "api_error" } else { "server_error" };
        let error = head("the answer of the model could not be metered", kind, "upstream_failed");
        Self { format, error }
    }

    /// Returns the body of a response.
    pub(super) fn into_body(mut self) -> Value {
        match self.format {
            Format::Messages => json!({ "type": "error", "error": self.error }),
            Format::ChatCompletions | Format::Completions | Format::Responses => {
                self.error.entry("param").or_insert(Value::Null);
                json!({ "error": self.error })
            }
        }
    }

    /// Returns the event that ends a stream.
    pub(super) fn into_event(self) -> Bytes {
        let name = match self.format {
            Format::ChatCompletions | Format::Completions => "",
            Format::Responses | Format::Messages => "event: error\n",
        };
        let body = match self.format {
            // `ResponseErrorEvent` of openai 3.57 has the code and the message beside the type. Its SDK
            // raises an exception for the member `error`.
            Format::Responses => json!({
                "type": "error",
                "code": self.error.get("code"),
                "message": self.error.get("message"),
                "param": null,
                "sequence_number": 0,
                "error": self.error,
            }),
            _ => self.into_body(),
        };
        format!("{name}data: {body}\n\n").into()
    }
}

fn head(message: &str, kind: &str, code: &str) -> Map<String, Value> {
    let members = [("message", message), ("type", kind), ("code", code)];
    members.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

/// Returns the `type` of an error. Anthropic's are those of `ErrorType` in anthropic 2.14. OpenAI has
/// no list; `insufficient_quota` is its answer where nothing is left to spend.
fn type_of(format: Format, refusal: &Refusal) -> &'static str {
    let (anthropic, openai) = match refusal {
        Refusal::BudgetExceeded(_) => ("billing_error", "insufficient_quota"),
        Refusal::RateLimited { .. } => ("rate_limit_error", "rate_limit_exceeded"),
        Refusal::Unavailable { .. } | Refusal::Misconfigured => ("api_error", "server_error"),
        Refusal::MissingKey
        | Refusal::MissingScheme
        | Refusal::InvalidKey
        | Refusal::RevokedKey
        | Refusal::ExpiredKey
        | Refusal::DisabledKey => ("authentication_error", "invalid_request_error"),
        Refusal::InsufficientScope(_) | Refusal::AddressNotAllowed => {
            ("permission_error", "invalid_request_error")
        }
        _ => ("invalid_request_error", "invalid_request_error"),
    };
    if format == Format::Messages { anthropic } else { openai }
}

impl Format {
    /// Returns a refusal in the shape that the provider's SDKs read: `error` is an object with
    /// `message`, `type`, `code` and the figures of the problem document.
    ///
    /// It is for [`AgentKeyLayer::on_refusal`](crate::AgentKeyLayer::on_refusal):
    ///
    /// ```
    /// use agentkey::llm::Format;
    /// # fn layer(layer: agentkey::AgentKeyLayer) -> agentkey::AgentKeyLayer {
    /// layer.on_refusal(|request, response| match Format::of_path(request.parts.uri.path()) {
    ///     Some(format) => format.refusal(request.refusal, response),
    ///     None => response,
    /// })
    /// # }
    /// ```
    pub fn refusal(self, refusal: &Refusal, response: Response<Bytes>) -> Response<Bytes> {
        let mut response = response.map(|problem| {
            ClientError::refused(self, refusal, &problem).into_body().to_string().into()
        });
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}
