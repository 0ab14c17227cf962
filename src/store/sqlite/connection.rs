//! The connections of a store: one that writes, a few that read.
//!
//! Not a pool of sqlx: that one asks SQLite for a sign of life in a task of its own after every use, and keeps a
//! connection on which SQLite itself ended a transaction (disk full, I/O error) though it can begin no other.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};

use super::error::is_busy;
use super::migrate::migrate;
use super::options::{Place, SqliteOptions};

pub(super) struct Connections {
    writer: Slot,
    /// Empty in memory, where a second connection would be a second database.
    readers: Vec<Slot>,
    /// For lists and sums, which may take long: no look-up waits behind one. None in memory.
    reporter: Option<Slot>,
    next: AtomicUsize,
    closed: Arc<AtomicBool>,
}

impl Connections {
    pub(super) async fn open(place: &Place, options: &SqliteOptions) -> sqlx::Result<Self> {
        let reader_count = match place {
            Place::Memory => 0,
            Place::File { .. } => options.readers,
        };
        let closed = Arc::new(AtomicBool::new(false));
        let slot = |writes| Slot::new(place, options.busy_timeout, writes, &closed);
        let connections = Self {
            writer: slot(true),
            readers: (0..reader_count).map(|_| slot(false)).collect(),
            reporter: (reader_count > 0).then(|| slot(false)),
            next: AtomicUsize::new(0),
            closed: closed.clone(),
        };
        let create = matches!(place, Place::Memory | Place::File { create: true, .. });
        *connections.writer.open.lock().await = Some(connections.writer.connect(create).await?);
        for reader in &connections.readers {
            let ready = reader.take().await?;
            ready.after(Ok(()))?;
        }
        Ok(connections)
    }

    /// How many can read at once.
    pub(super) fn readers(&self) -> usize {
        self.readers.len().max(1)
    }

    /// The connection that writes. Who has it is the only writer of this process.
    pub(super) async fn writer(&self) -> sqlx::Result<Held<'_>> {
        self.writer.take().await
    }

    /// A connection that reads.
    pub(super) async fn reader(&self) -> sqlx::Result<Held<'_>> {
        for reader in &self.readers {
            if let Ok(open) = reader.open.try_lock() {
                return reader.ready(open).await;
            }
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(self.readers.len()).unwrap_or(0);
        self.readers.get(turn).unwrap_or(&self.writer).take().await
    }

    /// The connection for what may take long.
    pub(super) async fn reporter(&self) -> sqlx::Result<Held<'_>> {
        self.reporter.as_ref().unwrap_or(&self.writer).take().await
    }

    /// Closes them, the writer last: SQLite then writes the WAL back into the file.
    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for slot in self.readers.iter().chain(&self.reporter).chain([&self.writer]) {
            if let Some(open) = slot.open.lock().await.take()
                && let Err(error) = open.connection.close().await
            {
                tracing::warn!(%error, "an SQLite connection was not closed cleanly");
            }
        }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} readers)", self.writer.place, self.readers.len())
    }
}

/// A place for one connection, opened anew when it is spoiled.
struct Slot {
    place: Place,
    timeout: Duration,
    writes: bool,
    closed: Arc<AtomicBool>,
    open: Mutex<Option<Open>>,
}

/// A connection that is open.
pub(super) struct Open {
    pub(super) connection: SqliteConnection,
    file: Option<FileId>,
    spoiled: bool,
}

impl Slot {
    fn new(place: &Place, timeout: Duration, writes: bool, closed: &Arc<AtomicBool>) -> Self {
        Self { place: place.clone(), timeout, writes, closed: closed.clone(), open: Mutex::new(None) }
    }

    async fn take(&self) -> sqlx::Result<Held<'_>> {
        let open = tokio::time::timeout(self.timeout.max(Duration::from_secs(1)), self.open.lock()).await;
        self.ready(open.map_err(|_| sqlx::Error::PoolTimedOut)?).await
    }

    async fn ready<'a>(&'a self, mut slot: MutexGuard<'a, Option<Open>>) -> sqlx::Result<Held<'a>> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(sqlx::Error::PoolClosed);
        }
        if let Place::File { path, .. } = &self.place {
            let file = file_id(path);
            if slot.as_ref().is_none_or(|open| open.spoiled || open.file != file) {
                *slot = None;
                *slot = Some(self.connect(false).await?);
            }
        }
        let mut open = MutexGuard::try_map(slot, Option::as_mut).map_err(|_| sqlx::Error::PoolClosed)?;
        let keeps = self.place == Place::Memory;
        // Until the use has ended well: one that is dropped half-way leaves SQLite at work on it.
        open.spoiled = !keeps;
        Ok(Held { open, keeps })
    }

    /// Connects. While another process does the same to a file that is new, SQLite may refuse without waiting;
    /// so we wait.
    async fn connect(&self, create: bool) -> sqlx::Result<Open> {
        let started = Instant::now();
        loop {
            match self.try_connect(create).await {
                Err(error) if is_busy(&error) && started.elapsed() < self.timeout => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                connected => return connected,
            }
        }
    }

    async fn try_connect(&self, create: bool) -> sqlx::Result<Open> {
        let options = SqliteConnectOptions::new()
            .busy_timeout(self.timeout)
            .synchronous(SqliteSynchronous::Full)
            .disable_statement_logging();
        let (mut connection, file) = match &self.place {
            Place::Memory => (options.filename(":memory:").connect().await?, None),
            Place::File { path, .. } => {
                let connection = options.filename(path).create_if_missing(create).connect().await?;
                (connection, file_id(path))
            }
        };
        if self.writes {
            if self.place != Place::Memory {
                use_wal(&mut connection).await?;
            }
            migrate(&mut connection).await?;
        }
        Ok(Open { connection, file, spoiled: false })
    }
}

async fn use_wal(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode = WAL").fetch_one(connection).await?;
    match mode.as_str() {
        "wal" => Ok(()),
        _ => Err(sqlx::Error::Configuration(format!("the file cannot be used with a WAL, only as `{mode}`").into())),
    }
}

/// A connection in use.
pub(super) struct Held<'a> {
    open: MappedMutexGuard<'a, Open>,
    /// A database in memory is gone with its connection, so that is kept whatever happens.
    keeps: bool,
}

impl Held<'_> {
    /// Lets go. After an error that says more than "locked" the connection is not trusted any more: SQLite ends
    /// transactions by itself when the disk fails, and sqlx does not notice.
    pub(super) fn after<T>(mut self, done: sqlx::Result<T>) -> sqlx::Result<T> {
        self.open.spoiled = !self.keeps && done.as_ref().is_err_and(|error| !is_busy(error));
        done
    }
}

impl Deref for Held<'_> {
    type Target = Open;

    fn deref(&self) -> &Open {
        &self.open
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Open {
        &mut self.open
    }
}

/// Tells a file from one that was put in its place. Without it a connection would go on writing, and answering
/// that all was well, to a file that has been deleted or replaced by its backup.
type FileId = (u64, u64);

#[cfg(unix)]
fn file_id(path: &Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

#[cfg(not(unix))]
fn file_id(_path: &Path) -> Option<FileId> {
    None // elsewhere a file in use cannot be deleted or replaced
}
