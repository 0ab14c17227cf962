//! What the routes share: the handle, the settings, and how they answer.

use std::future::Future;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use serde::Serialize;

use super::login::Principal;
use crate::engine::{AgentKeys, Error};
use crate::http::options::HttpOptions;
use crate::http::origin::RequestOrigin;
use crate::http::{KeyContext, Rejection};
use crate::ledger::{MintRules, Minting};
use crate::model::{ChangeError, FieldError, Refusal, Scope};

/// What the host has set.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) account_scope: Option<Scope>,
    pub(super) minting: Minting,
    pub(super) mint: MintRules,
}

/// The state of the routes.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) keys: AgentKeys,
    pub(super) settings: Arc<Settings>,
    pub(super) http: Arc<HttpOptions>,
}

impl Shared {
    /// Returns the state for one request, whose refusals the host's layer logs and maps. Its changes
    /// have the request in their events.
    pub(super) fn of_request(&self, request: &Request) -> Self {
        let context = request.extensions().get::<KeyContext>();
        let http = context.map(|context| context.http().clone());
        let http = http.unwrap_or_else(|| self.http.of_request(request, None));
        let mut origin = http.origin().map(RequestOrigin::origin).unwrap_or_default();
        if let Some(principal) = request.extensions().get::<Principal>() {
            origin.actor = principal.actor();
        }
        Self { http, keys: self.keys.with_origin(origin), ..self.clone() }
    }

    pub(super) fn admin_scope(&self) -> Option<&Scope> {
        self.keys.inner().rules.admin_scope.as_ref()
    }

    pub(super) fn refuse(&self, refusal: Refusal) -> Rejection {
        Rejection::new(refusal, self.http.clone())
    }

    /// Returns the answer to an error. What isn't there, and what isn't the caller's, are one answer.
    pub(super) fn reject(&self, error: Error) -> Rejection {
        self.refuse(match error {
            Error::Change(ChangeError::UnknownKey(_) | ChangeError::UnknownAccount(_)) => {
                Refusal::NotFound
            }
            Error::Change(ChangeError::Invalid { field, reason }) => {
                Refusal::InvalidRequest(vec![FieldError::new(field, reason)])
            }
            error => match Refusal::from(error) {
                Refusal::InvalidField { field, reason } => {
                    Refusal::InvalidRequest(vec![FieldError::new(field, reason)])
                }
                refusal => refusal,
            },
        })
    }

    /// Runs a change to its end, also when the client leaves.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Rejection> {
        match tokio::spawn(change).await {
            Ok(done) => done.map_err(|error| self.reject(error)),
            Err(error) => {
                tracing::error!(%error, "agentkey: a change of the self-serve routes did not end");
                Err(self.refuse(Refusal::UNAVAILABLE))
            }
        }
    }
}

/// Answers with JSON that no cache keeps: it is one caller's, and may have a token in it.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    // Records and numbers: it cannot fail.
    let body = Bytes::from(serde_json::to_vec(value).unwrap_or_default());
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
