//! Decodes rows into records.

use jiff::Timestamp;
use rusqlite::Row;
use rusqlite::types::{Value, ValueRef};
use zeroize::Zeroizing;

use super::error::{Error, Result, corrupt};
use crate::model::clock::from_micros;
use crate::model::{Cidrs, KeyId, Scope, ScopeSet};
use crate::store::key_row::{KeyRow, StoredKey, StoredMoney, StoredPolicy, rate_limit};
pub(super) use crate::store::records::ReadCells;

/// The cells of a row, read from left to right.
pub(super) struct Cells<'r> {
    row: &'r Row<'r>,
    next: usize,
}

impl<'r> Cells<'r> {
    pub(super) fn new(row: &'r Row<'r>) -> Self {
        Self { row, next: 0 }
    }

    fn cell(&mut self) -> Result<ValueRef<'r>> {
        let cell = self.row.get_ref(self.next)?;
        self.next += 1;
        Ok(cell)
    }

    /// Reads a cell of any type.
    pub(super) fn value(&mut self) -> Result<Value> {
        self.cell()?.try_into().map_err(corrupt)
    }

    /// Reads a key and its balance.
    pub(super) fn key_row(&mut self) -> Result<KeyRow> {
        let stored = StoredKey {
            id: self.key_id()?,
            account: self.maybe_text()?,
            parent: self.maybe_key_id()?,
            name: self.text()?,
            prefix: self.text()?,
            start: self.text()?,
            subject: (self.maybe_text()?, self.maybe_text()?),
            policy: Ok(self.policy()?),
            created_at: self.instant()?,
            expires_at: self.maybe_instant()?,
            disabled_at: self.maybe_instant()?,
            revoked_at: self.maybe_instant()?,
            revoked_reason: self.maybe_text()?,
            delegated_by: self.maybe_text()?,
            metadata: self.maybe_text()?,
            money: self.money()?,
        };
        stored.decode().map_err(corrupt)
    }

    fn policy(&mut self) -> Result<StoredPolicy> {
        Ok(StoredPolicy {
            scopes: scopes(self.maybe_text()?)?,
            budget: self.budget()?,
            rate_limit: rate_limit(self.maybe_text()?).map_err(corrupt)?,
            allowed_cidrs: self.maybe_text()?.map(cidrs),
        })
    }

    fn money(&mut self) -> Result<Option<StoredMoney<'r>>> {
        let Some(period) = self.maybe_text()? else {
            self.next += 5;
            return Ok(None);
        };
        let balance = self.balance(period.parse().map_err(corrupt)?)?;
        Ok(Some(StoredMoney { account: None, balance, anchor: self.maybe_instant()? }))
    }
}

impl<'r> ReadCells<'r> for Cells<'r> {
    type Error = Error;

    fn maybe_number(&mut self) -> Result<Option<i64>> {
        self.cell()?.as_i64_or_null().map_err(corrupt)
    }

    fn maybe_text(&mut self) -> Result<Option<&'r str>> {
        self.cell()?.as_str_or_null().map_err(corrupt)
    }

    fn maybe_id(&mut self) -> Result<Option<[u8; 16]>> {
        self.cell()?
            .as_blob_or_null()
            .map_err(corrupt)?
            .map(|id| id.try_into().map_err(corrupt))
            .transpose()
    }

    fn maybe_instant(&mut self) -> Result<Option<Timestamp>> {
        Ok(self.maybe_number()?.map(from_micros))
    }

    fn fingerprint(&mut self) -> Result<[u8; 32]> {
        self.cell()?.as_blob().map_err(corrupt)?.try_into().map_err(corrupt)
    }

    fn path(&mut self) -> Result<Vec<KeyId>> {
        serde_json::from_str(self.text()?).map_err(corrupt)
    }

    fn secret(&mut self) -> Result<Zeroizing<Vec<u8>>> {
        Ok(Zeroizing::new(self.cell()?.as_blob().map_err(corrupt)?.to_vec()))
    }

    fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        corrupt(error)
    }
}

/// Decodes ranges of addresses. No CHECK of the table can read them, so ranges that make no sense let the
/// key be used from nowhere, and hinder no other key.
fn cidrs(text: &str) -> Cidrs {
    serde_json::from_str(text).unwrap_or_else(|error| {
        tracing::error!(%error, "agent_keys has an `allowed_cidrs` that cannot be read, so its key is refused");
        Cidrs::nowhere()
    })
}

/// Decodes scopes. They are not parsed as a `ScopeSet`: the JSON text `null` would be unrestricted, and only an SQL
/// NULL may be.
fn scopes(text: Option<&str>) -> Result<ScopeSet> {
    let Some(text) = text else { return Ok(ScopeSet::unrestricted()) };
    let list: Vec<String> = serde_json::from_str(text).map_err(corrupt)?;
    list.iter().map(|scope| Scope::stored(scope).map_err(corrupt)).collect()
}
