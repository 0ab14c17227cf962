//! Reads the version of the file on the thread of a request, so that a look-up that the cache can answer waits for no other
//! thread. Reading takes microseconds and waits for nobody: in WAL mode no writer keeps a reader out, and where SQLite
//! would have to wait all the same (a WAL that is being recovered), the look-up goes to the thread of a connection.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::connection::{FileId, file_id};
use super::version::FileVersion;

/// One for each of two threads that look up at the same moment; a third one goes to the thread of a connection.
const CONNECTIONS: usize = 2;

pub(super) struct VersionReader {
    /// `None` in memory, where a second connection would be a second database.
    path: Option<PathBuf>,
    slots: [Mutex<Slot>; CONNECTIONS],
}

enum Slot {
    /// To be opened by a thread that may wait.
    Missing,
    Open {
        connection: Connection,
        /// Which file it is: another one may be put at the path.
        file: Option<FileId>,
    },
    Closed,
}

impl VersionReader {
    pub(super) fn new(path: Option<&Path>) -> Self {
        Self { path: path.map(Path::to_owned), slots: std::array::from_fn(|_| Mutex::new(Slot::Missing)) }
    }

    /// Returns the version of the file that is at the path now; `None` where that would take a wait.
    pub(super) fn read(&self) -> Option<FileVersion> {
        let mut slot = self.slots.iter().find_map(|slot| slot.try_lock().ok())?;
        let Slot::Open { connection, file } = &*slot else { return None };
        let is_there = file_id(self.path.as_deref()?) == *file;
        let version = is_there.then(|| FileVersion::read(connection)).and_then(Result::ok).flatten();
        if version.is_none() {
            *slot = Slot::Missing;
        }
        version
    }

    /// Opens what is missing. A file that cannot be opened is an error of the look-up that comes next.
    pub(super) fn open_missing(&self) {
        let Some(path) = &self.path else { return };
        for slot in &self.slots {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(*slot, Slot::Missing)
                && let Ok((connection, file)) = open(path)
            {
                *slot = Slot::Open { connection, file };
            }
        }
    }

    /// Closes them for good.
    pub(super) fn close(&self) {
        for slot in &self.slots {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Closed;
        }
    }
}

fn open(path: &Path) -> rusqlite::Result<(Connection, Option<FileId>)> {
    // Before it is opened: if another takes its place meanwhile, that is noticed at the first use.
    let file = file_id(path);
    // Not only to be read: SQLite then could not bring a WAL's index up to date.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::ZERO)?;
    Ok((connection, file))
}
