//! `GET /.well-known/oauth-protected-resource`: what a resource says of itself (RFC 9728).

use axum::Router;
use axum::response::Response;
use axum::routing::get;
use http::header::{CACHE_CONTROL, HeaderValue};
use http::{StatusCode, Uri};

use super::shared::json;
use super::wire::ResourceMetadata;
use crate::engine::BuildError;
use crate::http::Rejection;
use crate::model::{Refusal, Scope};

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// The metadata of a protected resource, as RFC 9728 has them and MCP's authorization asks for them.
///
/// ```
/// use agentkey::routes::ProtectedResource;
/// use agentkey::{AgentKeyLayer, AgentKeys};
/// use axum::Router;
///
/// fn app(keys: &AgentKeys, api: Router) -> Result<Router, Box<dyn std::error::Error>> {
///     let resource = ProtectedResource::new("https://api.example.com/mcp")?
///         .scopes(["read".parse()?, "write".parse()?])
///         .authorization_server("https://login.example.com");
///     let layer = AgentKeyLayer::new(keys).resource_metadata(&resource.metadata_url());
///     // Its path begins at the root: merge it there, also where other routes are nested.
///     Ok(Router::new().nest("/mcp", api.route_layer(layer)).merge(resource.into_router()))
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use = "the route is made by `into_router`"]
pub struct ProtectedResource {
    origin: String,
    /// The path of the resource, empty where it is the whole origin.
    path: String,
    metadata: ResourceMetadata,
}

impl ProtectedResource {
    /// Returns the metadata of the resource at this URL, such as `https://api.example.com/mcp`.
    ///
    /// # Errors
    ///
    /// [`BuildError::OutOfRange`] where it is no `http` or `https` URL, or has a query or a fragment.
    pub fn new(resource: &str) -> Result<Self, BuildError> {
        let refused = || BuildError::OutOfRange {
            option: "resource",
            given: resource.to_owned(),
            accepted: "an http or https URL without user, query and fragment",
        };
        let url: Uri = resource.parse().map_err(|_| refused())?;
        let (Some(scheme @ ("http" | "https")), Some(authority)) =
            (url.scheme_str(), url.authority())
        else {
            return Err(refused());
        };
        if url.query().is_some()
            || resource.contains(['#', '{', '}'])
            || authority.as_str().contains('@')
        {
            return Err(refused());
        }
        Ok(Self {
            origin: format!("{scheme}://{authority}"),
            path: url.path().trim_end_matches('/').to_owned(),
            metadata: ResourceMetadata {
                resource: resource.to_owned(),
                authorization_servers: Vec::new(),
                scopes_supported: Vec::new(),
                bearer_methods_supported: vec!["header".to_owned()],
                resource_name: None,
                resource_documentation: None,
            },
        })
    }

    /// Sets the scopes that the resource knows. Default: none are named.
    pub fn scopes(mut self, scopes: impl IntoIterator<Item = Scope>) -> Self {
        let scopes = scopes.into_iter().map(|scope| scope.to_string());
        self.metadata.scopes_supported = scopes.collect();
        self
    }

    /// Adds an authorization server, by its issuer URL. Default: none.
    pub fn authorization_server(mut self, issuer: impl Into<String>) -> Self {
        self.metadata.authorization_servers.push(issuer.into());
        self
    }

    /// Sets the name for people. Default: none.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.metadata.resource_name = Some(name.into());
        self
    }

    /// Sets the URL of the documentation for developers. Default: none.
    pub fn documentation(mut self, url: impl Into<String>) -> Self {
        self.metadata.resource_documentation = Some(url.into());
        self
    }

    /// Returns the URL of the metadata, for
    /// [`AgentKeyLayer::resource_metadata`](crate::AgentKeyLayer::resource_metadata).
    pub fn metadata_url(&self) -> String {
        format!("{}{WELL_KNOWN}{}", self.origin, self.path)
    }

    /// Returns the route, to be merged at the root. It needs no key.
    pub fn into_router(self) -> Router {
        let path = format!("{WELL_KNOWN}{}", self.path);
        let metadata = self.metadata;
        let answer = move || std::future::ready(answer(&metadata));
        Router::new().route(&path, get(answer)).method_not_allowed_fallback(not_allowed)
    }
}

async fn not_allowed() -> Rejection {
    Refusal::MethodNotAllowed.into()
}

fn answer(metadata: &ResourceMetadata) -> Response {
    let mut response = json(StatusCode::OK, metadata);
    // The metadata is the service's and no caller's, so caches may keep it.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    response
}
