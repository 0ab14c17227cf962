//! Queries for lists and sums, with their filters.

use std::fmt;
use std::str::FromStr;

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
#[must_use = "a query does nothing until it is passed to `AgentKeys::keys`"]
pub struct KeyQuery {
    /// The owner of the keys.
    pub of: KeysOf,
    /// Whether only keys of [subjects](crate::model::Subject) are listed.
    pub only_subjects: bool,
    /// Only keys with an id greater than this one.
    pub after: Option<KeyId>,
    /// The most keys on a page: 1 to 1,000.
    pub limit: u32,
}

impl KeyQuery {
    /// Queries the first 100 keys of an account.
    pub const fn for_account(account: AccountId) -> Self {
        Self { of: KeysOf::Account(account), only_subjects: false, after: None, limit: 100 }
    }

    /// Queries the first 100 keys that were minted directly from a key.
    pub const fn children_of(key: KeyId) -> Self {
        Self { of: KeysOf::Parent(key), only_subjects: false, after: None, limit: 100 }
    }

    /// Queries the first 100 keys of the store, of all accounts.
    pub const fn all() -> Self {
        Self { of: KeysOf::All, only_subjects: false, after: None, limit: 100 }
    }

    /// Queries the first 100 keys of a key and all its descendants.
    pub const fn subtree_of(key: KeyId) -> Self {
        Self { of: KeysOf::Subtree(key), only_subjects: false, after: None, limit: 100 }
    }

    /// Lists only keys of [subjects](crate::model::Subject): identities that another service issued.
    pub const fn subjects(mut self) -> Self {
        self.only_subjects = true;
        self
    }

    /// Continues after the last key of a page.
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

/// The owner of the keys to list.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum KeysOf {
    /// All keys of the store.
    All,
    /// All keys of an account.
    Account(AccountId),
    /// The keys minted directly from a key.
    Parent(KeyId),
    /// A key, and all keys minted from it, directly or through others.
    Subtree(KeyId),
}

/// Which accounts to list, in the order of their ids.
///
/// ```
/// use agentkey::store::AccountQuery;
///
/// let query = AccountQuery::all().limit(50);
/// # let _ = query;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use = "a query does nothing until it is passed to `AgentKeys::accounts`"]
pub struct AccountQuery {
    /// Only accounts with an id after this one, by its bytes.
    pub after: Option<AccountId>,
    /// The most accounts on a page: 1 to 1,000.
    pub limit: u32,
}

impl AccountQuery {
    /// Queries the first 100 accounts of the store.
    pub const fn all() -> Self {
        Self { after: None, limit: 100 }
    }

    /// Continues after the last account of a page.
    pub fn after(mut self, account: AccountId) -> Self {
        self.after = Some(account);
        self
    }

    /// Lists at most `limit` accounts on a page, from 1 to 1,000.
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }
}

/// Which entries to read: those of an account that pass all filters.
///
/// ```
/// use agentkey::EntryQuery;
///
/// let query = EntryQuery::for_account("acme".parse()?).since("2026-01-01T00:00:00Z".parse()?).limit(50);
/// # let _ = query; Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use = "a query does nothing until it is passed to `AgentKeys::entries`"]
pub struct EntryQuery {
    /// The account.
    pub account: AccountId,
    /// Only entries of this key.
    pub key: Option<KeyId>,
    /// Whether those of the key's descendants count as the key's.
    pub with_descendants: bool,
    /// Only entries written at this instant or later.
    pub since: Option<Timestamp>,
    /// Only entries written before this instant.
    pub until: Option<Timestamp>,
    /// Only entries after this position.
    pub after: Option<Cursor>,
    /// The most entries on a page: 1 to 1,000.
    pub limit: u32,
}

impl EntryQuery {
    /// Queries the first 100 entries of an account.
    pub const fn for_account(account: AccountId) -> Self {
        Self {
            account,
            key: None,
            with_descendants: false,
            since: None,
            until: None,
            after: None,
            limit: 100,
        }
    }

    /// Keeps only entries of one key.
    pub fn key(mut self, key: KeyId) -> Self {
        (self.key, self.with_descendants) = (Some(key), false);
        self
    }

    /// Keeps only entries of one key and its descendants.
    pub fn subtree(mut self, key: KeyId) -> Self {
        (self.key, self.with_descendants) = (Some(key), true);
        self
    }

    /// Keeps only entries written at `at` or later.
    pub fn since(mut self, at: Timestamp) -> Self {
        self.since = Some(at);
        self
    }

    /// Keeps only entries written before `at`.
    pub fn until(mut self, at: Timestamp) -> Self {
        self.until = Some(at);
        self
    }

    /// Continues after the last entry of a page.
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

/// A position in the ledger, after which the next page starts.
///
/// Its serialised form is a string: JavaScript would round the number, and pages would skip entries or repeat them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cursor(pub(crate) i64);

impl Cursor {
    /// Returns the position with this number. For stores.
    pub const fn new(position: i64) -> Self {
        Self(position)
    }

    /// Returns the number of the position.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> Self {
        cursor.0.to_string()
    }
}

impl TryFrom<String> for Cursor {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

/// Which entries to sum, and how to group them.
///
/// An entry counts at the instant that decides its window. A refund counts when the refunded entry did, so that sums
/// agree with the spending of budgets.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use = "a query does nothing until it is passed to `AgentKeys::usage`"]
pub struct UsageQuery {
    /// The account.
    pub account: AccountId,
    /// Only entries of this key.
    pub key: Option<KeyId>,
    /// Whether those of the key's descendants count as the key's.
    pub with_descendants: bool,
    /// Only entries that count at this instant or later.
    pub since: Option<Timestamp>,
    /// Only entries that count before this instant.
    pub until: Option<Timestamp>,
    /// How entries are grouped.
    pub by: UsageBy,
    /// How the entries of a group are grouped once more.
    pub then_by: Option<UsageBy>,
}

impl UsageQuery {
    /// Queries all entries of an account.
    pub const fn for_account(account: AccountId, by: UsageBy) -> Self {
        Self {
            account,
            key: None,
            with_descendants: false,
            since: None,
            until: None,
            by,
            then_by: None,
        }
    }

    /// Groups the entries of each group once more, for example by day and then by key.
    ///
    /// ```
    /// use agentkey::UsageQuery;
    /// use agentkey::store::UsageBy;
    ///
    /// let by_day = UsageQuery::for_account("acme".parse()?, UsageBy::Day);
    /// let query = by_day.then_by(UsageBy::Label("model".into()));
    /// # let _ = query; Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn then_by(mut self, by: UsageBy) -> Self {
        self.then_by = Some(by);
        self
    }

    /// Keeps only entries of one key.
    pub fn key(mut self, key: KeyId) -> Self {
        (self.key, self.with_descendants) = (Some(key), false);
        self
    }

    /// Keeps only entries of one key and its descendants.
    pub fn subtree(mut self, key: KeyId) -> Self {
        (self.key, self.with_descendants) = (Some(key), true);
        self
    }

    /// Keeps only entries that count at `at` or later.
    pub fn since(mut self, at: Timestamp) -> Self {
        self.since = Some(at);
        self
    }

    /// Keeps only entries that count before `at`.
    pub fn until(mut self, at: Timestamp) -> Self {
        self.until = Some(at);
        self
    }
}

/// How a usage query groups entries.
///
/// Its text and its serialised form are one word, as in the query of an URL: `key`, `hour`, `day`,
/// `month`, or `label:` and the name of the label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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

impl fmt::Display for UsageBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key => f.write_str("key"),
            Self::Label(name) => write!(f, "label:{name}"),
            Self::Hour => f.write_str("hour"),
            Self::Day => f.write_str("day"),
            Self::Month => f.write_str("month"),
        }
    }
}

impl FromStr for UsageBy {
    type Err = UnknownUsageBy;

    fn from_str(text: &str) -> Result<Self, UnknownUsageBy> {
        match text {
            "key" => Ok(Self::Key),
            "hour" => Ok(Self::Hour),
            "day" => Ok(Self::Day),
            "month" => Ok(Self::Month),
            _ => match text.strip_prefix("label:") {
                Some(name) if !name.is_empty() => Ok(Self::Label(name.to_owned())),
                _ => Err(UnknownUsageBy),
            },
        }
    }
}

impl From<UsageBy> for String {
    fn from(by: UsageBy) -> Self {
        by.to_string()
    }
}

impl TryFrom<String> for UsageBy {
    type Error = UnknownUsageBy;

    fn try_from(text: String) -> Result<Self, UnknownUsageBy> {
        text.parse()
    }
}

/// The error of a text that says no grouping of a usage query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("usage is grouped by `key`, `hour`, `day`, `month`, or `label:` and the name of a label")]
pub struct UnknownUsageBy;

/// The sum of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// The group.
    pub group: String,
    /// The group within it, if the query groups [once more](UsageQuery::then_by).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subgroup: Option<String>,
    /// What was charged, less what was refunded, without adjustments.
    #[serde(rename = "amount_cents")]
    pub amount: Amount,
    /// The number of charges that were not refunded whole, without refunds and adjustments.
    pub charges: u64,
    /// The sum of the adjustments: what was corrected, less what was topped up.
    #[serde(rename = "adjusted_cents")]
    pub adjusted: Amount,
}

impl Usage {
    /// Returns the sum of a group.
    pub const fn new(group: String, amount: Amount, charges: u64, adjusted: Amount) -> Self {
        Self { group, subgroup: None, amount, charges, adjusted }
    }
}
