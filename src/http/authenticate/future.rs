use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::gate::{Gate, LookupFuture, TakenAhead};
use super::idempotency;
use super::options::AuthenticateOptions;
use crate::engine::agent_keys::Inner;
use crate::engine::metrics::names::decision;
use crate::engine::rate_limits::InFlightPermit;
use crate::http::body::{BodyError, ResponseBody};
use crate::http::charge::guard::{Guard, SettleFailed};
use crate::http::charge::state::ChargeState;
use crate::http::context::{Anonymous, KeyContext, insert_caller};
use crate::http::limits::{Admitted, Limits, Refused};
use crate::http::options::HttpOptions;
use crate::http::problem;
use crate::http::request_span::{RequestSpan, record_key};
use crate::identity::{Identified, Verified};
use crate::ledger::Taken;
use crate::model::Refusal;
use crate::store::{BoxFuture, Found};

pin_project! {
    /// The future of [`AgentKeyService`](super::AgentKeyService).
    pub struct AgentKeyFuture<S, ReqBody, ResBody>
    where
        S: Service<Request<ReqBody>>,
    {
        #[pin]
        state: FutureState<S, ReqBody, S::Future, ResBody>,
        // What the response is told of its limits, and its place among those in flight.
        admitted: Admitted,
    }
}

pin_project! {
    #[project = StateProj]
    enum FutureState<S, ReqBody, F, ResBody> {
        Finding { lookup: LookupFuture, call: Option<Call<S, ReqBody>> },
        Asking { taken: TakenFuture, asking: Option<Asking<S, ReqBody>> },
        Anonymous { #[pin] inner: F, span: RequestSpan },
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
    span: RequestSpan,
    /// What its credential says, once another issuer's is verified.
    verified: Option<Arc<Verified>>,
}

/// What was taken from rates that all processes share.
type TakenFuture = BoxFuture<'static, Result<Taken, Refusal>>;

/// A request whose key was found, kept until its rates have been asked.
struct Asking<S, ReqBody> {
    call: Call<S, ReqBody>,
    found: Arc<Found>,
    limits: Limits,
    permit: Option<InFlightPermit>,
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
            let _entered = this.guard.as_ref().map(|guard| guard.span().entered());
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
    pub(super) fn refused(refusal: &Refusal, http: &HttpOptions, span: RequestSpan) -> Self {
        Self::begin(FutureState::refused(refusal, http, span))
    }

    pub(super) fn anonymous(
        inner: &mut S,
        request: Request<ReqBody>,
        decision: &'static str,
        span: RequestSpan,
    ) -> Self {
        Self::begin(FutureState::anonymous(inner, request, decision, span))
    }

    pub(super) fn finding(
        lookup: LookupFuture,
        inner: S,
        request: Request<ReqBody>,
        options: AuthenticateOptions,
        span: RequestSpan,
    ) -> Self {
        let call = Some(Call { inner, request, options, span, verified: None });
        Self::begin(FutureState::Finding { lookup, call })
    }

    pub(super) fn found(
        found: Arc<Found>,
        inner: &mut S,
        request: Request<ReqBody>,
        options: &AuthenticateOptions,
        span: RequestSpan,
    ) -> Self
    where
        S: Clone,
    {
        span.found(&found);
        let mut admitted = Admitted::default();
        let state = match options.gate(&found, None, &request) {
            Ok(Gate::Ask(limits, permit)) => {
                // As in `finding`, the service that was polled ready is the one that is called.
                let clone = inner.clone();
                let inner = mem::replace(inner, clone);
                let options = options.clone();
                let call = Call { inner, request, options, span, verified: None };
                FutureState::asking(call, found, limits, permit)
            }
            Ok(Gate::Open(open)) => {
                admitted = open;
                FutureState::calling(found, None, inner, request, options, span)
            }
            Err(Refused { refusal, status }) => {
                admitted.status = status;
                FutureState::denied(refusal, Some(&found), inner, request, options, span)
            }
        };
        Self { state, admitted }
    }

    fn begin(state: FutureState<S, ReqBody, S::Future, ResBody>) -> Self {
        Self { state, admitted: Admitted::default() }
    }
}

impl<S, ReqBody, F, ResBody> FutureState<S, ReqBody, F, ResBody> {
    fn refused(refusal: &Refusal, http: &HttpOptions, mut span: RequestSpan) -> Self {
        span.refuse(refusal);
        let _entered = span.enter();
        Self::Refused { response: Some(problem::respond(refusal, http).map(ResponseBody::whole)) }
    }
}

impl<S, ReqBody, ResBody> FutureState<S, ReqBody, S::Future, ResBody>
where
    S: Service<Request<ReqBody>>,
{
    /// Goes on when the look-up has answered.
    fn after_lookup(
        found: Result<(Option<Identified>, Option<TakenAhead>), Refusal>,
        mut call: Call<S, ReqBody>,
        admitted: &mut Admitted,
    ) -> Self {
        let (found, ahead) = match found {
            Ok((Some(Identified { found, verified }), ahead)) => {
                call.verified = verified;
                (found, ahead)
            }
            Ok((None, _)) => return Self::denied_call(Refusal::InvalidKey, None, call),
            Err(refusal) => return Self::denied_call(refusal, None, call),
        };
        call.span.found(&found);
        match call.options.gate(&found, ahead, &call.request) {
            Ok(Gate::Ask(limits, permit)) => Self::asking(call, found, limits, permit),
            Ok(Gate::Open(open)) => {
                *admitted = open;
                let Call { mut inner, request, options, span, verified } = call;
                Self::calling(found, verified, &mut inner, request, &options, span)
            }
            Err(Refused { refusal, status }) => {
                admitted.status = status;
                Self::denied_call(refusal, Some(&found), call)
            }
        }
    }

    /// Asks the rates that all processes share.
    fn asking(
        call: Call<S, ReqBody>,
        found: Arc<Found>,
        limits: Limits,
        permit: Option<InFlightPermit>,
    ) -> Self {
        let (keys, rates) = (call.options.keys.clone(), limits.rates());
        let taken = Box::pin(async move { keys.batches.take(rates).await });
        Self::Asking { taken, asking: Some(Asking { call, found, limits, permit }) }
    }

    /// Goes on when the rates have answered.
    fn after_rates(
        taken: Result<Taken, Refusal>,
        asking: Asking<S, ReqBody>,
        admitted: &mut Admitted,
    ) -> Self {
        let Asking { call, found, limits, permit } = asking;
        let taken = taken.map_err(Refused::from);
        match taken.and_then(|taken| limits.decide(&taken, permit, &call.options.keys)) {
            Ok(open) => {
                *admitted = open;
                let Call { mut inner, request, options, span, verified } = call;
                Self::calling(found, verified, &mut inner, request, &options, span)
            }
            Err(Refused { refusal, status }) => {
                admitted.status = status;
                Self::denied_call(refusal, Some(&found), call)
            }
        }
    }

    /// Calls the inner service.
    fn calling(
        found: Arc<Found>,
        verified: Option<Arc<Verified>>,
        inner: &mut S,
        mut request: Request<ReqBody>,
        options: &AuthenticateOptions,
        mut span: RequestSpan,
    ) -> Self {
        let keys = &options.keys;
        keys.last_used.record(found.lineage.id(), found.lineage.at());
        let http = options.http.of_request(&request, Some((keys, &found)));
        record_key(&tracing::Span::current(), &found);
        span.admit(decision::ACCEPTED);
        options.mark_counted(&found, &mut request);
        let guard = guard(&request, &found, keys, &http, span);
        let context = KeyContext::new(found, guard.charge_state().clone(), http, verified);
        insert_caller(request.extensions_mut(), Ok(context));
        let method = request.method().clone();
        let entered = guard.span().enter();
        let inner = inner.call(request);
        drop(entered);
        Self::Calling { calling: Calling { inner: Some(inner), guard: Some(guard), method } }
    }

    /// Calls the inner service without a key.
    fn anonymous(
        inner: &mut S,
        request: Request<ReqBody>,
        decision: &'static str,
        mut span: RequestSpan,
    ) -> Self {
        span.admit(decision);
        let entered = span.enter();
        let inner = inner.call(request);
        drop(entered);
        Self::Anonymous { inner, span }
    }

    fn denied_call(
        refusal: Refusal,
        found: Option<&Arc<Found>>,
        mut call: Call<S, ReqBody>,
    ) -> Self {
        Self::denied(refusal, found, &mut call.inner, call.request, &call.options, call.span)
    }

    /// Refuses, or calls the inner service without a key where the store does not answer and the layer
    /// fails open.
    fn denied(
        refusal: Refusal,
        found: Option<&Arc<Found>>,
        inner: &mut S,
        mut request: Request<ReqBody>,
        options: &AuthenticateOptions,
        span: RequestSpan,
    ) -> Self {
        let http = options.http.of_request(&request, found.map(|found| (&options.keys, found)));
        if options.fail_open && matches!(refusal, Refusal::Unavailable { .. }) {
            insert_caller(request.extensions_mut(), Err(Anonymous { http, refusal }));
            return Self::anonymous(inner, request, decision::FAIL_OPEN, span);
        }
        Self::refused(&refusal, &http, span)
    }
}

/// Returns the guard of a request. Behind an outer layer with the same key, the request has a charge
/// already, and takes its `Idempotency-Key` once.
fn guard<B>(
    request: &Request<B>,
    found: &Arc<Found>,
    keys: &Arc<Inner>,
    http: &Arc<HttpOptions>,
    span: RequestSpan,
) -> Guard {
    let claim = idempotency::claim(request);
    let outer = request.extensions().get().map(KeyContext::charge_state);
    if let Some(outer) = outer.filter(|outer| outer.is_of(keys, found, &claim)) {
        if http.remaining_header {
            outer.show_remaining();
        }
        return Guard::joined(outer.clone());
    }
    let charge = ChargeState::new(keys.clone(), found.clone(), http.clone(), claim);
    Guard::new(Arc::new(charge), span)
}

impl<S, ReqBody, ResBody> Future for AgentKeyFuture<S, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BodyError>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let polled = poll_state(this.state, this.admitted, cx);
        polled.map_ok(|mut response| {
            let Admitted { permit, status } = mem::take(this.admitted);
            if let Some(status) = status {
                status.put(&mut response);
            }
            response.map(|body| body.with_permit(permit))
        })
    }
}

/// Polls the state of a future. Its answer lacks what the client is told of its limits.
fn poll_state<S, ReqBody, ResBody>(
    mut state: Pin<&mut FutureState<S, ReqBody, S::Future, ResBody>>,
    admitted: &mut Admitted,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<ResponseBody<ResBody>>, S::Error>>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BodyError>,
{
    loop {
        let next = match state.as_mut().project() {
            StateProj::Finding { lookup, call } => {
                let entered = call.as_ref().map(|call| call.span.enter());
                let found = ready!(lookup.as_mut().poll(cx));
                drop(entered);
                let Some(call) = call.take() else { return Poll::Pending };
                FutureState::after_lookup(found, call, admitted)
            }
            StateProj::Asking { taken, asking } => {
                let entered = asking.as_ref().map(|asking| asking.call.span.enter());
                let taken = ready!(taken.as_mut().poll(cx));
                drop(entered);
                let Some(asking) = asking.take() else { return Poll::Pending };
                FutureState::after_rates(taken, asking, admitted)
            }
            StateProj::Anonymous { inner, span } => {
                let entered = span.enter();
                let response = ready!(inner.poll(cx))?;
                drop(entered);
                span.answered(&response);
                return Poll::Ready(Ok(response.map(ResponseBody::inner)));
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
                            return Poll::Ready(Ok(complete(settled, response, &mut guard)));
                        }
                        Poll::Pending => FutureState::Settling { guard, response: Some(response) },
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
                return response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response)));
            }
        };
        state.set(next);
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
        let entered = this.guard.as_ref().map(|guard| guard.span().enter());
        let response = ready!(inner.poll(cx))?;
        this.inner.set(None);
        drop(entered);
        let Some(guard) = this.guard.take() else { return Poll::Pending };
        Poll::Ready(Ok((response, guard, mem::take(this.method))))
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
        guard.span_mut().answered(&response);
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
    guard: &mut Guard,
) -> Response<ResponseBody<ResBody>> {
    let response = match settled {
        Ok(()) => with_remaining(response, guard),
        Err(SettleFailed) => problem::respond(&Refusal::UNAVAILABLE, guard.charge_state().http())
            .map(ResponseBody::whole),
    };
    guard.span_mut().answered(&response);
    response
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
