//! A key as a table stores it.

use jiff::Timestamp;

use crate::model::{AccountId, Balance, Budget, Cidrs, Key, KeyId, RateLimit, ScopeSet, Subject};

/// Why a row is invalid.
pub(super) type InvalidRow = Box<dyn std::error::Error + Send + Sync>;

/// The columns of a key.
pub(super) struct StoredKey<'r> {
    pub(super) id: KeyId,
    pub(super) account: Option<&'r str>,
    pub(super) parent: Option<KeyId>,
    pub(super) name: &'r str,
    pub(super) prefix: &'r str,
    pub(super) start: &'r str,
    /// The issuer and the id of its subject.
    pub(super) subject: (Option<&'r str>, Option<&'r str>),
    /// Its policy, or why the row is invalid.
    pub(super) policy: Result<StoredPolicy, InvalidRow>,
    pub(super) created_at: Timestamp,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) disabled_at: Option<Timestamp>,
    pub(super) revoked_at: Option<Timestamp>,
    pub(super) revoked_reason: Option<&'r str>,
    pub(super) delegated_by: Option<&'r str>,
    pub(super) metadata: Option<&'r str>,
    pub(super) money: Option<StoredMoney<'r>>,
}

/// What a key may do, how much it may spend, how often and from where it may be used.
pub(super) struct StoredPolicy {
    pub(super) scopes: ScopeSet,
    pub(super) budget: Budget,
    pub(super) rate_limit: Option<RateLimit>,
    pub(super) allowed_cidrs: Option<Cidrs>,
}

/// The stored money of a key.
pub(super) struct StoredMoney<'r> {
    /// The account of the balance, in a store where the table of keys may name another one.
    pub(super) account: Option<&'r str>,
    pub(super) balance: Balance,
    /// The instant from which windows are counted, if not from the creation of the key.
    pub(super) anchor: Option<Timestamp>,
}

/// A key, and whether its balance counts other periods than the key's own. Such a balance has to be counted again.
pub(super) struct KeyRow {
    pub(super) key: Key,
    pub(super) is_stale: bool,
}

impl StoredKey<'_> {
    /// Decodes the key, or returns why its row is invalid.
    pub(super) fn decode(self) -> Result<KeyRow, InvalidRow> {
        let StoredPolicy { scopes, budget, rate_limit, allowed_cidrs } = self.policy?;
        let account = account_id(self.account)?;
        if let Some(owner) = self
            .money
            .as_ref()
            .and_then(|money| money.account)
            .filter(|owner| *owner != account.as_str())
        {
            return Err(format!(
                "its account was {owner:?} and is now {:?}: put it back",
                account.as_str()
            )
            .into());
        }
        let is_stale = self.money.as_ref().is_some_and(|money| !money.balance.counts(&budget));
        let anchor = self.money.as_ref().and_then(|money| money.anchor).unwrap_or(self.created_at);
        let blank = || Balance::empty(&budget, anchor, self.created_at);
        let balance = self.money.map_or_else(blank, |money| money.balance);
        let mut key = Key::stored(self.id, account, self.created_at, balance);
        key.parent = self.parent;
        self.name.clone_into(&mut key.name);
        self.prefix.clone_into(&mut key.prefix);
        self.start.clone_into(&mut key.start);
        if let (Some(issuer), Some(id)) = self.subject {
            // A text that is no subject finds no key.
            key.subject = Subject::new(issuer, id).ok();
        }
        key.scopes = scopes;
        key.budget = budget;
        key.rate_limit = rate_limit;
        key.allowed_cidrs = allowed_cidrs;
        key.anchor = anchor;
        key.expires_at = self.expires_at;
        key.disabled_at = self.disabled_at;
        key.revoked_at = self.revoked_at;
        key.revoked_reason = self.revoked_reason.map(str::to_owned);
        key.delegated_by = self.delegated_by.map(str::to_owned);
        // The application may have written it. What is no metadata decides nothing, so it is left out.
        key.metadata = self.metadata.and_then(|text| text.parse().ok()).unwrap_or_default();
        Ok(KeyRow { key, is_stale })
    }
}

/// Decodes the JSON of a rate limit.
pub(super) fn rate_limit(text: Option<&str>) -> Result<Option<RateLimit>, InvalidRow> {
    Ok(text.map(serde_json::from_str).transpose()?)
}

/// Returns the JSON of a rate limit, as [`rate_limit`] reads it.
pub(super) fn stored_rate_limit(limit: Option<&RateLimit>) -> Option<String> {
    limit.and_then(|limit| serde_json::to_string(limit).ok())
}

pub(super) fn account_id(text: Option<&str>) -> Result<AccountId, InvalidRow> {
    Ok(AccountId::stored(text.ok_or("it has no account")?)?)
}
