//! Options of responses.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};

use crate::model::Refusal;

pub(crate) type OnRefusal = dyn Fn(&Refusal, Response<Bytes>) -> Response<Bytes> + Send + Sync;

/// The options of responses, which a layer shares with everything behind it.
#[derive(Clone)]
pub(crate) struct HttpOptions {
    pub(crate) budget_status: StatusCode,
    pub(crate) realm: Option<Arc<str>>,
    pub(crate) remaining_header: bool,
    pub(crate) on_refusal: Option<Arc<OnRefusal>>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            budget_status: StatusCode::PAYMENT_REQUIRED,
            realm: None,
            remaining_header: true,
            on_refusal: None,
        }
    }
}

impl fmt::Debug for HttpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpOptions")
            .field("budget_status", &self.budget_status)
            .field("realm", &self.realm)
            .field("remaining_header", &self.remaining_header)
            .finish_non_exhaustive()
    }
}
