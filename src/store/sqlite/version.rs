//! The version of the file: two random numbers in it, so that a file restored from a backup never repeats a version.
//! The policy number changes with every change of what a look-up reads, except figures of money, by any SQL. The ledger
//! number changes with every transaction of the crate. Together they are the version of all cached data.

use rusqlite::Connection;

use super::decode::ReadCells;
use super::error::Result;
use super::statement::one;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileVersion {
    policy: i64,
    ledger: i64,
}

impl FileVersion {
    /// Reads the version of the file in the snapshot of a transaction.
    pub(super) fn read(connection: &Connection) -> Result<Option<Self>> {
        const SQL: &str = include_str!("sql/version.sql");
        one(connection, SQL, [], |mut cells| {
            Ok(Self { policy: cells.number()?, ledger: cells.number()? })
        })
    }

    /// Sets the version that the transaction leaves behind, and returns it.
    pub(super) fn next(connection: &Connection) -> Result<Option<Self>> {
        const SQL: &str = include_str!("sql/update_version.sql");
        let next =
            one(connection, SQL, [], |mut cells| Ok((cells.maybe_number()?, cells.number()?)))?;
        Ok(next.and_then(|(policy, ledger)| Some(Self { policy: policy?, ledger })))
    }
}
