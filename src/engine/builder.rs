//! Builds a handle.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::AgentKeys;
use crate::engine::options::Options;
use crate::ledger::Rules;
use crate::model::{Scope, TokenPrefix};
use crate::store::Store;
use crate::store::StoreError;

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
///     .build(MemoryStore::new());
/// # drop(keys); Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a `Builder` makes a handle with `build`"]
pub struct Builder {
    options: Options,
    rules: Rules,
}

/// What a duration is cut to: "for ever" is asked for as the longest duration there is, which no clock can add.
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

    /// How many keys a lineage may have, from a key up to the one without a parent. Default: 8; at most 64.
    pub fn max_depth(mut self, keys: usize) -> Self {
        self.rules.max_depth = keys.clamp(1, 64);
        self
    }

    /// For how long a killed process keeps money set aside. While its charge lives, a hold is renewed every third of
    /// it. Default: 60 s; from 1 s to a day.
    pub fn hold_ttl(mut self, ttl: Duration) -> Self {
        self.options.hold_ttl = ttl.clamp(Duration::from_secs(1), MAX_DURATION);
        self
    }

    /// The age that no hold gets over, however long its charge lives. Default: 15 min. At least 1 s.
    pub fn max_hold_age(mut self, age: Duration) -> Self {
        self.options.max_hold_age = age.max(Duration::from_secs(1));
        self
    }

    /// How often holds that ran out are ended in accounts that nobody asks for, and how often it is written when keys
    /// were last used. Default: every 30 s.
    pub fn sweep_interval(mut self, period: Duration) -> Self {
        self.options.sweep_interval = period.max(Duration::from_millis(100));
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
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let keys = AgentKeys::builder().cache(Duration::from_secs(5)).build(MemoryStore::new());
    /// # drop(keys); }
    /// ```
    pub fn cache(mut self, max_staleness: Duration) -> Self {
        self.options.batches.max_staleness = Some(max_staleness.min(MAX_DURATION)).filter(|bound| !bound.is_zero());
        self
    }

    /// How many look-ups, and how many postings, may wait for the store; more are answered with 503 after
    /// [`request_timeout`](Self::request_timeout). Default: 8,192.
    pub fn max_queue(mut self, places: usize) -> Self {
        self.options.batches.max_queue = places.clamp(1, MAX_PERMITS);
        self
    }

    /// How many requests may be charged at once, responses still streaming included; more are answered with 503.
    /// Default: 65,536.
    pub fn max_open_charges(mut self, charges: usize) -> Self {
        self.options.batches.charges = charges.clamp(1, MAX_PERMITS);
        self
    }

    /// How long a store that is not available is asked again before a request is answered with 503; also, from 1 s
    /// up, for how long one that says nothing is waited for at a time. Default: 5 s; at most a day.
    pub fn request_timeout(mut self, bound: Duration) -> Self {
        self.options.batches.request_timeout = bound.min(MAX_DURATION);
        self
    }

    /// How long a store that is not available is asked again to post the end of a charge, before it is given up and
    /// logged with all that is needed to post it by hand. Default: 30 s; at most
    /// a day.
    pub fn settle_timeout(mut self, bound: Duration) -> Self {
        self.options.batches.settle_timeout = bound.min(MAX_DURATION);
        self
    }

    /// The handle.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn build(self, store: impl Store) -> AgentKeys {
        AgentKeys::start(Arc::new(store), self.options, self.rules)
    }
}

impl AgentKeys {
    /// Keys in any store, with the default options.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(store: impl Store) -> Self {
        Self::builder().build(store)
    }

    /// Options other than the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Keys in an SQLite file, made where it is missing: a path, or an URL such as `sqlite:keys.db`.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or made.
    #[cfg(feature = "sqlite")]
    pub async fn sqlite(path_or_url: &str) -> Result<Self, StoreError> {
        Ok(Self::new(crate::store::SqliteStore::connect(path_or_url).await?))
    }

    /// Keys in an SQLite database in memory, gone with the process.
    ///
    /// # Errors
    ///
    /// When SQLite does not start.
    #[cfg(feature = "sqlite")]
    pub async fn in_memory() -> Result<Self, StoreError> {
        Ok(Self::new(crate::store::SqliteStore::in_memory().await?))
    }

    /// Keys in a PostgreSQL database, at an URL such as `postgres://user:password@host/database`.
    ///
    /// # Errors
    ///
    /// When the database is out of reach, or its tables cannot be brought up to date.
    #[cfg(feature = "postgres")]
    pub async fn postgres(url: &str) -> Result<Self, StoreError> {
        Ok(Self::new(crate::store::PostgresStore::connect(url).await?))
    }
}
