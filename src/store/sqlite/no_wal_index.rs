//! Systems on which a file that is mapped into memory cannot be read beside that.

use std::path::Path;
use std::sync::Arc;

#[derive(Debug)]
pub(super) enum WalIndex {}

impl WalIndex {
    pub(super) fn open(_database: &Path) -> Option<Arc<Self>> {
        None
    }

    pub(super) fn header(&self) -> Option<[u8; 48]> {
        match *self {}
    }
}
