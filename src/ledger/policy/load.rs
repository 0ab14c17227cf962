//! What a change of a key needs of a store.

use jiff::Timestamp;

use crate::model::{AccountId, KeyId, Lineage};

/// What a store loads before a change of a key is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load<'a> {
    /// The lineage of this key, after the expired holds of its account were ended.
    Lineage(KeyId),
    /// The time of this account, or the store's own where there is no such account.
    Time(&'a AccountId),
}

/// What a store has loaded, under the lock of the account.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The lineage that [`KeyChange::load`](crate::ledger::KeyChange::load) names.
    pub lineage: Option<Lineage>,
    /// The lineage that [`KeyChange::load_caller`](crate::ledger::KeyChange::load_caller) names.
    pub caller: Option<Lineage>,
    /// The children in force of the key that [`KeyChange::count_children`](crate::ledger::KeyChange::count_children) names: neither revoked
    /// nor expired.
    pub children: u64,
    /// The descendants of the key that [`KeyChange::count_descendants`](crate::ledger::KeyChange::count_descendants) names that are not revoked.
    pub descendants: u64,
    /// The tokens of the key that [`KeyChange::count_in_grace`](crate::ledger::KeyChange::count_in_grace) names
    /// that were rotated away and still work.
    pub in_grace: u64,
    /// The time that [`Load::Time`] names, or the store's own.
    pub time: Timestamp,
}
