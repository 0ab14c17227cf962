//! Where a database is, and how it is used.

use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use super::connection::Session;
use crate::Clock;

/// How to open a [`PostgresStore`](crate::PostgresStore).
///
/// ```no_run
/// use agentkey::{PostgresOptions, PostgresStore};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), agentkey::StoreError> {
/// let options = PostgresOptions::new("postgres://app@localhost/app").schema("billing");
/// let store = PostgresStore::open(options).await?;
/// # drop(store); Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "options take effect through `PostgresStore::open`"]
pub struct PostgresOptions {
    source: Source,
    pub(super) schema: String,
    pub(super) migrate: bool,
    pub(super) clock: Clock,
    pub(super) lookups: usize,
    pub(super) postings: usize,
    others: u32,
    acquire_timeout: Duration,
    statement_timeout: Duration,
    transaction_pooling: bool,
}

#[derive(Clone)]
enum Source {
    Url(String),
    Pool(PgPool),
}

/// An URL may have a password in it.
impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Url(_) => "a URL",
            Self::Pool(_) => "a pool",
        })
    }
}

impl PostgresOptions {
    /// The database at an URL, `postgres://user:password@host:5432/database`, with the parameters that
    /// [`PgConnectOptions`] knows. What it leaves out comes from `PGHOST` and the like.
    pub fn new(url: impl Into<String>) -> Self {
        Self::of(Source::Url(url.into()))
    }

    /// The database of a pool of the host's. [`lookups`](Self::lookups) and [`postings`](Self::postings) of its
    /// connections are kept while the store is open, and one more is used now and then.
    pub fn pool(pool: PgPool) -> Self {
        Self::of(Source::Pool(pool))
    }

    fn of(source: Source) -> Self {
        Self {
            source,
            schema: "public".to_owned(),
            migrate: true,
            clock: Clock::default(),
            lookups: 2,
            postings: 2,
            others: 4,
            acquire_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(5),
            transaction_pooling: false,
        }
    }

    /// The schema of our tables; made where it is missing. Default: `public`.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Whether opening brings the tables up to date; without it they must be. Default: it does.
    ///
    /// [`PostgresStore::migration_sql`](crate::PostgresStore::migration_sql) tells what would be run.
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// Another clock.
    pub fn clock(mut self, clock: impl Into<Clock>) -> Self {
        self.clock = clock.into();
        self
    }

    /// How many batches of look-ups may be under way at once, each on a connection of its own. Default: 2.
    pub fn lookups(mut self, connections: usize) -> Self {
        self.lookups = connections.clamp(1, 64);
        self
    }

    /// How many batches of postings may be under way at once, each on a connection of its own. An account is
    /// always in the same one. Default: 2.
    pub fn postings(mut self, connections: usize) -> Self {
        self.postings = connections.clamp(1, 64);
        self
    }

    /// How many more connections may be open for lists, sums and changes. Not for a pool of the host's. Default: 4.
    pub fn others(mut self, connections: u32) -> Self {
        self.others = connections.clamp(1, 1_000);
        self
    }

    /// How long to wait for a connection. Default: 3 seconds.
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire_timeout = timeout.min(Duration::from_secs(3_600));
        self
    }

    /// How long the server works on a statement before it gives up. Default: 5 seconds.
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = timeout.min(Duration::from_secs(3_600));
        self
    }

    /// For a pooler that gives every transaction another session, such as PgBouncer with `pool_mode = transaction`:
    /// every statement is then in an explicit transaction, and none is prepared under a name. It costs round trips.
    /// Default: off.
    pub fn transaction_pooling(mut self, is_pooled: bool) -> Self {
        self.transaction_pooling = is_pooled;
        self
    }

    pub(super) fn session(&self) -> Session {
        Session::new(self.transaction_pooling, self.statement_timeout, self.acquire_timeout)
    }

    /// The pool, and whether it is ours to close.
    pub(super) fn open_pool(&self) -> Result<(PgPool, bool), String> {
        let needed = u32::try_from(self.lookups + self.postings).unwrap_or(u32::MAX);
        match &self.source {
            Source::Url(url) => {
                let mut options = PgConnectOptions::from_str(url)
                    .map_err(|error| format!("this is no URL of PostgreSQL: {error}"))?
                    .disable_statement_logging();
                if options.get_application_name().is_none() {
                    options = options.application_name("agentkey");
                }
                if self.transaction_pooling {
                    options = options.statement_cache_capacity(0).extra_float_digits(None);
                }
                let pool = PgPoolOptions::new()
                    .max_connections(needed.saturating_add(self.others))
                    .acquire_timeout(self.acquire_timeout)
                    .connect_lazy_with(options);
                Ok((pool, true))
            }
            Source::Pool(pool) => {
                let has = pool.options().get_max_connections();
                if has <= needed {
                    return Err(format!(
                        "the pool has {has} connections at most; look-ups keep {}, postings {}, and one more is needed",
                        self.lookups, self.postings
                    ));
                }
                Ok((pool.clone(), false))
            }
        }
    }
}
