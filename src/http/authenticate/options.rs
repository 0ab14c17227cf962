//! Options that the layer, the service and the future share.

use std::sync::Arc;

use crate::engine::agent_keys::Inner;
use crate::http::credentials::Credentials;
use crate::http::options::HttpOptions;
use crate::identity::Verifiers;

#[derive(Clone, Debug)]
pub(super) struct AuthenticateOptions {
    pub(super) keys: Arc<Inner>,
    pub(super) credentials: Arc<Credentials>,
    pub(super) verifiers: Arc<Verifiers>,
    pub(super) http: Arc<HttpOptions>,
    pub(super) optional: bool,
    pub(super) fail_open: bool,
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
        }
    }
}
