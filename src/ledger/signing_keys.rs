//! Which signing keys a store adds and drops.

use std::time::Duration;

use jiff::Timestamp;

use crate::model::StoredSigningKey;
use crate::model::clock::later;

/// A signing key to be added to those of a store.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct NewSigningKey {
    /// The key. The store sets its instant.
    pub key: StoredSigningKey,
    /// Whether it is added only where there is none of its algorithm.
    pub only_if_missing: bool,
    /// How long a key is kept after the next one of its algorithm was added.
    pub keep: Duration,
}

/// What a store writes, in one transaction.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct SigningKeysWrite {
    pub insert: StoredSigningKey,
    /// The ids of the keys to be deleted.
    pub delete: Vec<String>,
}

impl NewSigningKey {
    /// Decides by the keys that are stored, oldest first. `None`: nothing is written.
    pub fn decide(&self, stored: &[StoredSigningKey], now: Timestamp) -> Option<SigningKeysWrite> {
        let is_there = |key: &StoredSigningKey| key.algorithm == self.key.algorithm;
        if self.only_if_missing && stored.iter().any(is_there) {
            return None;
        }
        // A process may sign with the newest key of its algorithm, whatever others were added since.
        let is_old = |index: usize, key: &StoredSigningKey| {
            let mut newer = stored.iter().skip(index + 1);
            let next = newer.find(|next| next.algorithm == key.algorithm);
            next.is_some_and(|next| later(next.created_at, self.keep) <= now)
        };
        let old = stored.iter().enumerate().filter(|(index, key)| is_old(*index, key));
        let delete = old.map(|(_, key)| key.kid.clone()).collect();
        // The order of the instants is the order in which keys were added.
        let last = stored.last().map(|last| later(last.created_at, Duration::from_micros(1)));
        let created_at = last.map_or(now, |last| now.max(last));
        Some(SigningKeysWrite {
            insert: StoredSigningKey { created_at, ..self.key.clone() },
            delete,
        })
    }
}
