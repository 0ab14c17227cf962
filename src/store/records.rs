//! Decodes rows into records and encodes states as texts, the same for both databases.

use std::collections::HashMap;

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::account_row::AccountRow;
use crate::ledger::{EntryRow, HoldRow, HoldState, IdempotencyKey, IdempotencyRow, OnExpiry};
use crate::model::clock::from_micros;
use crate::model::{
    Account, AccountId, Amount, Balance, Budget, Entry, EntryId, Event, KeyId, Labels, Note,
    Period, PostingId, Spent, StoredSigningKey,
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
    fn secret(&mut self) -> Result<Zeroizing<Vec<u8>>, Self::Error>;

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

    fn signing_key(&mut self) -> Result<StoredSigningKey, Self::Error> {
        Ok(StoredSigningKey {
            kid: self.text()?.to_owned(),
            algorithm: self.text()?.to_owned(),
            secret: self.secret()?,
            created_at: self.instant()?,
        })
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
        let first = (limit, self.text()?.parse().map_err(Self::invalid)?);
        budget(first, self.maybe_text()?).map_err(Self::invalid)
    }

    /// Reads a balance, whose first period is this one.
    fn balance(&mut self, period: Period) -> Result<Balance, Self::Error> {
        let (spent, held, since) = (self.amount()?, self.amount()?, self.instant()?);
        let more = read_more_spent(self.maybe_text()?).map_err(Self::invalid)?;
        Ok(Balance::stored(held, Spent::new(period, spent, since), more))
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
            account: Account::stored(id, budget, created_at, self.balance(budget.period)?),
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

    /// Reads an entry, and after it the delegator of its key.
    fn entry_with_delegator(&mut self) -> Result<Entry, Self::Error> {
        let mut entry = self.entry()?;
        entry.delegated_by = self.maybe_text()?.map(str::to_owned);
        Ok(entry)
    }

    /// Reads an entry, and after it what refunds gave back of it.
    fn entry_row(&mut self) -> Result<EntryRow, Self::Error> {
        Ok(EntryRow { entry: self.entry()?, refunded: self.amount()? })
    }

    fn event(&mut self) -> Result<Event, Self::Error> {
        let (at, account, key) = (self.instant()?, self.account_id()?, self.maybe_key_id()?);
        let key_name = self.maybe_text()?.map(str::to_owned);
        let (lineage, delegated_by) = (self.path()?, self.maybe_text()?.map(str::to_owned));
        let kind = self.text()?.parse().map_err(Self::invalid)?;
        let mut event = Event::new(at, account, kind, serde_json::Value::Null);
        (event.key, event.key_name) = (key, key_name);
        (event.lineage, event.delegated_by) = (lineage, delegated_by);
        event.origin.actor = serde_json::from_str(self.text()?).map_err(Self::invalid)?;
        event.origin.request_id = self.maybe_text()?.map(str::to_owned);
        event.origin.route = self.maybe_text()?.map(str::to_owned);
        event.count = self.number()?.unsigned_abs();
        event.detail = serde_json::from_str(self.text()?).map_err(Self::invalid)?;
        Ok(event)
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

/// Returns the budget of a first limit and of the JSON of the others, such as `{"day": 50000}` in micro-units.
pub(super) fn budget(
    first: (Option<Amount>, Period),
    more: Option<&str>,
) -> Result<Budget, BoxError> {
    let Some(more) = more else { return Ok(Budget::new(first.0, first.1)) };
    let more: HashMap<Period, i64> = serde_json::from_str(more)?;
    let mut more: Vec<_> = more.into_iter().collect();
    more.sort_by_key(|(period, _)| period.rank());
    let more = more.into_iter().map(|(period, micros)| (Some(Amount::micros(micros)), period));
    // Without a first limit, only the others bind.
    Ok(Budget::from_limits(std::iter::once(first).chain(more))?)
}

/// Returns the JSON of the limits beside the first one, as [`budget`] reads it.
pub(super) fn more_limits(budget: &Budget) -> Option<String> {
    let more: Vec<_> = budget
        .more()
        .map(|limit| format!("\"{}\":{}", limit.period, limit.amount.as_micros()))
        .collect();
    (!more.is_empty()).then(|| format!("{{{}}}", more.join(",")))
}

/// Returns the JSON of what was spent in the periods beside the first one: micro-units, and the start of the window in
/// microseconds since 1970.
pub(super) fn more_spent(balance: &Balance) -> Option<String> {
    let more: Vec<_> = balance
        .more()
        .map(|spent| {
            let since = spent.since.as_microsecond();
            format!("\"{}\":[{},{since}]", spent.period, spent.amount.as_micros())
        })
        .collect();
    (!more.is_empty()).then(|| format!("{{{}}}", more.join(",")))
}

fn read_more_spent(text: Option<&str>) -> Result<Vec<Spent>, BoxError> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let more: HashMap<Period, (i64, i64)> = serde_json::from_str(text)?;
    let mut more: Vec<_> = more
        .into_iter()
        .map(|(period, (spent, since))| {
            Spent::new(period, Amount::micros(spent), from_micros(since))
        })
        .collect();
    more.sort_by_key(|spent| spent.period.rank());
    Ok(more)
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
