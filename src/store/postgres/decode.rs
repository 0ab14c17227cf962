//! From rows to records.

use jiff::Timestamp;
use sqlx::postgres::{PgRow, Postgres};
use sqlx::{Decode, Row, Type};
use uuid::Uuid;

use super::error::{Result, invalid_row};
use super::layout::KeyColumns;
use super::types::{Instant, Stamp};
use crate::ledger::{Claim, ClaimRow, EntryRow, HoldRow, HoldState, OnExpiry};
use crate::store::stored_key::{StoredKey, StoredMoney};
use crate::{
    Account, AccountId, Amount, Balance, Budget, Entry, EntryId, EntryKind, KeyId, Labels, Note, PostingId, Scope,
};

/// The cells of a row, read from left to right.
pub(super) struct Cells<'r> {
    row: &'r PgRow,
    next: usize,
}

/// An account, and what only a store knows of it.
#[derive(Clone, Debug)]
pub(super) struct AccountRow {
    pub(super) account: Account,
    pub(super) version: i64,
    /// The instant of its last change.
    pub(super) changed_at: Timestamp,
    /// No live hold of it runs out before.
    pub(super) next_expiry: Option<Timestamp>,
    /// The place of its last entry.
    pub(super) last_entry: i64,
}

impl<'r> Cells<'r> {
    pub(super) fn of(row: &'r PgRow) -> Self {
        Self { row, next: 0 }
    }

    /// A row of a lineage, from its key on.
    pub(super) fn member(row: &'r PgRow) -> Self {
        Self { row, next: 4 }
    }

    pub(super) fn read<T: Decode<'r, Postgres> + Type<Postgres>>(&mut self) -> Result<T> {
        let place = self.next;
        self.next += 1;
        Ok(self.row.try_get_unchecked(place)?)
    }

    pub(super) fn key_id(&mut self) -> Result<KeyId> {
        self.read().map(KeyId::new)
    }

    pub(super) fn account_id(&mut self) -> Result<AccountId> {
        AccountId::new(self.read::<&str>()?).map_err(invalid_row)
    }

    pub(super) fn instant(&mut self) -> Result<Timestamp> {
        self.read().map(|Instant(at)| at)
    }

    pub(super) fn maybe_instant(&mut self) -> Result<Option<Timestamp>> {
        Ok(self.read::<Option<Instant>>()?.map(|Instant(at)| at))
    }

    fn amount(&mut self) -> Result<Amount> {
        self.read().map(Amount::micros)
    }

    fn posting_id(&mut self) -> Result<PostingId> {
        self.read().map(|id: Uuid| PostingId::from_bytes(id.into_bytes()))
    }

    fn maybe_entry_id(&mut self) -> Result<Option<EntryId>> {
        Ok(self.read::<Option<Uuid>>()?.map(|id| EntryId::from_bytes(id.into_bytes())))
    }

    fn note(&mut self) -> Result<Note> {
        let labels: Labels = serde_json::from_str(self.read()?).map_err(invalid_row)?;
        Ok(Note::new(labels, self.read()?))
    }

    /// A key, and the version of its row.
    pub(super) fn key(&mut self, columns: &'r KeyColumns) -> Result<(StoredKey<'r>, Stamp)> {
        let (id, account, parent) = (self.key_id()?, self.read()?, self.read::<Option<i64>>()?);
        let text = |text: Option<&'r str>| text.unwrap_or("");
        let (name, prefix, start) = (text(self.read()?), text(self.read()?), text(self.read()?));
        // An array may have any shape, and one that is no list makes no sense.
        let scopes = match self.read::<Option<Vec<Option<String>>>>() {
            Err(error) => Err(error.into()),
            Ok(None) => Ok(columns.absent.scopes.clone()),
            Ok(Some(scopes)) => {
                let scopes = scopes.into_iter().map(|scope| Scope::try_from(scope.unwrap_or_default()));
                scopes.collect::<Result<_, _>>().map_err(Into::into)
            }
        };
        let limit: Option<i64> = self.read()?;
        let period = columns.period(self.read()?, limit.is_some()).map_err(Into::into);
        let limit = columns.limit(limit).map_err(Into::into);
        let created_at = self.maybe_instant()?.unwrap_or(columns.absent.created_at);
        let (expires_at, revoked_at, stamp) = (self.maybe_instant()?, self.maybe_instant()?, self.read()?);
        let money = self.money()?;
        let parent = parent.map(KeyId::new);
        let key = StoredKey {
            id,
            account,
            parent,
            name,
            prefix,
            start,
            scopes,
            limit,
            period,
            created_at,
            expires_at,
            revoked_at,
            money,
            invalid_rows: Some(&columns.invalid_rows),
        };
        Ok((key, stamp))
    }

    fn money(&mut self) -> Result<Option<StoredMoney<'r>>> {
        let account: Option<&str> = self.read()?;
        if account.is_none() {
            self.next += 5;
            return Ok(None);
        }
        let period = self.read()?;
        let balance = Balance::stored(self.amount()?, self.amount()?, self.instant()?);
        Ok(Some(StoredMoney { account, balance, period, anchor: self.maybe_instant()? }))
    }

    /// An account; `None` where there is no row of it.
    pub(super) fn maybe_account(&mut self) -> Result<Option<AccountRow>> {
        let id: Option<&str> = self.read()?;
        let Some(id) = id else { return Ok(None) };
        let id = AccountId::new(id).map_err(invalid_row)?;
        let limit = self.read::<Option<i64>>()?.map(Amount::micros);
        let budget = Budget::new(limit, self.read::<&str>()?.parse().map_err(invalid_row)?);
        let created_at = self.instant()?;
        let balance = Balance::stored(self.amount()?, self.amount()?, self.instant()?);
        Ok(Some(AccountRow {
            account: Account::stored(id, budget, created_at, balance),
            version: self.read()?,
            changed_at: self.instant()?,
            next_expiry: self.maybe_instant()?,
            last_entry: self.read()?,
        }))
    }

    pub(super) fn hold(&mut self) -> Result<HoldRow> {
        Ok(HoldRow {
            id: self.posting_id()?,
            account: self.account_id()?,
            key: self.key_id()?,
            path: self.read::<Vec<i64>>()?.into_iter().map(KeyId::new).collect(),
            amount: self.amount()?,
            created_at: self.instant()?,
            expires_at: self.instant()?,
            on_expiry: match self.read()? {
                "charge" => OnExpiry::Charge,
                _ => OnExpiry::Release,
            },
            note: self.note()?,
            state: match self.read()? {
                "live" => HoldState::Live,
                "charged" => HoldState::Charged,
                _ => HoldState::Over,
            },
        })
    }

    pub(super) fn entry(&mut self) -> Result<Entry> {
        let (id, account, key) = (EntryId::from(self.posting_id()?), self.account_id()?, self.key_id()?);
        let kind = EntryKind::from_name(self.read()?).ok_or_else(|| invalid_row("an entry is of an unknown kind"))?;
        let mut entry = Entry::stored(id, account, key, kind, self.amount()?, self.instant()?);
        entry.counts_at = self.instant()?;
        entry.refunds = self.maybe_entry_id()?;
        entry.note = self.note()?;
        Ok(entry)
    }

    /// An entry, and behind it what refunds took of it.
    pub(super) fn entry_row(&mut self) -> Result<EntryRow> {
        Ok(EntryRow { entry: self.entry()?, refunded: self.amount()? })
    }

    pub(super) fn claim(&mut self) -> Result<ClaimRow> {
        let key = self.key_id()?;
        let name: &str = self.read()?;
        let fingerprint: &[u8] = self.read()?;
        Ok(ClaimRow {
            key,
            claim: Claim::new(name, fingerprint.try_into().map_err(invalid_row)?),
            owner: self.posting_id()?,
            in_flight_until: self.maybe_instant()?,
            entry: self.maybe_entry_id()?,
        })
    }
}
