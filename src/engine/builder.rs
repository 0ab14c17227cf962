//! The builder of a handle.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::agent_keys::AgentKeys;
use crate::engine::build_error::BuildError;
use crate::engine::error::Error;
use crate::engine::options::Options;
#[cfg(feature = "sessions")]
use crate::engine::sessions::Sessions;
use crate::ledger::{MAX_DEPTH, Rules};
use crate::model::{Scope, TokenPrefix};
use crate::store::Store;
use crate::store::address::is_postgres;

/// Builds an [`AgentKeys`] with options; see [`AgentKeys::builder`].
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
#[must_use = "a `Builder` does nothing until `build` is called"]
pub struct Builder {
    options: Options,
    rules: Rules,
    #[cfg(feature = "sessions")]
    sessions: Option<Sessions>,
}

/// The maximum of a duration option. Longer ones could overflow an instant.
const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// The maximum number of permits of a tokio semaphore, on 32-bit machines too.
const MAX_PERMITS: usize = u32::MAX as usize >> 3;

impl Builder {
    /// Sets the prefix of new tokens. Default: `ak`.
    pub fn prefix(mut self, prefix: TokenPrefix) -> Self {
        self.options.prefix = prefix;
        self
    }

    /// Sets the scope that includes every other one, such as `admin`. Default: none.
    pub fn admin_scope(mut self, scope: Scope) -> Self {
        self.rules.admin_scope = Some(scope);
        self
    }

    /// Sets how many keys a lineage may have, from a key up to the one without a parent. Default:
    /// 8. From 1 to 64.
    pub fn max_depth(mut self, keys: usize) -> Self {
        self.rules.max_depth = keys;
        self
    }

    /// Sets how long a hold lives after its last renewal. Default: 60 s. From 1 s to a day.
    ///
    /// So long does a killed process keep money set aside. While its charge lives, a hold is
    /// renewed every third of this time.
    pub fn hold_ttl(mut self, ttl: Duration) -> Self {
        self.options.hold_ttl = ttl;
        self
    }

    /// Sets the maximum age of a hold, however long its charge lives. Default: 15 min. From 1 s to
    /// 366 days.
    ///
    /// So long does an `Idempotency-Key` stay in flight for a handle that outlives its response.
    ///
    /// At this age a charge also gives back its place among the [open
    /// charges](Self::max_open_charges). It goes on, and is settled when it ends.
    pub fn max_hold_age(mut self, age: Duration) -> Self {
        self.options.max_hold_age = age;
        self
    }

    /// Sets the interval of the sweep. Default: 30 s. From 100 ms to a day.
    ///
    /// The sweep ends expired holds in accounts without requests. It writes when keys were last used,
    /// and which requests were [refused](AgentKeys::events).
    pub fn sweep_interval(mut self, period: Duration) -> Self {
        self.options.sweep_interval = period;
        self
    }

    /// Serves look-ups from the store's cache until the policy version changes. Default: off;
    /// `Duration::ZERO`: off. At most a day.
    ///
    /// The policy version is polled every quarter of `max_staleness`, and at least once a second.
    /// Where it has changed, or the poll failed, look-ups go to the store. So they do where the
    /// poll or the cached key is `max_staleness` old. Holds and payments always go to the store, so
    /// nothing is overspent. Without a cache, every look-up goes to the store.
    ///
    /// What this gives up:
    ///
    /// - **Figures.** The figures of money in a [`KeyContext`](crate::KeyContext) may be
    ///   `max_staleness` old. So may the check for a remaining budget when a handler takes a
    ///   [`Charge`](crate::Charge). A handler that only adds cost may then begin work after other
    ///   processes have spent the money that it shares. Its cost is posted as debt, as always.
    /// - **Policy changes** by other processes, or by the application's own SQL, may come into
    ///   force later: usually by one poll, at most by `max_staleness`. Changes through this handle
    ///   are in force at once. So are expiry, the end of a grace and the end of a window.
    ///
    /// A refusal never comes from the cache: an unknown, revoked or expired key is looked up each
    /// time.
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

    /// Sets how many look-ups, and how many postings, may wait for the store. Default: 8,192. From
    /// 1 to 536,870,911.
    ///
    /// Those beyond are answered with 503 after [`request_timeout`](Self::request_timeout).
    pub fn max_queue(mut self, requests: usize) -> Self {
        self.options.batches.max_queue = requests;
        self
    }

    /// Sets how many charges may be open at once, those of streaming responses included. Default:
    /// 65,536. From 1 to 536,870,911.
    ///
    /// Requests beyond are answered with 503. A charge whose age is
    /// [`max_hold_age`](Self::max_hold_age) does not count any more, although it goes on.
    pub fn max_open_charges(mut self, charges: usize) -> Self {
        self.options.open_charges.total = charges;
        self
    }

    /// Sets how many of the [open charges](Self::max_open_charges) one account may have. Default: a
    /// quarter of them, rounded up. From 1 to 536,870,911.
    ///
    /// Requests of the account beyond are answered with 503, and other accounts are still served.
    /// So a key with many slow or unread responses uses up the places of its own account only. A
    /// service with a single account may set it to `max_open_charges`.
    pub fn max_open_charges_per_account(mut self, charges: usize) -> Self {
        self.options.open_charges.per_account = Some(charges);
        self
    }

    /// Sets how long a request is retried while the store is not available, before it is answered
    /// with 503. Default: 5 s. At most a day.
    ///
    /// A single call of the store is given up after the same time, but not before 1 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.options.batches.request_timeout = timeout;
        self
    }

    /// Sets how long a settle is retried while the store is not available. Default: 30 s. At most a
    /// day.
    ///
    /// After that, the settle is logged with all that is needed to post it by hand, with
    /// [`AgentKeys::settle_as`]. A settle that the store answers with an error that no retry cures is
    /// logged at once.
    pub fn settle_timeout(mut self, timeout: Duration) -> Self {
        self.options.batches.settle_timeout = timeout;
        self
    }

    /// Counts [rate limits](crate::NewKey::rate_limit) in the database, so that all processes on it share
    /// them: 100 a minute are 100 on any number of instances. Default: off, and each process counts
    /// by itself.
    ///
    /// On PostgreSQL the count goes with the look-up of the key, in an unlogged table. On SQLite it is
    /// in a file of its own beside the database, `<path>-limits`. A request whose limits cannot be
    /// counted is answered with 503. How many requests are in flight is still counted by each process.
    pub fn shared_rate_limits(mut self, on: bool) -> Self {
        self.options.shared_rate_limits = on;
        self
    }

    /// Lets keys open sessions, whose tokens every layer and [`AgentKeys::authorize`] then accept.
    /// Default: off.
    ///
    /// ```
    /// use agentkey::session::{NewSession, Sessions};
    /// use agentkey::{AgentKeys, Amount, MemoryStore, NewKey, ScopeSet};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = AgentKeys::builder().sessions(Sessions::new()).build(MemoryStore::new())?;
    /// let new = NewKey::new("acme".parse()?).scopes(ScopeSet::parse(["read", "buy"])?);
    /// let parent = keys.create(new).await?.key;
    ///
    /// let new = NewSession::new().scopes(ScopeSet::parse(["read"])?).spend_cap(Amount::cents(50));
    /// let session = keys.open_session(parent.id, new).await?;
    /// assert!(session.token.expose().starts_with("eyJ"));
    /// let context = keys.authorize(&session.token).await?;
    /// assert!(context.has_scope("read") && !context.has_scope("buy"));
    /// # keys.shutdown().await;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "sessions")]
    pub fn sessions(mut self, sessions: Sessions) -> Self {
        self.sessions = Some(sessions);
        self
    }

    /// Builds the handle on a store.
    ///
    /// # Errors
    ///
    /// [`BuildError`] where an option is out of its range, or there is no tokio runtime.
    pub fn build(self, store: impl Store) -> Result<AgentKeys, BuildError> {
        self.check()?;
        AgentKeys::start(
            Arc::new(store),
            self.options,
            self.rules,
            #[cfg(feature = "sessions")]
            self.sessions,
        )
    }

    fn check(&self) -> Result<(), BuildError> {
        let (options, batches) = (&self.options, &self.options.batches);
        let day = MAX_DURATION;
        duration("hold_ttl", options.hold_ttl, Duration::from_secs(1)..=day, "from 1 s to a day")?;
        duration(
            "max_hold_age",
            options.max_hold_age,
            Duration::from_secs(1)..=366 * day,
            "from 1 s to 366 days",
        )?;
        duration(
            "sweep_interval",
            options.sweep_interval,
            Duration::from_millis(100)..=day,
            "from 100 ms to a day",
        )?;
        duration(
            "cache",
            batches.max_staleness.unwrap_or_default(),
            Duration::ZERO..=day,
            "at most a day",
        )?;
        duration(
            "request_timeout",
            batches.request_timeout,
            Duration::ZERO..=day,
            "at most a day",
        )?;
        duration("settle_timeout", batches.settle_timeout, Duration::ZERO..=day, "at most a day")?;
        #[cfg(feature = "sessions")]
        if let Some(sessions) = &self.sessions {
            let (min, max) = (sessions.min_ttl, sessions.max_ttl);
            let accepted = "from 1 s to 366 days, the shorter time first";
            duration("sessions.ttl", min, Duration::from_secs(1)..=max, accepted)?;
            duration("sessions.ttl", max, min..=366 * day, accepted)?;
        }
        number("max_depth", self.rules.max_depth, 1..=MAX_DEPTH, "from 1 to 64")?;
        number("max_queue", batches.max_queue, 1..=MAX_PERMITS, "from 1 to 536,870,911")?;
        let limits = options.open_charges;
        let accepted = "from 1 to 536,870,911";
        number("max_open_charges", limits.total, 1..=MAX_PERMITS, accepted)?;
        number(
            "max_open_charges_per_account",
            limits.per_account.unwrap_or(1),
            1..=MAX_PERMITS,
            accepted,
        )
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
    /// Opens a store by its URL, and builds a handle on it with the default options.
    ///
    /// `postgres://…` and `postgresql://…` name a PostgreSQL database. `sqlite:…` or a path names
    /// an SQLite file.
    ///
    /// # Errors
    ///
    /// [`Error::Build`] where the feature of that store is not enabled, or there is no tokio
    /// runtime. [`Error::Store`] where the store cannot be opened.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        match url.split_once("://") {
            _ if is_postgres(url) => Self::connect_postgres(url).await,
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
    /// [`BuildError::NoRuntime`] outside a tokio runtime.
    pub fn new(store: impl Store) -> Result<Self, BuildError> {
        Self::builder().build(store)
    }

    /// Returns a builder, for options other than the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Opens an SQLite file, and creates it if it is missing. It takes a path, or a URL such as
    /// `sqlite:keys.db`.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] where the file cannot be opened or created; [`Error::Build`] where there is
    /// no tokio runtime.
    #[cfg(feature = "sqlite")]
    pub async fn sqlite(path_or_url: &str) -> Result<Self, Error> {
        Ok(Self::new(crate::store::SqliteStore::connect(path_or_url).await?)?)
    }

    /// Creates an SQLite database in memory, which ends with the process.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] where SQLite does not start; [`Error::Build`] where there is no tokio
    /// runtime.
    #[cfg(feature = "sqlite")]
    pub async fn in_memory() -> Result<Self, Error> {
        Ok(Self::new(crate::store::SqliteStore::in_memory().await?)?)
    }

    /// Opens a PostgreSQL database, at a URL such as `postgres://user:password@host/database`.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] where the database is out of reach, or its tables cannot be migrated.
    /// [`Error::Build`] where there is no tokio runtime.
    #[cfg(feature = "postgres")]
    pub async fn postgres(url: &str) -> Result<Self, Error> {
        Ok(Self::new(crate::store::PostgresStore::connect(url).await?)?)
    }
}
