//! What a handler gets when a charge is refused, and what its client gets.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;

use crate::http::options::HttpOptions;
use crate::http::problem;
use crate::model::Refusal;

/// Why a charge was refused. As a response it is the problem document of the refusal.
///
/// ```
/// use agentkey::{Amount, Charge, Rejection, Refusal};
///
/// async fn handler(charge: Charge) -> Result<&'static str, Rejection> {
///     match charge.pay(Amount::cents(10)).await {
///         Ok(_) => Ok("the long answer"),
///         Err(error) if matches!(error.refusal(), Refusal::BudgetExceeded(_)) => Ok("the short answer"),
///         Err(error) => Err(error),
///     }
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

    /// Why.
    pub fn refusal(&self) -> &Refusal {
        &self.refusal
    }

    /// The response for a service that is not axum's: the problem document, mapped as
    /// [`AgentKeyLayer::on_refusal`](crate::AgentKeyLayer::on_refusal) says.
    pub fn to_response(&self) -> Response<Bytes> {
        problem::respond(&self.refusal, &self.http)
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
