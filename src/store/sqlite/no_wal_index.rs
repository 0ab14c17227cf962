//! The WAL-index on systems where a file that is mapped into memory cannot also be read.

use std::path::Path;
use std::sync::Arc;

#[derive(Debug)]
pub(super) enum WalIndex {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {}

impl Header {
    pub(super) fn is_next_of(&self, _before: &Self) -> bool {
        match *self {}
    }
}

impl WalIndex {
    pub(super) fn open(_database: &Path) -> Option<Arc<Self>> {
        None
    }

    pub(super) fn header(&self) -> Option<Header> {
        match *self {}
    }
}
