//! Transactions that write, and what the cache learns of them.

use rusqlite::Connection;

use super::connection::Open;
use super::error::Result;
use super::index::{EntryPlace, RecentEntries};
use super::statement::run;
use super::version::{ByFileVersion, Cache, FileVersion};
use crate::model::AccountId;
use crate::store::cache::{CacheDelta, Revalidation, Write};

/// A transaction that has begun: no other process can write until it ends.
pub(super) struct Begun<'a> {
    /// The version of the file; the cache has been brought to it.
    pub(super) version: Option<FileVersion>,
    pub(super) asked: Revalidation<ByFileVersion>,
    pub(super) recent: &'a RecentEntries,
}

/// What a transaction wrote.
#[derive(Default)]
pub(super) struct Written {
    pub(super) deltas: Vec<CacheDelta>,
    /// Where its entries are.
    pub(super) places: Vec<EntryPlace>,
    /// The accounts whose policy it changed.
    pub(super) policy: Vec<AccountId>,
}

/// Reads and writes under the lock of the file. What fails is rolled back by the thread of the connection.
pub(super) fn in_writing<T>(
    open: &mut Open,
    cache: &Cache,
    write: impl FnOnce(&Connection, &Begun<'_>) -> Result<(T, Written)>,
) -> Result<T> {
    let Open { connection, versions, recent, .. } = open;
    run(connection, "BEGIN IMMEDIATE", [])?;
    let changes = connection.total_changes();
    let asked = cache.revalidate(&[], |_| false);
    let version = FileVersion::read(connection)?;
    version.map(|version| cache.validate(&asked, version));
    let (value, written) = write(connection, &Begun { version, asked, recent })?;
    if connection.total_changes() == changes {
        run(connection, "COMMIT", [])?;
        return Ok(value);
    }
    let Written { deltas, places, policy } = written;
    let next = FileVersion::next(connection)?;
    let pending = cache.begin_write(Write { epoch: version, next, deltas, policy });
    let before = versions.header();
    run(connection, "COMMIT", [])?;
    pending.on_commit();
    versions.on_commit(before, next);
    recent.append(version, next, places);
    Ok(value)
}
