//! From rows to records.

use jiff::Timestamp;
use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::error::{Error, Result, corrupt};
use crate::clock::from_micros;
pub(super) use crate::store::records::ReadCells;
use crate::store::stored_key::{KeyRow, Nonsense, StoredKey, StoredMoney};
use crate::{Amount, Balance, KeyId, Scope, ScopeSet};

/// The cells of a row, read from left to right.
pub(super) struct Cells<'r> {
    row: &'r Row<'r>,
    next: usize,
}

/// What can be read from a cell.
pub(super) trait FromCell<'r>: Sized {
    fn from_cell(cell: ValueRef<'r>) -> Option<Self>;
}

impl<'r> Cells<'r> {
    pub(super) fn of(row: &'r Row<'r>) -> Self {
        Self { row, next: 0 }
    }

    pub(super) fn read<T: FromCell<'r>>(&mut self) -> Result<T> {
        let cell = self.row.get_ref(self.next)?;
        self.next += 1;
        T::from_cell(cell).ok_or_else(|| corrupt("a row has another form than was asked for"))
    }

    /// A key and its balance.
    pub(super) fn key_row(&mut self) -> Result<KeyRow> {
        let stored = StoredKey {
            id: self.key_id()?,
            account: self.read()?,
            parent: self.maybe_key_id()?,
            name: self.read()?,
            prefix: self.read()?,
            start: self.read()?,
            scopes: scopes(self.read()?),
            limit: Ok(self.read::<Option<i64>>()?.map(Amount::micros)),
            period: self.read::<&str>()?.parse().map_err(Into::into),
            created_at: self.instant()?,
            expires_at: self.maybe_instant()?,
            revoked_at: self.maybe_instant()?,
            money: self.money()?,
        };
        stored.decode().map_err(corrupt)
    }

    fn money(&mut self) -> Result<Option<StoredMoney<'r>>> {
        let (spent, held, since, period) = (self.read()?, self.read()?, self.read()?, self.read()?);
        let (Some(spent), Some(held), Some(since), Some(period)) = (spent, held, since, period) else {
            return Ok(None);
        };
        let balance = Balance::stored(Amount::micros(spent), Amount::micros(held), from_micros(since));
        Ok(Some(StoredMoney { account: None, balance, period, anchor: None }))
    }
}

impl<'r> ReadCells<'r> for Cells<'r> {
    type Error = Error;

    fn number(&mut self) -> Result<i64> {
        self.read()
    }

    fn maybe_number(&mut self) -> Result<Option<i64>> {
        self.read()
    }

    fn text(&mut self) -> Result<&'r str> {
        self.read()
    }

    fn maybe_text(&mut self) -> Result<Option<&'r str>> {
        self.read()
    }

    fn id(&mut self) -> Result<[u8; 16]> {
        self.read()
    }

    fn maybe_id(&mut self) -> Result<Option<[u8; 16]>> {
        self.read()
    }

    fn fingerprint(&mut self) -> Result<[u8; 32]> {
        self.read()
    }

    fn instant(&mut self) -> Result<Timestamp> {
        self.read().map(from_micros)
    }

    fn maybe_instant(&mut self) -> Result<Option<Timestamp>> {
        Ok(self.read::<Option<i64>>()?.map(from_micros))
    }

    fn path(&mut self) -> Result<Vec<KeyId>> {
        serde_json::from_str(self.read()?).map_err(corrupt)
    }

    fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        corrupt(error)
    }
}

/// Not read as a `ScopeSet`: the JSON text `null` would be unrestricted, and only a NULL is meant to be.
fn scopes(text: Option<&str>) -> std::result::Result<ScopeSet, Nonsense> {
    let Some(text) = text else { return Ok(ScopeSet::unrestricted()) };
    Ok(serde_json::from_str::<Vec<Scope>>(text)?.into_iter().collect())
}

impl<'r> FromCell<'r> for i64 {
    fn from_cell(cell: ValueRef<'r>) -> Option<Self> {
        cell.as_i64().ok()
    }
}

impl<'r> FromCell<'r> for &'r str {
    fn from_cell(cell: ValueRef<'r>) -> Option<Self> {
        cell.as_str().ok()
    }
}

impl<'r> FromCell<'r> for String {
    fn from_cell(cell: ValueRef<'r>) -> Option<Self> {
        <&str>::from_cell(cell).map(str::to_owned)
    }
}

impl<'r, const N: usize> FromCell<'r> for [u8; N] {
    fn from_cell(cell: ValueRef<'r>) -> Option<Self> {
        cell.as_blob().ok()?.try_into().ok()
    }
}

impl<'r, T: FromCell<'r>> FromCell<'r> for Option<T> {
    fn from_cell(cell: ValueRef<'r>) -> Option<Self> {
        match cell {
            ValueRef::Null => Some(None),
            cell => T::from_cell(cell).map(Some),
        }
    }
}
