//! The request path over real sockets: what clients see, and what is in the ledger when they see it.
//!
//! No test lets time pass. They wait for events; where the ledger changes after the client is gone, they look at it
//! until it is as it should be, with a bound that only a hang reaches.

#![cfg(feature = "axum")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod addresses;
mod bad_input;
mod bodies;
mod budget_refusals;
#[cfg(feature = "sqlite")]
mod cache;
mod charge_lifetime;
mod connection_loss;
mod detached;
mod events;
mod health;
mod idempotency;
mod last_used;
mod layers;
mod logs;
#[cfg(feature = "metrics")]
mod metrics;
mod nested_layers;
mod open_charges;
mod outage;
mod outside;
mod rate_limits;
mod refusals;
mod renewal;
mod revocation;
#[cfg(feature = "self-serve")]
mod routes;
#[cfg(feature = "sessions")]
mod sessions;
mod shutdown;
mod spans;
mod subjects;
mod support;
