//! Rejections: refusals and errors as responses.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;

use crate::engine::Error;
use crate::http::options::HttpOptions;
use crate::http::problem;
use crate::model::Refusal;

/// A refusal, and how the layer in front of the handler answers with it. It is the rejection of
/// every extractor of this crate.
///
/// Its response is the problem document of the refusal, with its status and headers. [`Refusal`]
/// and [`Error`] convert into it by `?`, so a handler needs no table of statuses of its own.
///
/// ```
/// use agentkey::{AgentKeys, Amount, Charge, Refusal, Rejection};
/// use agentkey::model::Grace;
///
/// async fn rotate(keys: AgentKeys, charge: Charge) -> Result<String, Rejection> {
///     match charge.pay(Amount::cents(10)).await {
///         Err(rejection) if matches!(rejection.refusal(), Refusal::BudgetExceeded(_)) => return Ok("later".into()),
///         paid => paid?,
///     };
///     let created = keys.rotate(charge.key(), Grace::NONE).await?;
///     Ok(created.token.expose().to_owned())
/// }
/// ```
#[derive(Clone)]
pub struct Rejection {
    refusal: Box<Refusal>,
    http: Arc<HttpOptions>,
}

impl Rejection {
    pub(crate) fn new(refusal: Refusal, http: Arc<HttpOptions>) -> Self {
        Self { refusal: Box::new(refusal), http }
    }

    /// Returns the refusal.
    pub fn refusal(&self) -> &Refusal {
        &self.refusal
    }

    /// Returns the problem document as a response, mapped by
    /// [`AgentKeyLayer::on_refusal`](crate::AgentKeyLayer::on_refusal).
    ///
    /// A rejection that was converted from a [`Refusal`] or an [`Error`] knows no layer, and is not
    /// mapped.
    pub fn to_response(&self) -> Response<Bytes> {
        problem::respond(&self.refusal, &self.http)
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal, Arc::default())
    }
}

impl From<Error> for Rejection {
    fn from(error: Error) -> Self {
        Refusal::from(error).into()
    }
}

impl Refusal {
    /// Returns the problem document of the refusal as a response, with the default status and headers.
    pub fn to_response(&self) -> Response<Bytes> {
        problem::respond(self, &HttpOptions::default())
    }
}

impl Error {
    /// Returns the problem document of the error as a response, and logs what it keeps from the
    /// client.
    pub fn to_response(&self) -> Response<Bytes> {
        self.log();
        self.refusal().to_response()
    }
}

impl fmt::Debug for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rejection").field(&self.refusal).finish()
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.refusal.fmt(f)
    }
}

impl std::error::Error for Rejection {}
