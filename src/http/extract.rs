//! Extractors for axum: `KeyContext`, `Option<KeyContext>`, `Charge` and `Replayable`.

use axum_core::body::Body;
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::request::Parts;

use crate::engine::Error;
use crate::http::charge::{Charge, Replayable};
use crate::http::context::{Caller, KeyContext};
use crate::http::rejection::Rejection;
use crate::model::Refusal;

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        self.to_response().map(Body::from)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.to_response().map(Body::from)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        self.to_response().map(Body::from)
    }
}

/// Refuses with 401 without a key, and with 500 where the layer is missing.
impl<S: Send + Sync> FromRequestParts<S> for KeyContext {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Rejection> {
        Caller::key_of(&parts.extensions, "KeyContext").cloned()
    }
}

/// Extracts `None` for a request that the layer let through without a key.
///
/// [Optional](crate::AgentKeyLayer::optional) layers let requests without a credential through.
/// Layers that [fail open](crate::AgentKeyLayer::fail_open) do so while the store does not answer.
/// Where the layer is missing, it refuses with 500.
impl<S: Send + Sync> OptionalFromRequestParts<S> for KeyContext {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Rejection> {
        match Caller::of(&parts.extensions, "Option<KeyContext>") {
            Ok(caller) => Ok(caller.key().ok().cloned()),
            Err(refusal) => Err(Rejection::new(refusal, Default::default())),
        }
    }
}

/// Refuses with 402 if the key has nothing left, and with 409 if an `Idempotency-Key` is repeated.
impl<S: Send + Sync> FromRequestParts<S> for Charge {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Rejection> {
        Self::begin(Caller::key_of(&parts.extensions, "Charge")?).await
    }
}

/// Refuses with 402 if the key has nothing left, and with 409 if an `Idempotency-Key` is repeated
/// without a payment to return.
impl<S: Send + Sync> FromRequestParts<S> for Replayable {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Rejection> {
        Self::begin(Caller::key_of(&parts.extensions, "Replayable")?).await
    }
}
