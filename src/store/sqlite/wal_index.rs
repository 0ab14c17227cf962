//! The header of the WAL-index (the `-shm` file), which every commit of any process changes before it returns. The
//! header has a count of commits, the salts of the WAL and the checksum of its last frame
//! (<https://www.sqlite.org/walformat.html>, "The WAL-Index Header"). SQLite compares the same bytes to know whether
//! the pages that it has read are current.
//!
//! When a process closes a file, it loses all its locks on that file, and SQLite has locks on this one
//! (<https://www.sqlite.org/howtocorrupt.html>, 2.2). So this file is opened once, and closed only after it was
//! deleted.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::file_id::{FileId, file_id};

/// The version of the format, of which there has been only one.
const FORMAT: u32 = 3_007_000;

static OPEN: Mutex<Vec<Arc<WalIndex>>> = Mutex::new(Vec::new());

#[derive(Debug)]
pub(super) struct WalIndex {
    file: File,
    id: FileId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header([u8; 48]);

impl Header {
    /// Returns whether exactly one commit was made in between.
    pub(super) fn is_next_of(&self, before: &Self) -> bool {
        self.count() == before.count().wrapping_add(1)
    }

    /// Returns the count of commits. It starts again after a crash, when SQLite makes the WAL-index again.
    fn count(&self) -> u32 {
        let Self([_, _, _, _, _, _, _, _, a, b, c, d, ..]) = *self;
        u32::from_ne_bytes([a, b, c, d])
    }
}

impl WalIndex {
    /// Opens the WAL-index of the database at a path.
    pub(super) fn open(database: &Path) -> Option<Arc<Self>> {
        let path = database.with_file_name(format!("{}-shm", database.file_name()?.to_str()?));
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|index| Arc::strong_count(index) > 1 || !index.is_deleted());
        // The identity is checked before the file is opened: closing a second descriptor would already lose the locks.
        let id = file_id(&path)?;
        if let Some(index) = open.iter().find(|index| index.id == id) {
            return Some(index.clone());
        }
        let file = File::open(&path).ok()?;
        let id = file.metadata().map_or(id, |file| (file.dev(), file.ino()));
        let index = Arc::new(Self { file, id });
        open.push(index.clone());
        Some(index)
    }

    /// Returns the current header; `None` if it is not complete.
    pub(super) fn header(&self) -> Option<Header> {
        let mut header = [0; 48];
        self.file.read_exact_at(&mut header, 0).ok()?;
        let [a, b, c, d, _, _, _, _, _, _, _, _, is_initialized, ..] = header;
        (u32::from_ne_bytes([a, b, c, d]) == FORMAT && is_initialized == 1)
            .then_some(Header(header))
    }

    fn is_deleted(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.nlink() == 0)
    }
}
