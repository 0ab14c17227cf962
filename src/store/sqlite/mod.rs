//! A store in an SQLite file.
//!
//! Every write is one `BEGIN IMMEDIATE` transaction on the one writing connection: SQLite has a single lock for
//! the whole file, which is the lock of every account in it, and a transaction that began by reading would be
//! refused when it came to write. Look-ups have connections of their own and, the file being in WAL mode, never
//! wait for a writer. Several processes may have the file open.
//!
//! Lists of rows travel as one JSON array in one parameter, so that a batch of any size takes a fixed number of
//! statements, with a text that never varies.

mod change;
mod connection;
mod decode;
mod error;
mod load;
mod migrate;
mod options;
mod post;
mod read;
mod rows;
#[cfg(test)]
mod tests;
mod usage;
mod uses;
mod write;

use std::fmt;
use std::path::Path;

use jiff::Timestamp;

use self::connection::{Connections, Held};
use self::error::store_error;
pub use self::options::SqliteOptions;
use super::behind::{Behind, Seen};
use super::{
    BoxFuture, Changed, Cursor, EntryQuery, Found, KeyQuery, Mark, Store, StoreError, StoreResult, Usage, UsageQuery,
    Width,
};
use crate::ledger::{Change, ChangeError, Posted, Posting, Rules};
use crate::{Account, AccountId, Clock, Entry, EntryId, Key, KeyId, Lineage, Refusal, TokenHash};

/// Keys and money in an SQLite file, shared by as many processes as you like.
///
/// Every accepted posting is on the disk when it is answered (`synchronous=FULL`).
///
/// ```
/// use agentkey::{AgentKeys, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), agentkey::StoreError> {
/// let keys = AgentKeys::new(SqliteStore::in_memory().await?);
/// # drop(keys); Ok(()) }
/// ```
pub struct SqliteStore {
    connections: Connections,
    clock: Clock,
}

impl SqliteStore {
    /// Opens a database, makes it where it is missing, and brings its tables up to date.
    ///
    /// # Errors
    ///
    /// When the path or URL cannot be used, the file cannot be opened, or a newer version of the crate made its
    /// tables.
    pub async fn open(options: SqliteOptions) -> Result<Self, StoreError> {
        let place = options.place().map_err(StoreError::failed)?;
        let connections = Connections::open(&place, &options).await.map_err(|error| {
            let error = store_error(error);
            match error.is_transient() {
                true => StoreError::unavailable(format!("{place}: {error}")),
                false => StoreError::failed(format!("{place}: {error}")),
            }
        })?;
        Ok(Self { connections, clock: options.clock })
    }

    /// Opens the database at a path, or at an URL such as `sqlite:keys.db`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn connect(path_or_url: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open(SqliteOptions::new(path_or_url)).await
    }

    /// A database in memory, gone with the store.
    ///
    /// # Errors
    ///
    /// When SQLite cannot be started.
    pub async fn in_memory() -> Result<Self, StoreError> {
        Self::connect(":memory:").await
    }

    fn answer<'a, T>(&self, work: impl Future<Output = sqlx::Result<T>> + Send + 'a) -> BoxFuture<'a, StoreResult<T>> {
        Box::pin(async move { work.await.map_err(store_error) })
    }

    async fn found(&self, hashes: &[TokenHash]) -> sqlx::Result<Vec<Option<Found>>> {
        let mut reader = self.connections.reader().await?;
        let seen = read::find(&mut reader.connection, hashes, self.clock.now()).await;
        let seen = reader.after(seen)?;
        if seen.behind.is_empty() {
            return Ok(seen.value);
        }
        self.catch_up(seen.behind).await?;
        let mut reader = self.connections.reader().await?;
        let seen = read::find(&mut reader.connection, hashes, self.clock.now()).await;
        Ok(reader.after(seen)?.value)
    }

    async fn policy(&self) -> sqlx::Result<Option<Mark>> {
        let mut reader = self.connections.reader().await?;
        let at = self.clock.now();
        let version = read::policy(&mut reader.connection).await;
        Ok(reader.after(version)?.map(|version| Mark::new(version.cast_unsigned(), at)))
    }

    async fn catch_up(&self, behind: Behind) -> sqlx::Result<usize> {
        let mut writer = self.connections.writer().await?;
        let ended = post::catch_up(&mut writer.connection, &self.clock, behind).await;
        writer.after(ended)
    }

    async fn posted(&self, postings: &[Posting]) -> sqlx::Result<Vec<Result<Posted, Refusal>>> {
        let mut writer = self.connections.writer().await?;
        let posted = post::post(&mut writer.connection, &self.clock, postings).await;
        writer.after(posted)
    }

    async fn changed(&self, change: &Change, rules: &Rules) -> sqlx::Result<Result<Changed, ChangeError>> {
        let mut writer = self.connections.writer().await?;
        let changed = change::change(&mut writer.connection, &self.clock, change, rules).await;
        writer.after(changed)
    }

    /// Reads; where that saw what is behind, brings it up to date and reads once more.
    async fn current<'a, T: Send>(
        &'a self,
        look: impl for<'c> Fn(&'c mut Held<'a>) -> BoxFuture<'c, sqlx::Result<Seen<T>>> + Send,
    ) -> sqlx::Result<T> {
        let mut reader = self.connections.reporter().await?;
        let seen = look(&mut reader).await;
        let seen = reader.after(seen)?;
        if seen.behind.is_empty() {
            return Ok(seen.value);
        }
        self.catch_up(seen.behind).await?;
        let mut reader = self.connections.reporter().await?;
        let seen = look(&mut reader).await;
        Ok(reader.after(seen)?.value)
    }

    async fn swept(&self) -> sqlx::Result<usize> {
        let mut total = 0;
        loop {
            let mut reader = self.connections.reporter().await?;
            let overdue = read::overdue(&mut reader.connection, self.clock.now()).await;
            // An idle service finds none, and writes nothing.
            let overdue = reader.after(overdue)?;
            if overdue.is_empty() {
                return Ok(total);
            }
            match self.catch_up(overdue).await? {
                0 => return Ok(total),
                ended => total += ended,
            }
        }
    }
}

impl Store for SqliteStore {
    fn find<'a>(&'a self, hashes: &'a [TokenHash]) -> BoxFuture<'a, StoreResult<Vec<Option<Found>>>> {
        self.answer(self.found(hashes))
    }

    fn post<'a>(&'a self, postings: &'a [Posting]) -> BoxFuture<'a, StoreResult<Vec<Result<Posted, Refusal>>>> {
        self.answer(self.posted(postings))
    }

    fn change<'a>(
        &'a self,
        change: &'a Change,
        rules: &'a Rules,
    ) -> BoxFuture<'a, StoreResult<Result<Changed, ChangeError>>> {
        self.answer(self.changed(change, rules))
    }

    fn lineage(&self, key: KeyId) -> BoxFuture<'_, StoreResult<Option<Lineage>>> {
        self.answer(self.current(move |reader| Box::pin(read::lineage(&mut reader.connection, key, self.clock.now()))))
    }

    fn account<'a>(&'a self, account: &'a AccountId) -> BoxFuture<'a, StoreResult<Option<Account>>> {
        self.answer(async move {
            let seen =
                self.current(move |reader| Box::pin(read::account(&mut reader.connection, account, self.clock.now())));
            Ok(seen.await?.map(|(account, at)| account.rolled(at)))
        })
    }

    fn keys<'a>(&'a self, query: &'a KeyQuery) -> BoxFuture<'a, StoreResult<Vec<Key>>> {
        self.answer(self.current(move |reader| Box::pin(read::keys(&mut reader.connection, query, self.clock.now()))))
    }

    fn entries<'a>(&'a self, query: &'a EntryQuery) -> BoxFuture<'a, StoreResult<Vec<(Cursor, Entry)>>> {
        self.answer(async move {
            let mut reader = self.connections.reporter().await?;
            let entries = usage::entries(&mut reader.connection, query).await;
            reader.after(entries)
        })
    }

    fn entry(&self, id: EntryId) -> BoxFuture<'_, StoreResult<Option<Entry>>> {
        self.answer(async move {
            let mut reader = self.connections.reporter().await?;
            let entry = usage::entry(&mut reader.connection, id).await;
            reader.after(entry)
        })
    }

    fn usage<'a>(&'a self, query: &'a UsageQuery) -> BoxFuture<'a, StoreResult<Vec<Usage>>> {
        self.answer(async move {
            let mut reader = self.connections.reporter().await?;
            let usage = usage::usage(&mut reader.connection, query).await;
            reader.after(usage)
        })
    }

    fn sweep(&self) -> BoxFuture<'_, StoreResult<usize>> {
        self.answer(self.swept())
    }

    fn mark(&self) -> BoxFuture<'_, StoreResult<Option<Mark>>> {
        self.answer(self.policy())
    }

    fn note_uses<'a>(&'a self, uses: &'a [(KeyId, Timestamp)]) -> BoxFuture<'a, StoreResult<()>> {
        self.answer(async move {
            let mut writer = self.connections.writer().await?;
            let noted = uses::note(&mut writer.connection, uses).await;
            writer.after(noted)
        })
    }

    fn last_uses<'a>(&'a self, keys: &'a [KeyId]) -> BoxFuture<'a, StoreResult<Vec<Option<Timestamp>>>> {
        self.answer(async move {
            let mut reader = self.connections.reporter().await?;
            let uses = uses::last(&mut reader.connection, keys).await;
            reader.after(uses)
        })
    }

    fn width(&self) -> Width {
        Width { lookups: self.connections.readers(), postings: 1 }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.connections.close())
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("connections", &self.connections).field("clock", &self.clock).finish()
    }
}
