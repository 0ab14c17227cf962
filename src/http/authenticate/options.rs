//! Options that the layer, the service and the future share.

use std::sync::{Arc, Once};

use super::unknown_keys::UnknownKeys;
use crate::engine::agent_keys::Inner;
use crate::http::credentials::Credentials;
use crate::http::options::HttpOptions;
use crate::identity::Verifiers;
use crate::model::RateLimit;

#[derive(Clone, Debug)]
pub(super) struct AuthenticateOptions {
    pub(super) keys: Arc<Inner>,
    pub(super) credentials: Arc<Credentials>,
    pub(super) verifiers: Arc<Verifiers>,
    pub(super) http: Arc<HttpOptions>,
    pub(super) optional: bool,
    pub(super) fail_open: bool,
    /// What a key without a parent has where its record says nothing.
    pub(super) rate_limit: Option<RateLimit>,
    pub(super) trusted_hops: usize,
    pub(super) unknown_keys: Option<Arc<UnknownKeys>>,
    /// Whether the log says that no address is known.
    pub(super) warning: Arc<Once>,
}

impl AuthenticateOptions {
    pub(super) fn new(keys: Arc<Inner>) -> Self {
        Self {
            keys,
            credentials: Arc::default(),
            verifiers: Arc::default(),
            http: Arc::default(),
            optional: false,
            fail_open: false,
            rate_limit: None,
            trusted_hops: 0,
            unknown_keys: None,
            warning: Arc::new(Once::new()),
        }
    }
}
