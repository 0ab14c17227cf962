//! The handle [`AgentKeys`], its builder, and its tasks: batches, renewals and the sweep.

mod accounts;
pub(crate) mod agent_keys;
pub(crate) mod batch;
mod build_error;
mod builder;
mod changes;
mod created;
mod error;
mod events;
mod health;
mod import;
mod last_used;
pub(crate) mod metrics;
mod money;
pub(crate) mod open_charges;
mod options;
mod page;
mod prune;
pub(crate) mod rate_limits;
mod reconcile;
pub(crate) mod refusals;
pub(crate) mod renewals;
#[cfg(feature = "sessions")]
pub(crate) mod sessions;
mod shutdown;
mod subjects;
mod sweeper;

pub use agent_keys::AgentKeys;
pub use build_error::BuildError;
pub use builder::Builder;
pub use created::Created;
pub use error::Error;
pub use health::Health;
pub use page::{Page, PageStream};
pub use prune::{Prune, Pruned};
pub use reconcile::ReconcileQuery;
