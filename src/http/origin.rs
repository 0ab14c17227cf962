//! Where a request came from, for the audit trail and for the labels of its entries.

#[cfg(feature = "axum")]
use axum::extract::MatchedPath;
use http::header::{HeaderName, HeaderValue};
use http::{Request, Uri};

use crate::http::whole_uri::whole_uri;
use crate::model::{Note, Origin};

/// The header with the id of a request, as proxies and `tower-http` set it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The route and the id of a request. It copies no text until one is needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestOrigin {
    #[cfg(feature = "axum")]
    matched: Option<MatchedPath>,
    /// The target, where no router has matched a route.
    uri: Option<Uri>,
    request_id: Option<HeaderValue>,
}

impl RequestOrigin {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let request_id = request.headers().get(REQUEST_ID).cloned();
        #[cfg(feature = "axum")]
        if let Some(matched) = request.extensions().get::<MatchedPath>() {
            return Self { matched: Some(matched.clone()), uri: None, request_id };
        }
        let uri = Some(whole_uri(request.uri(), request.extensions()).clone());
        Self {
            #[cfg(feature = "axum")]
            matched: None,
            uri,
            request_id,
        }
    }

    /// Returns the origin: the route that matched, or else the path of the request.
    pub(crate) fn origin(&self) -> Origin {
        let mut origin = Origin::new();
        if let Some(route) = self.matched().or_else(|| self.uri.as_ref().map(Uri::path)) {
            origin = origin.route(route);
        }
        match self.request_id() {
            Some(id) => origin.request_id(id),
            None => origin,
        }
    }

    /// Sets the labels of an entry. A path that no route has matched may be any text, and is no label
    /// to sum by.
    pub(crate) fn label(&self, note: &mut Note) {
        let request_id = self.request_id().and_then(Origin::checked_request_id);
        note.set_request(self.matched(), request_id);
    }

    fn request_id(&self) -> Option<&str> {
        self.request_id.as_ref()?.to_str().ok()
    }

    #[cfg(feature = "axum")]
    fn matched(&self) -> Option<&str> {
        self.matched.as_ref().map(MatchedPath::as_str)
    }

    #[cfg(not(feature = "axum"))]
    fn matched(&self) -> Option<&str> {
        None
    }
}
