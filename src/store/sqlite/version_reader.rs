//! Reads the version of the file on the thread of a request. A look-up that the cache can answer then waits for no
//! other thread. SQLite reads it in microseconds and without a wait, because in WAL mode no writer blocks a reader. If
//! SQLite would have to wait after all (for the recovery of a WAL), the look-up goes to the thread of a connection.
//!
//! While the header of the WAL-index is unchanged, so is the version, and SQLite is not asked again
//! (`docs/decisions/0001-sqlite-wal-index.md`).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::file_id::{FileId, file_id};
use super::version::FileVersion;
use super::wal_index::{Header, WalIndex};

pub(super) struct VersionReader {
    /// `None` in memory, where a second connection would be a second database.
    path: Option<PathBuf>,
    slot: Mutex<ReaderSlot>,
    last: RwLock<Option<LastRead>>,
    started: Instant,
    /// When the file at the path was last found to be the one of `last`, in milliseconds after `started`.
    path_checked: AtomicU64,
}

/// The path is checked once in this time at most, in milliseconds: it costs three times as much as the header.
const CHECK_INTERVAL: u64 = 10;

enum ReaderSlot {
    /// Not open yet. A thread that may wait opens it.
    Missing,
    Open(OpenReader),
    Closed,
}

struct OpenReader {
    connection: Connection,
    /// The file that was opened: another one may be put at the path.
    file: Option<FileId>,
    /// `None` if the system has no WAL-index that can be read as a file.
    index: Option<Arc<WalIndex>>,
}

/// The version that belongs to a header of the WAL-index.
struct LastRead {
    file: Option<FileId>,
    index: Arc<WalIndex>,
    header: Header,
    version: FileVersion,
}

impl VersionReader {
    pub(super) fn new(path: Option<&Path>) -> Self {
        Self {
            path: path.map(Path::to_owned),
            slot: Mutex::new(ReaderSlot::Missing),
            last: RwLock::new(None),
            started: Instant::now(),
            path_checked: AtomicU64::new(0),
        }
    }

    /// Returns the version of the file that is at the path, or was there 10 ms ago; `None` if the read would have to wait.
    pub(super) fn read(&self) -> Option<FileVersion> {
        let path = self.path.as_deref()?;
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if now.saturating_sub(self.path_checked.load(Ordering::Relaxed)) < CHECK_INTERVAL
            && let Some(version) = self.last_if(|_| true)
        {
            return Some(version);
        }
        let file = file_id(path);
        if let Some(version) = self.last_of_file(file) {
            self.path_checked.store(now, Ordering::Relaxed);
            return Some(version);
        }
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        let ReaderSlot::Open(open) = &*slot else { return None };
        // Another thread may have read it in the meantime.
        if let Some(version) = self.last_of_file(file) {
            return Some(version);
        }
        let (version, last) = if open.file == file { open.read().unzip() } else { (None, None) };
        self.set_last(last.flatten());
        if version.is_none() {
            *slot = ReaderSlot::Missing;
        }
        version
    }

    fn last_of_file(&self, file: Option<FileId>) -> Option<FileVersion> {
        self.last_if(|last| last.file == file)
    }

    /// Returns the version that was read last, where it still stands.
    fn last_if(&self, is_wanted: impl FnOnce(&LastRead) -> bool) -> Option<FileVersion> {
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
        let last = last
            .as_ref()
            .filter(|last| is_wanted(last) && last.index.header() == Some(last.header))?;
        Some(last.version)
    }

    /// Returns the current header, for a commit of this process to this file that begins. No other process can commit
    /// until it ends. Returns `None` if the version that was read last is that of another file.
    pub(super) fn header(&self, file: Option<FileId>) -> Option<(Arc<WalIndex>, Header)> {
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
        let index = last.as_ref().filter(|last| last.file == file)?.index.clone();
        drop(last);
        Some((index.clone(), index.header()?))
    }

    /// Records the version after a commit, if no other process has committed since.
    pub(super) fn on_commit(
        &self,
        before: Option<(Arc<WalIndex>, Header)>,
        version: Option<FileVersion>,
    ) {
        let Some(((index, before), version)) = before.zip(version) else { return };
        let Some(header) = index.header().filter(|header| header.is_next_of(&before)) else {
            return;
        };
        let mut last = self.last.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_mut().filter(|last| Arc::ptr_eq(&last.index, &index)) {
            (last.header, last.version) = (header, version);
        }
    }

    /// Opens the connection if it is missing. If the file cannot be opened, the next look-up reports the error.
    pub(super) fn open_missing(&self) {
        let Some(path) = &self.path else { return };
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*slot, ReaderSlot::Missing)
            && let Ok(open) = OpenReader::new(path)
        {
            *slot = ReaderSlot::Open(open);
        }
    }

    /// Closes the connection. It is not opened again.
    pub(super) fn close(&self) {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_last(None);
        *slot = ReaderSlot::Closed;
    }

    /// Replaces the last read. The caller holds the lock of the slot and closes the connection afterwards: once no
    /// connection is open, SQLite may delete the WAL-index.
    fn set_last(&self, last: Option<LastRead>) {
        *self.last.write().unwrap_or_else(PoisonError::into_inner) = last;
    }
}

impl OpenReader {
    fn new(path: &Path) -> rusqlite::Result<Self> {
        // The identity is read before the file is opened. A file that replaces it in between is then noticed at the
        // first use.
        let file = file_id(path);
        // The connection may write: SQLite could not bring a WAL-index up to date through a read-only one.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::ZERO)?;
        // SQLite makes the WAL-index at the first read. Its name follows from SQLite's own name of the file, which has
        // no symbolic links.
        let _ = FileVersion::read(&connection);
        let index = connection.path().and_then(|name| WalIndex::open(name.as_ref()));
        Ok(Self { connection, file, index })
    }

    /// Reads the version, and the header it belongs to, which must be the same before and after the read.
    fn read(&self) -> Option<(FileVersion, Option<LastRead>)> {
        let header = || self.index.as_ref().and_then(|index| index.header());
        let before = header();
        let version = FileVersion::read(&self.connection).ok().flatten()?;
        let header = before.filter(|before| header().as_ref() == Some(before));
        let last = self.index.clone().zip(header);
        Some((
            version,
            last.map(|(index, header)| LastRead { file: self.file, index, header, version }),
        ))
    }
}
