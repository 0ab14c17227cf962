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

use futures_util::TryStreamExt;

/// Only a hang gets here.
const HANG: Duration = Duration::from_secs(90);

/// Panics where a balance differs from the ledger by the word of the crate itself.
async fn agree(store: impl agentkey::store::Store) {
    let keys = agentkey::AgentKeys::new(store).unwrap();
    let mut balances = keys.reconcile_stream(agentkey::ReconcileQuery::all());
    let mut compared = 0;
    while let Some(found) = balances.try_next().await.unwrap() {
        assert!(found.agrees(), "{found:?}");
        compared += 1;
    }
    assert!(compared > 1, "there are balances");
    keys.shutdown().await;
}

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
