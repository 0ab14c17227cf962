//! The steps of a migration.

use jiff::Timestamp;
use sqlx::postgres::{PgRow, Postgres};
use sqlx::{Decode, Row, Type};

use super::connection::Statements;
use super::error::Result;

/// A script of one or more statements.
pub(super) struct Step {
    pub(super) text: String,
    /// Whether the store cannot work without it.
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

/// The instant of a migration, and its SQL expression.
pub(super) struct Now {
    pub(super) at: Timestamp,
    pub(super) sql: String,
}

/// Returns whether a table of this name exists.
pub(super) async fn exists(statements: &mut Statements<'_>, table: &str) -> Result<bool> {
    let query = sqlx::query("SELECT to_regclass($1) IS NOT NULL").bind(table.to_owned());
    first(&statements.fetch(query).await?, false)
}

/// Returns the first cell of the first row, or `otherwise` if there is no row.
pub(super) fn first<T: for<'r> Decode<'r, Postgres> + Type<Postgres>>(
    rows: &[PgRow],
    otherwise: T,
) -> Result<T> {
    rows.first().map_or(Ok(otherwise), |row| Ok(row.try_get(0)?))
}
