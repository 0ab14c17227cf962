//! HTTP: tower layers, the charge of a request, and refusals as responses.
//!
//! - [`AgentKeyLayer`] finds the key of a request and puts a [`KeyContext`] into its extensions.
//! - [`RequireScope`] and [`RequireBudget`] say what a route requires of a key.
//! - [`Charge`] holds money before work, and settles what the work cost when the response has
//!   ended.

pub mod authenticate;
mod body;
pub mod charge;
pub(crate) mod client;
pub(crate) mod context;
mod credentials;
#[cfg(feature = "axum")]
mod extract;
mod limits;
pub(crate) mod options;
mod outside;
mod problem;
mod rejection;
mod request_span;
mod require_budget;
mod require_scope;
mod whole_uri;

pub use crate::ledger::OnExpiry;
pub use authenticate::{AgentKeyFuture, AgentKeyLayer, AgentKeyService};
pub use body::{BodyError, ResponseBody};
pub use charge::{Charge, Hold, OnInterrupt, Receipt, Replayable};
pub use client::PeerAddress;
pub use context::KeyContext;
pub use options::RefusedRequest;
pub use rejection::Rejection;
pub use require_budget::{RequireBudget, RequireBudgetFuture, RequireBudgetService};
pub use require_scope::{RequireScope, RequireScopeFuture, RequireScopeService};
