//! The transactions of the ledger.

use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::{load, write};
use crate::ledger::{Needs, Posted, Posting};
use crate::store::behind::Behind;
use crate::{Clock, Refusal};

pub(super) async fn post(
    connection: &mut SqliteConnection,
    clock: &Clock,
    postings: &[Posting],
) -> sqlx::Result<Vec<Result<Posted, Refusal>>> {
    let needs = Needs::of(postings);
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut book = load::book(&mut tx, &needs, clock.now()).await?;
    let posted = postings.iter().map(|posting| book.post(posting)).collect();
    let changes = book.take_changes();
    if changes.is_empty() {
        tx.rollback().await?;
    } else {
        write::changes(&mut tx, &changes).await?;
        tx.commit().await?;
    }
    Ok(posted)
}

/// Brings what is behind up to date, in a transaction of its own; tells how many holds had run out.
pub(super) async fn catch_up(connection: &mut SqliteConnection, clock: &Clock, behind: Behind) -> sqlx::Result<usize> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    let ended = catch_up_in(&mut tx, clock.now(), behind).await?;
    tx.commit().await?;
    Ok(ended)
}

/// The same, in a transaction that has begun.
pub(super) async fn catch_up_in(
    connection: &mut SqliteConnection,
    now: jiff::Timestamp,
    behind: Behind,
) -> sqlx::Result<usize> {
    let Behind { mut accounts, keys } = behind;
    accounts.sort_unstable();
    let mut book = load::book(connection, &Needs { accounts, keys, ..Needs::default() }, now).await?;
    let changes = book.take_changes();
    write::changes(connection, &changes).await?;
    Ok(changes.changed_holds.len())
}
