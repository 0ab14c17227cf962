//! The answer to a query, as one JSON array of rows.
//!
//! sqlx carries every row of SQLite over a channel from another thread, and every cell in an allocation of its own. A
//! batch of look-ups would be woken up for each of its rows; as one JSON text they come at once.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use sqlx::sqlite::SqliteConnection;

use super::error::corrupt;
use super::load::Query;

/// What a query made by `rows!` answered.
pub(super) struct Rows(String);

impl Rows {
    pub(super) async fn fetch(connection: &mut SqliteConnection, query: Query<'_>) -> sqlx::Result<Self> {
        let row = query.fetch_one(connection).await?;
        sqlx::Row::try_get(&row, 0).map(Self)
    }

    /// The answers to so many queries made by `rows!`, which are the columns of one.
    pub(super) async fn fetch_each<const N: usize>(
        connection: &mut SqliteConnection,
        query: Query<'_>,
    ) -> sqlx::Result<[Self; N]> {
        let row = query.fetch_one(connection).await?;
        let answers = (0..N).map(|place| sqlx::Row::try_get(&row, place).map(Self));
        answers.collect::<sqlx::Result<Vec<_>>>()?.try_into().map_err(|_| corrupt("a query did not answer"))
    }

    /// The rows, in no order that may be relied on.
    pub(super) fn read(&self) -> sqlx::Result<Vec<Vec<Cell<'_>>>> {
        serde_json::from_str(&self.0).map_err(corrupt)
    }
}

/// A cell of a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell<'r> {
    Null,
    Integer(i64),
    Text(Cow<'r, str>),
}

/// What can be read from a cell.
pub(super) trait FromCell<'r>: Sized {
    fn from_cell(cell: &'r Cell<'r>) -> Option<Self>;
}

impl<'r> FromCell<'r> for i64 {
    fn from_cell(cell: &'r Cell<'r>) -> Option<Self> {
        match cell {
            Cell::Integer(number) => Some(*number),
            Cell::Null | Cell::Text(_) => None,
        }
    }
}

impl<'r> FromCell<'r> for bool {
    fn from_cell(cell: &'r Cell<'r>) -> Option<Self> {
        i64::from_cell(cell).map(|number| number != 0)
    }
}

impl<'r> FromCell<'r> for &'r str {
    fn from_cell(cell: &'r Cell<'r>) -> Option<Self> {
        match cell {
            Cell::Text(text) => Some(text),
            Cell::Null | Cell::Integer(_) => None,
        }
    }
}

impl<'r> FromCell<'r> for String {
    fn from_cell(cell: &'r Cell<'r>) -> Option<Self> {
        <&str>::from_cell(cell).map(str::to_owned)
    }
}

impl<'r, T: FromCell<'r>> FromCell<'r> for Option<T> {
    fn from_cell(cell: &'r Cell<'r>) -> Option<Self> {
        match cell {
            Cell::Null => Some(None),
            cell => T::from_cell(cell).map(Some),
        }
    }
}

impl<'de> Deserialize<'de> for Cell<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyCell;

        impl<'de> Visitor<'de> for AnyCell {
            type Value = Cell<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("null, an integer or a text")
            }

            fn visit_unit<E: Error>(self) -> Result<Cell<'de>, E> {
                Ok(Cell::Null)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Cell<'de>, E> {
                Ok(Cell::Integer(number))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Cell<'de>, E> {
                i64::try_from(number).map(Cell::Integer).map_err(E::custom)
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Cell<'de>, E> {
                Ok(Cell::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Cell<'de>, E> {
                Ok(Cell::Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_any(AnyCell)
    }
}
