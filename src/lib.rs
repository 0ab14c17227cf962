//! Scoped, budgeted, time-bounded API keys for AI agents, on any axum or tower service.
//!
//! agentkey gives each agent a key that says what it may do (scopes), how much it may spend (budget), until when
//! (expiry), and on whose behalf (delegation), and holds it to all four on every request: no overspend under
//! concurrency, no lost charge, and revocation from the very next request on.
//!
//! ```text
//! request ─► credentials ─► AgentKeyLayer ─► RequireScope ─► handler(KeyContext, Charge) ─► body ends ─► settle ─► ledger
//!             (token)        find + check      (may it?)        hold / pay / add              (guard)      (store)
//! ```
//!
//! # Quick start
//!
//! ```
//! # #[cfg(all(feature = "axum", feature = "sqlite"))] mod app {
//! use agentkey::{AgentKeyLayer, AgentKeys, Amount, Budget, Charge, NewKey, Rejection, RequireScope, ScopeSet};
//! use axum::{Router, routing::post};
//!
//! async fn answer(charge: Charge) -> Result<&'static str, Rejection> {
//!     charge.hold(Amount::cents(5)).await?; // refused here: 402 before any work is done
//!     charge.add(Amount::cents(3)); // what it really cost; the rest goes back
//!     Ok("42")
//! }
//!
//! pub async fn app() -> Result<Router, Box<dyn std::error::Error>> {
//!     let keys = AgentKeys::sqlite("sqlite::memory:").await?;
//!     let created = keys
//!         .create(
//!             NewKey::new("acme".parse()?)
//!                 .scopes(ScopeSet::parse(["answer"])?)
//!                 .budget(Budget::monthly(Amount::units(20)))
//!                 .expires_in("30d".parse()?),
//!         )
//!         .await?;
//!     println!("the token, shown once: {}", created.token.expose());
//!
//!     Ok(Router::new()
//!         .route("/answer", post(answer).layer(RequireScope::one("answer")?))
//!         .layer(AgentKeyLayer::new(&keys)))
//! }
//! # }
//! # #[cfg(all(feature = "axum", feature = "sqlite"))]
//! # #[tokio::main(flavor = "current_thread")] async fn main() { app::app().await.unwrap(); }
//! # #[cfg(not(all(feature = "axum", feature = "sqlite")))] fn main() {}
//! ```
//!
//! # Where things are
//!
//! - [`AgentKeys`]: make, find, change, rotate and revoke keys; read entries and usage.
//! - [`http::authenticate`]: [`AgentKeyLayer`], which finds the key of a request and puts a [`KeyContext`] into it.
//! - [`RequireScope`], [`RequireBudget`]: what a route asks of a key.
//! - [`http::charge`]: [`Charge`], and when what is posted.
//! - [`ledger`]: where money is decided; [`store`]: where it is kept.
//!
//! # Features
//!
//! | Feature | Default | What it brings |
//! |---|---|---|
//! | `axum` | yes | extractors for [`KeyContext`], [`Charge`] and [`Replayable`]; the layers work without it |
//! | `postgres` | no | `PostgresStore`; `postgres-tls` adds TLS, by rustls with the system's certificates |
//! | `sqlite` | yes | `SqliteStore`, on a file or in memory; SQLite itself is built in |
//! | `testing` | no | `testing`: the suite that every store has to pass |

#![warn(unreachable_pub)]
// Nothing that a request can reach may panic. Tests and examples are other crates, and may stop at a surprise.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod engine;
pub mod http;
#[doc(hidden)]
pub mod ledger;
pub mod model;
pub mod store;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;

pub use engine::{AgentKeys, BuildError, Builder, Created, Error, Holder, Page, PageStream};
pub use http::{AgentKeyLayer, Charge, Hold, KeyContext, Rejection, Replayable, RequireBudget, RequireScope};
pub use jiff;
pub use model::{AccountId, Amount, Budget, EntryId, Grace, Key, KeyId, KeyPatch, NewKey, Refusal, ScopeSet, Token};
#[cfg(feature = "postgres")]
pub use store::PostgresStore;
#[cfg(feature = "sqlite")]
pub use store::SqliteStore;
pub use store::{EntryQuery, KeyQuery, MemoryStore, StoreError, UsageQuery};

/// The code of README and docs compiles.
#[cfg(all(doctest, feature = "axum", feature = "postgres", feature = "sqlite", feature = "testing"))]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/adoption.md")]
    struct AdoptionDocs;
    #[doc = include_str!("../docs/operations.md")]
    struct OperationsDocs;
    #[doc = include_str!("../docs/testing.md")]
    struct TestingDocs;
}
