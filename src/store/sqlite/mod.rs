//! A store in an SQLite file.
//!
//! Every write is one `BEGIN IMMEDIATE` transaction on the one writing connection. SQLite has a single lock for the
//! whole file, which is the lock of every account in it. SQLite would refuse the write of a transaction that began with
//! a read. Look-ups have connections of their own, and never wait for a writer, because the file is in WAL mode.
//! Several processes may have the file open.
//!
//! Each connection has a thread of its own, where a batch is one job. A statement costs a few microseconds there, so
//! rows are read and written one by one with prepared statements. What was read is cached, and is valid while the file
//! has the version that was read with it. Each transaction reads that version first.

mod change;
mod connection;
mod decode;
mod error;
mod events;
mod file_id;
mod first_seen;
mod index;
mod last_used;
mod load;
mod migrate;
mod options;
mod post;
mod prune;
mod rate_limits;
mod read;
mod reconcile;
mod signing_keys;
mod statement;
#[cfg(test)]
mod tests;
mod transaction;
mod usage;
mod validator;
mod version;
mod version_reader;
#[cfg(all(unix, not(target_os = "openbsd")))]
mod wal_index;
#[cfg(not(all(unix, not(target_os = "openbsd"))))]
#[path = "no_wal_index.rs"]
mod wal_index;
mod write;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};

use self::connection::{Connections, Open, Worker};
use self::error::{opening_error, store_error};
use self::options::Location;
pub use self::options::SqliteOptions;
use self::rate_limits::RateLimitFile;
use self::statement::in_snapshot;
use self::validator::Cache;
use super::stale::{ReadResult, Stale};
use super::{
    AccountQuery, BoxFuture, ChangeResult, Cursor, EntryQuery, EventQuery, Found, ImportResult,
    KeyQuery, Prunable, PruneCutoffs, PruneStep, PruneTable, PrunedStep, Store, StoreError,
    StoreResult, Usage, UsageQuery, Width,
};
use crate::ledger::{
    AccountChange, FirstSeenClaim, ImportDraft, KeyChange, NewSigningKey, Posted, Posting, Rules,
    Take, Taken,
};
use crate::model::{
    Account, AccountId, Clock, Entry, EntryId, Event, Holder, Key, KeyId, Lineage, OpenHold,
    Origin, Reconciled, Refusal, StoredSigningKey, TokenHash,
};
use crate::store::broken_lineage::OutOfService;

/// Keys and money in an SQLite file, shared by any number of processes.
///
/// Every accepted posting is on the disk when it is answered (`synchronous=FULL`). Accounts are cached, and each batch
/// checks whether another process has written to the file. A file that was put in its place is noticed within
/// 10 ms.
///
/// ```
/// use agentkey::{AgentKeys, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), agentkey::Error> {
/// let keys = AgentKeys::new(SqliteStore::in_memory().await?)?;
/// # drop(keys); Ok(()) }
/// ```
pub struct SqliteStore {
    connections: Connections,
    cache: Arc<Cache>,
    out_of_service: Arc<OutOfService>,
    rate_limits: RateLimitFile,
    clock: Clock,
}

impl SqliteStore {
    /// Opens a database, creates it if it is missing, and brings its tables up to date.
    ///
    /// # Errors
    ///
    /// Fails if the path or URL cannot be used or the file cannot be opened. Fails if a newer version of the crate made
    /// its tables.
    pub async fn open(options: SqliteOptions) -> Result<Self, StoreError> {
        let location = options.location().map_err(StoreError::failed)?;
        let cache = Arc::new(Cache::default());
        let connections = Connections::open(&location, &options, &cache)
            .await
            .map_err(|error| opening_error(&location, error))?;
        let rate_limits =
            RateLimitFile::new(&location, options.busy_timeout, options.clock.clone());
        let (out_of_service, clock) = (Arc::default(), options.clock);
        Ok(Self { connections, cache, out_of_service, rate_limits, clock })
    }

    /// Returns the SQL that [`open`](Self::open) would run for these options, as one transaction. It is empty if nothing
    /// is to be done. This method changes nothing, and makes no file.
    ///
    /// ```
    /// use agentkey::SqliteStore;
    /// use agentkey::store::SqliteOptions;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), agentkey::StoreError> {
    /// let sql = SqliteStore::migration_sql(SqliteOptions::new("sqlite:no-such-file.db")).await?;
    /// assert!(sql.contains("CREATE TABLE agent_keys"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the path or URL cannot be used, or the file cannot be read. Fails if a newer version of the crate made
    /// its tables.
    pub async fn migration_sql(options: SqliteOptions) -> Result<String, StoreError> {
        let location = options.location().map_err(StoreError::failed)?;
        let script = move || {
            let script = match &location {
                Location::File { path, .. } if path.exists() => {
                    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                    let connection = Connection::open_with_flags(path, flags);
                    connection.map_err(error::Error::from).and_then(|connection| {
                        connection.busy_timeout(options.busy_timeout)?;
                        migrate::script(Some(&connection))
                    })
                }
                _ => migrate::script(None),
            };
            script.map_err(|error| opening_error(&location, error))
        };
        let script = tokio::task::spawn_blocking(script).await;
        script.map_err(|_| store_error(error::Error::Panicked))?
    }

    /// Opens the database at a path, or at an URL such as `sqlite:keys.db`.
    ///
    /// # Errors
    ///
    /// Fails as [`open`](Self::open) does.
    pub async fn connect(path_or_url: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open(SqliteOptions::new(path_or_url)).await
    }

    /// Opens a database in memory, which is dropped with the store.
    ///
    /// # Errors
    ///
    /// Fails if SQLite cannot be started.
    pub async fn in_memory() -> Result<Self, StoreError> {
        Self::connect(":memory:").await
    }

    async fn find_tokens(&self, hashes: Vec<TokenHash>) -> error::Result<Vec<Option<Found>>> {
        let (hashes, clock, cache) = (Arc::new(hashes), self.clock.clone(), self.cache.clone());
        let versions = self.connections.versions.clone();
        let out_of_service = self.out_of_service.clone();
        let query = move |open: &mut Open| {
            versions.open_missing();
            read::find(&open.connection, &cache, &out_of_service, &hashes, clock.now())
        };
        self.refreshed(Connections::reader, query).await
    }

    async fn poll_policy(&self) -> error::Result<()> {
        let asked_at = Instant::now();
        let version =
            self.connections.reader().run(|open| read::policy_version(&open.connection)).await?;
        self.cache.record_policy_version(version.map(i64::cast_unsigned), asked_at);
        Ok(())
    }

    /// Runs `write` on the connection that writes.
    async fn write_with<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut Open, &Cache, &Clock) -> error::Result<T> + Send + 'static,
    ) -> error::Result<T> {
        let (cache, clock) = (self.cache.clone(), self.clock.clone());
        self.connections.writer().run(move |open| write(open, &cache, &clock)).await
    }

    async fn expire_holds(&self, stale: Stale) -> error::Result<usize> {
        self.write_with(move |open, cache, clock| post::expire_holds(open, cache, clock, stale))
            .await
    }

    async fn post_batch(
        &self,
        postings: Vec<Posting>,
    ) -> error::Result<Vec<Result<Posted, Refusal>>> {
        let post = move |open: &mut Open, cache: &Cache, clock: &Clock| {
            post::post(open, cache, clock, &postings)
        };
        let (posted, is_due) = self.write_with(post).await?;
        // One part for each batch is enough, unless a batch is larger than those of the commit queue.
        for _ in 0..if is_due { 1 + posted.len() / index::RUN_INTERVAL } else { 0 } {
            let cache = self.cache.clone();
            self.connections.writer().run_later(move |open| post::index_part(open, &cache));
        }
        Ok(posted)
    }

    /// Reads. If the result is stale, brings it up to date and reads again.
    async fn refreshed<T: Send + 'static>(
        &self,
        worker: fn(&Connections) -> &Worker,
        query: impl FnOnce(&mut Open) -> error::Result<ReadResult<T>> + Clone + Send + 'static,
    ) -> error::Result<T> {
        let result = worker(&self.connections).run(query.clone()).await?;
        if result.stale.is_empty() {
            return Ok(result.value);
        }
        self.expire_holds(result.stale).await?;
        Ok(worker(&self.connections).run(query).await?.value)
    }

    async fn current<T: Send + 'static>(
        &self,
        query: impl Fn(&Connection, Timestamp) -> error::Result<ReadResult<T>> + Clone + Send + 'static,
    ) -> error::Result<T> {
        let clock = self.clock.clone();
        let query = move |open: &mut Open| {
            in_snapshot(&open.connection, |connection| query(connection, clock.now()))
        };
        self.refreshed(Connections::reporter, query).await
    }

    async fn sweep_overdue(&self) -> error::Result<usize> {
        let mut total = 0;
        loop {
            let clock = self.clock.clone();
            let overdue = move |open: &mut Open| read::overdue(&open.connection, clock.now());
            let overdue = self.connections.reporter().run(overdue).await?;
            // An idle service finds no overdue account, and writes nothing.
            if overdue.is_empty() {
                return Ok(total);
            }
            match self.expire_holds(overdue).await? {
                0 => return Ok(total),
                ended => total += ended,
            }
        }
    }

    async fn prune_step(&self, step: PruneStep) -> error::Result<PrunedStep> {
        match step.table {
            PruneTable::Entries | PruneTable::Holds | PruneTable::Events => {
                self.connections.writer().run(move |open| prune::prune(open, &step)).await
            }
            PruneTable::IdempotencyKeys => {
                let before = step.before;
                let find = move |open: &mut Open| prune::dead_claims(&open.connection, &step);
                let found = self.connections.reporter().run(find).await?;
                let Some((last, claims)) = found else { return Ok(PrunedStep::default()) };
                let mut rows = 0;
                if !claims.is_empty() {
                    let delete = move |open: &mut Open| {
                        prune::delete_claims(&open.connection, before, &claims)
                    };
                    rows = self.connections.writer().run(delete).await?;
                }
                Ok(PrunedStep { rows, next: Some(last), ..PrunedStep::default() })
            }
            PruneTable::RateLimits => {
                let rows = self.rate_limits.prune(step.before, step.limit).await?;
                Ok(PrunedStep::of_first(rows))
            }
        }
    }

    /// Runs a query that may take long.
    fn report<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> error::Result<T> + Send + 'static,
    ) -> BoxFuture<'_, StoreResult<T>> {
        answer(self.connections.reporter().run(move |open| query(&open.connection)))
    }
}

fn answer<'a, T>(
    work: impl Future<Output = error::Result<T>> + Send + 'a,
) -> BoxFuture<'a, StoreResult<T>> {
    Box::pin(async move { work.await.map_err(store_error) })
}

impl Store for SqliteStore {
    fn find<'a>(
        &'a self,
        hashes: &'a [TokenHash],
    ) -> BoxFuture<'a, StoreResult<Vec<Option<Found>>>> {
        answer(self.find_tokens(hashes.to_vec()))
    }

    fn try_find_cached(&self, hash: &TokenHash, max_staleness: Option<Duration>) -> Option<Found> {
        let now = self.clock.now();
        let stale = max_staleness
            .and_then(|max_staleness| self.cache.try_find_cached(hash, max_staleness, now));
        stale.or_else(|| {
            let revalidation = self.cache.revalidate(&[], |_| false);
            let version = self.connections.versions.read()?;
            let found = self
                .cache
                .lookup(std::slice::from_ref(hash), &revalidation, &Some(version), now)
                .pop()??;
            found.lineage.check_active().is_ok().then_some(found)
        })
    }

    fn take<'a>(&'a self, takes: &'a [Take]) -> BoxFuture<'a, StoreResult<Vec<Taken>>> {
        answer(self.rate_limits.take(takes.to_vec()))
    }

    fn poll_policy_version(&self) -> BoxFuture<'_, StoreResult<()>> {
        answer(self.poll_policy())
    }

    fn post<'a>(
        &'a self,
        postings: &'a [Posting],
    ) -> BoxFuture<'a, StoreResult<Vec<Result<Posted, Refusal>>>> {
        answer(self.post_batch(postings.to_vec()))
    }

    fn change_key<'a>(
        &'a self,
        change: &'a KeyChange,
        rules: &'a Rules,
    ) -> BoxFuture<'a, ChangeResult<Key>> {
        let (change, rules) = (change.clone(), rules.clone());
        answer(self.write_with(move |open, cache, clock| {
            change::change_key(open, cache, clock, &change, &rules)
        }))
    }

    fn import_keys<'a>(
        &'a self,
        imports: &'a [ImportDraft],
        rules: &'a Rules,
    ) -> BoxFuture<'a, StoreResult<Vec<ImportResult>>> {
        let (imports, rules) = (imports.to_vec(), rules.clone());
        answer(self.write_with(move |open, cache, clock| {
            change::import_keys(open, cache, clock, &imports, &rules)
        }))
    }

    fn change_account<'a>(
        &'a self,
        account: &'a AccountId,
        change: AccountChange,
        origin: &'a Origin,
    ) -> BoxFuture<'a, ChangeResult<Account>> {
        let (account, origin) = (account.clone(), origin.clone());
        answer(self.write_with(move |open, cache, clock| {
            change::change_account(open, cache, clock, &account, change, &origin)
        }))
    }

    fn lineages<'a>(
        &'a self,
        keys: &'a [KeyId],
    ) -> BoxFuture<'a, StoreResult<Vec<Option<Lineage>>>> {
        let keys = keys.to_vec();
        answer(self.current(move |connection, now| read::lineages(connection, &keys, now)))
    }

    fn account<'a>(
        &'a self,
        account: &'a AccountId,
    ) -> BoxFuture<'a, StoreResult<Option<Account>>> {
        let account = account.clone();
        answer(self.current(move |connection, now| {
            let ReadResult { value, stale } = read::account(connection, &account, now)?;
            Ok(ReadResult { value: value.map(|(account, _)| account), stale })
        }))
    }

    fn accounts<'a>(&'a self, query: &'a AccountQuery) -> BoxFuture<'a, StoreResult<Vec<Account>>> {
        let query = query.clone();
        answer(self.current(move |connection, now| read::accounts(connection, &query, now)))
    }

    fn open_holds(&self, limit: u32) -> BoxFuture<'_, StoreResult<Vec<OpenHold>>> {
        self.report(move |connection| read::open_holds(connection, limit))
    }

    fn keys<'a>(&'a self, query: &'a KeyQuery) -> BoxFuture<'a, StoreResult<Vec<Key>>> {
        let query = query.clone();
        answer(self.current(move |connection, now| read::keys(connection, &query, now)))
    }

    fn entries<'a>(
        &'a self,
        query: &'a EntryQuery,
    ) -> BoxFuture<'a, StoreResult<Vec<(Cursor, Entry)>>> {
        let query = query.clone();
        self.report(move |connection| usage::entries(connection, &query))
    }

    fn events<'a>(
        &'a self,
        query: &'a EventQuery,
    ) -> BoxFuture<'a, StoreResult<Vec<(Cursor, Event)>>> {
        let query = query.clone();
        self.report(move |connection| events::read(connection, &query))
    }

    fn record_refusals<'a>(&'a self, refusals: &'a [Event]) -> BoxFuture<'a, StoreResult<()>> {
        let refusals = refusals.to_vec();
        answer(
            self.write_with(move |open, cache, _| events::record_refusals(open, cache, &refusals)),
        )
    }

    fn entry(&self, id: EntryId) -> BoxFuture<'_, StoreResult<Option<Entry>>> {
        self.report(move |connection| usage::entry(connection, id))
    }

    fn usage<'a>(&'a self, query: &'a UsageQuery) -> BoxFuture<'a, StoreResult<Vec<Usage>>> {
        let query = query.clone();
        self.report(move |connection| usage::usage(connection, &query))
    }

    fn sweep(&self) -> BoxFuture<'_, StoreResult<usize>> {
        answer(self.sweep_overdue())
    }

    fn record_last_used<'a>(
        &'a self,
        used: &'a [(KeyId, Timestamp)],
    ) -> BoxFuture<'a, StoreResult<()>> {
        let used = used.to_vec();
        answer(self.write_with(move |open, cache, _| last_used::record(open, cache, &used)))
    }

    fn last_used<'a>(
        &'a self,
        keys: &'a [KeyId],
    ) -> BoxFuture<'a, StoreResult<Vec<Option<Timestamp>>>> {
        let keys = keys.to_vec();
        self.report(move |connection| last_used::read(connection, &keys))
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn signing_keys<'a>(
        &'a self,
        new: Option<&'a NewSigningKey>,
    ) -> BoxFuture<'a, StoreResult<Vec<StoredSigningKey>>> {
        let Some(new) = new.cloned() else { return self.report(signing_keys::read) };
        answer(self.write_with(move |open, cache, clock| {
            signing_keys::add(open, cache, &new, clock.now())
        }))
    }

    fn claim_first_seen(&self, claim: FirstSeenClaim) -> BoxFuture<'_, StoreResult<bool>> {
        answer(self.write_with(move |open, cache, clock| {
            first_seen::claim(open, cache, &claim, clock.now())
        }))
    }

    fn release_first_seen(&self, claim: FirstSeenClaim) -> BoxFuture<'_, StoreResult<()>> {
        answer(self.write_with(move |open, cache, clock| {
            first_seen::release(open, cache, &claim, clock.now())
        }))
    }

    fn prune<'a>(&'a self, step: &'a PruneStep) -> BoxFuture<'a, StoreResult<PrunedStep>> {
        answer(self.prune_step(step.clone()))
    }

    fn prunable(&self, cutoffs: PruneCutoffs) -> BoxFuture<'_, StoreResult<Prunable>> {
        self.report(move |connection| prune::prunable(connection, cutoffs))
    }

    fn width(&self) -> Width {
        Width { lookups: self.connections.readers(), postings: 1 }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.rate_limits.close();
        Box::pin(self.connections.close())
    }

    fn reconcile<'a>(
        &'a self,
        holder: &'a Holder,
    ) -> BoxFuture<'a, StoreResult<Option<Reconciled>>> {
        let (holder, clock) = (holder.clone(), self.clock.clone());
        self.report(move |connection| {
            in_snapshot(connection, |connection| {
                let recount = reconcile::recount(connection, &holder, clock.now())?;
                Ok(recount.map(|recount| recount.reconciled()))
            })
        })
    }

    fn mend<'a>(
        &'a self,
        holder: &'a Holder,
        origin: &'a Origin,
    ) -> BoxFuture<'a, StoreResult<Option<Reconciled>>> {
        let (holder, origin) = (holder.clone(), origin.clone());
        answer(self.write_with(move |open, cache, clock| {
            reconcile::mend(open, cache, clock, &holder, &origin)
        }))
    }

    fn check_writable(&self) -> BoxFuture<'_, StoreResult<()>> {
        answer(self.write_with(|open, _, _| {
            Ok(open.connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK")?)
        }))
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("connections", &self.connections)
            .field("clock", &self.clock)
            .finish()
    }
}
