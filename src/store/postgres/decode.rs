//! Decodes rows into records.

use jiff::Timestamp;
use sqlx::postgres::{PgRow, Postgres};
use sqlx::{Decode, Row, Type};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::error::{Error, Result, invalid_row};
use super::schema::KeyColumns;
use super::types::{Instant, RowVersion};
use crate::model::{Cidrs, KeyId, Scope};
use crate::store::key_row::{InvalidRow, StoredKey, StoredMoney, StoredPolicy, rate_limit};
pub(super) use crate::store::records::ReadCells;
use crate::store::records::budget;

/// The cells of a row, read from left to right.
pub(super) struct Cells<'r> {
    row: &'r PgRow,
    next: usize,
}

impl<'r> Cells<'r> {
    pub(super) fn new(row: &'r PgRow) -> Self {
        Self { row, next: 0 }
    }

    /// Starts at the key in a row of a lineage.
    pub(super) fn member(row: &'r PgRow) -> Self {
        Self { row, next: 4 }
    }

    /// Starts at the cell that so many cells end with.
    pub(super) fn last(row: &'r PgRow, cells: usize) -> Self {
        Self { row, next: row.len().saturating_sub(cells) }
    }

    pub(super) fn read<T: Decode<'r, Postgres> + Type<Postgres>>(&mut self) -> Result<T> {
        let index = self.next;
        self.next += 1;
        Ok(self.row.try_get_unchecked(index)?)
    }

    /// Reads a key and the version of its row.
    pub(super) fn key(&mut self, columns: &'r KeyColumns) -> Result<(StoredKey<'r>, RowVersion)> {
        let (id, account, parent) = (self.key_id()?, self.maybe_text()?, self.maybe_key_id()?);
        let mut text = || Ok::<_, Error>(self.maybe_text()?.unwrap_or(""));
        let (name, prefix, start) = (text()?, text()?, text()?);
        let (prefix, start) = columns.shown(prefix, start);
        // An array may have any shape, and one that is not a list is invalid.
        let scopes = self.read::<Option<Vec<Option<String>>>>();
        let (limit, period, more_limits) =
            (self.maybe_number()?, self.maybe_text()?, self.maybe_text()?);
        let limit_text = self.maybe_text()?;
        let cidrs = self.read::<Option<Vec<Option<String>>>>();
        let policy = || -> Result<_, InvalidRow> {
            let scopes = match scopes? {
                None => columns.null_defaults.scopes.clone(),
                Some(scopes) => {
                    let scopes = scopes
                        .iter()
                        .map(|scope| Scope::stored(scope.as_deref().unwrap_or_default()));
                    scopes.collect::<Result<_, _>>()?
                }
            };
            let first = (columns.limit(limit)?, columns.period(period, limit.is_some())?);
            let cidrs = cidrs?.map(|ranges| {
                Cidrs::parse(ranges.iter().map(|range| range.as_deref().unwrap_or_default()))
            });
            Ok(StoredPolicy {
                scopes,
                budget: budget(first, more_limits)?,
                rate_limit: rate_limit(limit_text)?,
                allowed_cidrs: cidrs.transpose()?,
            })
        };
        let created_at = self.maybe_instant()?.unwrap_or(columns.null_defaults.created_at);
        let (expires_at, disabled_at) = (self.maybe_instant()?, self.maybe_instant()?);
        let (revoked_at, revoked_reason) = (self.maybe_instant()?, self.maybe_text()?);
        let delegated_by = self.maybe_text()?.filter(|human| !human.is_empty());
        let metadata = self.maybe_text()?;
        let issuer = self.maybe_text()?.or(columns.default_issuer.as_deref());
        let subject = (issuer, self.maybe_text()?);
        let version = self.read()?;
        let (policy, money) = (policy(), self.money()?);
        let key = StoredKey {
            id,
            account,
            parent,
            name,
            prefix,
            start,
            subject,
            policy,
            created_at,
            expires_at,
            disabled_at,
            revoked_at,
            revoked_reason,
            delegated_by,
            metadata,
            money,
        };
        Ok((key, version))
    }

    fn money(&mut self) -> Result<Option<StoredMoney<'r>>> {
        let account = self.maybe_text()?;
        if account.is_none() {
            self.next += 6;
            return Ok(None);
        }
        let period = self.text()?.parse().map_err(invalid_row)?;
        let balance = self.balance(period)?;
        Ok(Some(StoredMoney { account, balance, anchor: self.maybe_instant()? }))
    }
}

impl<'r> ReadCells<'r> for Cells<'r> {
    type Error = Error;

    fn maybe_number(&mut self) -> Result<Option<i64>> {
        self.read()
    }

    fn maybe_text(&mut self) -> Result<Option<&'r str>> {
        self.read()
    }

    fn maybe_id(&mut self) -> Result<Option<[u8; 16]>> {
        Ok(self.read::<Option<Uuid>>()?.map(Uuid::into_bytes))
    }

    fn fingerprint(&mut self) -> Result<[u8; 32]> {
        self.read::<&[u8]>()?.try_into().map_err(invalid_row)
    }

    fn maybe_instant(&mut self) -> Result<Option<Timestamp>> {
        Ok(self.read::<Option<Instant>>()?.map(|Instant(at)| at))
    }

    fn path(&mut self) -> Result<Vec<KeyId>> {
        Ok(self.read::<Vec<i64>>()?.into_iter().map(KeyId::new).collect())
    }

    fn secret(&mut self) -> Result<Zeroizing<Vec<u8>>> {
        Ok(Zeroizing::new(self.read::<&[u8]>()?.to_vec()))
    }

    fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        invalid_row(error)
    }
}
