//! Routes by which agents serve themselves: sign up, look at themselves, mint narrower keys, and
//! end them.
//!
//! [`SelfServe`] makes one axum router, for `merge` or `nest`. Each group of routes is switched on
//! by the host:
//!
//! | Group | Routes |
//! |---|---|
//! | [`me`](SelfServe::me) | `GET /keys/me`, `GET /keys/me/usage` |
//! | [`mint`](SelfServe::mint) | `POST /keys` |
//! | [`manage`](SelfServe::manage) | `GET /keys`, `GET`, `PATCH` and `DELETE /keys/{id}`, `POST /keys/{id}/rotate`, `/end-grace`, `/disable` and `/enable` |
//! | [`signup`](SelfServe::signup) | `POST /signup` |
//! | `sessions` (feature `sessions`) | `POST /sessions`, `GET /me`, `DELETE /sessions/{id}` |
//! | [`introspect`](SelfServe::introspect) | `POST /introspect` |
//! | `openapi` (feature `openapi`) | `GET /openapi.json`: the OpenAPI document of the groups above that are switched on |
//!
//! [`ProtectedResource`] makes a router of its own, because its path begins at the root.
//!
//! The caller is a key in force, which the router looks up itself, or a [`Principal`] that a
//! middleware of the host puts into the request. `docs/self-serve.md` says what each route answers.
//!
//! # What a key may do
//!
//! Nothing that a key does widens what it or another key may do. It sees itself and what was minted
//! from it; the rest is 404, as if it did not exist. It may show, rotate and revoke itself and
//! end its grace, and narrow, pause, rotate and revoke its descendants. A key with the
//! [account scope](SelfServe::account_scope) sees its whole account, and may narrow, disable and
//! revoke there. The ledger decides this under the store's lock, so that it holds too while another
//! process narrows the parent.

mod client_limits;
mod fields;
mod introspect;
mod keys;
#[cfg(feature = "openapi")]
mod openapi;
mod principal;
mod query;
mod resource;
mod self_serve;
#[cfg(feature = "sessions")]
mod sessions;
mod shared;
mod signup;
mod usage;
mod view;
pub mod wire;

pub use crate::ledger::Minting;
pub use introspect::ResourceServer;
#[cfg(feature = "openapi")]
pub use openapi::openapi;
pub use principal::Principal;
pub use resource::ProtectedResource;
pub use self_serve::SelfServe;
pub use signup::{NewClient, Signup, SignupDecision};
