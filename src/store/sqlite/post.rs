//! The transactions of the ledger.

use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::{load, write};
use crate::ledger::{Needs, Posted, Posting};
use crate::{AccountId, Clock, Refusal};

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

/// Ends the holds of these accounts that have run out, in a transaction of its own; tells how many there were.
pub(super) async fn end_overdue(
    connection: &mut SqliteConnection,
    clock: &Clock,
    accounts: Vec<AccountId>,
) -> sqlx::Result<usize> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    let ended = end_overdue_in(&mut tx, clock.now(), accounts).await?;
    tx.commit().await?;
    Ok(ended)
}

/// The same, in a transaction that has begun.
pub(super) async fn end_overdue_in(
    connection: &mut SqliteConnection,
    now: jiff::Timestamp,
    accounts: Vec<AccountId>,
) -> sqlx::Result<usize> {
    let mut book = load::book(connection, &Needs { accounts, ..Needs::default() }, now).await?;
    let changes = book.take_changes();
    write::changes(connection, &changes).await?;
    Ok(changes.changed_holds.len())
}
