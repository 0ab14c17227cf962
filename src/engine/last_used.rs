//! When keys were last used. It is kept in memory and written by the sweep, so that no request
//! waits for it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::model::KeyId;
use crate::store::{Store, unwinding};

/// The most keys in one write.
const BATCH: usize = 1_000;

/// The times in 16 shards, so that requests seldom wait for each other.
#[derive(Debug, Default)]
pub(crate) struct LastUsed([Mutex<HashMap<KeyId, Timestamp>>; 16]);

impl LastUsed {
    pub(crate) fn record(&self, key: KeyId, at: Timestamp) {
        let shard =
            usize::try_from(key.get().rem_euclid(16)).ok().and_then(|shard| self.0.get(shard));
        let Some(shard) = shard else { return };
        let mut last_used = lock(shard);
        let last = last_used.entry(key).or_insert(at);
        *last = at.max(*last);
    }

    /// Writes what was recorded. Times that the store does not accept are kept for the next write.
    pub(crate) async fn write(&self, store: &dyn Store) {
        let mut last_used: Vec<_> =
            self.0.iter().flat_map(|shard| std::mem::take(&mut *lock(shard))).collect();
        last_used.sort_unstable();
        for batch in last_used.chunks(BATCH) {
            if let Err(error) = unwinding(|| store.record_last_used(batch)).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "agentkey could not write when keys were last used; the next sweep tries again"
                );
                batch.iter().for_each(|(key, at)| self.record(*key, *at));
            }
        }
    }
}

fn lock(shard: &Mutex<HashMap<KeyId, Timestamp>>) -> MutexGuard<'_, HashMap<KeyId, Timestamp>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
