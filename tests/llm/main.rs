//! The meter for the answers of language models, in front of real stores.
#![cfg(all(feature = "axum", feature = "llm"))]

mod bodies;
mod formats;
mod held_whole;
mod properties;
mod streams;
mod support;
mod whole;
