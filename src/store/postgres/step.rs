//! What a migration is made of.

use jiff::Timestamp;
use sqlx::postgres::{PgRow, Postgres};
use sqlx::{Decode, Row, Type};

use super::connection::Statements;
use super::error::Result;

/// Something to run. It may be several statements.
pub(super) struct Step {
    pub(super) text: String,
    /// Whether nothing works without it.
    pub(super) is_needed: bool,
}

impl Step {
    pub(super) fn needed(text: String) -> Self {
        Self { text, is_needed: true }
    }

    pub(super) fn useful(text: String) -> Self {
        Self { text, is_needed: false }
    }
}

/// The instant of a migration, and the SQL that says it.
pub(super) struct Now {
    pub(super) at: Timestamp,
    pub(super) sql: String,
}

/// Whether there is a table of this name.
pub(super) async fn is_there(statements: &mut Statements<'_>, table: &str) -> Result<bool> {
    let there = sqlx::query("SELECT to_regclass($1) IS NOT NULL").bind(table.to_owned());
    first(&statements.fetch(there).await?, false)
}

/// The first cell of the first row, or what there is without one.
pub(super) fn first<T: for<'r> Decode<'r, Postgres> + Type<Postgres>>(rows: &[PgRow], otherwise: T) -> Result<T> {
    rows.first().map_or(Ok(otherwise), |row| Ok(row.try_get(0)?))
}
