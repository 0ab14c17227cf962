//! The caller of a request: the validated key, for everything behind the layer.

use std::fmt;
use std::sync::Arc;

use http::Extensions;
use jiff::Timestamp;

use crate::http::charge::state::ChargeState;
use crate::http::options::HttpOptions;
use crate::http::rejection::Rejection;
use crate::identity::Verified;
use crate::model::{
    Account, AccountId, Amount, Key, KeyId, Lineage, MissingScope, Refusal, Scope, ScopeSet,
    Subject,
};
use crate::store::Found;

/// The key of a request, found and in force.
///
/// [`AgentKeyLayer`](crate::AgentKeyLayer) puts it into the request's extensions. In axum it is an
/// extractor, and so is `Option<KeyContext>` behind an [optional](crate::AgentKeyLayer::optional)
/// layer.
///
/// ```
/// use agentkey::KeyContext;
///
/// async fn me(key: KeyContext) -> String {
///     format!("{} of {}", key.key().name, key.account_id())
/// }
/// ```
#[derive(Clone)]
pub struct KeyContext {
    found: Arc<Found>,
    state: Arc<ChargeState>,
    http: Arc<HttpOptions>,
    verified: Option<Arc<Verified>>,
}

impl KeyContext {
    pub(crate) fn new(
        found: Arc<Found>,
        state: Arc<ChargeState>,
        http: Arc<HttpOptions>,
        verified: Option<Arc<Verified>>,
    ) -> Self {
        Self { found, state, http, verified }
    }

    pub(crate) fn charge_state(&self) -> &Arc<ChargeState> {
        &self.state
    }

    pub(crate) fn found(&self) -> &Arc<Found> {
        &self.found
    }

    pub(crate) fn shared_verified(&self) -> Option<&Arc<Verified>> {
        self.verified.as_ref()
    }

    /// Returns what the credential of the request allows at most, where another issuer made it.
    #[cfg(feature = "self-serve")]
    pub(crate) fn ceiling(&self) -> crate::ledger::Ceiling {
        let verified = self.verified.as_deref();
        crate::ledger::Ceiling {
            scopes: verified.and_then(|verified| verified.scopes.clone()),
            expires_at: verified.and_then(|verified| verified.expires_at),
        }
    }

    /// Returns the options of the layer that has let the request through.
    pub(crate) fn http(&self) -> &Arc<HttpOptions> {
        &self.http
    }

    /// Returns the key in the extensions of a request, for a service without extractors.
    ///
    /// # Errors
    ///
    /// A 401 for a request that an [optional](crate::AgentKeyLayer::optional) layer let through
    /// without a key. A 500 where the layer is missing; the log then says how to add it.
    pub fn from_extensions(extensions: &Extensions) -> Result<&Self, Rejection> {
        Caller::key_of(extensions, "KeyContext")
    }

    /// Returns the key's id.
    pub fn id(&self) -> KeyId {
        self.lineage().id()
    }

    /// Returns the key's record, as it was when the request came in.
    pub fn key(&self) -> &Key {
        self.lineage().key()
    }

    /// Returns the account's id.
    pub fn account_id(&self) -> &AccountId {
        self.lineage().account_id()
    }

    /// Returns the account.
    pub fn account(&self) -> &Account {
        self.lineage().account()
    }

    /// Returns the key with its ancestors and its account.
    pub fn lineage(&self) -> &Lineage {
        &self.found.lineage
    }

    /// Returns the identity of another issuer that the key is for, if it is for one.
    pub fn subject(&self) -> Option<&Subject> {
        self.key().subject.as_ref()
    }

    /// Returns what the credential of this request says, if a
    /// [verifier](crate::AgentKeyLayer::verifier) verified it.
    ///
    /// Its scopes have narrowed the request already: see [`scopes`](Self::scopes).
    pub fn verified(&self) -> Option<&Verified> {
        self.verified.as_deref()
    }

    /// Returns the human on whose behalf the key acts, by the application's own id.
    pub fn delegated_by(&self) -> Option<&str> {
        self.lineage().delegated_by()
    }

    /// Returns whether the key, every ancestor and the credential of the request allow `scope`.
    pub fn allows(&self, scope: &Scope) -> bool {
        self.lineage().allows(scope, self.state.keys().rules.admin_scope.as_ref())
    }

    /// Returns whether the key, every ancestor and the credential allow the scope of this name. A text that is no
    /// scope is allowed by none.
    ///
    /// ```
    /// use agentkey::KeyContext;
    ///
    /// async fn fields(key: KeyContext) -> &'static str {
    ///     if key.has_scope("docs.write") { "all fields" } else { "read-only fields" }
    /// }
    /// ```
    pub fn has_scope(&self, scope: &str) -> bool {
        scope.parse().is_ok_and(|scope| self.allows(&scope))
    }

    /// Checks that `scope` is [allowed](Self::allows), for a service whose route does not say what a
    /// request needs, such as the tools of an MCP server. Routes have
    /// [`RequireScope`](crate::RequireScope).
    ///
    /// # Errors
    ///
    /// [`Refusal::InsufficientScope`], which names the scope: a 403.
    pub fn require(&self, scope: &Scope) -> Result<(), Rejection> {
        if self.allows(scope) {
            return Ok(());
        }
        let missing = MissingScope { required: vec![scope.clone()], held: self.scopes() };
        Err(Rejection::new(Refusal::InsufficientScope(Box::new(missing)), self.http.clone()))
    }

    /// Returns the scopes that the key, every ancestor and the credential of the request allow.
    pub fn scopes(&self) -> ScopeSet {
        self.lineage().scopes(self.state.keys().rules.admin_scope.as_ref())
    }

    /// Returns what the key can still spend, as far as this request knows; `None` where no member
    /// has a limit.
    pub fn remaining(&self) -> Option<Amount> {
        self.state.posted_remaining().unwrap_or_else(|| self.lineage().remaining())
    }

    /// Returns when the request's token ends, if the token is in its grace after a rotation.
    ///
    /// Such a token may be used. Do not let it change keys.
    pub fn retires_at(&self) -> Option<Timestamp> {
        self.found.retires_at
    }
}

impl fmt::Debug for KeyContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyContext")
            .field("key", &self.id())
            .field("account", self.account_id())
            .finish()
    }
}

/// Marks a request that an optional layer, or one that fails open, let through without a key.
#[derive(Clone)]
pub(crate) struct Anonymous {
    pub(crate) http: Arc<HttpOptions>,
    /// The refusal where a key is required.
    pub(crate) refusal: Refusal,
}

/// The caller of a request behind the layer.
#[derive(Clone, Copy)]
pub(crate) enum Caller<'a> {
    Key(&'a KeyContext),
    Anonymous(&'a Anonymous),
}

impl<'a> Caller<'a> {
    /// Returns the caller of a request. If there is none, it logs how to add the layer, and
    /// refuses.
    pub(crate) fn of(extensions: &'a Extensions, wanted_by: &str) -> Result<Self, Refusal> {
        let key = extensions.get().map(Self::Key);
        key.or_else(|| extensions.get().map(Self::Anonymous)).ok_or_else(|| {
            tracing::error!(
                "{wanted_by} found no key in the request's extensions. Is `AgentKeyLayer` missing, or added below it? \
                 In axum, layers added later run earlier: add `.layer(AgentKeyLayer::new(&keys))` after the routes \
                 and layers that need it."
            );
            Refusal::Misconfigured
        })
    }

    /// Returns the key of a request, or the refusal as a response.
    pub(crate) fn key_of(
        extensions: &'a Extensions,
        wanted_by: &str,
    ) -> Result<&'a KeyContext, Rejection> {
        let caller = Self::of(extensions, wanted_by)
            .map_err(|refusal| Rejection::new(refusal, Arc::default()))?;
        caller.key().map_err(|refusal| Rejection::new(refusal, caller.http().clone()))
    }

    pub(crate) fn http(self) -> &'a Arc<HttpOptions> {
        match self {
            Self::Key(context) => context.http(),
            Self::Anonymous(anonymous) => &anonymous.http,
        }
    }

    pub(crate) fn key(self) -> Result<&'a KeyContext, Refusal> {
        match self {
            Self::Key(context) => Ok(context),
            Self::Anonymous(anonymous) => Err(anonymous.refusal.clone()),
        }
    }

    /// Returns whether the request has no credential. A request whose key could not be looked up
    /// has one.
    pub(crate) fn has_no_credential(self) -> bool {
        matches!(self, Self::Anonymous(Anonymous { refusal: Refusal::MissingKey, .. }))
    }
}

/// Puts the caller into the extensions of a request. The caller of an inner layer replaces that of
/// an outer one.
pub(crate) fn insert_caller(extensions: &mut Extensions, caller: Result<KeyContext, Anonymous>) {
    match caller {
        Ok(context) => {
            extensions.remove::<Anonymous>();
            let state = context.state.clone();
            // An outer layer with another key knows less of what is left.
            if let Some(outer) = extensions.insert(context)
                && !Arc::ptr_eq(&outer.state, &state)
            {
                outer.state.supersede();
            }
        }
        Err(anonymous) => {
            extensions.remove::<KeyContext>();
            extensions.insert(anonymous);
        }
    }
}
