//! The version of the file: two numbers in it, both random, so that a file restored from a backup never repeats one. That of
//! the policy moves with every change of what a look-up reads, but for figures of money, whoever makes it; that of the
//! ledger moves with every transaction of the crate's own. Together they stand for everything that is cached.

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

    /// Moves the version to the one that the transaction leaves behind.
    pub(super) fn next(connection: &Connection) -> Result<Option<Self>> {
        const SQL: &str = include_str!("sql/update_version.sql");
        let next = one(connection, SQL, [], |mut cells| Ok((cells.maybe_number()?, cells.number()?)))?;
        Ok(next.and_then(|(policy, ledger)| Some(Self { policy: policy?, ledger })))
    }
}

/// Cached is what the file said in one version, and what commits of this process have made of it since.
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
