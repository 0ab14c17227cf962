use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderName;
use http::{Response, StatusCode};
use tower_layer::Layer;

use super::options::AuthenticateOptions;
use super::service::AgentKeyService;
use super::unknown_keys::UnknownKeys;
use crate::engine::AgentKeys;
use crate::http::options::RefusedRequest;
use crate::identity::{Verified, Verifier};
use crate::model::{NewKey, RateLimit, Refusal, Scope, TokenPrefix};

/// Finds the key of each request and puts a [`KeyContext`](crate::KeyContext) into its extensions.
///
/// It refuses requests whose key is missing, unknown, revoked or expired. See the [module
/// docs](crate::http::authenticate).
///
/// Each request has a `tracing` span, `agentkey.request`, at level debug: with its key, account, decision and amount, up
/// to the settle. `docs/operations.md` has its fields. The fields `agentkey.key_id` and `agentkey.account` of the span
/// around it are set, if that span declares them.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until a service is wrapped in it"]
pub struct AgentKeyLayer {
    options: AuthenticateOptions,
}

impl AgentKeyLayer {
    /// Returns a layer that looks keys up through this handle.
    pub fn new(keys: &AgentKeys) -> Self {
        let layer = Self { options: AuthenticateOptions::new(keys.inner().clone()) };
        layer.foreign_tokens(keys.inner().has_foreign_tokens())
    }

    /// Lets requests without a credential through, without a key: for an application with sessions
    /// of its own. Default: off.
    ///
    /// A bad credential is still refused.
    pub fn optional(mut self, on: bool) -> Self {
        self.options.optional = on;
        self
    }

    /// Lets requests through without a key while the store does not answer, instead of refusing
    /// them with 503. Default: off.
    ///
    /// Free routes are served, and `Option<KeyContext>` is `None` for every credential.
    /// [`Charge`](crate::Charge) and [`RequireScope`](crate::RequireScope) still refuse with 503,
    /// even a scope that lets anonymous requests through.
    pub fn fail_open(mut self, on: bool) -> Self {
        self.options.fail_open = on;
        self
    }

    /// Sets how many requests every key may send that has no [limit of its own](crate::NewKey::rate_limit).
    /// Default: any number.
    ///
    /// A key without a parent has it, with all that was minted from it: minting gives no more requests.
    /// A key that is limited itself has its own instead, where the application set it so. Requests
    /// beyond are refused with 429, before their scope and budget. Every response says in `RateLimit`
    /// what is left.
    ///
    /// A request that passes several layers with the same key counts once for each limit, and the
    /// defaults of all these layers bind. Each default has a count of its own.
    ///
    /// ```
    /// # use agentkey::{AgentKeyLayer, AgentKeys};
    /// use agentkey::model::RateLimit;
    ///
    /// # fn layer(keys: &AgentKeys) -> AgentKeyLayer {
    /// AgentKeyLayer::new(keys).rate_limit(RateLimit::per_minute(100))
    /// # }
    /// ```
    pub fn rate_limit(mut self, default: RateLimit) -> Self {
        self.options.rate_limit = Some(default);
        self
    }

    /// Limits the requests of each client whose token no key has, before the look-up: a flood of random
    /// tokens then costs the store nothing. Default: off.
    ///
    /// A client is an IPv4 address, or the first 64 bits of an IPv6 address. Beyond its limit, each of
    /// its requests is refused with 429, unless its key is cached. Malformed tokens cost no look-up,
    /// and do not count. Where no address is known, all clients have the limit of one.
    pub fn unknown_key_limit(mut self, limit: RateLimit) -> Self {
        self.options.unknown_keys = UnknownKeys::new(limit).map(Arc::new);
        self
    }

    /// Sets how many proxies stand between the clients and this service, each of which appends to
    /// `X-Forwarded-For` the address that it was connected from. Default: 0, and the client is the peer
    /// of the connection.
    ///
    /// Where a client is decides about [`allowed_cidrs`](crate::NewKey::allowed_cidrs) and
    /// [`unknown_key_limit`](Self::unknown_key_limit). Clients write more into that header than these
    /// proxies do, so a number that is too high lets them choose their address. A request with fewer
    /// addresses in it came past a proxy, and has no known address: a key with ranges is refused.
    pub fn trusted_hops(mut self, hops: usize) -> Self {
        self.options.trusted_hops = hops;
        self
    }

    /// Sets the headers that may contain the token, in order, instead of `Authorization` and
    /// `X-Api-Key`.
    ///
    /// In `Authorization` the token follows `Bearer`; in every other header it is the whole value.
    pub fn credential_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        Arc::make_mut(&mut self.options.credentials).headers(names);
        self
    }

    /// Accepts tokens that this crate did not make: any 8 to 512 visible ASCII characters are
    /// looked up. Default: off, but on with an adopted table of keys.
    ///
    /// Set it for keys that were [imported](AgentKeys::import).
    pub fn foreign_tokens(mut self, on: bool) -> Self {
        Arc::make_mut(&mut self.options.credentials).foreign(on);
        self
    }

    /// Adds a verifier of credentials that another service issued. It decides about each credential
    /// that it [accepts](Verifier::accepts) and that has not the form of a token of this crate. With
    /// several verifiers, the first that accepts a credential decides.
    ///
    /// The key of a request is then that of the credential's subject:
    /// [`AgentKeys::ensure_subject`]. What the credential says [narrows](Verified::scopes) the scopes
    /// of its request. A subject without a key is refused with `invalid_key`, unless
    /// [`on_first_seen`](Self::on_first_seen) gives it one.
    ///
    /// A verifier is asked before a [foreign token](Self::foreign_tokens) is looked up.
    pub fn verifier(mut self, verifier: impl Verifier) -> Self {
        Arc::make_mut(&mut self.options.verifiers).add(Arc::new(verifier));
        self
    }

    /// Sets a hook that says which key a subject gets that has none. Default: none, and the subject is
    /// refused with `invalid_key`.
    ///
    /// However many first requests of a subject come at once, the hook is asked once, over all
    /// processes with the same store. Only where a process stops in it, another one asks again. A
    /// refusal is the answer to the requests that wait for it, and is not remembered.
    ///
    /// The requests wait for up to 30 seconds, and are then refused with 503.
    ///
    /// ```
    /// use agentkey::identity::Verifier;
    /// use agentkey::{AgentKeyLayer, AgentKeys, Amount, Budget, NewKey, Refusal, ScopeSet};
    ///
    /// # fn layer(keys: &AgentKeys, verifier: impl Verifier) -> Result<AgentKeyLayer, agentkey::model::ScopeError> {
    /// let read = ScopeSet::parse(["docs.read"])?;
    /// let layer = AgentKeyLayer::new(keys).verifier(verifier).on_first_seen(move |verified| {
    ///     let read = read.clone();
    ///     async move {
    ///         let org = verified.claims.get("org_id").and_then(|org| org.as_str());
    ///         let account = org.and_then(|org| org.parse().ok()).ok_or(Refusal::InvalidKey)?;
    ///         Ok(NewKey::new(account)
    ///             .name(verified.subject.id())
    ///             .scopes(read)
    ///             .budget(Budget::daily(Amount::units(5))))
    ///     }
    /// });
    /// # Ok(layer) }
    /// ```
    pub fn on_first_seen<F>(mut self, hook: impl Fn(Verified) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<NewKey, Refusal>> + Send + 'static,
    {
        Arc::make_mut(&mut self.options.verifiers).on_first_seen(hook);
        self
    }

    /// Counts only credentials whose token has one of these prefixes. Others are treated as absent,
    /// as if their headers had not been sent. Default: every credential counts.
    ///
    /// It is for clients that have to send something else beside the key: a placeholder that their
    /// SDK insists on, or a credential of another system. Name every prefix in use: that of the
    /// [builder](crate::Builder::prefix), and those of [`NewKey::prefix`](crate::NewKey::prefix).
    /// Without any prefix, every credential counts. What a [verifier](Self::verifier) accepts always
    /// counts.
    ///
    /// ```
    /// # use agentkey::{AgentKeyLayer, AgentKeys};
    /// # fn layer(keys: &AgentKeys) -> Result<AgentKeyLayer, agentkey::model::TokenError> {
    /// // `Authorization: Bearer dummy` beside `X-Api-Key: ak_…` is no second credential.
    /// let layer = AgentKeyLayer::new(keys).credential_prefixes(["ak".parse()?]);
    /// # Ok(layer) }
    /// ```
    pub fn credential_prefixes(mut self, prefixes: impl IntoIterator<Item = TokenPrefix>) -> Self {
        Arc::make_mut(&mut self.options.credentials).prefixes(prefixes);
        self
    }

    /// Sets the status of the refusal `budget_exceeded`. Default: 402.
    pub fn budget_status(mut self, status: StatusCode) -> Self {
        Arc::make_mut(&mut self.options.http).budget_status = status;
        self
    }

    /// Sets the `realm` of `WWW-Authenticate`, without its quotes and backslashes. Default: none.
    pub fn realm(mut self, realm: &str) -> Self {
        let realm: String =
            realm.chars().filter(|c| !matches!(c, '"' | '\\') && !c.is_control()).collect();
        Arc::make_mut(&mut self.options.http).realm = Some(realm.into());
        self
    }

    /// Puts the URL of the resource's metadata (RFC 9728) into `WWW-Authenticate`, as the authorization
    /// of MCP asks. Default: none.
    ///
    /// The URL is that of `/.well-known/oauth-protected-resource`. Characters that no URL has are left
    /// out.
    ///
    /// ```
    /// # use agentkey::{AgentKeyLayer, AgentKeys, ScopeSet};
    /// # fn layer(keys: &AgentKeys) -> Result<AgentKeyLayer, agentkey::model::ScopeError> {
    /// let layer = AgentKeyLayer::new(keys)
    ///     .resource_metadata("https://api.example.com/.well-known/oauth-protected-resource")
    ///     .challenge_scopes(["read".parse()?]);
    /// # Ok(layer) }
    /// ```
    pub fn resource_metadata(mut self, url: &str) -> Self {
        let url: String =
            url.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')).collect();
        Arc::make_mut(&mut self.options.http).resource_metadata = Some(url.into());
        self
    }

    /// Sets the `scope` of `WWW-Authenticate` where a request has no key or a bad one. Default: none.
    ///
    /// A request that lacks a scope is told the scopes of its route.
    pub fn challenge_scopes(mut self, scopes: impl IntoIterator<Item = Scope>) -> Self {
        let scopes: Vec<_> = scopes.into_iter().map(|scope| scope.to_string()).collect();
        Arc::make_mut(&mut self.options.http).challenge_scopes =
            (!scopes.is_empty()).then(|| scopes.join(" ").into());
        self
    }

    /// Sends what the key has left in the header `agentkey-remaining-cents`. Default: on.
    ///
    /// Responses to the requests that this layer let through have it, if the lineage has a limit.
    pub fn remaining_header(mut self, on: bool) -> Self {
        Arc::make_mut(&mut self.options.http).remaining_header = on;
        self
    }

    /// Sets a function that maps the response of every refusal: those of this layer, and those
    /// behind it. It gets the refusal, the id of the key and the head of the request.
    ///
    /// With such a function, the head of every request is copied.
    ///
    /// ```
    /// # use agentkey::{AgentKeyLayer, AgentKeys};
    /// # fn layer(keys: &AgentKeys) -> AgentKeyLayer {
    /// AgentKeyLayer::new(keys).on_refusal(|refused, mut response| {
    ///     let (code, path) = (refused.refusal.code(), refused.parts.uri.path());
    ///     tracing::info!(code, path, key = ?refused.key, "refused");
    ///     response.headers_mut().insert("x-docs", http::HeaderValue::from_static("/docs/errors"));
    ///     response
    /// })
    /// # }
    /// ```
    pub fn on_refusal(
        mut self,
        map: impl Fn(&RefusedRequest<'_>, Response<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.options.http).on_refusal = Some(Arc::new(map));
        self
    }
}

#[cfg(feature = "self-serve")]
impl AgentKeyLayer {
    /// Returns the rate limit of a key that has none of its own.
    pub(crate) fn default_rate_limit(&self) -> Option<RateLimit> {
        self.options.rate_limit
    }

    /// Returns the options of responses.
    pub(crate) fn http(&self) -> Arc<crate::http::options::HttpOptions> {
        self.options.http.clone()
    }
}

impl<S> Layer<S> for AgentKeyLayer {
    type Service = AgentKeyService<S>;

    fn layer(&self, inner: S) -> AgentKeyService<S> {
        AgentKeyService::new(inner, self)
    }
}

impl<S> AgentKeyService<S> {
    /// Wraps a service, as the layer does.
    pub fn new(inner: S, layer: &AgentKeyLayer) -> Self {
        Self { inner, options: layer.options.clone() }
    }
}
