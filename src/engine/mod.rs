//! The handle [`AgentKeys`], its builder, and the tasks behind it: batches, renewals, sweeps.

pub(crate) mod agent_keys;
pub(crate) mod batch;
mod builder;
mod last_used;
mod options;
pub(crate) mod renewals;

pub use agent_keys::{AgentKeys, Created, Error, Holder, Page};
pub use builder::Builder;
