//! A key as a table has it. In an adopted table the application may have written a row that makes no sense: its key is out of
//! service until the row is mended, and fails nobody else.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use crate::{AccountId, Amount, Balance, Budget, Key, KeyId, Period, ScopeSet};

/// Why a row makes no sense.
pub(super) type Nonsense = Box<dyn std::error::Error + Send + Sync>;

/// The cells of a key.
pub(super) struct StoredKey<'r> {
    pub(super) id: KeyId,
    pub(super) account: Option<&'r str>,
    pub(super) parent: Option<KeyId>,
    pub(super) name: &'r str,
    pub(super) prefix: &'r str,
    pub(super) start: &'r str,
    pub(super) scopes: Result<ScopeSet, Nonsense>,
    pub(super) limit: Result<Option<Amount>, Nonsense>,
    pub(super) period: Result<Period, Nonsense>,
    pub(super) created_at: Timestamp,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) revoked_at: Option<Timestamp>,
    pub(super) money: Option<StoredMoney<'r>>,
    /// Where invalid rows are remembered that have been logged.
    pub(super) invalid_rows: Option<&'r InvalidRows>,
}

/// What was kept of a key's money.
pub(super) struct StoredMoney<'r> {
    /// The account that the balance is of, where the table of keys may say another.
    pub(super) account: Option<&'r str>,
    pub(super) balance: Balance,
    /// The period that the balance counts.
    pub(super) period: &'r str,
    /// Where windows are counted from, if not from the key's creation.
    pub(super) anchor: Option<Timestamp>,
}

/// A key, and whether its balance counts another period than the key's own: then it is to be counted anew.
pub(super) struct KeyRow {
    pub(super) key: Key,
    pub(super) is_behind: bool,
}

/// The invalid rows that a store has met. Each is logged once, and again when there is another reason.
#[derive(Debug, Default)]
pub(super) struct InvalidRows(Mutex<HashMap<KeyId, String>>);

impl InvalidRows {
    const MAX_REMEMBERED: usize = 1_000;

    fn log(&self, key: KeyId, error: &Nonsense) {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = error.to_string();
        if logged.get(&key) == Some(&reason) {
            return;
        }
        log(key, error);
        if logged.len() >= Self::MAX_REMEMBERED {
            logged.clear();
        }
        logged.insert(key, reason);
    }

    fn forget(&self, key: KeyId) {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !logged.is_empty() {
            logged.remove(&key);
        }
    }
}

impl StoredKey<'_> {
    /// The key. One whose row is invalid is `None`, and logged.
    pub(super) fn understood(self) -> Option<KeyRow> {
        let (id, invalid_rows) = (self.id, self.invalid_rows);
        match self.understand() {
            Ok(row) => {
                invalid_rows.inspect(|rows| rows.forget(id));
                Some(row)
            }
            Err(error) => {
                match invalid_rows {
                    Some(rows) => rows.log(id, &error),
                    None => log(id, &error),
                }
                None
            }
        }
    }

    /// The key for the ledger. One whose row is invalid stands there revoked, in the account that its money is of: what it
    /// holds and has spent goes on being counted.
    #[cfg(feature = "postgres")]
    pub(super) fn or_stand_in(self) -> Option<KeyRow> {
        let (id, created_at) = (self.id, self.created_at);
        let account = self.money.as_ref().and_then(|money| money.account).or(self.account);
        let Ok(account) = account_id(account) else { return self.understood() };
        let balance = self.money.as_ref().map_or(Balance::empty(created_at), |money| money.balance);
        let mut stand_in = Key::stored(id, account, created_at, balance);
        if let Some(money) = &self.money {
            stand_in.budget.period = money.period.parse().unwrap_or_default();
            stand_in.anchor = money.anchor.unwrap_or(created_at);
        }
        stand_in.parent = self.parent;
        stand_in.revoked_at = Some(created_at);
        self.understood().or(Some(KeyRow { key: stand_in, is_behind: false }))
    }

    fn understand(self) -> Result<KeyRow, Nonsense> {
        let budget = Budget::new(self.limit?, self.period?);
        let account = account_id(self.account)?;
        if let Some(owner) =
            self.money.as_ref().and_then(|money| money.account).filter(|owner| *owner != account.as_str())
        {
            return Err(format!("its account was {owner:?} and is now {:?}: put it back", account.as_str()).into());
        }
        let is_behind = self.money.as_ref().is_some_and(|money| money.period != budget.period.as_str());
        let anchor = self.money.as_ref().and_then(|money| money.anchor).unwrap_or(self.created_at);
        let first = budget.period.window(anchor, self.created_at).start;
        let balance = self.money.map_or(Balance::empty(first), |money| money.balance);
        let mut key = Key::stored(self.id, account, self.created_at, balance);
        key.parent = self.parent;
        self.name.clone_into(&mut key.name);
        self.prefix.clone_into(&mut key.prefix);
        self.start.clone_into(&mut key.start);
        key.scopes = self.scopes?;
        key.budget = budget;
        key.anchor = anchor;
        key.expires_at = self.expires_at;
        key.revoked_at = self.revoked_at;
        Ok(KeyRow { key, is_behind })
    }
}

fn log(key: KeyId, error: &Nonsense) {
    tracing::error!(key = key.get(), %error, "this key is out of service until its row is mended");
}

fn account_id(text: Option<&str>) -> Result<AccountId, Nonsense> {
    Ok(AccountId::new(text.ok_or("it has no account")?)?)
}
