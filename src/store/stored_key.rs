//! A key as a table has it, not yet understood. Hosts may write to that table, so a row of it need not make sense.

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
}

/// What was kept of a key's money.
pub(super) struct StoredMoney<'r> {
    pub(super) balance: Balance,
    /// The period that the balance counts; an empty text, which is none, where it is to be counted anew.
    pub(super) period: &'r str,
    /// Where windows are counted from, if not from the key's creation.
    pub(super) anchor: Option<Timestamp>,
}

/// A key, and whether its balance counts another period than the key's own: then it is to be counted anew.
pub(super) struct KeyRow {
    pub(super) key: Key,
    pub(super) is_behind: bool,
}

impl StoredKey<'_> {
    /// The key. One that makes no sense is `None`, and reported: it is refused, and its neighbours are not.
    pub(super) fn understood(self) -> Option<KeyRow> {
        let id = self.id;
        self.understand().inspect_err(|error| report(id, error)).ok()
    }

    /// The key for the ledger. One whose policy makes no sense stands there revoked, with the money that it holds and
    /// has spent: that must go on being counted.
    pub(super) fn or_stand_in(self) -> Option<KeyRow> {
        let (id, account, parent, created_at) = (self.id, self.account, self.parent, self.created_at);
        let money = self.money.as_ref().map(|money| (money.balance, money.period));
        self.understand()
            .or_else(|error| {
                report(id, &error);
                let balance = money.map_or(Balance::empty(created_at), |(balance, _)| balance);
                let mut key = Key::stored(id, account_id(account)?, created_at, balance);
                key.parent = parent;
                key.revoked_at = Some(created_at);
                let is_behind = money.is_some_and(|(_, period)| period != key.budget.period.as_str());
                Ok::<_, Nonsense>(KeyRow { key, is_behind })
            })
            .ok()
    }

    fn understand(self) -> Result<KeyRow, Nonsense> {
        let budget = Budget::new(self.limit?, self.period?);
        let is_behind = self.money.as_ref().is_some_and(|money| money.period != budget.period.as_str());
        let anchor = self.money.as_ref().and_then(|money| money.anchor).unwrap_or(self.created_at);
        let first = budget.period.window(anchor, self.created_at).start;
        let balance = self.money.map_or(Balance::empty(first), |money| money.balance);
        let mut key = Key::stored(self.id, account_id(self.account)?, self.created_at, balance);
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

fn account_id(text: Option<&str>) -> Result<AccountId, Nonsense> {
    Ok(AccountId::new(text.ok_or("it has no account")?)?)
}

fn report(key: KeyId, error: &Nonsense) {
    tracing::error!(key = key.get(), %error, "this key's row makes no sense");
}
