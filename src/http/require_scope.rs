use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::http::body::{BodyError, ResponseBody};
use crate::http::context::Caller;
use crate::http::options::HttpOptions;
use crate::http::problem;
use crate::model::{MissingScope, Refusal, Scope, ScopeError};

/// Lets a request through if its key has a scope: one, any of some, or all of some.
///
/// It stands behind [`AgentKeyLayer`](crate::AgentKeyLayer), and refuses with 403,
/// `insufficient_scope`.
///
/// ```
/// use agentkey::{AgentKeyLayer, AgentKeys, NewKey, RequireScope, ScopeSet};
/// use bytes::Bytes;
/// use http::{Request, Response, StatusCode};
/// use http_body_util::Empty;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let keys = AgentKeys::new(agentkey::MemoryStore::new())?;
/// let reader = keys.create(NewKey::new("acme".parse()?).scopes(ScopeSet::parse(["read"])?)).await?;
/// let writer = keys.create(NewKey::new("acme".parse()?).scopes(ScopeSet::parse(["docs.*"])?)).await?;
///
/// let service = ServiceBuilder::new()
///     .layer(AgentKeyLayer::new(&keys))
///     .layer(RequireScope::one("docs.write")?)
///     .service(service_fn(async |_: Request<Empty<Bytes>>| {
///         Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
///     }));
/// let request = |token: &agentkey::Token| {
///     Request::get("/").header("x-api-key", token.expose()).body(Empty::new())
/// };
///
/// // `docs.*` covers `docs.write`: the request is let through.
/// let response = service.clone().oneshot(request(&writer.token)?).await?;
/// assert_eq!(response.status(), StatusCode::OK);
///
/// // `read` does not: the request is refused.
/// let response = service.oneshot(request(&reader.token)?).await?;
/// assert_eq!(response.status(), StatusCode::FORBIDDEN);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until a service is wrapped in it"]
pub struct RequireScope {
    needs: Arc<Requirement>,
    anonymous: bool,
}

#[derive(Debug)]
enum Requirement {
    Any(Vec<Scope>),
    All(Vec<Scope>),
}

impl RequireScope {
    /// Returns a layer that requires this scope.
    ///
    /// # Errors
    ///
    /// [`ScopeError`] where it is not a scope.
    pub fn one(scope: &str) -> Result<Self, ScopeError> {
        Self::all([scope])
    }

    /// Returns a layer that requires one of these scopes.
    ///
    /// # Errors
    ///
    /// [`ScopeError`] where one is not a scope, or there is none: the layer would refuse every request.
    pub fn any<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Result<Self, ScopeError> {
        let scopes = parse(scopes)?;
        if scopes.is_empty() {
            return Err(ScopeError::NoScopes);
        }
        Ok(Self::new(Requirement::Any(scopes)))
    }

    /// Returns a layer that requires all of these scopes. Without scopes, it lets every key in
    /// force through.
    ///
    /// # Errors
    ///
    /// [`ScopeError`] where one is not a scope.
    pub fn all<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Result<Self, ScopeError> {
        Ok(Self::new(Requirement::All(parse(scopes)?)))
    }

    fn new(needs: Requirement) -> Self {
        Self { needs: Arc::new(needs), anonymous: false }
    }

    /// Lets requests through that an [optional](crate::AgentKeyLayer::optional) layer let through
    /// without a key. Default: off.
    pub fn or_anonymous(mut self, on: bool) -> Self {
        self.anonymous = on;
        self
    }

    fn check<B>(&self, request: &Request<B>) -> Result<(), (Refusal, Arc<HttpOptions>)> {
        let caller = Caller::of(request.extensions(), "RequireScope")
            .map_err(|refusal| (refusal, Arc::default()))?;
        let key = match caller {
            caller if self.anonymous && caller.has_no_credential() => return Ok(()),
            caller => caller.key().map_err(|refusal| (refusal, caller.http().clone()))?,
        };
        let (allowed, required) = match &*self.needs {
            Requirement::Any(scopes) => (scopes.iter().any(|scope| key.allows(scope)), scopes),
            Requirement::All(scopes) => (scopes.iter().all(|scope| key.allows(scope)), scopes),
        };
        if allowed {
            return Ok(());
        }
        let missing = MissingScope { required: required.clone(), held: key.scopes() };
        Err((Refusal::InsufficientScope(Box::new(missing)), caller.http().clone()))
    }
}

fn parse<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Result<Vec<Scope>, ScopeError> {
    scopes.into_iter().map(str::parse).collect()
}

impl<S> Layer<S> for RequireScope {
    type Service = RequireScopeService<S>;

    fn layer(&self, inner: S) -> RequireScopeService<S> {
        RequireScopeService::new(inner, self)
    }
}

/// The service of [`RequireScope`].
#[derive(Clone, Debug)]
pub struct RequireScopeService<S> {
    inner: S,
    layer: RequireScope,
}

impl<S> RequireScopeService<S> {
    /// Wraps a service, as the layer does.
    pub fn new(inner: S, layer: &RequireScope) -> Self {
        Self { inner, layer: layer.clone() }
    }

    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service, mutably.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service without the layer.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RequireScopeService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BodyError>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = RequireScopeFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        match self.layer.check(&request) {
            Ok(()) => RequireScopeFuture {
                state: ScopeFutureState::Allowed { inner: self.inner.call(request) },
            },
            Err((refusal, http)) => {
                let response = Some(problem::respond(&refusal, &http));
                RequireScopeFuture { state: ScopeFutureState::Refused { response } }
            }
        }
    }
}

pin_project! {
    /// The future of [`RequireScopeService`].
    pub struct RequireScopeFuture<F> {
        #[pin]
        state: ScopeFutureState<F>,
    }
}

pin_project! {
    #[project = StateProj]
    enum ScopeFutureState<F> {
        Allowed { #[pin] inner: F },
        Refused { response: Option<Response<Bytes>> },
    }
}

impl<F, E, ResBody> Future for RequireScopeFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Allowed { inner } => {
                inner.poll(cx).map_ok(|response| response.map(ResponseBody::inner))
            }
            StateProj::Refused { response } => {
                let response =
                    response.take().map(|response| Ok(response.map(ResponseBody::whole)));
                response.map_or(Poll::Pending, Poll::Ready)
            }
        }
    }
}
