//! What is valid, and since when it was seen to be.

use std::fmt;
use std::time::Instant;

use crate::model::KeyId;
use crate::store::account_row::AccountRow;

/// Says what is valid of what a store has cached.
pub(in crate::store) trait Validator: Sized + 'static {
    /// The history that everything cached belongs to.
    type Epoch: Copy + Eq + fmt::Debug + Send + Sync;
    /// The version of a key's row.
    type RowVersion: Copy + Eq + fmt::Debug + Send + Sync;
    /// What the store answers to a revalidation.
    type Answer;

    /// Returns the epoch that the store is in; `None` where that is not to be told.
    fn epoch(answer: &Self::Answer) -> Option<Self::Epoch>;

    /// Returns the version that this account has in the store; `None` where the answer does not vouch for it.
    fn account_version(answer: &Self::Answer, cached: &AccountRow) -> Option<i64>;

    /// Returns whether this is still the version of the key's row.
    fn is_current(answer: &Self::Answer, key: KeyId, cached: Self::RowVersion) -> bool;
}

/// When something cached was last seen to be what the store says, and under which policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validated {
    pub(super) asked_at: Instant,
    pub(super) policy: Option<u64>,
}

impl Validated {
    /// What was seen to be so is not less so because it was seen before.
    pub(super) fn renew(&mut self, other: Self) {
        if self.asked_at < other.asked_at {
            *self = other;
        }
    }
}
