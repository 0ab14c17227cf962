//! Who is calling: the validated key, for everything behind the layer.

use std::fmt;
use std::sync::Arc;

use http::Extensions;
use jiff::Timestamp;

use crate::http::charge::state::ChargeState;
use crate::http::options::HttpOptions;
use crate::http::rejection::Rejection;
use crate::model::{Account, AccountId, Amount, Key, KeyId, Lineage, Refusal, Scope, ScopeSet};

/// The key of a request, found and in force. [`AgentKeyLayer`](crate::AgentKeyLayer) puts it into the request's
/// extensions; in axum it is an extractor, and so is `Option<KeyContext>` behind an
/// [optional](crate::AgentKeyLayer::optional) layer.
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
    state: Arc<ChargeState>,
}

impl KeyContext {
    pub(crate) fn new(state: Arc<ChargeState>) -> Self {
        Self { state }
    }

    pub(crate) fn charge_state(&self) -> &Arc<ChargeState> {
        &self.state
    }

    /// The key in the extensions of a request, for a service without extractors.
    ///
    /// # Errors
    ///
    /// 401 for a request that an [optional](crate::AgentKeyLayer::optional) layer let through without a key; 500 where
    /// the layer is missing, with a line in the log that tells how to mend it.
    pub fn from_extensions(extensions: &Extensions) -> Result<&Self, Rejection> {
        Caller::key_of(extensions, "KeyContext")
    }

    /// The number of the key.
    pub fn id(&self) -> KeyId {
        self.lineage().id()
    }

    /// The key's record, as it was when the request came in.
    pub fn key(&self) -> &Key {
        self.lineage().key()
    }

    /// The account's id.
    pub fn account_id(&self) -> &AccountId {
        self.lineage().account_id()
    }

    /// The account.
    pub fn account(&self) -> &Account {
        self.lineage().account()
    }

    /// The key with its ancestors.
    pub fn lineage(&self) -> &Lineage {
        self.state.lineage()
    }

    /// Whether the key, and every ancestor of it, allows `scope`.
    pub fn allows(&self, scope: &Scope) -> bool {
        self.lineage().allows(scope, self.state.keys().rules.admin_scope.as_ref())
    }

    /// What the key may do: what it and every ancestor of it allow.
    pub fn scopes(&self) -> ScopeSet {
        self.lineage().scopes(self.state.keys().rules.admin_scope.as_ref())
    }

    /// What the key can still spend, as far as this request knows; `None` where nothing limits it.
    pub fn remaining(&self) -> Option<Amount> {
        self.state.remaining()
    }

    /// Set where the request came with a token that was rotated away: until when it still works. Such a token may be
    /// used, but must not be let change keys.
    pub fn retires_at(&self) -> Option<Timestamp> {
        self.state.found().retires_at
    }
}

impl fmt::Debug for KeyContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyContext").field("key", &self.id()).field("account", self.account_id()).finish()
    }
}

/// In the extensions of a request that was let through without a key: by an optional layer, or by one that fails open.
#[derive(Clone)]
pub(crate) struct Anonymous {
    pub(crate) http: Arc<HttpOptions>,
    /// What is answered where a key is needed.
    pub(crate) refusal: Refusal,
}

/// Who a request behind the layer comes from.
#[derive(Clone, Copy)]
pub(crate) enum Caller<'a> {
    Key(&'a KeyContext),
    Anonymous(&'a Anonymous),
}

impl<'a> Caller<'a> {
    /// The caller of a request, or a refusal whose log line tells how to mend the service.
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

    /// The key of a request, or the refusal as a response.
    pub(crate) fn key_of(extensions: &'a Extensions, wanted_by: &str) -> Result<&'a KeyContext, Rejection> {
        let caller = Self::of(extensions, wanted_by).map_err(|refusal| Rejection::new(refusal, Arc::default()))?;
        caller.key().map_err(|refusal| Rejection::new(refusal, caller.http().clone()))
    }

    pub(crate) fn http(self) -> &'a Arc<HttpOptions> {
        match self {
            Self::Key(context) => context.charge_state().http(),
            Self::Anonymous(anonymous) => &anonymous.http,
        }
    }

    pub(crate) fn key(self) -> Result<&'a KeyContext, Refusal> {
        match self {
            Self::Key(context) => Ok(context),
            Self::Anonymous(anonymous) => Err(anonymous.refusal.clone()),
        }
    }

    /// Whether the request came without a credential. One whose key could not be looked up is not of that kind.
    pub(crate) fn has_no_credential(self) -> bool {
        matches!(self, Self::Anonymous(Anonymous { refusal: Refusal::MissingKey, .. }))
    }
}

/// The layer's mark on a request. Of two layers, the inner one's counts.
pub(crate) fn mark(extensions: &mut Extensions, caller: Result<KeyContext, Anonymous>) {
    match caller {
        Ok(context) => {
            extensions.remove::<Anonymous>();
            if let Some(outer) = extensions.insert(context) {
                outer.charge_state().supersede();
            }
        }
        Err(anonymous) => {
            extensions.remove::<KeyContext>();
            extensions.insert(anonymous);
        }
    }
}
