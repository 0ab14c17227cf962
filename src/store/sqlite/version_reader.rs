//! Reads the version of the file on the thread of a request, so that a look-up that the cache can answer waits for no other
//! thread. SQLite reads it in microseconds, and waits for nobody: in WAL mode no writer keeps a reader out. Where it would
//! have to wait all the same (a WAL that is being recovered), the look-up goes to the thread of a connection.
//!
//! While the header of the WAL's index is as it was, so is the version, and SQLite is not asked again
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
    slot: Mutex<Slot>,
    last: RwLock<Option<LastRead>>,
    started: Instant,
    /// When the file at the path was last found to be the one of `last`, in milliseconds after `started`.
    path_checked: AtomicU64,
}

/// The path is checked once in this time at most, in milliseconds: it costs three times as much as the header.
const CHECK_INTERVAL: u64 = 10;

enum Slot {
    /// To be opened by a thread that may wait.
    Missing,
    Open(Open),
    Closed,
}

struct Open {
    connection: Connection,
    /// Which file it is: another one may be put at the path.
    file: Option<FileId>,
    /// `None` where the system has none that can be read so.
    index: Option<Arc<WalIndex>>,
}

/// The version that belongs to a header of the WAL's index.
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
            slot: Mutex::new(Slot::Missing),
            last: RwLock::new(None),
            started: Instant::now(),
            path_checked: AtomicU64::new(0),
        }
    }

    /// Returns the version of the file that is at the path, or was there a moment ago; `None` where that would take a
    /// wait.
    pub(super) fn read(&self) -> Option<FileVersion> {
        let path = self.path.as_deref()?;
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if now.saturating_sub(self.path_checked.load(Ordering::Relaxed)) < CHECK_INTERVAL
            && let Some(version) = self.last_if(|_| true)
        {
            return Some(version);
        }
        let file = file_id(path);
        if let Some(version) = self.last_if_same(file) {
            self.path_checked.store(now, Ordering::Relaxed);
            return Some(version);
        }
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        let Slot::Open(open) = &*slot else { return None };
        // Another thread may have read it meanwhile.
        if let Some(version) = self.last_if_same(file) {
            return Some(version);
        }
        let (version, last) = if open.file == file { open.read().unzip() } else { (None, None) };
        self.set_last(last.flatten());
        if version.is_none() {
            *slot = Slot::Missing;
        }
        version
    }

    fn last_if_same(&self, file: Option<FileId>) -> Option<FileVersion> {
        self.last_if(|last| last.file == file)
    }

    /// Returns the version that was read last, where it still stands.
    fn last_if(&self, is_wanted: impl FnOnce(&LastRead) -> bool) -> Option<FileVersion> {
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
        let last = last.as_ref().filter(|last| is_wanted(last) && last.index.header() == Some(last.header))?;
        Some(last.version)
    }

    /// Returns the header as it is now, for a commit of this process that begins: nobody else can commit until it ends.
    pub(super) fn header(&self) -> Option<(Arc<WalIndex>, Header)> {
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
        let index = last.as_ref()?.index.clone();
        drop(last);
        Some((index.clone(), index.header()?))
    }

    /// Takes note of the version that a commit has left behind, where nobody has committed since.
    pub(super) fn on_commit(&self, before: Option<(Arc<WalIndex>, Header)>, version: Option<FileVersion>) {
        let Some(((index, before), version)) = before.zip(version) else { return };
        let Some(header) = index.header().filter(|header| header.is_next_of(&before)) else { return };
        let mut last = self.last.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_mut().filter(|last| Arc::ptr_eq(&last.index, &index)) {
            (last.header, last.version) = (header, version);
        }
    }

    /// Opens what is missing. A file that cannot be opened is an error of the look-up that comes next.
    pub(super) fn open_missing(&self) {
        let Some(path) = &self.path else { return };
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*slot, Slot::Missing)
            && let Ok(open) = Open::new(path)
        {
            *slot = Slot::Open(open);
        }
    }

    /// Closes it for good.
    pub(super) fn close(&self) {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_last(None);
        *slot = Slot::Closed;
    }

    /// To be called with the slot locked, before its connection is closed: without one, SQLite may delete the index.
    fn set_last(&self, last: Option<LastRead>) {
        *self.last.write().unwrap_or_else(PoisonError::into_inner) = last;
    }
}

impl Open {
    fn new(path: &Path) -> rusqlite::Result<Self> {
        // Before it is opened: if another takes its place meanwhile, that is noticed at the first use.
        let file = file_id(path);
        // Not only to be read: SQLite then could not bring a WAL's index up to date.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::ZERO)?;
        // SQLite makes the index with the first read. It is found by the name that SQLite has, behind symbolic links.
        let _ = FileVersion::read(&connection);
        let index = connection.path().and_then(|name| WalIndex::open(name.as_ref()));
        Ok(Self { connection, file, index })
    }

    /// Reads the version, and what it belongs to: the header that was there before and after.
    fn read(&self) -> Option<(FileVersion, Option<LastRead>)> {
        let header = || self.index.as_ref().and_then(|index| index.header());
        let before = header();
        let version = FileVersion::read(&self.connection).ok().flatten()?;
        let header = before.filter(|before| header().as_ref() == Some(before));
        let last = self.index.clone().zip(header);
        Some((version, last.map(|(index, header)| LastRead { file: self.file, index, header, version })))
    }
}
