//! Decodes rows into records and encodes states as texts, the same for both databases.

use jiff::Timestamp;

use super::account_row::AccountRow;
use crate::ledger::{EntryRow, HoldRow, HoldState, IdempotencyKey, IdempotencyRow, OnExpiry};
use crate::model::{
    Account, AccountId, Amount, Balance, Budget, Entry, EntryId, KeyId, Labels, Note, PostingId,
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The cells of a row, read from left to right.
pub(super) trait ReadCells<'r> {
    type Error;

    fn maybe_number(&mut self) -> Result<Option<i64>, Self::Error>;
    fn maybe_text(&mut self) -> Result<Option<&'r str>, Self::Error>;
    fn maybe_id(&mut self) -> Result<Option<[u8; 16]>, Self::Error>;
    fn maybe_instant(&mut self) -> Result<Option<Timestamp>, Self::Error>;
    fn fingerprint(&mut self) -> Result<[u8; 32], Self::Error>;
    fn path(&mut self) -> Result<Vec<KeyId>, Self::Error>;

    /// Returns the error of an invalid row.
    fn invalid(error: impl Into<BoxError>) -> Self::Error;

    /// Returns the value of a cell that is never NULL.
    fn required<T>(cell: Option<T>) -> Result<T, Self::Error> {
        cell.ok_or_else(|| Self::invalid("a cell is NULL that must not be"))
    }

    fn number(&mut self) -> Result<i64, Self::Error> {
        self.maybe_number().and_then(Self::required)
    }

    fn text(&mut self) -> Result<&'r str, Self::Error> {
        self.maybe_text().and_then(Self::required)
    }

    fn id(&mut self) -> Result<[u8; 16], Self::Error> {
        self.maybe_id().and_then(Self::required)
    }

    fn instant(&mut self) -> Result<Timestamp, Self::Error> {
        self.maybe_instant().and_then(Self::required)
    }

    fn key_id(&mut self) -> Result<KeyId, Self::Error> {
        self.number().map(KeyId::new)
    }

    fn maybe_key_id(&mut self) -> Result<Option<KeyId>, Self::Error> {
        Ok(self.maybe_number()?.map(KeyId::new))
    }

    fn account_id(&mut self) -> Result<AccountId, Self::Error> {
        AccountId::stored(self.text()?).map_err(Self::invalid)
    }

    fn amount(&mut self) -> Result<Amount, Self::Error> {
        self.number().map(Amount::micros)
    }

    /// Reads a sum of amounts in two halves, which leave room for any number of them.
    fn sum(&mut self) -> Result<i128, Self::Error> {
        Ok(i128::from(self.number()?) * (1 << 32) + i128::from(self.number()?))
    }

    fn budget(&mut self) -> Result<Budget, Self::Error> {
        let limit = self.maybe_number()?.map(Amount::micros);
        Ok(Budget::new(limit, self.text()?.parse().map_err(Self::invalid)?))
    }

    fn balance(&mut self) -> Result<Balance, Self::Error> {
        Ok(Balance::stored(self.amount()?, self.amount()?, self.instant()?))
    }

    fn note(&mut self) -> Result<Note, Self::Error> {
        let labels: Labels = serde_json::from_str(self.text()?).map_err(Self::invalid)?;
        Ok(Note::new(labels, self.maybe_text()?.map(str::to_owned)))
    }

    /// Reads an account; `None` if it has no row.
    fn maybe_account(&mut self) -> Result<Option<AccountRow>, Self::Error> {
        let Some(id) = self.maybe_text()? else { return Ok(None) };
        let id = AccountId::stored(id).map_err(Self::invalid)?;
        let budget = self.budget()?;
        let created_at = self.instant()?;
        Ok(Some(AccountRow {
            account: Account::stored(id, budget, created_at, self.balance()?),
            version: self.number()?,
            changed_at: self.instant()?,
            next_expiry: self.maybe_instant()?,
            last_entry: self.number()?,
        }))
    }

    fn hold(&mut self) -> Result<HoldRow, Self::Error> {
        Ok(HoldRow {
            id: PostingId::from_bytes(self.id()?),
            account: self.account_id()?,
            key: self.key_id()?,
            path: self.path()?,
            amount: self.amount()?,
            created_at: self.instant()?,
            expires_at: self.instant()?,
            on_expiry: one_of([OnExpiry::Release, OnExpiry::Charge], on_expiry, self.text()?)
                .map_err(Self::invalid)?,
            note: self.note()?,
            state: one_of(
                [HoldState::Live, HoldState::Ended, HoldState::Charged],
                hold_state,
                self.text()?,
            )
            .map_err(Self::invalid)?,
        })
    }

    fn entry(&mut self) -> Result<Entry, Self::Error> {
        let (id, account, key) =
            (EntryId::from_bytes(self.id()?), self.account_id()?, self.maybe_key_id()?);
        let kind =
            self.text()?.parse().map_err(|_| Self::invalid("an entry has an unknown kind"))?;
        let mut entry = Entry::stored(id, account, key, kind, self.amount()?, self.instant()?);
        entry.counts_at = self.instant()?;
        entry.refunds = self.maybe_id()?.map(EntryId::from_bytes);
        entry.note = self.note()?;
        Ok(entry)
    }

    /// Reads an entry, and after it what refunds gave back of it.
    fn entry_row(&mut self) -> Result<EntryRow, Self::Error> {
        Ok(EntryRow { entry: self.entry()?, refunded: self.amount()? })
    }

    fn claim(&mut self) -> Result<IdempotencyRow, Self::Error> {
        Ok(IdempotencyRow {
            key: self.key_id()?,
            claim: IdempotencyKey::new(self.text()?, self.fingerprint()?),
            owner: PostingId::from_bytes(self.id()?),
            in_flight_until: self.maybe_instant()?,
            entry: self.maybe_id()?.map(EntryId::from_bytes),
        })
    }
}

pub(super) const fn on_expiry(on_expiry: OnExpiry) -> &'static str {
    match on_expiry {
        OnExpiry::Release => "release",
        OnExpiry::Charge => "charge",
    }
}

pub(super) const fn hold_state(state: HoldState) -> &'static str {
    match state {
        HoldState::Live => "live",
        HoldState::Ended => "ended",
        HoldState::Charged => "charged",
    }
}

fn one_of<T: Copy, const N: usize>(
    all: [T; N],
    name: fn(T) -> &'static str,
    text: &str,
) -> Result<T, String> {
    all.into_iter()
        .find(|one| name(*one) == text)
        .ok_or_else(|| format!("a hold has the unknown state {text:?}"))
}
