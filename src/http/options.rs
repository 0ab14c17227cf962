//! Options of responses.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode};

use crate::engine::agent_keys::Inner;
use crate::http::origin::RequestOrigin;
use crate::http::whole_uri::whole_uri;
use crate::model::{KeyId, Refusal};
use crate::store::Found;

pub(crate) type OnRefusal =
    dyn Fn(&RefusedRequest<'_>, Response<Bytes>) -> Response<Bytes> + Send + Sync;

/// The target of the log of refusals.
const LOG: &str = "agentkey::refusal";

/// A refused request, as [`AgentKeyLayer::on_refusal`](crate::AgentKeyLayer::on_refusal) gets it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RefusedRequest<'a> {
    /// Why it is refused.
    pub refusal: &'a Refusal,
    /// The key of its token, in force or not. `None` where no key has the token.
    pub key: Option<KeyId>,
    /// The head of the request, as it came to the layer. Headers that may be tokens are marked as
    /// sensitive.
    pub parts: &'a Parts,
}

/// The options of responses, which a layer shares with everything behind it.
#[derive(Clone)]
pub(crate) struct HttpOptions {
    pub(crate) budget_status: StatusCode,
    pub(crate) realm: Option<Arc<str>>,
    /// Where the metadata of the resource are (RFC 9728).
    pub(crate) resource_metadata: Option<Arc<str>>,
    /// The scopes that a challenge asks for where the refusal names none.
    pub(crate) challenge_scopes: Option<Arc<str>>,
    pub(crate) remaining_header: bool,
    pub(crate) on_refusal: Option<Arc<OnRefusal>>,
    /// The request that may be refused, where something asks for it.
    request: Option<Arc<(Option<KeyId>, Parts)>>,
    /// Where the request came from.
    origin: Option<RequestOrigin>,
    /// Whose refusals are counted for the audit trail.
    trail: Option<(Arc<Inner>, Arc<Found>)>,
}

impl HttpOptions {
    /// Returns the options for one request, of this key where there is one, in force or not.
    pub(crate) fn of_request<B>(
        &self,
        request: &Request<B>,
        found: Option<(&Arc<Inner>, &Arc<Found>)>,
    ) -> Arc<Self> {
        let origin = Some(RequestOrigin::of(request));
        let trail = found.map(|(keys, found)| (keys.clone(), found.clone()));
        let key = found.map(|(_, found)| found.lineage.id());
        let request = self.head_for_refusal(request).map(|parts| Arc::new((key, parts)));
        Arc::new(Self { request, origin, trail, ..self.clone() })
    }

    /// Returns a copy of the head of a request, if a refusal of it is mapped or logged.
    fn head_for_refusal<B>(&self, request: &Request<B>) -> Option<Parts> {
        if self.on_refusal.is_none() && !tracing::enabled!(target: LOG, tracing::Level::DEBUG) {
            return None;
        }
        let mut head = Request::new(());
        head.method_mut().clone_from(request.method());
        head.uri_mut().clone_from(request.uri());
        *head.version_mut() = request.version();
        head.headers_mut().clone_from(request.headers());
        head.extensions_mut().clone_from(request.extensions());
        Some(head.into_parts().0)
    }

    /// Returns where the request came from, as far as it is known.
    pub(crate) fn origin(&self) -> Option<&RequestOrigin> {
        self.origin.as_ref()
    }

    /// Logs and counts a refusal, and returns its response as the application maps it.
    pub(crate) fn refused(&self, refusal: &Refusal, response: Response<Bytes>) -> Response<Bytes> {
        if let Some((keys, found)) = &self.trail {
            let origin = || self.origin.as_ref().map(RequestOrigin::origin).unwrap_or_default();
            keys.record_refusal(refusal, &found.lineage, origin);
        }
        let request = self.request.as_deref();
        let key = request.and_then(|(key, _)| *key);
        // A query may have secrets in it.
        let path = request.map(|(_, parts)| whole_uri(&parts.uri, &parts.extensions).path());
        tracing::debug!(
            target: LOG,
            key = key.map(tracing::field::display),
            code = refusal.code(),
            status = response.status().as_u16(),
            method = request.map(|(_, parts)| parts.method.as_str()),
            path,
            "agentkey refused a request"
        );
        match (&self.on_refusal, request) {
            (Some(map), Some((_, parts))) => map(&RefusedRequest { refusal, key, parts }, response),
            _ => response,
        }
    }
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            budget_status: StatusCode::PAYMENT_REQUIRED,
            realm: None,
            resource_metadata: None,
            challenge_scopes: None,
            remaining_header: true,
            on_refusal: None,
            request: None,
            origin: None,
            trail: None,
        }
    }
}

impl fmt::Debug for HttpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpOptions")
            .field("budget_status", &self.budget_status)
            .field("realm", &self.realm)
            .field("resource_metadata", &self.resource_metadata)
            .field("challenge_scopes", &self.challenge_scopes)
            .field("remaining_header", &self.remaining_header)
            .finish_non_exhaustive()
    }
}
