//! When keys were last used: kept in memory, written now and then, so that no request waits for it or pays for it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::model::KeyId;
use crate::store::{Store, unwinding};

/// So many keys are written at once.
const BATCH: usize = 1_000;

/// In parts, so that requests seldom wait for each other.
#[derive(Debug, Default)]
pub(crate) struct LastUsed([Mutex<HashMap<KeyId, Timestamp>>; 16]);

impl LastUsed {
    pub(crate) fn note(&self, key: KeyId, at: Timestamp) {
        let part = usize::try_from(key.get().rem_euclid(16)).ok().and_then(|part| self.0.get(part));
        let Some(part) = part else { return };
        let mut last_used = lock(part);
        let last = last_used.entry(key).or_insert(at);
        *last = at.max(*last);
    }

    /// Writes what was noted. What the store does not take is kept for the next time.
    pub(crate) async fn write(&self, store: &dyn Store) {
        let mut last_used: Vec<_> = self.0.iter().flat_map(|part| std::mem::take(&mut *lock(part))).collect();
        last_used.sort_unstable();
        for batch in last_used.chunks(BATCH) {
            if let Err(error) = unwinding(|| store.record_last_used(batch)).await {
                tracing::warn!(%error, "agentkey could not write when keys were last used; it will try again");
                batch.iter().for_each(|(key, at)| self.note(*key, *at));
            }
        }
    }
}

fn lock(part: &Mutex<HashMap<KeyId, Timestamp>>) -> MutexGuard<'_, HashMap<KeyId, Timestamp>> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}
