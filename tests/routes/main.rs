//! The self-serve routes: who may do what, and what each answer is.

#![cfg(all(feature = "self-serve", feature = "sqlite"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod access;
mod bodies;
mod introspect;
mod limits;
mod manage;
#[cfg(all(feature = "openapi", feature = "sessions"))]
mod matrix;
mod mint;
mod npm;
mod numbers;
#[cfg(all(feature = "openapi", feature = "sessions"))]
mod openapi;
#[cfg(feature = "postgres")]
#[path = "../support/postgres.rs"]
mod postgres_server;
#[cfg(all(feature = "openapi", feature = "sessions"))]
mod schemathesis;
#[cfg(feature = "sessions")]
mod sessions;
mod signup;
mod subjects;
mod support;
mod usage;
mod widening;
