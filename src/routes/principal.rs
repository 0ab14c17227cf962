//! Who calls a route: a key, or a login of the application.

use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use http::{Extensions, Request};
use jiff::Timestamp;
use tower_layer::Layer;
use tower_service::Service;

use super::shared::{Settings, Shared};
use crate::http::context::Caller as HttpCaller;
use crate::http::{AgentKeyLayer, AgentKeyService, Rejection};
use crate::ledger::{Caller, CallerRules, Ceiling};
use crate::model::{AccountId, KeyId, Lineage, Refusal};
use crate::store::BoxFuture;

/// The caller of a request, as the application's own login knows it.
///
/// A middleware of the application puts it into the request's extensions. Then the routes take it
/// as the caller and do not look for a key.
///
/// Such a login is the application's: where [`Minting`](super::Minting) says that keys make no keys,
/// it may still do so. A key it stands for is bound as that key is.
///
/// ```
/// use agentkey::routes::Principal;
/// use axum::extract::Request;
/// use axum::middleware::Next;
/// use axum::response::Response;
///
/// async fn login(mut request: Request, next: Next) -> Response {
///     if let Some(user) = user_of(&request) {
///         request.extensions_mut().insert(Principal::account(user));
///     }
///     next.run(request).await
/// }
/// # fn user_of(_: &Request) -> Option<agentkey::AccountId> { None }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal(Caller);

impl Principal {
    /// Returns a login that manages all keys of an account.
    pub const fn account(account: AccountId) -> Self {
        Self(Caller::Account(account))
    }

    /// Returns a login that stands for a key: it sees and may do what that key does.
    pub const fn key(key: KeyId) -> Self {
        Self(Caller::Key(key))
    }
}

/// The caller of a request, found and in force.
pub(super) struct Requester {
    pub(super) caller: Caller,
    pub(super) account: AccountId,
    /// The lineage of a key.
    pub(super) lineage: Option<Lineage>,
    /// What is shown of the token, where the caller has one.
    token_start: Option<String>,
    /// Whether the token was rotated away.
    is_retiring: bool,
    /// What the credential allows at most.
    pub(super) ceiling: Ceiling,
}

impl Requester {
    pub(super) async fn of(extensions: &Extensions, shared: &Shared) -> Result<Self, Rejection> {
        if let Some(Principal(caller)) = extensions.get() {
            return match caller {
                Caller::Account(account) => Ok(Self::account(account.clone())),
                Caller::Key(key) => {
                    let found = shared.keys.find_by_id(*key).await;
                    let found = found.map_err(|error| shared.reject(error))?;
                    let lineage = found.ok_or_else(|| shared.refuse(Refusal::InvalidKey))?;
                    lineage.check_active().map_err(|refusal| shared.refuse(refusal))?;
                    Ok(Self::key(lineage))
                }
            };
        }
        let context = HttpCaller::key_of(extensions, "SelfServe")?;
        Ok(Self {
            token_start: Some(context.key().start.clone()),
            is_retiring: context.retires_at().is_some(),
            ceiling: context.ceiling(),
            ..Self::key(context.lineage().clone())
        })
    }

    pub(super) fn account(account: AccountId) -> Self {
        Self {
            caller: Caller::Account(account.clone()),
            account,
            lineage: None,
            token_start: None,
            is_retiring: false,
            ceiling: Ceiling::default(),
        }
    }

    fn key(lineage: Lineage) -> Self {
        Self {
            caller: Caller::Key(lineage.id()),
            account: lineage.account_id().clone(),
            lineage: Some(lineage),
            token_start: None,
            is_retiring: false,
            ceiling: Ceiling::default(),
        }
    }

    /// Refuses a token in its grace, which may only read.
    pub(super) fn may_change(&self) -> Result<(), Refusal> {
        match self.is_retiring {
            true => Err(Refusal::RetiringToken),
            false => Ok(()),
        }
    }

    /// Refuses where keys make no keys and tokens. The ledger asks again, under its lock.
    pub(super) fn may_mint(&self, shared: &Shared) -> Result<(), Refusal> {
        self.may_change()?;
        match &self.lineage {
            Some(lineage) if lineage.key().is_session() => Err(Refusal::SessionKey),
            Some(lineage) => shared.settings.minting.check(lineage, shared.admin_scope()),
            None => Ok(()),
        }
    }

    /// Returns the store's time of the look-up, where there was one.
    pub(super) fn at(&self) -> Option<Timestamp> {
        self.lineage.as_ref().map(Lineage::at)
    }

    pub(super) fn rules(&self, shared: &Shared) -> CallerRules {
        let Settings { account_scope, minting, mint } = (*shared.settings).clone();
        let (caller, token_start) = (self.caller.clone(), self.token_start.clone());
        let ceiling = self.ceiling.clone();
        CallerRules { caller, token_start, account_scope, minting, mint, ceiling }
    }

    /// Returns whether the caller manages its whole account.
    pub(super) fn manages_account(&self, shared: &Shared) -> bool {
        match &self.lineage {
            Some(lineage) => self.rules(shared).manages_account(lineage, shared.admin_scope()),
            None => true,
        }
    }

    /// Returns whether the caller may see a key.
    pub(super) fn sees(&self, lineage: &Lineage, shared: &Shared) -> bool {
        let is_below = match self.caller {
            Caller::Key(own) => lineage.keys().any(|key| key.id == own),
            Caller::Account(_) => false,
        };
        *lineage.account_id() == self.account && (is_below || self.manages_account(shared))
    }
}

/// Looks the key of a request up, unless the application has put a [`Principal`] into it.
#[derive(Clone)]
pub(super) struct Authenticate(pub(super) AgentKeyLayer);

#[derive(Clone)]
pub(super) struct Authenticated<S> {
    by_principal: S,
    by_key: AgentKeyService<S>,
}

impl<S: Clone> Layer<S> for Authenticate {
    type Service = Authenticated<S>;

    fn layer(&self, inner: S) -> Authenticated<S> {
        Authenticated { by_key: self.0.layer(inner.clone()), by_principal: inner }
    }
}

impl<S> Service<Request<Body>> for Authenticated<S>
where
    S: Service<Request<Body>, Response = Response> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // A route of axum is always ready, so either may be called.
        match self.by_principal.poll_ready(cx) {
            Poll::Ready(Ok(())) => self.by_key.poll_ready(cx),
            other => other,
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.extensions().get::<Principal>().is_some() {
            return Box::pin(self.by_principal.call(request));
        }
        let answer = self.by_key.call(request);
        Box::pin(async move { Ok(answer.await?.map(Body::new)) })
    }
}

/// Returns the state of the routes behind an `Arc`, as handlers take it.
pub(super) type State = axum::extract::State<Arc<Shared>>;
