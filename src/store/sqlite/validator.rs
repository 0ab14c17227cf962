//! What makes cached data of an SQLite file valid: the version of the file.

use super::version::FileVersion;
use crate::model::KeyId;
use crate::store::account_row::AccountRow;
use crate::store::cache::{AccountCache, Validator};

/// Validates by the version of the file. The cache holds what the file said in that version, with the later commits of
/// this process applied.
pub(super) enum ByFileVersion {}

pub(super) type Cache = AccountCache<ByFileVersion>;

impl Validator for ByFileVersion {
    type Epoch = FileVersion;
    type RowVersion = ();
    type Answer = Option<FileVersion>;

    fn epoch(answer: &Self::Answer) -> Option<FileVersion> {
        *answer
    }

    fn account_version(_answer: &Self::Answer, cached: &AccountRow) -> Option<i64> {
        Some(cached.version)
    }

    fn is_current(_answer: &Self::Answer, _key: KeyId, (): ()) -> bool {
        true
    }
}
