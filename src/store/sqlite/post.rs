//! The transactions of the ledger.

use jiff::Timestamp;
use rusqlite::Connection;

use super::error::Result;
use super::load::Loaded;
use super::statement::in_writing;
use super::{load, write};
use crate::ledger::{Needs, Posted, Posting};
use crate::store::behind::Behind;
use crate::{Clock, Refusal};

pub(super) fn post(
    connection: &Connection,
    clock: &Clock,
    postings: &[Posting],
) -> Result<Vec<std::result::Result<Posted, Refusal>>> {
    let needs = Needs::of(postings);
    in_writing(connection, |connection| {
        let Loaded { mut book, mut accounts } = load::book(connection, &needs, clock.now())?;
        let posted = postings.iter().map(|posting| book.post(posting)).collect();
        write::changes(connection, &book.take_changes(), &mut accounts)?;
        Ok(posted)
    })
}

/// Brings what is behind up to date, in a transaction of its own; tells how many holds had run out.
pub(super) fn catch_up(connection: &Connection, clock: &Clock, behind: Behind) -> Result<usize> {
    in_writing(connection, |connection| catch_up_in(connection, clock.now(), behind))
}

/// The same, in a transaction that has begun.
pub(super) fn catch_up_in(connection: &Connection, now: Timestamp, behind: Behind) -> Result<usize> {
    let Behind { mut accounts, keys } = behind;
    accounts.sort_unstable();
    let Loaded { mut book, mut accounts } = load::book(connection, &Needs { accounts, keys, ..Needs::default() }, now)?;
    let changes = book.take_changes();
    write::changes(connection, &changes, &mut accounts)?;
    Ok(changes.changed_holds.len())
}
