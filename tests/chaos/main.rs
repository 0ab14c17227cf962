//! Random work by four processes on one database while processes are killed, and what is each store's own: on PostgreSQL,
//! backends are terminated and the server crashes; on SQLite, all processes are killed at once, and another process, of
//! the application's own, locks the file, reads it for long, checkpoints it and writes to it by plain SQL. At the end the
//! tables agree with each other and with everything that was acknowledged.
//!
//! `AGENTKEY_CHAOS_SECONDS` says for how long on each store (default: 10), `AGENTKEY_CHAOS_SEED` which random numbers. What
//! happens is decided by the seed, when it happens is not: that is up to the machine.
#![cfg(all(feature = "axum", any(feature = "postgres", feature = "sqlite")))]

#[cfg(feature = "sqlite")]
mod application;
#[cfg(feature = "postgres")]
#[path = "../postgres/audit.rs"]
mod audit;
#[path = "../support/invariants.rs"]
mod invariants;
mod journal;
mod load;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
#[path = "../support/postgres.rs"]
mod postgres_server;
mod process;
mod random;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "sqlite")]
mod sqlite_audit;
mod worker;

use std::time::Duration;

/// Only a hang gets here.
const HANG: Duration = Duration::from_secs(90);

#[test]
fn a_worker_process() {
    // Does nothing as a test: it is started by those of the stores.
    worker::serve();
}

#[cfg(feature = "sqlite")]
#[test]
fn an_application_process() {
    // Does nothing as a test: it is started by the one of SQLite.
    application::run();
}
