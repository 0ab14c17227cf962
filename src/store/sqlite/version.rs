//! The version of the file: two random numbers in it, so that a file restored from a backup never repeats a version.
//! The policy number changes with every change of what a look-up reads, except figures of money, by any SQL. The ledger
//! number changes with every transaction of the crate. Together they are the version of all cached data.

use rusqlite::Connection;

use super::decode::ReadCells;
use super::error::Result;
use super::statement::one;
use crate::model::KeyId;
use crate::store::account_row::AccountRow;
use crate::store::cache::{AccountCache, Validator};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileVersion {
    policy: i64,
    ledger: i64,
}

impl FileVersion {
    /// Reads the version of the file in the snapshot of a transaction.
    pub(super) fn read(connection: &Connection) -> Result<Option<Self>> {
        const SQL: &str = include_str!("sql/version.sql");
        one(connection, SQL, [], |mut cells| Ok(Self { policy: cells.number()?, ledger: cells.number()? }))
    }

    /// Sets the version that the transaction leaves behind, and returns it.
    pub(super) fn next(connection: &Connection) -> Result<Option<Self>> {
        const SQL: &str = include_str!("sql/update_version.sql");
        let next = one(connection, SQL, [], |mut cells| Ok((cells.maybe_number()?, cells.number()?)))?;
        Ok(next.and_then(|(policy, ledger)| Some(Self { policy: policy?, ledger })))
    }
}

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
