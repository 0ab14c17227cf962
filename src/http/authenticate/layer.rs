use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderName;
use http::{Response, StatusCode};
use tower_layer::Layer;

use super::options::AuthenticateOptions;
use super::service::AgentKeyService;
use crate::engine::AgentKeys;
use crate::model::Refusal;

/// Finds the key of each request and puts a [`KeyContext`](crate::KeyContext) into its extensions; refuses requests
/// whose key is missing, unknown, revoked or expired. See the [module docs](crate::http::authenticate).
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until a service is wrapped in it"]
pub struct AgentKeyLayer {
    options: AuthenticateOptions,
}

impl AgentKeyLayer {
    /// A layer that asks these keys.
    pub fn new(keys: &AgentKeys) -> Self {
        Self { options: AuthenticateOptions::new(keys.inner().clone()) }
    }

    /// Lets requests without a credential through, without a key: for a host with sessions of its own. A bad
    /// credential is refused all the same.
    pub fn optional(mut self, on: bool) -> Self {
        self.options.optional = on;
        self
    }

    /// Lets requests through without a key while the store does not answer, instead of refusing them with 503: free
    /// routes go on, and `Option<KeyContext>` is `None`, whatever the credential. What needs a key still answers with 503:
    /// [`Charge`](crate::Charge), and every [`RequireScope`](crate::RequireScope), also one that lets anonymous requests
    /// through.
    pub fn fail_open(mut self, on: bool) -> Self {
        self.options.fail_open = on;
        self
    }

    /// Where the token is: these headers, in this order, instead of `Authorization` and `X-Api-Key`. In
    /// `Authorization` it is behind `Bearer`, in every other header it is the whole value.
    pub fn credential_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        Arc::make_mut(&mut self.options.credentials).headers(names);
        self
    }

    /// Accepts tokens that were not made by this crate: any 8 to 512 visible ASCII characters are looked up.
    pub fn foreign_tokens(mut self, on: bool) -> Self {
        Arc::make_mut(&mut self.options.credentials).foreign(on);
        self
    }

    /// The status of a refusal for want of budget, instead of 402.
    pub fn budget_status(mut self, status: StatusCode) -> Self {
        Arc::make_mut(&mut self.options.http).budget_status = status;
        self
    }

    /// The `realm` of `WWW-Authenticate`. Quotes and backslashes are left out of it.
    pub fn realm(mut self, realm: &str) -> Self {
        let realm: String = realm.chars().filter(|c| !matches!(c, '"' | '\\') && !c.is_control()).collect();
        Arc::make_mut(&mut self.options.http).realm = Some(realm.into());
        self
    }

    /// Whether the responses to requests that this layer let in say in `agentkey-remaining-cents` what their key has
    /// left. Default: they do, where something limits it.
    pub fn remaining_header(mut self, on: bool) -> Self {
        Arc::make_mut(&mut self.options.http).remaining_header = on;
        self
    }

    /// Maps the response of every refusal: those of this layer, and of what stands behind it.
    ///
    /// ```
    /// # use agentkey::{AgentKeyLayer, AgentKeys};
    /// # fn layer(keys: &AgentKeys) -> AgentKeyLayer {
    /// AgentKeyLayer::new(keys).on_refusal(|refusal, mut response| {
    ///     tracing::info!(code = refusal.code(), "refused");
    ///     response.headers_mut().insert("x-docs", http::HeaderValue::from_static("/docs/errors"));
    ///     response
    /// })
    /// # }
    /// ```
    pub fn on_refusal(
        mut self,
        map: impl Fn(&Refusal, Response<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.options.http).on_refusal = Some(Arc::new(map));
        self
    }
}

impl<S> Layer<S> for AgentKeyLayer {
    type Service = AgentKeyService<S>;

    fn layer(&self, inner: S) -> AgentKeyService<S> {
        AgentKeyService::new(inner, self.options.clone())
    }
}
