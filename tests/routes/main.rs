//! The self-serve routes: who may do what, and what each answer is.

#![cfg(all(feature = "self-serve", feature = "sqlite"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod access;
mod bodies;
mod events;
mod introspect;
mod manage;
mod mint;
mod npm;
mod numbers;
#[cfg(feature = "postgres")]
#[path = "../support/postgres.rs"]
mod postgres_server;
#[cfg(feature = "sessions")]
mod sessions;
mod signup;
mod support;
mod usage;
mod widening;
