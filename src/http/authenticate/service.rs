use std::mem;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::future::AgentKeyFuture;
use super::gate::Lookup;
use super::options::AuthenticateOptions;
use crate::engine::metrics::names::decision;
use crate::http::body::{BodyError, ResponseBody};
use crate::http::context::{Anonymous, insert_caller};
use crate::http::credentials::Credential;
use crate::http::request_span::RequestSpan;
use crate::model::Refusal;

/// The service of [`AgentKeyLayer`](crate::AgentKeyLayer).
#[derive(Clone, Debug)]
pub struct AgentKeyService<S> {
    pub(super) inner: S,
    pub(super) options: AuthenticateOptions,
}

impl<S> AgentKeyService<S> {
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

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for AgentKeyService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BodyError>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = AgentKeyFuture<S, ReqBody, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let Self { inner, options } = self;
        let keys = &options.keys;
        let span = RequestSpan::new(&request, &keys.metrics.decisions);
        let is_session = |text: &str| keys.is_session_token(text);
        let credential =
            options.credentials.read(request.headers_mut(), is_session, &options.verifiers);
        let credential = credential.and_then(|credential| match credential {
            Credential::Token(hash) => Ok(Lookup::Of(hash)),
            Credential::Issued(text, verifier) => Ok(Lookup::Issued(text, verifier)),
            Credential::Session(token) => match keys.try_verify_session(&token) {
                Some(verified) => verified.map(Lookup::Of),
                None => Ok(Lookup::After(token)),
            },
        });
        match credential {
            Ok(lookup) => {
                if let Lookup::Of(hash) = &lookup
                    && let Some(found) = keys.batches.try_find_cached(hash)
                {
                    return AgentKeyFuture::found(found, inner, request, options, span);
                }
                let found = options.look_up(lookup, &request);
                // The service that was polled ready has to be the one that is called. Its clone
                // serves the next request.
                let clone = inner.clone();
                let inner = mem::replace(inner, clone);
                AgentKeyFuture::finding(found, inner, request, options.clone(), span)
            }
            Err(refusal @ Refusal::MissingKey) if options.optional => {
                let http = options.http.of_request(&request, None);
                insert_caller(request.extensions_mut(), Err(Anonymous { http, refusal }));
                AgentKeyFuture::anonymous(inner, request, decision::ANONYMOUS, span)
            }
            Err(refusal) => {
                let http = options.http.of_request(&request, None);
                AgentKeyFuture::refused(&refusal, &http, span)
            }
        }
    }
}
