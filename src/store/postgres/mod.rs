//! A store in PostgreSQL, 14 or newer, shared by any number of processes.
//!
//! The row of an account is the lock and the version of everything in the account. If the account is cached, this
//! process decides by the cached version and writes with optimistic concurrency control. That is one statement, one
//! round trip and one commit, conditional on the version. On a conflict, or if more rows are needed, it locks the
//! accounts in the order of their ids. It then loads, decides and writes in one transaction. In either case the ledger
//! decides, and the server has flushed what is acknowledged.

mod adopt;
mod backoff;
mod change;
mod clock;
mod connection;
mod decode;
mod error;
mod events;
mod expire_holds;
mod external_tx;
mod inner;
mod invalid_rows;
mod last_used;
mod load;
mod lookup;
mod migrate;
mod names;
mod opening;
mod options;
mod params;
mod post;
mod prune;
mod rate_limits;
mod read;
mod reconcile;
mod schema;
mod signing_keys;
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

pub use self::adopt::{Adoption, KeyColumn, SwitchedOff};
use self::error::{Result, store_error};
use self::inner::Inner;
use self::opening::opening_error;
pub use self::options::PostgresOptions;
use super::{
    AccountQuery, BoxFuture, ChangeResult, Cursor, EntryQuery, EventQuery, Found, FoundAndTaken,
    ImportResult, KeyQuery, Prunable, PruneCutoffs, PruneStep, PrunedStep, Store, StoreError,
    StoreResult, Usage, UsageQuery, Width,
};
use crate::ledger::{
    AccountChange, FirstSeenClaim, ImportDraft, KeyChange, NewSigningKey, Posted, Posting, Rules,
    Take, Taken,
};
use crate::model::{
    Account, AccountId, Entry, EntryId, Event, Holder, Key, KeyId, Lineage, OpenHold, Origin,
    Reconciled, Refusal, StoredSigningKey, Subject, TokenHash,
};

/// Keys and money in a PostgreSQL database. Clones share one store, and are cheap.
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
    /// Fails if the options are invalid or the database is out of reach. Fails if a newer version of the crate made its
    /// tables, or if a table of the application cannot be adopted. Fails behind a pooler that needs
    /// [`transaction_pooling`](PostgresOptions::transaction_pooling).
    pub async fn open(options: PostgresOptions) -> Result<Self, StoreError> {
        let connections = options.connections().map_err(StoreError::failed)?;
        let opened = async {
            connections.check_sessions().await?;
            migrate::open(&connections, &options).await
        };
        let schema = match opened.await {
            Ok(schema) => schema,
            Err(error) => return Err(opening_error(connections.pool(), error).await),
        };
        Ok(Self { inner: Arc::new(Inner::new(connections, schema)) })
    }

    /// Returns the SQL that [`open`](Self::open) would run for these options, as one transaction. It can be reviewed,
    /// or run by a role with the necessary rights before others open with [`migrate(false)`](PostgresOptions::migrate).
    /// The SQL is empty if nothing is to be done. This method changes nothing.
    ///
    /// During an adoption, readers and writers of the keys table wait from the first added column until the commit.
    /// Columns are added as nullable, without a rewrite. The time that indexes and spending take depends on the size of
    /// the table.
    ///
    /// The SQL is exactly what `open` runs, with its isolation and its timeouts. Only the instant of an adoption
    /// differs: it is `now()`.
    ///
    /// # Errors
    ///
    /// Fails as [`open`](Self::open) does.
    pub async fn migration_sql(options: PostgresOptions) -> Result<String, StoreError> {
        let connections = options.connections().map_err(StoreError::failed)?;
        let script = match migrate::script(&connections, &options).await {
            Ok(script) => Ok(script),
            Err(error) => Err(opening_error(connections.pool(), error).await),
        };
        connections.close().await;
        script
    }

    /// Opens the database at an URL, `postgres://user:password@host:5432/database`.
    ///
    /// # Errors
    ///
    /// Fails as [`open`](Self::open) does.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::open(PostgresOptions::new(url)).await
    }

    /// Opens the database of a pool of the application's.
    ///
    /// # Errors
    ///
    /// Fails as [`open`](Self::open) does, and if the pool has too few connections.
    pub async fn from_pool(pool: PgPool) -> Result<Self, StoreError> {
        Self::open(PostgresOptions::pool(pool)).await
    }

    /// Returns the keys that are used for a subject, in force or not: the keys of an adopted table by its column
    /// [`KeyColumn::Subject`], such as `external_subject`. Without that column there are none.
    ///
    /// # Errors
    ///
    /// Fails if the database does not answer.
    pub async fn find_by_subject(&self, subject: &str) -> Result<Vec<Lineage>, StoreError> {
        self.inner.find_by_subject(subject).await.map_err(store_error)
    }
}

impl PostgresStore {
    fn answer<'a, T>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'a,
    ) -> BoxFuture<'a, StoreResult<T>> {
        Box::pin(async move { work.await.map_err(store_error) })
    }
}

impl Store for PostgresStore {
    fn find<'a>(
        &'a self,
        hashes: &'a [TokenHash],
    ) -> BoxFuture<'a, StoreResult<Vec<Option<Found>>>> {
        self.answer(async { Ok(self.inner.find_tokens(hashes, &[]).await?.0) })
    }

    fn try_find_cached(&self, hash: &TokenHash, max_staleness: Option<Duration>) -> Option<Found> {
        self.inner.cache.try_find_cached(hash, max_staleness?, self.inner.clock.now())
    }

    fn peek(&self, hash: &TokenHash) -> Option<Found> {
        self.inner.cache.peek(hash, self.inner.clock.now())
    }

    fn find_and_take<'a>(
        &'a self,
        hashes: &'a [TokenHash],
        takes: &'a [Take],
    ) -> BoxFuture<'a, StoreResult<FoundAndTaken>> {
        self.answer(self.inner.find_tokens(hashes, takes))
    }

    fn take<'a>(&'a self, takes: &'a [Take]) -> BoxFuture<'a, StoreResult<Vec<Taken>>> {
        self.answer(self.inner.take(takes))
    }

    fn poll_policy_version(&self) -> BoxFuture<'_, StoreResult<()>> {
        self.answer(self.inner.poll_policy_version())
    }

    fn post<'a>(
        &'a self,
        postings: &'a [Posting],
    ) -> BoxFuture<'a, StoreResult<Vec<Result<Posted, Refusal>>>> {
        self.answer(self.inner.post_batch(postings))
    }

    fn change_key<'a>(
        &'a self,
        change: &'a KeyChange,
        rules: &'a Rules,
    ) -> BoxFuture<'a, ChangeResult<Key>> {
        self.answer(self.inner.change_key(change, rules))
    }

    fn import_keys<'a>(
        &'a self,
        imports: &'a [ImportDraft],
        rules: &'a Rules,
    ) -> BoxFuture<'a, StoreResult<Vec<ImportResult>>> {
        self.answer(self.inner.import_keys(imports, rules))
    }

    fn change_account<'a>(
        &'a self,
        account: &'a AccountId,
        change: AccountChange,
        origin: &'a Origin,
    ) -> BoxFuture<'a, ChangeResult<Account>> {
        self.answer(self.inner.change_account(account, change, origin))
    }

    fn lineages<'a>(
        &'a self,
        keys: &'a [KeyId],
    ) -> BoxFuture<'a, StoreResult<Vec<Option<Lineage>>>> {
        self.answer(self.inner.find_by_ids(keys))
    }

    fn account<'a>(
        &'a self,
        account: &'a AccountId,
    ) -> BoxFuture<'a, StoreResult<Option<Account>>> {
        self.answer(self.inner.account(account))
    }

    fn accounts<'a>(&'a self, query: &'a AccountQuery) -> BoxFuture<'a, StoreResult<Vec<Account>>> {
        self.answer(self.inner.accounts(query))
    }

    fn open_holds(&self, limit: u32) -> BoxFuture<'_, StoreResult<Vec<OpenHold>>> {
        self.answer(self.inner.open_holds(limit))
    }

    fn keys<'a>(&'a self, query: &'a KeyQuery) -> BoxFuture<'a, StoreResult<Vec<Key>>> {
        self.answer(self.inner.keys(query))
    }

    fn entries<'a>(
        &'a self,
        query: &'a EntryQuery,
    ) -> BoxFuture<'a, StoreResult<Vec<(Cursor, Entry)>>> {
        self.answer(self.inner.entries(query))
    }

    fn events<'a>(
        &'a self,
        query: &'a EventQuery,
    ) -> BoxFuture<'a, StoreResult<Vec<(Cursor, Event)>>> {
        self.answer(self.inner.events(query))
    }

    fn record_refusals<'a>(&'a self, refusals: &'a [Event]) -> BoxFuture<'a, StoreResult<()>> {
        self.answer(self.inner.record_refusals(refusals))
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

    fn record_last_used<'a>(
        &'a self,
        used: &'a [(KeyId, Timestamp)],
    ) -> BoxFuture<'a, StoreResult<()>> {
        self.answer(self.inner.record_last_used(used))
    }

    fn last_used<'a>(
        &'a self,
        keys: &'a [KeyId],
    ) -> BoxFuture<'a, StoreResult<Vec<Option<Timestamp>>>> {
        self.answer(self.inner.last_used(keys))
    }

    fn has_foreign_tokens(&self) -> bool {
        !self.inner.schema.columns.is_own
    }

    fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    fn signing_keys<'a>(
        &'a self,
        new: Option<&'a NewSigningKey>,
    ) -> BoxFuture<'a, StoreResult<Vec<StoredSigningKey>>> {
        self.answer(self.inner.signing_keys(new))
    }

    fn bind_subject<'a>(&'a self, subject: &'a Subject) -> BoxFuture<'a, StoreResult<bool>> {
        self.answer(self.inner.bind_subject(subject))
    }

    fn claim_first_seen(&self, claim: FirstSeenClaim) -> BoxFuture<'_, StoreResult<bool>> {
        self.answer(async move { self.inner.claim_first_seen(&claim).await })
    }

    fn release_first_seen(&self, claim: FirstSeenClaim) -> BoxFuture<'_, StoreResult<()>> {
        self.answer(async move { self.inner.release_first_seen(&claim).await })
    }

    fn prune<'a>(&'a self, step: &'a PruneStep) -> BoxFuture<'a, StoreResult<PrunedStep>> {
        self.answer(self.inner.prune(step))
    }

    fn prunable(&self, cutoffs: PruneCutoffs) -> BoxFuture<'_, StoreResult<Prunable>> {
        self.answer(self.inner.prunable(cutoffs))
    }

    fn width(&self) -> Width {
        Width {
            lookups: self.inner.connections.lookups(),
            postings: self.inner.connections.postings(),
        }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.inner.connections.close())
    }

    fn reconcile<'a>(
        &'a self,
        holder: &'a Holder,
    ) -> BoxFuture<'a, StoreResult<Option<Reconciled>>> {
        self.answer(self.inner.recount(holder))
    }

    fn mend<'a>(
        &'a self,
        holder: &'a Holder,
        origin: &'a Origin,
    ) -> BoxFuture<'a, StoreResult<Option<Reconciled>>> {
        self.answer(self.inner.mend(holder, origin))
    }

    fn check_writable(&self) -> BoxFuture<'_, StoreResult<()>> {
        self.answer(self.inner.check_writable())
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { schema, clock, .. } = &*self.inner;
        f.debug_struct("PostgresStore").field("keys", &schema.keys).field("clock", clock).finish()
    }
}
