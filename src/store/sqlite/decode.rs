//! From rows to records.

use jiff::Timestamp;
use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::error::{Result, corrupt};
use crate::clock::from_micros;
use crate::ledger::{Claim, EntryRow};
use crate::ledger::{ClaimRow, HoldRow, HoldState, OnExpiry};
use crate::store::account_row::AccountRow;
use crate::store::stored_key::{Nonsense, StoredKey, StoredMoney};
use crate::{
    Account, AccountId, Amount, Balance, Budget, Entry, EntryId, EntryKind, KeyId, Labels, Note, Period, PostingId,
    Scope, ScopeSet,
};

/// The columns of a key `k` and its balance `b`, as [`Cells::key`] reads them.
macro_rules! key_columns {
    () => {
        "k.id, k.account_id, k.parent_id, k.name, k.prefix, k.start, k.scopes, k.limit_micros, k.period, \
         k.created_at, k.expires_at, k.revoked_at, b.spent, b.held, b.since, b.period"
    };
}

/// The columns of an account `a`, as [`Cells::account`] reads them.
macro_rules! account_columns {
    () => {
        "a.id, a.limit_micros, a.period, a.created_at, a.spent, a.held, a.since, a.version, a.changed_at, \
         a.next_expiry, a.last_entry"
    };
}

/// The columns of a hold `h`, as [`Cells::hold`] reads them.
macro_rules! hold_columns {
    () => {
        "h.id, h.account_id, h.key_id, h.path, h.amount, h.created_at, h.expires_at, h.on_expiry, h.labels, \
         h.reference, h.state"
    };
}

/// The columns of an entry `e`, as [`Cells::entry`] reads them.
macro_rules! entry_columns {
    () => {
        "e.id, e.account_id, e.key_id, e.kind, e.amount, e.at, e.counts_at, e.refunds, e.labels, e.reference"
    };
}

pub(super) use {account_columns, entry_columns, hold_columns, key_columns};

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

    pub(super) fn key_id(&mut self) -> Result<KeyId> {
        self.read().map(KeyId::new)
    }

    pub(super) fn account_id(&mut self) -> Result<AccountId> {
        account_id(self.read()?)
    }

    pub(super) fn instant(&mut self) -> Result<Timestamp> {
        self.read().map(from_micros)
    }

    pub(super) fn maybe_instant(&mut self) -> Result<Option<Timestamp>> {
        Ok(self.read::<Option<i64>>()?.map(from_micros))
    }

    fn amount(&mut self) -> Result<Amount> {
        self.read().map(Amount::micros)
    }

    fn maybe_entry_id(&mut self) -> Result<Option<EntryId>> {
        Ok(self.read::<Option<_>>()?.map(EntryId::from_bytes))
    }

    fn note(&mut self) -> Result<Note> {
        let labels: Labels = serde_json::from_str(self.read()?).map_err(corrupt)?;
        Ok(Note::new(labels, self.read()?))
    }

    pub(super) fn stored_key(&mut self) -> Result<StoredKey<'r>> {
        Ok(StoredKey {
            id: self.key_id()?,
            account: self.read()?,
            parent: self.read::<Option<i64>>()?.map(KeyId::new),
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
            invalid_rows: None,
        })
    }

    fn money(&mut self) -> Result<Option<StoredMoney<'r>>> {
        let (spent, held, since, period) = (self.read()?, self.read()?, self.read()?, self.read()?);
        let (Some(spent), Some(held), Some(since), Some(period)) = (spent, held, since, period) else {
            return Ok(None);
        };
        let balance = Balance::stored(Amount::micros(spent), Amount::micros(held), from_micros(since));
        Ok(Some(StoredMoney { account: None, balance, period, anchor: None }))
    }

    pub(super) fn account(&mut self) -> Result<AccountRow> {
        let id = self.account_id()?;
        let limit = self.read::<Option<i64>>()?.map(Amount::micros);
        let budget = Budget::new(limit, period(self.read()?)?);
        let created_at = self.instant()?;
        let balance = Balance::stored(self.amount()?, self.amount()?, self.instant()?);
        Ok(AccountRow {
            account: Account::stored(id, budget, created_at, balance),
            version: self.read()?,
            changed_at: self.instant()?,
            next_expiry: self.maybe_instant()?,
            last_entry: self.read()?,
        })
    }

    pub(super) fn hold(&mut self) -> Result<HoldRow> {
        Ok(HoldRow {
            id: PostingId::from_bytes(self.read()?),
            account: self.account_id()?,
            key: self.key_id()?,
            path: self.path()?,
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

    pub(super) fn path(&mut self) -> Result<Vec<KeyId>> {
        serde_json::from_str(self.read()?).map_err(corrupt)
    }

    pub(super) fn entry(&mut self) -> Result<Entry> {
        let (id, account, key) = (EntryId::from_bytes(self.read()?), self.account_id()?, self.key_id()?);
        let kind = EntryKind::from_name(self.read()?).ok_or_else(|| corrupt("an entry is of an unknown kind"))?;
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
        Ok(ClaimRow {
            key: self.key_id()?,
            claim: Claim::new(self.read::<&str>()?, self.read()?),
            owner: PostingId::from_bytes(self.read()?),
            in_flight_until: self.maybe_instant()?,
            entry: self.maybe_entry_id()?,
        })
    }
}

/// Not read as a `ScopeSet`: the JSON text `null` would be unrestricted, and only a NULL is meant to be.
fn scopes(text: Option<&str>) -> std::result::Result<ScopeSet, Nonsense> {
    let Some(text) = text else { return Ok(ScopeSet::unrestricted()) };
    Ok(serde_json::from_str::<Vec<Scope>>(text)?.into_iter().collect())
}

fn account_id(text: &str) -> Result<AccountId> {
    AccountId::new(text).map_err(corrupt)
}

fn period(name: &str) -> Result<Period> {
    name.parse().map_err(corrupt)
}

impl<'r> FromCell<'r> for i64 {
    fn from_cell(cell: ValueRef<'r>) -> Option<Self> {
        cell.as_i64().ok()
    }
}

impl<'r> FromCell<'r> for bool {
    fn from_cell(cell: ValueRef<'r>) -> Option<Self> {
        i64::from_cell(cell).map(|number| number != 0)
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
