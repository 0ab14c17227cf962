//! Prepared statements.

use rusqlite::{CachedStatement, Connection, Params};

use super::decode::Cells;
use super::error::Result;

/// Returns the row, if there is one.
pub(super) fn one<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(Cells<'_>) -> Result<T>,
) -> Result<Option<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(|row| read(Cells::new(row))).transpose()
}

/// Returns all rows.
pub(super) fn all<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    mut read: impl FnMut(Cells<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(read(Cells::new(row))?);
    }
    Ok(all)
}

/// Executes a statement. Returns how many rows it changed.
pub(super) fn run(connection: &Connection, sql: &str, params: impl Params) -> Result<usize> {
    Ok(connection.prepare_cached(sql)?.execute(params)?)
}

/// Calls `write` for each row with one prepared statement. Prepares none if there are no rows.
pub(super) fn each<R>(
    connection: &Connection,
    sql: &str,
    rows: impl IntoIterator<Item = R>,
    mut write: impl FnMut(&mut CachedStatement<'_>, R) -> Result<()>,
) -> Result<()> {
    let mut rows = rows.into_iter().peekable();
    if rows.peek().is_none() {
        return Ok(());
    }
    let mut statement = connection.prepare_cached(sql)?;
    rows.try_for_each(|row| write(&mut statement, row))
}

/// Runs `read` in one snapshot.
pub(super) fn in_snapshot<T>(
    connection: &Connection,
    read: impl FnOnce(&Connection) -> Result<T>,
) -> Result<T> {
    run(connection, "BEGIN", [])?;
    let value = read(connection)?;
    run(connection, "COMMIT", [])?;
    Ok(value)
}
