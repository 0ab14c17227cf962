//! Whether anybody has written to the file, told without SQLite: by the header of the WAL's index.
//!
//! Every commit, of any process, changes that header before it returns: it has a count of commits, the salts of the WAL
//! and the checksum of its last frame (<https://www.sqlite.org/walformat.html>, "The WAL-Index Header"). While it is as it
//! was, so is all that the file says: SQLite goes by the same comparison when it keeps the pages that it has read.
//!
//! A process that closes a file loses its locks on it, whoever took them, and SQLite's locks are on this one
//! (<https://www.sqlite.org/howtocorrupt.html>, 2.2). So it is opened once for all who watch it, and stays open; when
//! another is opened, those are closed that were deleted meanwhile, as SQLite does at its last use, and that nobody watches.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rusqlite::Connection;

use self::shm::Shm;

/// Tells a connection whether anybody has written.
#[derive(Clone, Debug)]
pub(super) enum Watch {
    /// Nobody else can: a database in memory has one connection.
    Alone,
    Index(Arc<Index>),
    /// There is no telling.
    Nothing,
}

/// The index of the WAL of a file.
#[derive(Debug)]
pub(super) struct Index {
    shm: Arc<Shm>,
    path: PathBuf,
    file: FileId,
    opened: Instant,
    /// When it was last looked whether the file is still the one at the path, in milliseconds after it was opened.
    looked: AtomicU64,
}

/// So often it is looked at most, in milliseconds: it costs three times as much as to read the header. Whoever has a
/// connection looks each time before he uses it.
const LOOK_EVERY: u64 = 10;

impl Index {
    fn is_at_its_path(&self) -> bool {
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        if now.saturating_sub(self.looked.load(Ordering::Relaxed)) < LOOK_EVERY {
            return true;
        }
        let is_there = file_id(&self.path) == Some(self.file);
        if is_there {
            self.looked.store(now, Ordering::Relaxed);
        }
        is_there
    }
}

/// In bytes.
const LENGTH: usize = 48;

/// What was to be seen at one moment. Equal ones are of the same state of the same file.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    watch: Watch,
    header: [u8; LENGTH],
}

impl Watch {
    /// For this connection to the file at this path; `file` is which one that was when it was opened.
    pub(super) fn new(connection: &Connection, path: &Path, file: Option<FileId>) -> Self {
        // As SQLite calls it, behind symbolic links.
        let shm = connection.path().and_then(|name| Shm::open(format!("{name}-shm").as_ref()));
        // If another file has come to its place meanwhile, it may be the index of that.
        match shm.zip(file).filter(|_| file_id(path) == file) {
            Some((shm, file)) => {
                let path = path.to_owned();
                Self::Index(Arc::new(Index { shm, path, file, opened: Instant::now(), looked: AtomicU64::new(0) }))
            }
            None => Self::Nothing,
        }
    }

    pub(super) fn look(&self) -> Option<Sight> {
        let header = match self {
            Self::Alone => [0; LENGTH],
            Self::Index(index) => index.shm.header()?,
            Self::Nothing => return None,
        };
        Some(Sight { watch: self.clone(), header })
    }
}

impl Sight {
    /// Whether it is still so, in the file that is at its path, or was a moment ago.
    pub(super) fn is_now(&self) -> bool {
        match &self.watch {
            Watch::Alone => true,
            Watch::Index(index) => index.is_at_its_path() && index.shm.header().as_ref() == Some(&self.header),
            Watch::Nothing => false,
        }
    }

    /// Whether there was one commit in between, and no more.
    pub(super) fn is_next_of(&self, before: &Self) -> bool {
        matches!(self.watch, Watch::Alone) || self.commits_since(before) == Some(1)
    }

    /// How many commits there were in between.
    pub(super) fn commits_since(&self, before: &Self) -> Option<u32> {
        self.is_of_same_file(before).then(|| self.count().wrapping_sub(before.count()))
    }

    /// Whether what it says can be believed.
    pub(super) fn is_proven(&self) -> bool {
        match &self.watch {
            Watch::Alone => true,
            Watch::Index(index) => index.shm.is_proven(),
            Watch::Nothing => false,
        }
    }

    /// This was seen right after a commit, and that before it: where it is not to be seen here, nothing else is.
    pub(super) fn prove(&self, before: &Self) {
        if let Watch::Index(index) = &self.watch {
            match self.commits_since(before) {
                Some(0) => index.shm.prove(false),
                Some(1) => index.shm.prove(true),
                _ => {}
            }
        }
    }

    fn is_of_same_file(&self, other: &Self) -> bool {
        match (&self.watch, &other.watch) {
            (Watch::Alone, Watch::Alone) => true,
            (Watch::Index(one), Watch::Index(other)) => Arc::ptr_eq(&one.shm, &other.shm) && one.file == other.file,
            _ => false,
        }
    }

    /// Goes up with every commit, but for those after a crash: SQLite then makes the index anew, and counts from 0.
    fn count(&self) -> u32 {
        let [_, _, _, _, _, _, _, _, a, b, c, d, ..] = self.header;
        u32::from_ne_bytes([a, b, c, d])
    }
}

impl PartialEq for Sight {
    fn eq(&self, other: &Self) -> bool {
        self.header == other.header && self.is_of_same_file(other)
    }
}

/// Tells a file from one that was put in its place.
pub(super) type FileId = (u64, u64);

#[cfg(unix)]
pub(super) fn file_id(path: &Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

#[cfg(not(unix))]
pub(super) fn file_id(_path: &Path) -> Option<FileId> {
    None // elsewhere a file in use cannot be deleted or replaced
}

/// The file of the index, `-shm`. SQLite maps it into memory; where whoever reads a file sees what was written there.
#[cfg(all(unix, not(target_os = "openbsd")))]
mod shm {
    use std::fs::File;
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex, PoisonError};

    use super::{FileId, LENGTH, file_id};

    /// Of the only layout that there has been.
    const VERSION: u32 = 3_007_000;

    /// Those that are open.
    static OPEN: Mutex<Vec<Arc<Shm>>> = Mutex::new(Vec::new());

    #[derive(Debug)]
    pub(super) struct Shm {
        file: File,
        id: FileId,
        is_proven: AtomicBool,
    }

    impl Shm {
        pub(super) fn open(path: &Path) -> Option<Arc<Self>> {
            let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|shm| Arc::strong_count(shm) > 1 || !shm.is_deleted());
            // Known before it is opened: to close it again would be too late.
            let id = file_id(path)?;
            if let Some(shm) = open.iter().find(|shm| shm.id == id) {
                return Some(shm.clone());
            }
            let file = File::open(path).ok()?;
            let id = file.metadata().map_or(id, |file| (file.dev(), file.ino()));
            let shm = Arc::new(Self { file, id, is_proven: AtomicBool::new(false) });
            open.push(shm.clone());
            Some(shm)
        }

        fn is_deleted(&self) -> bool {
            self.file.metadata().is_ok_and(|file| file.nlink() == 0)
        }

        pub(super) fn header(&self) -> Option<[u8; LENGTH]> {
            let mut header = [0; LENGTH];
            self.file.read_exact_at(&mut header, 0).ok()?;
            let [a, b, c, d, _, _, _, _, _, _, _, _, is_there, ..] = header;
            (u32::from_ne_bytes([a, b, c, d]) == VERSION && is_there == 1).then_some(header)
        }

        /// Whether a commit of this process was seen in it.
        pub(super) fn is_proven(&self) -> bool {
            self.is_proven.load(Ordering::Relaxed)
        }

        pub(super) fn prove(&self, is_seen: bool) {
            self.is_proven.store(is_seen, Ordering::Relaxed);
        }
    }
}

#[cfg(not(all(unix, not(target_os = "openbsd"))))]
mod shm {
    use std::path::Path;
    use std::sync::Arc;

    use super::LENGTH;

    #[derive(Debug)]
    pub(super) enum Shm {}

    impl Shm {
        pub(super) fn open(_path: &Path) -> Option<Arc<Self>> {
            None
        }

        pub(super) fn header(&self) -> Option<[u8; LENGTH]> {
            match *self {}
        }

        pub(super) fn is_proven(&self) -> bool {
            match *self {}
        }

        pub(super) fn prove(&self, _is_seen: bool) {
            match *self {}
        }
    }
}
