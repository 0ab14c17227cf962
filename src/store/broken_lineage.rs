//! Keys that are out of service: an invalid row, or a lineage that does not lead to a root.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};

use crate::model::{Key, KeyId};

/// Why the parents of a key lead to no root. What such a key may do is unknown, so it is not found.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BrokenLineage {
    #[error("its parents form a cycle at key {0}")]
    Cycle(KeyId),
    #[error("its lineage has more than {0} keys")]
    TooDeep(usize),
    #[error("its parent, key {0}, or that of an ancestor, does not exist")]
    Missing(KeyId),
    #[error("its parent, key {0}, or that of an ancestor, is of another account")]
    OtherAccount(KeyId),
}

impl BrokenLineage {
    /// Checks keys from a key up, as far as they were read.
    pub(super) fn of<'k>(keys: impl IntoIterator<Item = &'k Key>) -> Option<Self> {
        let mut lineage: Vec<&Key> = Vec::new();
        for key in keys {
            if lineage.iter().any(|below| below.id == key.id) {
                return Some(Self::Cycle(key.id));
            }
            if lineage.last().is_some_and(|child| child.account != key.account) {
                return Some(Self::OtherAccount(key.id));
            }
            lineage.push(key);
        }
        let above = lineage.last()?.parent?;
        let is_whole = lineage.len() <= crate::ledger::MAX_DEPTH;
        Some(if is_whole { Self::Missing(above) } else { Self::TooDeep(crate::ledger::MAX_DEPTH) })
    }
}

/// The keys that are logged as out of service. Each is logged once, and again if the reason changes.
#[derive(Debug, Default)]
pub(super) struct OutOfService(Mutex<HashMap<KeyId, String>>);

impl OutOfService {
    const MAX_REMEMBERED: usize = 1_000;

    pub(super) fn log(&self, key: KeyId, reason: &impl Display) {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = reason.to_string();
        if logged.get(&key) == Some(&reason) {
            return;
        }
        tracing::warn!(key = key.get(), error = %reason, "this key is out of service until its row is corrected");
        if logged.len() >= Self::MAX_REMEMBERED {
            logged.clear();
        }
        logged.insert(key, reason);
    }

    /// Records that a key is in service.
    pub(super) fn forget(&self, key: KeyId) {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !logged.is_empty() {
            logged.remove(&key);
        }
    }

    #[cfg(test)]
    pub(super) fn reason(&self, key: KeyId) -> Option<String> {
        self.0.lock().unwrap().get(&key).cloned()
    }
}
