//! The builder of the router.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
#[cfg(feature = "sessions")]
use axum::routing::delete;
use axum::routing::{get, post};

use super::introspect::introspect;
#[cfg(feature = "openapi")]
use super::openapi::{self, Group};
use super::principal::Authenticate;
#[cfg(feature = "sessions")]
use super::sessions;
use super::shared::{Settings, Shared};
use super::signup::{Signup, SignupState, signup};
use super::{keys, usage};
use crate::engine::{AgentKeys, BuildError};
use crate::http::AgentKeyLayer;
use crate::ledger::{MAX_DEPTH, MintRules, Minting};
use crate::model::{Budget, Refusal, Scope, Validity};

/// Makes the router by which agents serve themselves. See the [module docs](crate::routes).
///
/// ```
/// use agentkey::routes::{SelfServe, Signup};
/// use agentkey::{AgentKeys, Amount, Budget, ScopeSet};
/// use axum::Router;
///
/// fn app(keys: &AgentKeys) -> Result<Router, Box<dyn std::error::Error>> {
///     let signup = Signup::new(Budget::lifetime(Amount::cents(100)))
///         .scopes(ScopeSet::parse(["read"])?);
///     let routes = SelfServe::new(keys).me().mint().manage().signup(signup).into_router()?;
///     Ok(Router::new().nest("/v1", routes))
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use = "the routes are made by `into_router`"]
pub struct SelfServe {
    keys: AgentKeys,
    layer: AgentKeyLayer,
    settings: Settings,
    has_me: bool,
    has_mint: bool,
    has_manage: bool,
    #[cfg(feature = "sessions")]
    has_sessions: bool,
    has_introspection: bool,
    #[cfg(feature = "openapi")]
    has_openapi: bool,
    signup: Option<Signup>,
}

impl SelfServe {
    /// Returns a router without routes, until its groups are switched on.
    ///
    /// It looks keys up as [`AgentKeyLayer::new`] does, so no layer is needed around it.
    pub fn new(keys: &AgentKeys) -> Self {
        let mint = MintRules {
            max_lifetime: None,
            default_budget: None,
            max_rate_limit: None,
            max_depth: MAX_DEPTH,
            max_children: 100,
        };
        Self {
            keys: keys.clone(),
            layer: AgentKeyLayer::new(keys),
            settings: Settings { account_scope: None, minting: Minting::Allowed, mint },
            has_me: false,
            has_mint: false,
            has_manage: false,
            #[cfg(feature = "sessions")]
            has_sessions: false,
            has_introspection: false,
            #[cfg(feature = "openapi")]
            has_openapi: false,
            signup: None,
        }
    }

    /// Switches on `GET /keys/me` and `GET /keys/me/usage`.
    pub fn me(mut self) -> Self {
        self.has_me = true;
        self
    }

    /// Switches on `POST /keys`.
    pub fn mint(mut self) -> Self {
        self.has_mint = true;
        self
    }

    /// Switches on the list of keys, and showing, narrowing, rotating, pausing and revoking a key.
    pub fn manage(mut self) -> Self {
        self.has_manage = true;
        self
    }

    /// Switches on `POST /sessions`, `GET /me` and `DELETE /sessions/{id}`.
    ///
    /// The handle has to be built with [`Builder::sessions`](crate::Builder::sessions).
    #[cfg(feature = "sessions")]
    pub fn sessions(mut self) -> Self {
        self.has_sessions = true;
        self
    }

    /// Switches on `POST /introspect` (RFC 7662), for callers that the application authenticates as a
    /// [`ResourceServer`](super::ResourceServer).
    pub fn introspect(mut self) -> Self {
        self.has_introspection = true;
        self
    }

    /// Switches on `GET /openapi.json`, which needs no key: the OpenAPI document of the groups that are
    /// switched on.
    ///
    /// [`routes::openapi`](super::openapi) is the document of all routes.
    #[cfg(feature = "openapi")]
    pub fn openapi(mut self) -> Self {
        self.has_openapi = true;
        self
    }

    /// Switches on `POST /signup`, which needs no key.
    pub fn signup(mut self, signup: Signup) -> Self {
        self.signup = Some(signup);
        self
    }

    /// Sets how keys are looked up and how refusals are answered, instead of [`AgentKeyLayer::new`].
    ///
    /// A login of the application gives a key without a parent no more than the layer's
    /// [rate limit](AgentKeyLayer::rate_limit).
    pub fn layer(mut self, layer: AgentKeyLayer) -> Self {
        self.layer = layer;
        self
    }

    /// Sets whether keys may make keys and tokens: mint and rotate. Default: they may.
    pub fn minting(mut self, minting: Minting) -> Self {
        self.settings.minting = minting;
        self
    }

    /// Sets the scope with which a key sees its whole account, and may narrow, disable and revoke
    /// there. Default: no key may.
    ///
    /// It gives no token of another key, and enables none.
    pub fn account_scope(mut self, scope: Scope) -> Self {
        self.settings.account_scope = Some(scope);
        self
    }

    /// Sets the longest validity of a key that is made by `POST /keys`. Default: that of its parent.
    pub fn max_lifetime(mut self, validity: Validity) -> Self {
        self.settings.mint.max_lifetime = Some(validity);
        self
    }

    /// Sets the budget of a key that is made by `POST /keys` without naming one, cut to what its
    /// parent may spend. Default: no limit of its own.
    pub fn default_budget(mut self, budget: Budget) -> Self {
        self.settings.mint.default_budget = Some(budget);
        self
    }

    /// Sets the most keys of a lineage whose last one is made here. Default: that of
    /// [`Builder::max_depth`](crate::Builder::max_depth), which holds in any case.
    pub fn max_depth(mut self, max: usize) -> Self {
        self.settings.mint.max_depth = max;
        self
    }

    /// Sets the most children in force of a key, under which more are made here. Default: 100.
    pub fn max_children(mut self, max: u64) -> Self {
        self.settings.mint.max_children = max;
        self
    }

    /// Returns the router.
    ///
    /// # Errors
    ///
    /// [`BuildError::OutOfRange`] where a setting is out of its range.
    pub fn into_router(self) -> Result<Router, BuildError> {
        self.validate()?;
        #[cfg(feature = "openapi")]
        let document = self.has_openapi.then(|| openapi::document(|group| self.has(group)));
        let Self {
            keys,
            layer,
            mut settings,
            has_me,
            has_mint,
            has_manage,
            #[cfg(feature = "sessions")]
            has_sessions,
            has_introspection,
            signup: new_clients,
            ..
        } = self;
        settings.mint.max_rate_limit = layer.default_rate_limit();
        let shared = Arc::new(Shared { keys, settings: settings.into(), http: layer.http() });
        let state = shared.clone();
        let not_allowed = move |request: Request| {
            std::future::ready(state.of_request(&request).refuse(Refusal::MethodNotAllowed))
        };
        let mut with_key = Router::new();
        if has_me {
            with_key = with_key
                .route("/keys/me", get(keys::me))
                .route("/keys/me/usage", get(usage::usage));
        }
        if has_mint {
            with_key = with_key.route("/keys", post(keys::mint));
        }
        if has_manage {
            with_key = with_key
                .route("/keys", get(keys::list))
                .route("/keys/{id}", get(keys::show).patch(keys::patch).delete(keys::revoke))
                .route("/keys/{id}/rotate", post(keys::rotate))
                .route("/keys/{id}/end-grace", post(keys::end_grace))
                .route("/keys/{id}/disable", post(keys::disable))
                .route("/keys/{id}/enable", post(keys::enable));
        }
        let has_keyed = has_me || has_mint || has_manage;
        #[cfg(feature = "sessions")]
        let has_keyed = has_keyed || has_sessions;
        #[cfg(feature = "sessions")]
        if has_sessions {
            with_key = with_key
                .route("/sessions", post(sessions::open))
                .route("/sessions/{id}", delete(sessions::end))
                .route("/me", get(sessions::me));
        }
        let mut router = Router::new();
        if has_introspection {
            let introspection = Router::new()
                .route("/introspect", post(introspect))
                .method_not_allowed_fallback(not_allowed.clone())
                .with_state(shared.clone());
            router = router.merge(introspection);
        }
        if has_keyed {
            let with_key = with_key
                .method_not_allowed_fallback(not_allowed.clone())
                .route_layer(Authenticate(layer))
                .with_state(shared.clone());
            router = router.merge(with_key);
        }
        if let Some(new_clients) = new_clients {
            let without_key = Router::new()
                .route("/signup", post(signup))
                .method_not_allowed_fallback(not_allowed)
                .with_state(Arc::new(SignupState::new(shared, new_clients)));
            router = router.merge(without_key);
        }
        #[cfg(feature = "openapi")]
        if let Some(document) = document {
            router = router.merge(openapi::route(document));
        }
        Ok(router)
    }

    #[cfg(feature = "openapi")]
    fn has(&self, group: Group) -> bool {
        match group {
            Group::Me => self.has_me,
            Group::Mint => self.has_mint,
            Group::Manage => self.has_manage,
            #[cfg(feature = "sessions")]
            Group::Sessions => self.has_sessions,
            Group::Signup => self.signup.is_some(),
            Group::Introspection => self.has_introspection,
            // It has a router of its own.
            Group::Resource => false,
        }
    }

    fn validate(&self) -> Result<(), BuildError> {
        let MintRules { max_depth, default_budget, max_lifetime, .. } = &self.settings.mint;
        let refused = |option, given: String, accepted| {
            Err(BuildError::OutOfRange { option, given, accepted })
        };
        if !(1..=MAX_DEPTH).contains(max_depth) {
            return refused("max_depth", max_depth.to_string(), "from 1 to 64");
        }
        #[cfg(feature = "sessions")]
        if self.has_sessions && self.keys.inner().sessions.is_none() {
            let accepted = "on a handle that is built with `Builder::sessions`";
            return refused("sessions", "switched on".to_owned(), accepted);
        }
        if let Some(budget) = default_budget.filter(|budget| budget.validate().is_err()) {
            return refused("default_budget", format!("{budget:?}"), "limits of zero or more");
        }
        if let Some(validity) =
            max_lifetime.filter(|validity| validity.after(jiff::Timestamp::UNIX_EPOCH).is_err())
        {
            return refused("max_lifetime", validity.to_string(), "more than zero");
        }
        match &self.signup {
            Some(signup) => {
                let admin = self.keys.inner().rules.admin_scope.as_ref();
                signup.validate(self.settings.account_scope.as_ref(), admin)
            }
            None => Ok(()),
        }
    }
}
