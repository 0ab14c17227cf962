//! The location of a database, and how it is used.

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
use crate::store::range::{MAX_WAIT, check};

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
    source: DatabaseSource,
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
enum DatabaseSource {
    Url(String),
    Pool(PgPool),
}

/// Hides the URL, which may have a password in it.
impl std::fmt::Debug for DatabaseSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Url(_) => "a URL",
            Self::Pool(_) => "a pool",
        })
    }
}

impl PostgresOptions {
    /// Opens the database at an URL, `postgres://user:password@host:5432/database`, with the parameters that
    /// [`PgConnectOptions`] supports. Missing parts come from environment variables such as `PGHOST`.
    pub fn new(url: impl Into<String>) -> Self {
        Self::from_source(DatabaseSource::Url(url.into()))
    }

    /// Opens the database of a pool of the application's. The store keeps [`lookups`](Self::lookups) and
    /// [`postings`](Self::postings) of its connections while it is open, and sometimes uses one more.
    pub fn pool(pool: PgPool) -> Self {
        Self::from_source(DatabaseSource::Pool(pool))
    }

    fn from_source(source: DatabaseSource) -> Self {
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

    /// Sets the schema of the agentkey tables; it is created if it is missing. Default: `public`.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Uses the application's own table of keys, `table` or `schema.table`, in place of one that agentkey makes.
    /// Without a schema, the table is in that of [`schema`](Self::schema), and nowhere else.
    ///
    /// The table needs an id, an account and a unique hash; [`KeyColumn`](crate::store::KeyColumn) lists the columns
    /// and their types. The first opening runs in one transaction, which many processes may try at once:
    ///
    /// - It adds the missing columns as nullable, and missing indexes on account and parent. It drops, renames and
    ///   rewrites nothing; rows, triggers, row security and defaults stay as they are.
    /// - It records what [`adopt`](Self::adopt) says, so later openings may leave that out. A later opening adds no
    ///   column. If a column has gone, it reports that: an empty column in its place would bring revoked keys back to
    ///   life.
    /// - It takes over what keys had spent, if the table is one of the npm package agentkey or
    ///   [`KeyColumn::UsedCents`](crate::store::KeyColumn::UsedCents) was named. Each key's current window becomes an
    ///   entry of the kind [`Opening`](crate::model::EntryKind::Opening), and the next window begins when it was to
    ///   begin. The entry counts on the parents and the account too, as every entry does. The previous software must
    ///   have stopped charging by then: what it writes later is not taken over. Nor is the spending of rows without an
    ///   account.
    ///
    /// Writers of the table wait until the transaction ends. Readers wait too if a column is added. Adding takes no
    /// time, because nothing is rewritten, but the lock lasts while indexes are made and spending is taken over.
    ///
    /// From then on policy is in that table and money is not: a request reads it, and a charge writes nothing to it.
    /// What the application's own SQL changes in rows is in force from the next request. An `ALTER TABLE` that changes
    /// the values of rows without touching them is in force after a restart. Examples are a column that is dropped and
    /// added with a default, and a swap of names.
    ///
    /// If the application moves a key to another account, the key's windows there are counted from its creation. Keys
    /// that agentkey makes have defaults in the other columns of the application. Such a column that is `NOT NULL`
    /// needs a default before agentkey can make keys. An invalid row, such as one without an account, is refused by
    /// itself. A table that cannot be adopted is left as it was, and one error reports all problems.
    ///
    /// Tokens of another format than agentkey's are accepted, unless
    /// [`AgentKeyLayer::foreign_tokens`](crate::AgentKeyLayer::foreign_tokens) is turned off.
    ///
    /// ```no_run
    /// use agentkey::{Budget, PostgresStore, ScopeSet};
    /// use agentkey::store::{Adoption, PostgresOptions};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), agentkey::StoreError> {
    /// // Without scopes a key may do everything, and without a budget it may spend nothing.
    /// let adoption = Adoption::new(ScopeSet::unrestricted(), Budget::lifetime(agentkey::Amount::ZERO));
    /// let options = PostgresOptions::new("postgres://app@localhost/app").table("sdk_api_keys").adopt(adoption);
    /// let store = PostgresStore::open(options).await?;
    /// # drop(store); Ok(()) }
    /// ```
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.table = Some(table.into());
        self
    }

    /// Says what the rows of the table of [`table`](Self::table) leave open. The first opening needs it. A later
    /// opening may leave it out, and fails if it says something else. During the first opening, readers and writers of
    /// that table may wait: see [`table`](Self::table).
    pub fn adopt(mut self, adoption: Adoption) -> Self {
        self.adoption = Some(adoption);
        self
    }

    /// Sets whether opening brings the tables up to date. If not, opening fails if the tables are older or newer than
    /// this version. If the role may not read `agentkey_migrations` or `agentkey_adoption`, opening logs a warning that
    /// the version is unknown. Default: it does.
    ///
    /// [`PostgresStore::migration_sql`](crate::PostgresStore::migration_sql) returns the SQL that would run.
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// Sets a clock in place of the server's, which all processes use. Only a
    /// [`ManualClock`](crate::model::ManualClock) takes its place: the system clock of the machine is never used.
    pub fn clock(mut self, clock: impl Into<Clock>) -> Self {
        self.clock = clock.into();
        self
    }

    /// Sets how many batches of look-ups may be in progress at once, each on a connection of its own. More connections
    /// make smaller batches, which cost more in total. Default: 1.
    pub fn lookups(mut self, connections: usize) -> Self {
        self.lookups = connections;
        self
    }

    /// Sets how many batches of postings may be in progress at once, each on a connection of its own. An account is
    /// always on the same one. More connections make smaller batches, which cost more in total: two take the server a
    /// third more of its time for each posting.
    ///
    /// More help where one connection cannot keep up, at some ten thousands of postings a second. They also help where
    /// the application's own transactions often keep accounts locked. The other accounts of a batch wait for such a
    /// lock up to a tenth of a second. Default: 1.
    pub fn postings(mut self, connections: usize) -> Self {
        self.postings = connections;
        self
    }

    /// Sets how many more connections may be open for lists, sums and changes. It does not apply to a pool of the
    /// application's. Default: 4.
    pub fn others(mut self, connections: u32) -> Self {
        self.others = connections;
        self
    }

    /// Sets how long to wait for a connection. Default: 3 seconds.
    ///
    /// If the server does not answer for a moment, the store asks it over another connection. So up to four more
    /// connections of the pool may be open during an outage. The server ends our transactions if the client is silent
    /// for two seconds, and our connections if they are out of reach for four. So no process blocks the others.
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire_timeout = timeout;
        self
    }

    /// Sets how long the server works on a statement before it gives up. Default: 5 seconds. Migrations may take
    /// longer: their statements have no limit. They wait a minute for another process that migrates, and five seconds
    /// for the application's own transactions.
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = timeout;
        self
    }

    /// Supports a pooler that gives every transaction another session, such as PgBouncer with `pool_mode =
    /// transaction`. Every statement is then in an explicit transaction, and none is prepared under a name. It costs
    /// round trips. Default: off.
    ///
    /// Without this option, opening fails behind such a pooler. Our settings (timeouts, isolation, planner options) would
    /// stay in sessions that the pooler lends to others. Our statements would run in sessions without these settings.
    pub fn transaction_pooling(mut self, is_pooled: bool) -> Self {
        self.transaction_pooling = is_pooled;
        self
    }

    /// Returns the schema for keys in a table of our own.
    pub(super) fn own_schema(&self) -> Result<Schema> {
        if self.adoption.is_some() && self.table.is_none() {
            return Err(config_error(
                "`PostgresOptions::adopt` is about a table of the application's: name it with `table`",
            ));
        }
        Ok(Schema::own(Ident::new(&self.schema).map_err(config_error)?))
    }

    pub(super) fn table_name(&self, table: &str) -> TableName {
        let (schema, name) = table.split_once('.').unwrap_or((&self.schema, table));
        TableName { schema: schema.to_owned(), name: name.to_owned() }
    }

    pub(super) fn connections(&self) -> Result<Connections, String> {
        check("lookups", self.lookups, 1..=64)?;
        check("postings", self.postings, 1..=64)?;
        check("others", self.others, 1..=1_000)?;
        check("acquire_timeout", self.acquire_timeout, Duration::ZERO..=MAX_WAIT)?;
        check("statement_timeout", self.statement_timeout, Duration::from_millis(1)..=MAX_WAIT)?;
        let session = SessionOptions::new(
            self.transaction_pooling,
            self.statement_timeout,
            self.acquire_timeout,
        );
        Ok(Connections::new(self.open_pool()?, self.lookups, self.postings, session, &self.clock))
    }

    /// Returns the pool, and whether the store owns it and closes it.
    fn open_pool(&self) -> Result<(PgPool, bool), String> {
        let needed = u32::try_from(self.lookups + self.postings).unwrap_or(u32::MAX);
        match &self.source {
            DatabaseSource::Url(url) => {
                let mut options = PgConnectOptions::from_str(url)
                    .map_err(|error| {
                        format!(
                            "this is not a URL of PostgreSQL, such as postgres://user@host/database: {error}"
                        )
                    })?
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
            DatabaseSource::Pool(pool) => {
                let max = pool.options().get_max_connections();
                if max <= needed {
                    return Err(format!(
                        "the pool has at most {max} connections; look-ups keep {}, postings {}, and one more is needed",
                        self.lookups, self.postings
                    ));
                }
                Ok((pool.clone(), false))
            }
        }
    }
}
