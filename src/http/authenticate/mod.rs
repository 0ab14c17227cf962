//! Authentication: finds the key of a request, and lets the request through if the key is in force.
//!
//! ```
//! use agentkey::{AgentKeyLayer, AgentKeys, KeyContext, NewKey};
//! use http::{Request, Response, StatusCode};
//! use http_body_util::Empty;
//! use bytes::Bytes;
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # #[cfg(feature = "sqlite")] {
//! let keys = AgentKeys::in_memory().await?;
//! let created = keys.create(NewKey::new("acme".parse()?).name("demo")).await?;
//!
//! let hello = service_fn(async |request: Request<Empty<Bytes>>| {
//!     let key = request.extensions().get::<KeyContext>().expect("behind the layer");
//!     assert_eq!(key.key().name, "demo");
//!     Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
//! });
//! let service = AgentKeyLayer::new(&keys).layer(hello);
//!
//! // A request with the token is let through.
//! let bearer = format!("Bearer {}", created.token.expose());
//! let request = Request::get("/").header("authorization", bearer).body(Empty::new())?;
//! assert_eq!(service.clone().oneshot(request).await?.status(), StatusCode::OK);
//!
//! // A request without it is refused, and the inner service is not called.
//! let request = Request::get("/").body(Empty::new())?;
//! assert_eq!(service.oneshot(request).await?.status(), StatusCode::UNAUTHORIZED);
//! # }
//! # Ok(()) }
//! ```

mod future;
mod gate;
mod idempotency;
mod layer;
mod options;
mod service;
mod unknown_keys;

pub use future::AgentKeyFuture;
pub use layer::AgentKeyLayer;
pub use service::AgentKeyService;
