//! Which cached data is valid, and when it was last validated.

use std::fmt;
use std::time::Instant;

use crate::model::KeyId;
use crate::store::account_row::AccountRow;

/// Says which cached data of a store is valid.
pub(in crate::store) trait Validator: Sized + 'static {
    /// The history that all cached data belongs to.
    type Epoch: Copy + Eq + fmt::Debug + Send + Sync;
    /// The version of a key's row.
    type RowVersion: Copy + Eq + fmt::Debug + Send + Sync;
    /// The store's answer to a revalidation.
    type Answer;

    /// Returns the epoch of the store; `None` if the answer does not say.
    fn epoch(answer: &Self::Answer) -> Option<Self::Epoch>;

    /// Returns the version that this account has in the store; `None` if the answer does not include the account.
    fn account_version(answer: &Self::Answer, cached: &AccountRow) -> Option<i64>;

    /// Returns whether the key's row still has this version.
    fn is_current(answer: &Self::Answer, key: KeyId, cached: Self::RowVersion) -> bool;
}

/// When cached data was last equal to the store's, and under which policy version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validated {
    pub(super) asked_at: Instant,
    pub(super) policy: Option<u64>,
}

impl Validated {
    /// Keeps the later of the two validations.
    pub(super) fn renew(&mut self, other: Self) {
        if self.asked_at < other.asked_at {
            *self = other;
        }
    }
}
