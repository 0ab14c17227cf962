//! Builds a handle.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::agent_keys::AgentKeys;
use crate::engine::build_error::BuildError;
use crate::engine::error::Error;
use crate::engine::options::Options;
use crate::ledger::{MAX_DEPTH, Rules};
use crate::model::{Scope, TokenPrefix};
use crate::store::Store;

/// Options of [`AgentKeys`]; see [`AgentKeys::builder`].
///
/// ```
/// use agentkey::{AgentKeys, MemoryStore};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let keys = AgentKeys::builder()
///     .prefix("ak_test".parse()?)
///     .hold_ttl(Duration::from_secs(30))
///     .build(MemoryStore::new())?;
/// # drop(keys); Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a `Builder` makes a handle with `build`"]
pub struct Builder {
    options: Options,
    rules: Rules,
}

/// What no clock can add to an instant is longer than this.
const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// What semaphores can count.
const MAX_PERMITS: usize = u32::MAX as usize >> 3;

impl Builder {
    /// The prefix of new tokens. Default: `ak`.
    pub fn prefix(mut self, prefix: TokenPrefix) -> Self {
        self.options.prefix = prefix;
        self
    }

    /// The scope that stands for every other, such as `admin`. Default: there is none.
    pub fn admin_scope(mut self, scope: Scope) -> Self {
        self.rules.admin_scope = Some(scope);
        self
    }

    /// How many keys a lineage may have, from a key up to the one without a parent. Default: 8. From 1 to 64.
    pub fn max_depth(mut self, keys: usize) -> Self {
        self.rules.max_depth = keys;
        self
    }

    /// For how long a killed process keeps money set aside. While its charge lives, a hold is renewed every third of
    /// it. Default: 60 s. From 1 s to a day.
    pub fn hold_ttl(mut self, ttl: Duration) -> Self {
        self.options.hold_ttl = ttl;
        self
    }

    /// The age that no hold gets over, however long its charge lives. Default: 15 min. From 1 s to 366 days.
    pub fn max_hold_age(mut self, age: Duration) -> Self {
        self.options.max_hold_age = age;
        self
    }

    /// How often holds that ran out are ended in accounts that nobody asks for, and how often it is written when keys
    /// were last used. Default: every 30 s. From 100 ms to a day.
    pub fn sweep_interval(mut self, period: Duration) -> Self {
        self.options.sweep_interval = period;
        self
    }

    /// Answers look-ups from the store's cache while the policy, which is polled, stays the same. Default: no;
    /// `Duration::ZERO`: no. At most a day.
    ///
    /// The policy version is polled every quarter of `max_staleness`, but at least once a second. Where it has changed, the poll
    /// failed, or the poll or the cached key is `max_staleness` old, the look-up asks the store, as without a cache. Holds
    /// and payments always ask the store, so nothing is overspent. A store without a cache is asked for every look-up.
    ///
    /// What is given up:
    ///
    /// - **Figures.** What a [`KeyContext`](crate::KeyContext) says of money (spent, held, remaining) may be
    ///   `max_staleness` old. So may be the look at what is left when a handler takes a [`Charge`](crate::Charge): one
    ///   that only adds cost, and neither holds nor pays, may begin work for so long after other processes have spent what
    ///   it shares with them; its cost is posted as debt, as ever.
    /// - **Changes of policy by other processes**, or by the application's own SQL, may come into force later: usually by one
    ///   poll, at most by `max_staleness`. Changes through this handle hold at once, and so do expiry, the end of a token's
    ///   grace and the end of a window.
    ///
    /// A look-up is never refused from the cache: an unknown, revoked or expired key is looked up each time.
    ///
    /// ```
    /// use agentkey::{AgentKeys, MemoryStore};
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), agentkey::BuildError> {
    /// let keys = AgentKeys::builder().cache(Duration::from_secs(5)).build(MemoryStore::new())?;
    /// # drop(keys); Ok(()) }
    /// ```
    pub fn cache(mut self, max_staleness: Duration) -> Self {
        self.options.batches.max_staleness = Some(max_staleness).filter(|bound| !bound.is_zero());
        self
    }

    /// How many look-ups, and how many postings, may wait for the store; more are answered with 503 after
    /// [`request_timeout`](Self::request_timeout). Default: 8,192. From 1 to 536,870,911.
    pub fn max_queue(mut self, places: usize) -> Self {
        self.options.batches.max_queue = places;
        self
    }

    /// How many requests may be charged at once, responses still streaming included; more are answered with 503.
    /// Default: 65,536. From 1 to 536,870,911.
    pub fn max_open_charges(mut self, charges: usize) -> Self {
        self.options.batches.max_open_charges = charges;
        self
    }

    /// How long a store that is not available is asked again before a request is answered with 503; also, from 1 s
    /// up, for how long one that says nothing is waited for at a time. Default: 5 s. At most a day.
    pub fn request_timeout(mut self, bound: Duration) -> Self {
        self.options.batches.request_timeout = bound;
        self
    }

    /// How long a store that is not available is asked again to post the end of a charge, before it is given up and
    /// logged with all that is needed to post it by hand. Default: 30 s; at most
    /// a day.
    pub fn settle_timeout(mut self, bound: Duration) -> Self {
        self.options.batches.settle_timeout = bound;
        self
    }

    /// Builds the handle, on a store.
    ///
    /// # Errors
    ///
    /// [`BuildError`] where an option is out of its range, or there is no tokio runtime.
    pub fn build(self, store: impl Store) -> Result<AgentKeys, BuildError> {
        self.check()?;
        AgentKeys::start(Arc::new(store), self.options, self.rules)
    }

    fn check(&self) -> Result<(), BuildError> {
        let (options, batches) = (&self.options, &self.options.batches);
        let day = MAX_DURATION;
        duration("hold_ttl", options.hold_ttl, Duration::from_secs(1)..=day, "from 1 s to a day")?;
        duration("max_hold_age", options.max_hold_age, Duration::from_secs(1)..=366 * day, "from 1 s to 366 days")?;
        duration("sweep_interval", options.sweep_interval, Duration::from_millis(100)..=day, "from 100 ms to a day")?;
        duration("cache", batches.max_staleness.unwrap_or_default(), Duration::ZERO..=day, "at most a day")?;
        duration("request_timeout", batches.request_timeout, Duration::ZERO..=day, "at most a day")?;
        duration("settle_timeout", batches.settle_timeout, Duration::ZERO..=day, "at most a day")?;
        number("max_depth", self.rules.max_depth, 1..=MAX_DEPTH, "from 1 to 64")?;
        number("max_queue", batches.max_queue, 1..=MAX_PERMITS, "from 1 to 536,870,911")?;
        number("max_open_charges", batches.max_open_charges, 1..=MAX_PERMITS, "from 1 to 536,870,911")
    }
}

fn duration(
    option: &'static str,
    given: Duration,
    range: RangeInclusive<Duration>,
    accepted: &'static str,
) -> Result<(), BuildError> {
    let error = || BuildError::OutOfRange { option, given: format!("{given:?}"), accepted };
    range.contains(&given).then_some(()).ok_or_else(error)
}

fn number(
    option: &'static str,
    given: usize,
    range: RangeInclusive<usize>,
    accepted: &'static str,
) -> Result<(), BuildError> {
    let error = || BuildError::OutOfRange { option, given: given.to_string(), accepted };
    range.contains(&given).then_some(()).ok_or_else(error)
}

impl AgentKeys {
    /// Opens a store by its URL, and builds a handle on it with the default options: `postgres://…` or
    /// `postgresql://…` is a PostgreSQL database, `sqlite:…` or a path an SQLite file.
    ///
    /// # Errors
    ///
    /// When the feature of that store is not enabled, the store cannot be opened, or there is no tokio runtime.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        let is_postgres = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
        match url.split_once("://") {
            _ if is_postgres => Self::connect_postgres(url).await,
            Some((scheme, _)) if scheme != "sqlite" => Err(BuildError::UnknownStore {
                url: scheme.to_owned(),
                reason: "a store is at postgres://, postgresql:// or sqlite:, or at the path of an SQLite file",
            }
            .into()),
            _ => Self::connect_sqlite(url).await,
        }
    }

    #[cfg(feature = "postgres")]
    async fn connect_postgres(url: &str) -> Result<Self, Error> {
        Self::postgres(url).await
    }

    #[cfg(not(feature = "postgres"))]
    async fn connect_postgres(_url: &str) -> Result<Self, Error> {
        let reason = "PostgreSQL needs the feature `postgres` of the crate agentkey";
        Err(BuildError::UnknownStore { url: "postgres".to_owned(), reason }.into())
    }

    #[cfg(feature = "sqlite")]
    async fn connect_sqlite(url: &str) -> Result<Self, Error> {
        Self::sqlite(url).await
    }

    #[cfg(not(feature = "sqlite"))]
    async fn connect_sqlite(_url: &str) -> Result<Self, Error> {
        let reason = "SQLite needs the feature `sqlite` of the crate agentkey";
        Err(BuildError::UnknownStore { url: "sqlite".to_owned(), reason }.into())
    }

    /// Builds a handle on a store, with the default options.
    ///
    /// # Errors
    ///
    /// [`BuildError::NoRuntime`] outside of a tokio runtime.
    pub fn new(store: impl Store) -> Result<Self, BuildError> {
        Self::builder().build(store)
    }

    /// Returns a builder, for options other than the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Opens an SQLite file, and makes it where it is missing: a path, or a URL such as `sqlite:keys.db`.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or made, or there is no tokio runtime.
    #[cfg(feature = "sqlite")]
    pub async fn sqlite(path_or_url: &str) -> Result<Self, Error> {
        Ok(Self::new(crate::store::SqliteStore::connect(path_or_url).await?)?)
    }

    /// Makes an SQLite database in memory, which is gone with the process.
    ///
    /// # Errors
    ///
    /// When SQLite does not start, or there is no tokio runtime.
    #[cfg(feature = "sqlite")]
    pub async fn in_memory() -> Result<Self, Error> {
        Ok(Self::new(crate::store::SqliteStore::in_memory().await?)?)
    }

    /// Opens a PostgreSQL database, at a URL such as `postgres://user:password@host/database`.
    ///
    /// # Errors
    ///
    /// When the database is out of reach, its tables cannot be brought up to date, or there is no tokio runtime.
    #[cfg(feature = "postgres")]
    pub async fn postgres(url: &str) -> Result<Self, Error> {
        Ok(Self::new(crate::store::PostgresStore::connect(url).await?)?)
    }
}
