use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::http::body::{BodyError, ResponseBody};
use crate::http::charge::{Charge, Hold};
use crate::http::context::Caller;
use crate::http::rejection::Rejection;
use crate::store::BoxFuture;

/// Holds money before a route is called, for routes whose maximum cost is known.
///
/// It stands behind [`AgentKeyLayer`](crate::AgentKeyLayer), and refuses with 402 if the key has
/// less left. In axum, put it in one tuple with the scope that the route needs, outermost first:
/// `.layer((RequireScope::one("chat")?, RequireBudget::hold(amount)))`.
///
/// The handler takes the same [`Charge`] and adds what the work cost. The rest of the hold goes
/// back when the handler has returned. If the handler moves its `Charge` into the body, the rest
/// goes back at the body's end.
///
/// A request that repeats an `Idempotency-Key` is refused here with 409, before it reaches a
/// [`Replayable`](crate::Replayable) handler.
///
/// ```
/// use agentkey::{AgentKeyLayer, AgentKeys, Amount, Budget, NewKey, RequireBudget};
/// use bytes::Bytes;
/// use http::{Request, Response, StatusCode};
/// use http_body_util::Empty;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let keys = AgentKeys::new(agentkey::MemoryStore::new())?;
/// let rich = keys.create(NewKey::new("acme".parse()?).budget(Budget::lifetime(Amount::cents(10)))).await?;
/// let poor = keys.create(NewKey::new("acme".parse()?).budget(Budget::lifetime(Amount::cents(4)))).await?;
///
/// let service = ServiceBuilder::new()
///     .layer(AgentKeyLayer::new(&keys))
///     .layer(RequireBudget::hold(Amount::cents(5)))
///     .service(service_fn(async |_: Request<Empty<Bytes>>| {
///         Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
///     }));
/// let request = |token: &agentkey::Token| {
///     Request::get("/").header("x-api-key", token.expose()).body(Empty::new())
/// };
///
/// // The key has 5 cents left: the request is let through.
/// let response = service.clone().oneshot(request(&rich.token)?).await?;
/// assert_eq!(response.status(), StatusCode::OK);
///
/// // The key has not: the request is refused.
/// let response = service.oneshot(request(&poor.token)?).await?;
/// assert_eq!(response.status(), StatusCode::PAYMENT_REQUIRED);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "a layer does nothing until a service is wrapped in it"]
pub struct RequireBudget {
    hold: Hold,
}

impl RequireBudget {
    /// Returns a layer that holds this much for each request.
    pub fn hold(hold: impl Into<Hold>) -> Self {
        Self { hold: hold.into() }
    }
}

impl<S> Layer<S> for RequireBudget {
    type Service = RequireBudgetService<S>;

    fn layer(&self, inner: S) -> RequireBudgetService<S> {
        RequireBudgetService::new(inner, self)
    }
}

/// The service of [`RequireBudget`].
#[derive(Clone, Debug)]
pub struct RequireBudgetService<S> {
    inner: S,
    hold: Hold,
}

impl<S> RequireBudgetService<S> {
    /// Wraps a service, as the layer does.
    pub fn new(inner: S, layer: &RequireBudget) -> Self {
        Self { inner, hold: layer.hold }
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

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RequireBudgetService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BodyError>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = RequireBudgetFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        let key = Caller::key_of(request.extensions(), "RequireBudget").cloned();
        let hold = self.hold;
        let held = Box::pin(async move {
            let charge = Charge::begin(&key?).await?;
            charge.hold(hold).await?;
            Ok(charge)
        });
        RequireBudgetFuture {
            state: BudgetFutureState::Holding { held, call: Some((inner, request)) },
        }
    }
}

pin_project! {
    /// The future of [`RequireBudgetService`].
    pub struct RequireBudgetFuture<S, ReqBody>
    where
        S: Service<Request<ReqBody>>,
    {
        #[pin]
        state: BudgetFutureState<S, ReqBody, S::Future>,
    }
}

pin_project! {
    #[project = StateProj]
    enum BudgetFutureState<S, ReqBody, F> {
        Holding { held: BoxFuture<'static, Result<Charge, Rejection>>, call: Option<(S, Request<ReqBody>)> },
        Calling { #[pin] inner: F, charge: Charge },
    }
}

impl<S, ReqBody, ResBody> Future for RequireBudgetFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Holding { held, call } => {
                    let held = ready!(held.as_mut().poll(cx));
                    let Some((mut inner, request)) = call.take() else { return Poll::Pending };
                    match held {
                        Ok(charge) => {
                            BudgetFutureState::Calling { inner: inner.call(request), charge }
                        }
                        Err(error) => {
                            return Poll::Ready(Ok(error.to_response().map(ResponseBody::whole)));
                        }
                    }
                }
                StateProj::Calling { inner, .. } => {
                    return inner.poll(cx).map_ok(|response| response.map(ResponseBody::inner));
                }
            };
            state.set(next);
        }
    }
}
