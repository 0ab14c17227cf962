use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::idempotency;
use super::options::AuthenticateOptions;
use crate::engine::agent_keys::Inner;
use crate::http::body::{BodyError, ResponseBody};
use crate::http::charge::guard::{Guard, SettleFailed};
use crate::http::charge::state::ChargeState;
use crate::http::context::{Anonymous, KeyContext, insert_caller};
use crate::http::options::HttpOptions;
use crate::http::outside::admit;
use crate::http::problem;
use crate::model::Refusal;
use crate::store::{BoxFuture, Found};

pub(super) type LookupFuture = BoxFuture<'static, Result<Option<Arc<Found>>, Refusal>>;

pin_project! {
    /// The future of [`AgentKeyService`](super::AgentKeyService).
    pub struct AgentKeyFuture<S, ReqBody, ResBody>
    where
        S: Service<Request<ReqBody>>,
    {
        #[pin]
        state: FutureState<S, ReqBody, S::Future, ResBody>,
    }
}

pin_project! {
    #[project = StateProj]
    enum FutureState<S, ReqBody, F, ResBody> {
        Finding { lookup: LookupFuture, call: Option<Call<S, ReqBody>> },
        Anonymous { #[pin] inner: F },
        Calling { #[pin] calling: Calling<F> },
        Settling { guard: Guard, response: Option<Response<ResponseBody<ResBody>>> },
        Refused { response: Option<Response<ResponseBody<ResBody>>> },
    }
}

/// The inner service and its request, kept until the key is found.
struct Call<S, ReqBody> {
    inner: S,
    request: Request<ReqBody>,
    options: AuthenticateOptions,
}

pin_project! {
    /// The inner service's future, watched by the guard.
    struct Calling<F> {
        #[pin]
        inner: Option<F>,
        // Dropped after `inner`, so that the inner future's handles are gone when the guard
        // settles.
        guard: Option<Guard>,
        method: Method,
    }

    impl<F> PinnedDrop for Calling<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if let Some(guard) = this.guard {
                guard.interrupt();
            }
            this.inner.set(None);
        }
    }
}

impl<S, ReqBody, ResBody> AgentKeyFuture<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>>,
{
    pub(super) fn refused(refusal: &Refusal, http: &HttpOptions) -> Self {
        Self { state: FutureState::refused(refusal, http) }
    }

    pub(super) fn anonymous(inner: S::Future) -> Self {
        Self { state: FutureState::Anonymous { inner } }
    }

    pub(super) fn finding(
        lookup: LookupFuture,
        inner: S,
        request: Request<ReqBody>,
        options: AuthenticateOptions,
    ) -> Self {
        Self {
            state: FutureState::Finding { lookup, call: Some(Call { inner, request, options }) },
        }
    }

    pub(super) fn found(
        found: Arc<Found>,
        inner: &mut S,
        request: Request<ReqBody>,
        options: &AuthenticateOptions,
    ) -> Self {
        Self { state: FutureState::after(Ok(Some(found)), inner, request, options) }
    }
}

impl<S, ReqBody, F, ResBody> FutureState<S, ReqBody, F, ResBody> {
    fn refused(refusal: &Refusal, http: &HttpOptions) -> Self {
        Self::Refused { response: Some(problem::respond(refusal, http).map(ResponseBody::whole)) }
    }
}

impl<S, ReqBody, ResBody> FutureState<S, ReqBody, S::Future, ResBody>
where
    S: Service<Request<ReqBody>>,
{
    /// Calls the inner service if the key is in force, and refuses otherwise.
    fn after(
        found: Result<Option<Arc<Found>>, Refusal>,
        inner: &mut S,
        mut request: Request<ReqBody>,
        options: &AuthenticateOptions,
    ) -> Self {
        let AuthenticateOptions { keys, http, fail_open, .. } = options;
        let known = found.as_ref().ok().and_then(Option::as_ref);
        let http = http.of_request(&request, known.map(|found| (keys, found)));
        let found = match found.and_then(|found| admit(keys, found)) {
            Ok(found) => found,
            Err(refusal @ Refusal::Unavailable { .. }) if *fail_open => {
                insert_caller(request.extensions_mut(), Err(Anonymous { http, refusal }));
                return Self::Anonymous { inner: inner.call(request) };
            }
            Err(refusal) => return Self::refused(&refusal, &http),
        };
        record_in_span(&found);
        let guard = guard(&request, &found, keys, &http);
        let context = KeyContext::new(found, guard.charge_state().clone(), http);
        insert_caller(request.extensions_mut(), Ok(context));
        let method = request.method().clone();
        let inner = inner.call(request);
        Self::Calling { calling: Calling { inner: Some(inner), guard: Some(guard), method } }
    }
}

/// Returns the guard of a request. Behind an outer layer with the same key, the request has a charge
/// already, and takes its `Idempotency-Key` once.
fn guard<B>(
    request: &Request<B>,
    found: &Arc<Found>,
    keys: &Arc<Inner>,
    http: &Arc<HttpOptions>,
) -> Guard {
    let claim = idempotency::claim(request);
    let outer = request.extensions().get().map(KeyContext::charge_state);
    if let Some(outer) = outer.filter(|outer| outer.is_of(keys, found, &claim)) {
        if http.remaining_header {
            outer.show_remaining();
        }
        return Guard::joined(outer.clone());
    }
    Guard::new(Arc::new(ChargeState::new(keys.clone(), found.clone(), http.clone(), claim)))
}

impl<S, ReqBody, ResBody> Future for AgentKeyFuture<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BodyError>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Finding { lookup, call } => {
                    let found = ready!(lookup.as_mut().poll(cx));
                    let Some(Call { mut inner, request, options }) = call.take() else {
                        return Poll::Pending;
                    };
                    FutureState::after(found, &mut inner, request, &options)
                }
                StateProj::Anonymous { inner } => {
                    return inner.poll(cx).map_ok(|response| response.map(ResponseBody::inner));
                }
                StateProj::Calling { mut calling } => {
                    let Poll::Ready(head) = calling.as_mut().poll_head(cx) else {
                        let Some(guard) = calling.poll_cut_off(cx) else { return Poll::Pending };
                        let http = guard.charge_state().http();
                        let response = problem::respond(&Refusal::UNAVAILABLE, http);
                        let response = Some(response.map(ResponseBody::whole));
                        state.set(FutureState::Settling { guard, response });
                        continue;
                    };
                    let (response, guard, method) = head?;
                    match finish(response, guard, &method) {
                        Finished::Answered(response) => return Poll::Ready(Ok(response)),
                        Finished::Settling { mut guard, response } => match guard.poll_end(cx) {
                            Poll::Ready(settled) => {
                                return Poll::Ready(Ok(complete(settled, response, &guard)));
                            }
                            Poll::Pending => {
                                FutureState::Settling { guard, response: Some(response) }
                            }
                        },
                    }
                }
                StateProj::Settling { guard, response } => {
                    let settled = ready!(guard.poll_end(cx));
                    let response =
                        response.take().map(|response| Ok(complete(settled, response, guard)));
                    return response.map_or(Poll::Pending, Poll::Ready);
                }
                StateProj::Refused { response } => {
                    return response
                        .take()
                        .map_or(Poll::Pending, |response| Poll::Ready(Ok(response)));
                }
            };
            state.set(next);
        }
    }
}

impl<F> Calling<F> {
    fn poll_head<R, E>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(R, Guard, Method), E>>
    where
        F: Future<Output = Result<R, E>>,
    {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Pending };
        let response = ready!(inner.poll(cx))?;
        this.inner.set(None);
        let Some(guard) = this.guard.take() else { return Poll::Pending };
        Poll::Ready(Ok((response, guard, std::mem::take(this.method))))
    }
}

impl<F> Calling<F> {
    /// Drops the inner service's future and returns the guard, if shutdown has cut the charge off.
    fn poll_cut_off(self: Pin<&mut Self>, cx: &Context<'_>) -> Option<Guard> {
        let mut this = self.project();
        let guard = this.guard.take_if(|guard| guard.watch_handler(cx))?;
        this.inner.set(None);
        Some(guard)
    }
}

/// What is left to do after the inner service has answered.
enum Finished<ResBody> {
    Answered(Response<ResponseBody<ResBody>>),
    Settling { guard: Guard, response: Response<ResponseBody<ResBody>> },
}

/// Decides whether the charge ends before the response head or with the body.
fn finish<ResBody>(
    response: Response<ResBody>,
    mut guard: Guard,
    method: &Method,
) -> Finished<ResBody>
where
    ResBody: Body<Data = Bytes>,
{
    if guard.is_joined() {
        guard.end();
        return Finished::Answered(response.map(ResponseBody::inner));
    }
    let is_head = method == Method::HEAD;
    // A tunnel has no body (RFC 9110 §9.3.6).
    let is_tunnel = method == Method::CONNECT && response.status().is_success();
    if is_head || is_tunnel || never_polled(response.status()) || response.body().is_end_stream() {
        let (mut head, body) = response.into_parts();
        let length = body.size_hint().exact();
        drop(body);
        // RFC 9110 §8.6: a 204 has no length, and a 304 has the length of the response that
        // the client has cached.
        let has_length = !never_polled(head.status);
        if is_head
            && has_length
            && let Some(length) = length
        {
            head.headers.entry(CONTENT_LENGTH).or_insert(HeaderValue::from(length));
        }
        let unread = if is_head && length.is_none() {
            ResponseBody::unread()
        } else {
            ResponseBody::whole(Bytes::new())
        };
        Finished::Settling { guard, response: Response::from_parts(head, unread) }
    } else if guard.has_handles() {
        let (mut head, body) = response.into_parts();
        // A server that knows the length would not wait for the end of the body.
        head.headers.remove(CONTENT_LENGTH);
        let response = with_remaining(Response::from_parts(head, ()), &guard);
        Finished::Answered(response.map(|()| ResponseBody::charged(body, guard)))
    } else {
        Finished::Settling { guard, response: response.map(ResponseBody::inner) }
    }
}

/// Returns the response after the charge has ended: the inner service's, or 503 if the settle
/// failed.
fn complete<ResBody>(
    settled: Result<(), SettleFailed>,
    response: Response<ResponseBody<ResBody>>,
    guard: &Guard,
) -> Response<ResponseBody<ResBody>> {
    match settled {
        Ok(()) => with_remaining(response, guard),
        Err(SettleFailed) => problem::respond(&Refusal::UNAVAILABLE, guard.charge_state().http())
            .map(ResponseBody::whole),
    }
}

/// Returns whether a server discards the body of a response unread (RFC 9110 §6.4.1).
fn never_polled(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

fn with_remaining<B>(mut response: Response<B>, guard: &Guard) -> Response<B> {
    let state = guard.charge_state();
    if state.shows_remaining() {
        problem::put_remaining(response.headers_mut(), state.remaining());
    }
    response
}

/// Sets the fields `agentkey.key_id` and `agentkey.account` of the current span, if it has them.
fn record_in_span(found: &Found) {
    let span = tracing::Span::current();
    span.record("agentkey.key_id", found.lineage.id().get());
    span.record("agentkey.account", found.lineage.account_id().as_str());
}
