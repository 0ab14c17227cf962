//! Scoped, budgeted, time-bounded API keys for AI agents, on any axum or tower service.
//!
//! An agent's key says what it may do (scopes), how much it may spend (budget), until when (expiry),
//! and on whose behalf (delegation). agentkey enforces all four on every request. Concurrent
//! requests never overspend, no charge is lost, and a revocation is in force from the next request.
//!
//! ```text
//! request ─► credentials ─► AgentKeyLayer ─► RequireScope ─► handler(KeyContext, Charge) ─► body ends ─► settle ─► ledger
//!             (token)        find + check      (may it?)        hold / pay / add              (guard)      (store)
//! ```
//!
//! # Six words
//!
//! | Word | Meaning |
//! |---|---|
//! | **key** | The record behind a token: scopes, budget, expiry and the account that owns it. |
//! | **lineage** | A key, the keys that it was minted from, and their account. Each of them has to allow a request, and each counts its cost. |
//! | **window** | The part of time in which a limit is counted, such as one month. The next window starts at zero. |
//! | **hold** | Money that is set aside before work. It expires unless it is renewed or settled. |
//! | **settle** | The end of a charge: its holds end, and what the work cost is posted. It is always accepted. |
//! | **entry** | One line of the ledger. Entries are only ever added. |
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
//!     charge.add(Amount::cents(3)); // what the work cost; the rest of the hold goes back
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
//! # Choosing a store
//!
//! | Store | Feature | For | Opened by |
//! |---|---|---|---|
//! | SQLite | `sqlite` | one machine: keys and money in one file, without a server | [`AgentKeys::connect`] with a path, or `AgentKeys::sqlite` |
//! | PostgreSQL | `postgres` | any number of instances, or a keys table that the application already has | [`AgentKeys::connect`] with `postgres://…`, or `AgentKeys::postgres` |
//! | [`MemoryStore`] | | tests: it is the reference model, and ends with the process | [`AgentKeys::new`] |
//!
//! All stores give the same guarantees, except that the [`MemoryStore`] keeps nothing.
//! [`AgentKeys::builder`] sets options, and [`Builder::build`] takes a store with options of its own:
//!
//! ```
//! use agentkey::{AgentKeys, MemoryStore};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = AgentKeys::builder()
//!     .prefix("ak_test".parse()?)
//!     .request_timeout(Duration::from_secs(2))
//!     .build(MemoryStore::new())?;
//! # keys.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! # When money is taken
//!
//! | Call | What happens | When the ledger has it |
//! |---|---|---|
//! | [`Charge::hold`] | sets money aside, or is refused with 402 | before it returns |
//! | [`Charge::pay`] | charges a known price, or is refused with 402 | before it returns |
//! | [`Charge::add`] | adds cost, and is never refused | at the settle |
//! | end of the charge | settles: holds end, the added cost is charged | before the client sees the end of the response |
//!
//! A guard on the response settles exactly once, also on an error, a disconnect or a panic.
//! A handler that streams moves its [`Charge`] into the body, and the settle comes with the end of
//! the body. Cost that was only added is lost if the process is killed; a hold with
//! [`OnExpiry::Charge`](http::OnExpiry::Charge) is charged even then. See [`http::charge`] for each
//! case.
//!
//! # Shutdown
//!
//! Stop the server first, then call [`AgentKeys::shutdown`]. It waits until every open charge is
//! posted, refuses new ones, and closes the store. A stream without an end keeps both waiting.
//! [`AgentKeys::shutdown_within`] has a limit: beside a graceful shutdown of the server, it settles
//! what is open at its bound, and cuts off those responses.
//!
//! ```
//! # #[cfg(feature = "axum")] mod serving {
//! async fn serve(app: axum::Router, keys: agentkey::AgentKeys) -> std::io::Result<()> {
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//!     let stop = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
//!     axum::serve(listener, app).with_graceful_shutdown(stop).await?;
//!     keys.shutdown().await;
//!     Ok(())
//! }
//! # }
//! ```
//!
//! # Examples
//!
//! The repository has them in `examples/`, each as a package of its own:
//!
//! | Command | What it shows |
//! |---|---|
//! | `cargo run -p example-quickstart` | a scoped and a paid route on one SQLite file, with curl lines to paste |
//! | `cargo run -p example-marketplace` | purchases under an `Idempotency-Key`, refunds, and keys for sub-agents |
//! | `cargo run -p example-self-serve` | an agent signs up, mints a narrower key, looks at its usage and revokes it |
//! | `cargo run -p example-oidc` | machines with tokens of an identity provider, which changes its key while requests go on |
//! | `cargo run -p example-clerk` | a verifier of your own: tokens of Clerk, against a stand-in of its API |
//! | `cargo run -p example-mcp` | an MCP server whose tools have scopes and prices |
//! | `cargo run -p example-llm-proxy` | a proxy for language models, metered by tokens |
//! | `cargo run -p example-postgres` | two instances on one database, and money in the application's own transaction |
//! | `cargo run -p example-observed` | metrics for Prometheus, and probes of readiness and liveness |
//! | `cargo run -p example-hyper` | the layers on a plain hyper server |
//! | `cargo run -p example-tonic` | the layers in front of gRPC |
//!
//! # Where things are
//!
//! - [`AgentKeys`] creates, finds, changes, rotates and revokes keys, and reads entries and usage.
//! - [`AgentKeys::reconcile`] compares balances with the ledger, and [`AgentKeys::health`] answers a readiness probe.
//! - [`AgentKeys::import`] takes over keys whose tokens another program made.
//! - [`AgentKeys::ensure_subject`] gives an identity of another issuer a key, and
//!   [`AgentKeyLayer::verifier`] verifies its requests: see [`identity`].
//! - [`AgentKeyLayer`] finds the key of a request and puts a [`KeyContext`] into its extensions.
//! - [`RequireScope`] and [`RequireBudget`] say what a route requires of a key.
//! - [`Charge`] charges a request; [`http::charge`] says when what is posted.
//! - [`AgentKeys::authorize`] and [`AgentKeys::charge`] do the same for work outside of a request.
//! - [`Rejection`] is what extractors return; [`Refusal`] and [`Error`] convert into it.
//! - `llm` (feature `llm`) meters the answers of language models.
//! - `routes::SelfServe` (feature `self-serve`) is the router by which agents serve themselves.
//! - [`model`] has the values and records, [`store`] the stores and queries, [`mod@http`] the services.
//!
//! # Features
//!
//! | Feature | Default | What it brings |
//! |---|---|---|
//! | `axum` | yes | extractors for [`KeyContext`], [`Charge`] and [`Replayable`]; the layers work without it |
//! | `llm` | no | `llm`: a meter for the answers of language models, with prices by model |
//! | `metrics` | no | metrics of decisions, money, queues and the store, by the facade of the crate `metrics` |
//! | `self-serve` | no | `routes`: an axum router by which agents sign up, look at themselves and mint narrower keys |
//! | `openapi` | no | `routes::openapi`: the OpenAPI document of these routes, which their router can serve |
//! | `sqlite` | yes | `SqliteStore`, on a file or in memory; SQLite itself is built in |
//! | `postgres` | no | `PostgresStore` |
//! | `postgres-tls` | no | TLS for `PostgresStore`, by rustls with the system's certificates |
//! | `sessions` | no | sessions: `AgentKeys::open_session`, with signed tokens (JWT) |
//! | `oidc` | no | `identity`: verifiers of signed tokens (JWT, with keys by discovery) and of opaque ones (RFC 7662) |
//! | `testing` | no | `testing`: the conformance suite that every store has to pass |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(unreachable_pub)]
// No code that a request reaches may panic. Tests and examples are other crates, and may panic.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod engine;
pub mod http;
pub mod identity;
#[doc(hidden)]
pub mod ledger;
#[cfg(feature = "llm")]
pub mod llm;
pub mod model;
#[cfg(feature = "self-serve")]
pub mod routes;
/// Sessions: short-lived child keys with a signed token. See
/// [`Builder::sessions`](crate::Builder::sessions).
#[cfg(feature = "sessions")]
pub mod session {
    pub use crate::engine::sessions::{
        NewSession, OpenedSession, SessionAlgorithm, Sessions, SigningKey, SigningKeyError,
    };
    pub use crate::model::SessionId;
}
pub mod store;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;

pub use engine::{
    AgentKeys, BuildError, Builder, Created, Error, Health, Page, PageStream, Prune, Pruned,
    ReconcileQuery,
};
pub use http::{
    AgentKeyLayer, Charge, Hold, KeyContext, Rejection, Replayable, RequireBudget, RequireScope,
};
pub use jiff;
pub use model::{
    AccountId, Amount, Budget, EntryId, Grace, Holder, Imported, Key, KeyId, KeyImport, KeyPatch,
    NewKey, Opening, Refusal, ScopeSet, Token,
};
#[cfg(feature = "postgres")]
pub use store::PostgresStore;
#[cfg(feature = "sqlite")]
pub use store::SqliteStore;
pub use store::{EntryQuery, EventQuery, KeyQuery, MemoryStore, StoreError, UsageQuery};

/// Compiles and runs the code of the README and of `docs`.
#[cfg(all(
    doctest,
    feature = "axum",
    feature = "metrics",
    feature = "postgres",
    feature = "self-serve",
    feature = "sqlite",
    feature = "testing"
))]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/adoption.md")]
    struct AdoptionDocs;
    #[doc = include_str!("../docs/audit.md")]
    struct AuditDocs;
    #[cfg(feature = "llm")]
    #[doc = include_str!("../docs/llm.md")]
    struct LlmDocs;
    #[doc = include_str!("../docs/operations.md")]
    struct OperationsDocs;
    #[doc = include_str!("../docs/self-serve.md")]
    struct SelfServeDocs;
    #[doc = include_str!("../docs/rate-limits.md")]
    struct RateLimitsDocs;
    #[cfg(feature = "sessions")]
    #[doc = include_str!("../docs/sessions.md")]
    struct SessionsDocs;
    #[doc = include_str!("../docs/subjects.md")]
    struct SubjectsDocs;
    #[doc = include_str!("../docs/testing.md")]
    struct TestingDocs;
    #[cfg(feature = "oidc")]
    #[doc = include_str!("../docs/verifiers.md")]
    struct VerifiersDocs;
}
