use std::mem;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{AgentKeyLayer, ResponseFuture};
use crate::http::body::{BodyError, ResponseBody};
use crate::http::context::{Anonymous, mark};
use crate::model::Refusal;

/// The service of [`AgentKeyLayer`].
#[derive(Clone, Debug)]
pub struct Authenticate<S> {
    pub(super) inner: S,
    pub(super) layer: AgentKeyLayer,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Authenticate<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BodyError>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let Self { inner, layer } = self;
        match layer.credentials.read(request.headers_mut()) {
            Ok(hash) => {
                if let Some(found) = layer.keys.lanes.try_find_cached(&hash) {
                    return ResponseFuture::found(found, inner, request, layer);
                }
                let keys = layer.keys.clone();
                let found = Box::pin(async move { keys.lanes.find(hash).await });
                // The service that was polled ready is the one to call; its clone waits for the next request.
                let clone = inner.clone();
                let inner = mem::replace(inner, clone);
                ResponseFuture::finding(found, inner, request, layer.clone())
            }
            Err(refusal @ Refusal::MissingKey) if layer.optional => {
                mark(request.extensions_mut(), Err(Anonymous { http: layer.http.clone(), refusal }));
                ResponseFuture::anonymous(inner.call(request))
            }
            Err(refusal) => ResponseFuture::refused(&refusal, &layer.http),
        }
    }
}
