//! A store in PostgreSQL, 14 or newer, shared by as many processes as you like.
//!
//! The row of an account is the lock and the version of all that is under it. Where this process knows the last version
//! from what it read or wrote itself, it decides by that and writes on condition that the version still stands: one
//! statement, one round trip, one commit. Where the version has moved on, or more has to be known, it locks the
//! accounts in the order of their ids, loads, decides and writes in one transaction. Either way the decision is the
//! ledger's, and what was acknowledged has been flushed by the server.

mod adopt;
mod backoff;
mod change;
mod clock;
mod connection;
mod decode;
mod error;
mod expire_holds;
mod external_tx;
mod inner;
mod invalid_rows;
mod last_used;
mod load;
mod lookup;
mod migrate;
mod names;
mod options;
mod params;
mod post;
mod read;
mod schema;
mod sql;
mod step;
mod types;
mod usage;
mod validator;
mod write;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::postgres::PgPool;

pub use self::adopt::{Adoption, KeyColumn};
use self::error::{Result, store_error};
use self::inner::Inner;
pub use self::options::PostgresOptions;
use super::{
    BoxFuture, ChangeResult, Cursor, EntryQuery, Found, KeyQuery, Store, StoreError, StoreResult, Usage, UsageQuery,
    Width,
};
use crate::ledger::{KeyChange, Posted, Posting, Rules};
use crate::model::{Account, AccountId, Budget, Entry, EntryId, Key, KeyId, Lineage, Refusal, TokenHash};

/// Keys and money in a PostgreSQL database. Clones are one store and cheap.
///
/// ```no_run
/// use agentkey::{AgentKeys, PostgresStore};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), agentkey::Error> {
/// let keys = AgentKeys::new(PostgresStore::connect("postgres://app@localhost/app").await?)?;
/// # drop(keys); Ok(()) }
/// ```
#[derive(Clone)]
pub struct PostgresStore {
    inner: Arc<Inner>,
}

impl PostgresStore {
    /// Opens a database and brings its tables up to date.
    ///
    /// # Errors
    ///
    /// When the options make no sense, the database is out of reach, a newer version of the crate made its tables, or
    /// a table of the host's cannot be adopted.
    pub async fn open(options: PostgresOptions) -> Result<Self, StoreError> {
        let connections = options.connections().map_err(StoreError::failed)?;
        let layout = migrate::open(&connections, &options).await.map_err(store_error)?;
        Ok(Self { inner: Arc::new(Inner::new(connections, layout)) })
    }

    /// The SQL that [`open`](Self::open) would run for these options, as one transaction: to be looked at, or to be run
    /// by a role that may, before others open with [`migrate(false)`](PostgresOptions::migrate). Empty where nothing
    /// is to be done. Nothing is changed.
    ///
    /// For an adoption, readers of the keys table wait from the first column that is added until the commit, and writers
    /// too: columns are added nullable, without a rewrite, but indexes and spending take the time that the table's size
    /// asks for.
    ///
    /// It is what `open` runs, word for word, with its isolation and its timeouts, but that the instant of an adoption is
    /// `now()`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn migration_sql(options: PostgresOptions) -> Result<String, StoreError> {
        let connections = options.connections().map_err(StoreError::failed)?;
        let script = migrate::script(&connections, &options).await.map_err(store_error);
        connections.close().await;
        script
    }

    /// Opens the database at an URL, `postgres://user:password@host:5432/database`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::open(PostgresOptions::new(url)).await
    }

    /// Opens the database of a pool of the host's.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and when the pool has too few connections.
    pub async fn from_pool(pool: PgPool) -> Result<Self, StoreError> {
        Self::open(PostgresOptions::pool(pool)).await
    }
}

impl PostgresStore {
    fn answer<'a, T>(&self, work: impl Future<Output = Result<T>> + Send + 'a) -> BoxFuture<'a, StoreResult<T>> {
        Box::pin(async move { work.await.map_err(store_error) })
    }
}

impl Store for PostgresStore {
    fn find<'a>(&'a self, hashes: &'a [TokenHash]) -> BoxFuture<'a, StoreResult<Vec<Option<Found>>>> {
        self.answer(self.inner.found(hashes))
    }

    fn try_find_cached(&self, hash: &TokenHash, max_staleness: Option<Duration>) -> Option<Found> {
        self.inner.cache.try_find_cached(hash, max_staleness?, self.inner.clock.now())
    }

    fn poll_policy_version(&self) -> BoxFuture<'_, StoreResult<()>> {
        self.answer(self.inner.poll_policy_version())
    }

    fn post<'a>(&'a self, postings: &'a [Posting]) -> BoxFuture<'a, StoreResult<Vec<Result<Posted, Refusal>>>> {
        self.answer(self.inner.posted(postings))
    }

    fn change_key<'a>(&'a self, change: &'a KeyChange, rules: &'a Rules) -> BoxFuture<'a, ChangeResult<Key>> {
        self.answer(self.inner.change_key(change, rules))
    }

    fn set_account<'a>(&'a self, account: &'a AccountId, budget: Budget) -> BoxFuture<'a, ChangeResult<Account>> {
        self.answer(self.inner.set_account(account, budget))
    }

    fn lineage(&self, key: KeyId) -> BoxFuture<'_, StoreResult<Option<Lineage>>> {
        self.answer(self.inner.lineage(key))
    }

    fn account<'a>(&'a self, account: &'a AccountId) -> BoxFuture<'a, StoreResult<Option<Account>>> {
        self.answer(self.inner.account(account))
    }

    fn keys<'a>(&'a self, query: &'a KeyQuery) -> BoxFuture<'a, StoreResult<Vec<Key>>> {
        self.answer(self.inner.keys(query))
    }

    fn entries<'a>(&'a self, query: &'a EntryQuery) -> BoxFuture<'a, StoreResult<Vec<(Cursor, Entry)>>> {
        self.answer(self.inner.entries(query))
    }

    fn entry(&self, id: EntryId) -> BoxFuture<'_, StoreResult<Option<Entry>>> {
        self.answer(self.inner.entry(id))
    }

    fn usage<'a>(&'a self, query: &'a UsageQuery) -> BoxFuture<'a, StoreResult<Vec<Usage>>> {
        self.answer(self.inner.usage(query))
    }

    fn sweep(&self) -> BoxFuture<'_, StoreResult<usize>> {
        self.answer(self.inner.sweep())
    }

    fn record_last_used<'a>(&'a self, uses: &'a [(KeyId, Timestamp)]) -> BoxFuture<'a, StoreResult<()>> {
        self.answer(self.inner.record_last_used(uses))
    }

    fn last_used<'a>(&'a self, keys: &'a [KeyId]) -> BoxFuture<'a, StoreResult<Vec<Option<Timestamp>>>> {
        self.answer(self.inner.last_used(keys))
    }

    fn width(&self) -> Width {
        Width { lookups: self.inner.connections.lookups(), postings: self.inner.connections.postings() }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.inner.connections.close())
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { layout, clock, .. } = &*self.inner;
        f.debug_struct("PostgresStore").field("keys", &layout.keys).field("clock", clock).finish()
    }
}
