//! Queries for lists and sums: what is asked for, narrowed by what is set.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{AccountId, Amount, KeyId};

/// Which keys to list, in the order of their ids.
///
/// ```
/// use agentkey::KeyQuery;
///
/// let query = KeyQuery::for_account("acme".parse()?).limit(50);
/// # let _ = query; Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use = "a query is asked by `AgentKeys::keys`"]
pub struct KeyQuery {
    /// Whose keys.
    pub of: KeysOf,
    /// Only ids after this one.
    pub after: Option<KeyId>,
    /// At most this number: 1 to 1,000.
    pub limit: u32,
}

impl KeyQuery {
    /// The first 100 keys of an account.
    pub const fn for_account(account: AccountId) -> Self {
        Self { of: KeysOf::Account(account), after: None, limit: 100 }
    }

    /// The first 100 keys that were minted directly from a key.
    pub const fn children_of(key: KeyId) -> Self {
        Self { of: KeysOf::Parent(key), after: None, limit: 100 }
    }

    /// Continues behind the last key of a page.
    pub const fn after(mut self, key: KeyId) -> Self {
        self.after = Some(key);
        self
    }

    /// Lists at most `limit` keys on a page, from 1 to 1,000.
    pub const fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }
}

/// Whose keys to list.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum KeysOf {
    /// All keys of an account.
    Account(AccountId),
    /// The keys minted directly from a key.
    Parent(KeyId),
}

/// Which entries to read or sum: those of an account, narrowed by what is set.
///
/// ```
/// use agentkey::EntryQuery;
///
/// let query = EntryQuery::for_account("acme".parse()?).since("2026-01-01T00:00:00Z".parse()?).limit(50);
/// # let _ = query; Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use = "a query is asked by `AgentKeys::entries`"]
pub struct EntryQuery {
    /// Whose.
    pub account: AccountId,
    /// Of this key alone, not of its children.
    pub key: Option<KeyId>,
    /// Written at this instant or later.
    pub since: Option<Timestamp>,
    /// Written before this instant.
    pub until: Option<Timestamp>,
    /// After this place.
    pub after: Option<Cursor>,
    /// At most so many: 1 to 1,000.
    pub limit: u32,
}

impl EntryQuery {
    /// The first 100 entries of an account.
    pub const fn for_account(account: AccountId) -> Self {
        Self { account, key: None, since: None, until: None, after: None, limit: 100 }
    }

    /// Only those of one key.
    pub fn key(mut self, key: KeyId) -> Self {
        self.key = Some(key);
        self
    }

    /// Only those written at `at` or later.
    pub fn since(mut self, at: Timestamp) -> Self {
        self.since = Some(at);
        self
    }

    /// Only those written before `at`.
    pub fn until(mut self, at: Timestamp) -> Self {
        self.until = Some(at);
        self
    }

    /// Goes on behind the last entry of a page.
    pub fn after(mut self, cursor: Cursor) -> Self {
        self.after = Some(cursor);
        self
    }

    /// Lists at most `limit` entries on a page, from 1 to 1,000.
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }
}

/// A place in the ledger, behind which the next page starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub(crate) i64);

impl Cursor {
    /// The place with this number. For stores.
    pub const fn new(place: i64) -> Self {
        Self(place)
    }

    /// Its number.
    pub const fn get(self) -> i64 {
        self.0
    }
}

/// Which entries to sum, and by what. An entry counts at the instant that decides its window: a refund counts when
/// the refunded entry did, so that sums agree with what budgets say was spent.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use = "a query is asked by `AgentKeys::usage`"]
pub struct UsageQuery {
    /// Whose.
    pub account: AccountId,
    /// Of this key alone.
    pub key: Option<KeyId>,
    /// Counting at this instant or later.
    pub since: Option<Timestamp>,
    /// Counting before this instant.
    pub until: Option<Timestamp>,
    /// What a group is.
    pub by: UsageBy,
}

impl UsageQuery {
    /// All entries of an account.
    pub const fn for_account(account: AccountId, by: UsageBy) -> Self {
        Self { account, key: None, since: None, until: None, by }
    }

    /// Only those of one key.
    pub fn key(mut self, key: KeyId) -> Self {
        self.key = Some(key);
        self
    }

    /// Only those that count at `at` or later.
    pub fn since(mut self, at: Timestamp) -> Self {
        self.since = Some(at);
        self
    }

    /// Only those that count before `at`.
    pub fn until(mut self, at: Timestamp) -> Self {
        self.until = Some(at);
        self
    }
}

/// What a group of a usage sum is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UsageBy {
    /// The key; the group is its id, and "" for adjustments of the account itself.
    Key,
    /// The value of a label; entries without it are in the group "".
    Label(String),
    /// The hour in UTC; the group is its start, as `2026-01-31T14:00:00Z`.
    Hour,
    /// The day in UTC; the group is its start.
    Day,
    /// The month in UTC; the group is its start.
    Month,
}

/// The sum of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// Which group.
    pub group: String,
    /// What was charged, less what was refunded. Adjustments are not in it.
    #[serde(rename = "amount_cents")]
    pub amount: Amount,
    /// How many charges there were; refunds and adjustments are not counted.
    pub charges: u64,
    /// The sum of the adjustments: what was corrected, less what was topped up.
    #[serde(rename = "adjusted_cents")]
    pub adjusted: Amount,
}

impl Usage {
    /// A sum.
    pub const fn new(group: String, amount: Amount, charges: u64, adjusted: Amount) -> Self {
        Self { group, amount, charges, adjusted }
    }
}
