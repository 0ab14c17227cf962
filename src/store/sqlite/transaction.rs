//! Transactions that write, and how they update the cache.

use rusqlite::Connection;

use super::connection::Open;
use super::error::Result;
use super::index::{IndexRow, RecentEntries};
use super::statement::run;
use super::validator::{ByFileVersion, Cache};
use super::version::FileVersion;
use crate::model::AccountId;
use crate::store::cache::{CacheDelta, Revalidation, Write};

/// A transaction that has begun. No other process can write until it ends.
pub(super) struct BegunTransaction<'a> {
    /// The version of the file. The cache has been brought to it.
    pub(super) version: Option<FileVersion>,
    pub(super) revalidation: Revalidation<ByFileVersion>,
    pub(super) recent: &'a RecentEntries,
}

/// What a transaction wrote.
#[derive(Default)]
pub(super) struct Written {
    pub(super) deltas: Vec<CacheDelta>,
    /// The index rows of its entries.
    pub(super) index_rows: Vec<IndexRow>,
    /// The accounts whose policy it changed.
    pub(super) policy: Vec<AccountId>,
}

/// Runs `write` under the lock of the file. After an error the thread of the connection rolls back.
pub(super) fn in_write_transaction<T>(
    open: &mut Open,
    cache: &Cache,
    write: impl FnOnce(&Connection, &BegunTransaction<'_>) -> Result<(T, Written)>,
) -> Result<T> {
    let Open { connection, versions, recent, file } = open;
    run(connection, "BEGIN IMMEDIATE", [])?;
    let changes = connection.total_changes();
    let revalidation = cache.revalidate(&[], |_| false);
    let version = FileVersion::read(connection)?;
    version.map(|version| cache.validate(&revalidation, version));
    let (value, written) = write(connection, &BegunTransaction { version, revalidation, recent })?;
    if connection.total_changes() == changes {
        run(connection, "COMMIT", [])?;
        return Ok(value);
    }
    let Written { deltas, index_rows, policy } = written;
    let next = FileVersion::next(connection)?;
    let pending = cache.begin_write(Write { epoch: version, next, deltas, policy });
    let before = versions.header(*file);
    run(connection, "COMMIT", [])?;
    pending.on_commit();
    versions.on_commit(before, next);
    recent.append(version, next, index_rows);
    Ok(value)
}
