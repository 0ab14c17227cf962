//! Where a database is, and how it is used.

use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use super::adopt::Adoption;
use super::connection::{Connections, SessionOptions};
use super::error::{Result, config_error};
use super::names::{Ident, TableName};
use super::schema::Schema;
use crate::model::Clock;

/// How to open a [`PostgresStore`](crate::PostgresStore).
///
/// ```no_run
/// use agentkey::PostgresStore;
/// use agentkey::store::PostgresOptions;
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
    pub(super) table: Option<String>,
    pub(super) adoption: Option<Adoption>,
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
            table: None,
            adoption: None,
            migrate: true,
            clock: Clock::default(),
            lookups: 1,
            postings: 1,
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

    /// The host's own table of keys, `table` or `schema.table`, in place of one that agentkey makes. Without a schema it
    /// is in that of [`schema`](Self::schema), and nowhere else.
    ///
    /// It needs an id, an account and a unique hash; [`KeyColumn`](crate::store::KeyColumn) lists the columns and their types.
    /// The first opening, in one transaction that many processes may try at once:
    ///
    /// - adds the columns that are missing, nullable, and indexes on account and parent where there are none. Nothing is
    ///   dropped, renamed or rewritten; rows, triggers, row security and defaults stay as they are.
    /// - records what was said with [`adopt`](Self::adopt), which later openings may leave out. They add no column: one
    ///   that was there and is missing is told, since in its place an empty one would bring revoked keys to life.
    /// - takes over what keys had spent, if the table is one of the npm package agentkey, or
    ///   [`KeyColumn::UsedCents`](crate::store::KeyColumn::UsedCents) was named. Each key's running window comes in as an
    ///   entry of the kind [`Opening`](crate::model::EntryKind::Opening), and the next window begins where it was to begin. The
    ///   entry counts on the parents and the account too, as every entry does. Whoever spent there before must have
    ///   stopped: what he writes later is not seen. Rows without an account have nobody to take it over for.
    ///
    /// Writers of the table wait until the transaction ends. So do readers where a column is added, which takes no time by
    /// itself (nothing is rewritten), but keeps them out while indexes are made and spending is taken over behind it.
    ///
    /// From then on policy is in that table and money is not: a request reads it, and a charge writes nothing to it.
    /// What the host's own SQL changes in rows holds from the next request; an `ALTER TABLE` that changes what they say
    /// without touching them (a column dropped and added with a default, a swap of names) does after a restart. A key that
    /// the host moves to another account counts its windows there from when it was made. Keys that the host did not write
    /// itself have defaults in its other columns; one that is `NOT NULL` without a default must get one before agentkey can
    /// make keys. A row that makes no sense, such as one without an account, is refused by itself. A table that cannot be adopted
    /// is left as it was, and one error tells all that is wrong with it.
    ///
    /// Tokens of another format than agentkey's need
    /// [`AgentKeyLayer::foreign_tokens`](crate::AgentKeyLayer::foreign_tokens).
    ///
    /// ```no_run
    /// use agentkey::{Budget, PostgresStore, ScopeSet};
    /// use agentkey::store::{Adoption, PostgresOptions};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), agentkey::StoreError> {
    /// // Without scopes a key may do everything, and without a budget spend nothing.
    /// let adoption = Adoption::new(ScopeSet::unrestricted(), Budget::lifetime(agentkey::Amount::ZERO));
    /// let options = PostgresOptions::new("postgres://app@localhost/app").table("sdk_api_keys").adopt(adoption);
    /// let store = PostgresStore::open(options).await?;
    /// # drop(store); Ok(()) }
    /// ```
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.table = Some(table.into());
        self
    }

    /// What the table of [`table`](Self::table) leaves unsaid. The first opening needs it. A later one may leave it out,
    /// and fails where it says something else. While the first one runs, who reads or writes that table may wait: see there.
    pub fn adopt(mut self, adoption: Adoption) -> Self {
        self.adoption = Some(adoption);
        self
    }

    /// Whether opening brings the tables up to date; without it they must be, and opening fails where they are older or
    /// newer. A role that may not read `agentkey_migrations` or `agentkey_adoption` is warned that nobody knows. Default:
    /// it does.
    ///
    /// [`PostgresStore::migration_sql`](crate::PostgresStore::migration_sql) tells what would be run.
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// Another clock than the server's, which is the one that all processes go by. Only a
    /// [`ManualClock`](crate::model::ManualClock) takes its place: the machine's own never decides anything.
    pub fn clock(mut self, clock: impl Into<Clock>) -> Self {
        self.clock = clock.into();
        self
    }

    /// How many batches of look-ups may be under way at once, each on a connection of its own. More of them are smaller
    /// and cost more in all. Default: 1.
    pub fn lookups(mut self, connections: usize) -> Self {
        self.lookups = connections.clamp(1, 64);
        self
    }

    /// How many batches of postings may be under way at once, each on a connection of its own. An account is
    /// always in the same one. More of them are smaller and cost more in all: two take the server a third more of its
    /// time for each posting. They pay where one connection cannot keep up, at some ten thousands of postings a
    /// second, or where the host's own transactions often keep accounts locked, which the other accounts of a batch
    /// wait for up to a tenth of a second. Default: 1.
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
    ///
    /// Where the server says nothing for longer than a moment, it is asked over another connection, so up to four more of the
    /// pool's may be open during an outage. The server ends our transactions whose client is silent for two seconds, and
    /// our connections that are out of reach for four: no process keeps the others waiting.
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire_timeout = timeout.min(Duration::from_secs(3_600));
        self
    }

    /// How long the server works on a statement before it gives up. Default: 5 seconds. Bringing the tables up to date
    /// may take longer: there nothing bounds a statement, another process that does the same is waited for for a minute,
    /// and the host's own transactions for five seconds.
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = timeout.min(Duration::from_secs(3_600));
        self
    }

    /// For a pooler that gives every transaction another session, such as PgBouncer with `pool_mode = transaction`:
    /// every statement is then in an explicit transaction, and none is prepared under a name. It costs round trips.
    /// Default: off.
    ///
    /// Without it such a pooler must not be used: settings of ours (timeouts, isolation, what the planner may do) stay
    /// in sessions that it lends to others, and statements meet sessions that do not have them.
    pub fn transaction_pooling(mut self, is_pooled: bool) -> Self {
        self.transaction_pooling = is_pooled;
        self
    }

    /// Where everything is if the keys are in a table of our own.
    pub(super) fn own_layout(&self) -> Result<Schema> {
        if self.adoption.is_some() && self.table.is_none() {
            return Err(config_error("`PostgresOptions::adopt` is about a table of the host's: name it with `table`"));
        }
        Ok(Schema::own(Ident::new(&self.schema).map_err(config_error)?))
    }

    pub(super) fn table_name(&self, table: &str) -> TableName {
        let (schema, name) = table.split_once('.').unwrap_or((&self.schema, table));
        TableName { schema: schema.to_owned(), name: name.to_owned() }
    }

    pub(super) fn connections(&self) -> Result<Connections, String> {
        let session = SessionOptions::new(self.transaction_pooling, self.statement_timeout, self.acquire_timeout);
        Ok(Connections::new(self.open_pool()?, self.lookups, self.postings, session, &self.clock))
    }

    /// The pool, and whether it is ours to close.
    fn open_pool(&self) -> Result<(PgPool, bool), String> {
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
