//! The connections of a store: one that writes and a few that read, each in a thread of its own.
//!
//! A thread runs one job after the other, and a job is a whole batch. The statements of a job wait for no channel and
//! no other thread. A job that has begun runs to its end, even if its caller no longer waits.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{Connection, MAIN_DB, OpenFlags};
use tokio::sync::oneshot;

use super::error::{Error, Result, corrupt, is_busy, is_unusable};
use super::file_id::{FileId, file_id};
use super::index::RecentEntries;
use super::migrate::{check, migrate};
use super::options::{Location, SqliteOptions};
use super::validator::Cache;
use super::version_reader::VersionReader;

/// More than the number of our statements.
const MAX_STATEMENTS: usize = 128;

pub(super) struct Connections {
    /// Empty in memory, where a second connection would be a second database.
    readers: Vec<Worker>,
    /// The connection for lists and sums, which may take long, so that no look-up waits for them. `None` in memory.
    reporter: Option<Worker>,
    writer: Worker,
    pub(super) versions: Arc<VersionReader>,
    location: Location,
}

impl Connections {
    pub(super) async fn open(
        location: &Location,
        options: &SqliteOptions,
        cache: &Arc<Cache>,
    ) -> Result<Self> {
        let reader_count = match location {
            Location::Memory => 0,
            Location::File { .. } => options.readers,
        };
        let timeout = options.busy_timeout;
        let deadline = Instant::now();
        let path = match location {
            Location::Memory => None,
            Location::File { path, .. } => Some(path.as_path()),
        };
        let versions = Arc::new(VersionReader::new(path));
        let slot = |writes| {
            let (location, cache, versions) = (location.clone(), cache.clone(), versions.clone());
            let migrates = options.migrate;
            Slot { location, timeout, deadline, writes, migrates, cache, versions, open: None }
        };
        let mut ends = Vec::new();
        let mut start = |slot| {
            let (worker, end) = Worker::start(slot, Vec::new())?;
            ends.push(end);
            Ok(worker)
        };
        let readers = (0..reader_count).map(|_| start(slot(false))).collect::<Result<Vec<_>>>()?;
        let reporter = (reader_count > 0).then(|| start(slot(false))).transpose()?;
        let (writer, _) = Worker::start(slot(true), ends)?;
        let connections = Self { readers, reporter, writer, versions, location: location.clone() };
        let create = matches!(location, Location::Memory | Location::File { create: true, .. });
        connections.writer.send(move |slot| slot.connect(create)).await?;
        for reader in &connections.readers {
            reader.run(|_| Ok(())).await?;
        }
        Ok(connections)
    }

    /// Returns how many connections can read at once.
    pub(super) fn readers(&self) -> usize {
        self.readers.len().max(1)
    }

    /// Returns the connection that writes: the only one of this process.
    pub(super) fn writer(&self) -> &Worker {
        &self.writer
    }

    /// Returns the reading connection with the fewest jobs.
    pub(super) fn reader(&self) -> &Worker {
        let load = |reader: &&Worker| reader.waiting.load(Ordering::Relaxed);
        self.readers.iter().min_by_key(load).unwrap_or(&self.writer)
    }

    /// Returns the connection for queries that may take long.
    pub(super) fn reporter(&self) -> &Worker {
        self.reporter.as_ref().unwrap_or(&self.writer)
    }

    /// Closes all connections, the writer last: SQLite then writes the WAL back into the file.
    pub(super) async fn close(&self) {
        for worker in self.readers.iter().chain(&self.reporter) {
            worker.close().await;
        }
        self.versions.close();
        self.writer.close().await;
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} readers)", self.location, self.readers.len())
    }
}

type Job = Box<dyn FnOnce(&mut Slot) + Send>;

enum Message {
    Do(Job),
    End(oneshot::Sender<()>),
}

/// A thread with a connection. When the worker is dropped, the thread finishes all jobs and ends.
pub(super) struct Worker {
    jobs: mpsc::Sender<Message>,
    waiting: Arc<AtomicUsize>,
    /// How long a job may wait for its turn and then for the lock, together.
    max_wait: Duration,
}

impl Worker {
    /// Starts the thread. It closes its connection after the threads of `others` have ended.
    fn start(slot: Slot, others: Vec<JoinHandle<()>>) -> Result<(Self, JoinHandle<()>)> {
        let (jobs, queue) = mpsc::channel();
        let max_wait = slot.timeout.max(Duration::from_secs(1));
        let waiting = Arc::new(AtomicUsize::new(0));
        let counted = waiting.clone();
        let name = if slot.writes { "agentkey-writer" } else { "agentkey-reader" };
        let work = move || serve(slot, &queue, &counted, others);
        let thread =
            thread::Builder::new().name(name.into()).spawn(work).map_err(Error::NoThread)?;
        Ok((Self { jobs, waiting, max_wait }, thread))
    }

    /// Runs `work` on the connection. Skips it if its caller no longer waits when its turn comes.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Open) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.send(|slot| slot.run(work)).await
    }

    /// Runs `work` when its turn comes. No caller waits for it, so an error is logged.
    pub(super) fn run_later(&self, work: impl FnOnce(&mut Open) -> Result<()> + Send + 'static) {
        let job = |slot: &mut Slot| {
            slot.deadline = Instant::now() + slot.timeout;
            if let Err(error) = slot.run(work) {
                tracing::debug!(%error, "SQLite could not bring an index up to date; a later batch tries again");
            }
        };
        self.waiting.fetch_add(1, Ordering::Relaxed);
        drop(self.jobs.send(Message::Do(Box::new(job))));
    }

    async fn send<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Slot) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + self.max_wait;
        let job = move |slot: &mut Slot| {
            if answer.is_closed() {
                return;
            }
            slot.deadline = deadline;
            let done = if Instant::now() > deadline { Err(Error::TimedOut) } else { work(slot) };
            drop(answer.send(done));
        };
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.jobs.send(Message::Do(Box::new(job))).map_err(|_| Error::Closed)?;
        answered.await.map_err(|_| Error::Closed)?
    }

    async fn close(&self) {
        let (ended, end) = oneshot::channel();
        if self.jobs.send(Message::End(ended)).is_ok() {
            drop(end.await);
        }
    }
}

fn serve(
    mut slot: Slot,
    queue: &mpsc::Receiver<Message>,
    waiting: &AtomicUsize,
    others: Vec<JoinHandle<()>>,
) {
    let mut ended = None;
    for message in queue {
        match message {
            Message::Do(job) => {
                job(&mut slot);
                waiting.fetch_sub(1, Ordering::Relaxed);
            }
            Message::End(end) => {
                ended = Some(end);
                break;
            }
        }
    }
    for other in others {
        drop(other.join());
    }
    slot.close();
    if let Some(ended) = ended {
        let _ = ended.send(());
    }
}

/// A slot for one connection, which is opened again after it failed.
struct Slot {
    location: Location,
    timeout: Duration,
    /// The deadline for the waits of the current job.
    deadline: Instant,
    writes: bool,
    /// Whether it brings the tables up to date, or only checks them.
    migrates: bool,
    cache: Arc<Cache>,
    versions: Arc<VersionReader>,
    open: Option<Open>,
}

/// An open connection.
pub(super) struct Open {
    pub(super) connection: Connection,
    pub(super) versions: Arc<VersionReader>,
    /// The entries that the writing connection appended last.
    pub(super) recent: RecentEntries,
    /// The file that was opened. Without it a connection would keep writing to a file that was deleted or replaced by
    /// its backup, and report success.
    pub(super) file: Option<FileId>,
}

impl Slot {
    /// Runs `work` on the connection, and leaves it outside of any transaction. After an error other than "locked" or
    /// an invalid row, the connection is closed: SQLite ends transactions by itself when the disk fails. A database in
    /// memory exists only in its connection, so that one is kept.
    fn run<T>(&mut self, work: impl FnOnce(&mut Open) -> Result<T>) -> Result<T> {
        // The time that the job waited for its turn counts against the wait for the lock.
        let max_wait = self.remaining_wait();
        let open = self.connected()?;
        open.connection.busy_timeout(max_wait)?;
        let done = catch_unwind(AssertUnwindSafe(|| work(open))).unwrap_or(Err(Error::Panicked));
        let connection = &open.connection;
        let clean = connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok();
        let is_sound =
            clean && done.as_ref().err().is_none_or(|error| is_busy(error) || is_unusable(error));
        if !is_sound {
            self.cache.clear();
            if self.location != Location::Memory {
                self.open = None;
            }
        }
        done
    }

    fn connected(&mut self) -> Result<&mut Open> {
        if let Location::File { path, .. } = &self.location {
            let file = file_id(path);
            if self.open.as_ref().is_none_or(|open| open.file != file) {
                self.disconnect();
                self.connect(false)?;
            }
        }
        self.open.as_mut().ok_or(Error::Closed)
    }

    /// Returns how long the job may still wait for the lock of another process.
    fn remaining_wait(&self) -> Duration {
        self.timeout.min(self.deadline.saturating_duration_since(Instant::now()))
    }

    /// Connects. SQLite may refuse without waiting while another process connects to the same new file, so this waits
    /// and retries.
    fn connect(&mut self, create: bool) -> Result<()> {
        let (started, max_wait) = (Instant::now(), self.remaining_wait());
        loop {
            match self.try_connect(create) {
                Err(error) if is_busy(&error) && started.elapsed() < max_wait => {
                    thread::sleep(Duration::from_millis(10));
                }
                connected => {
                    self.open = Some(connected?);
                    return Ok(());
                }
            }
        }
    }

    fn try_connect(&self, create: bool) -> Result<Open> {
        let (mut connection, file) = match &self.location {
            Location::Memory => (Connection::open_in_memory()?, None),
            Location::File { path, .. } => {
                let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
                // The identity is read before the file is opened. A file that replaces it in between is then noticed at
                // the first use.
                let file = file_id(path);
                let connection = Connection::open_with_flags(path, flags)?;
                // SQLite opens a file that it may not write for reading.
                if connection.is_readonly(MAIN_DB)? {
                    return Err(Error::ReadOnly);
                }
                (connection, file.or_else(|| file_id(path)))
            }
        };
        connection.busy_timeout(self.remaining_wait())?;
        if !self.migrates {
            // Before anything is set: the file may be another program's.
            check(&connection)?;
        }
        connection.set_prepared_statement_cache_capacity(MAX_STATEMENTS);
        connection.pragma_update(None, "synchronous", "FULL")?;
        if self.writes {
            // A checkpoint waits for the disk twice, and postings wait for the checkpoint.
            connection.pragma_update(None, "wal_autocheckpoint", 4_000)?;
            // In KiB. With many accounts, postings touch pages all over the tables.
            connection.pragma_update(None, "cache_size", -16_384)?;
        }
        if self.location != Location::Memory {
            use_wal(&connection)?;
            if self.writes {
                check_writable(&connection)?;
                connection.busy_timeout(self.remaining_wait())?;
            }
        }
        // A reading connection migrates too: the file may be an older one that has just replaced ours.
        if self.migrates {
            migrate(&mut connection)?;
        }
        Ok(Open {
            connection,
            versions: self.versions.clone(),
            recent: RecentEntries::default(),
            file,
        })
    }

    /// Drops the connection and the cached data: the next file may be another one.
    fn disconnect(&mut self) -> Option<Open> {
        self.cache.clear();
        self.open.take()
    }

    fn close(&mut self) {
        if let Some(open) = self.disconnect()
            && let Err((_, error)) = open.connection.close()
        {
            tracing::warn!(%error, "an SQLite connection was not closed cleanly");
        }
    }
}

/// Checks that the WAL and its index can be written. If another process has the lock, it can write them.
fn check_writable(connection: &Connection) -> Result<()> {
    connection.busy_timeout(Duration::ZERO)?;
    match connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").map_err(Error::from) {
        Err(error) if is_busy(&error) => Ok(()),
        checked => checked,
    }
}

fn use_wal(connection: &Connection) -> Result<()> {
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    match mode.as_str() {
        "wal" => Ok(()),
        _ => Err(corrupt(format!("the file cannot be used with a WAL, only as `{mode}`"))),
    }
}
