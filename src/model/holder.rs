//! Holders: what has a balance of its own.

use serde::{Deserialize, Serialize};

use crate::model::{AccountId, KeyId};

/// What has a balance of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Holder {
    /// A key. What it spends counts for its ancestors and its account too.
    Key(KeyId),
    /// An account itself.
    Account(AccountId),
}

impl From<KeyId> for Holder {
    fn from(key: KeyId) -> Self {
        Self::Key(key)
    }
}

impl From<AccountId> for Holder {
    fn from(account: AccountId) -> Self {
        Self::Account(account)
    }
}
