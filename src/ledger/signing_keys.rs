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
    /// How long a key is kept after the next one was added.
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
        let replaced_at = stored.iter().skip(1).map(|next| next.created_at);
        let is_over = |at: Timestamp| later(at, self.keep) <= now;
        let old = stored.iter().zip(replaced_at).filter(|(_, at)| is_over(*at));
        let delete = old.map(|(key, _)| key.kid.clone()).collect();
        // The order of the instants is the order in which keys were added.
        let last = stored.last().map(|last| later(last.created_at, Duration::from_micros(1)));
        let created_at = last.map_or(now, |last| now.max(last));
        Some(SigningKeysWrite {
            insert: StoredSigningKey { created_at, ..self.key.clone() },
            delete,
        })
    }
}
