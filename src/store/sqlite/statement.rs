//! Prepared statements.

use rusqlite::{CachedStatement, Connection, Params};

use super::decode::Cells;
use super::error::Result;

/// The row, if there is one.
pub(super) fn one<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(Cells<'_>) -> Result<T>,
) -> Result<Option<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(|row| read(Cells::of(row))).transpose()
}

/// All rows.
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
        all.push(read(Cells::of(row))?);
    }
    Ok(all)
}

/// Tells how many rows were changed.
pub(super) fn run(connection: &Connection, sql: &str, params: impl Params) -> Result<usize> {
    Ok(connection.prepare_cached(sql)?.execute(params)?)
}

/// Does this with one statement for each of these: it is looked for once, and not at all where there are none.
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

/// Reads everything as it is at one moment.
pub(super) fn in_snapshot<T>(connection: &Connection, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    run(connection, "BEGIN", [])?;
    let value = read(connection)?;
    run(connection, "COMMIT", [])?;
    Ok(value)
}
