//! The commands: a module for each, with its arguments and what it does.

pub(crate) mod account;
pub(crate) mod adjust;
pub(crate) mod adopt;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod entries;
pub(crate) mod events;
pub(crate) mod export;
pub(crate) mod key;
pub(crate) mod migrate;
mod owner;
pub(crate) mod prune;
pub(crate) mod reconcile;
pub(crate) mod refund;
pub(crate) mod usage;

pub(crate) use owner::{DEFAULT_ACCOUNT, OwnerArgs};
