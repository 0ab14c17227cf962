//! When keys were last used: kept in memory, written now and then, so that no request waits for it or pays for it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::store::unwinding;
use crate::{KeyId, Store};

/// So many keys are written at once.
const BATCH: usize = 1_000;

#[derive(Debug, Default)]
pub(crate) struct Uses(Mutex<HashMap<KeyId, Timestamp>>);

impl Uses {
    fn lock(&self) -> MutexGuard<'_, HashMap<KeyId, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note(&self, key: KeyId, at: Timestamp) {
        let mut uses = self.lock();
        let last = uses.entry(key).or_insert(at);
        *last = at.max(*last);
    }

    /// Writes what was noted. What the store does not take is kept for the next time.
    pub(crate) async fn write(&self, store: &dyn Store) {
        let mut uses: Vec<_> = std::mem::take(&mut *self.lock()).into_iter().collect();
        uses.sort_unstable();
        for batch in uses.chunks(BATCH) {
            if let Err(error) = unwinding(|| store.note_uses(batch)).await {
                tracing::warn!(%error, "agentkey could not write when keys were last used; it will try again");
                batch.iter().for_each(|(key, at)| self.note(*key, *at));
            }
        }
    }
}
