//! Open holds: money that is set aside now.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{AccountId, Amount, KeyId, PostingId};

/// A hold that was neither settled nor ended: money that is set aside now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OpenHold {
    /// The id of the posting that set the money aside.
    pub id: PostingId,
    /// The account of the key.
    pub account: AccountId,
    /// The key. Its ancestors and its account hold the amount too.
    pub key: KeyId,
    /// What is set aside.
    #[serde(rename = "amount_cents")]
    pub amount: Amount,
    /// When it was set aside.
    pub created_at: Timestamp,
    /// When it is over, unless it is renewed. A hold whose instant has passed waits for the next
    /// request of its account, or for the sweep.
    pub expires_at: Timestamp,
}

impl OpenHold {
    /// Returns a hold as a store loaded it.
    pub const fn stored(
        id: PostingId,
        account: AccountId,
        key: KeyId,
        amount: Amount,
        created_at: Timestamp,
        expires_at: Timestamp,
    ) -> Self {
        Self { id, account, key, amount, created_at, expires_at }
    }
}
