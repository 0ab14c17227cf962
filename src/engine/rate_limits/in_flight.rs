//! How many requests of each key are in flight in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::KeyId;

/// Counts the requests in flight of keys that have such a limit. Its memory is bounded by the requests in
/// flight.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Mutex<HashMap<KeyId, u32>>);

/// A request in flight. It is over when this is dropped.
#[derive(Debug)]
pub(crate) struct InFlightPermit {
    counts: Arc<InFlight>,
    keys: Vec<KeyId>,
}

impl InFlight {
    /// Counts a request for all these keys, each with the most that it may have; or for none, if one
    /// has as many.
    pub(crate) fn enter(self: &Arc<Self>, limits: Vec<(KeyId, u32)>) -> Option<InFlightPermit> {
        let mut counts = self.lock();
        if limits.iter().any(|(key, max)| counts.get(key).copied().unwrap_or(0) >= *max) {
            return None;
        }
        let keys: Vec<_> = limits.into_iter().map(|(key, _)| key).collect();
        keys.iter().for_each(|key| *counts.entry(*key).or_default() += 1);
        drop(counts);
        Some(InFlightPermit { counts: self.clone(), keys })
    }

    /// Returns how many requests of a key are in flight.
    pub(crate) fn of(&self, key: KeyId) -> u32 {
        self.lock().get(&key).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<KeyId, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        for key in &self.keys {
            if let Some(count) = counts.get_mut(key) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    counts.remove(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_for_all_its_keys_or_for_none_until_it_is_over() {
        let counts = Arc::new(InFlight::default());
        let [child, parent] = [KeyId::new(2), KeyId::new(1)];
        let first = counts.enter(vec![(child, 1), (parent, 2)]).unwrap();
        assert!(counts.enter(vec![(child, 1), (parent, 2)]).is_none());
        assert_eq!((counts.of(child), counts.of(parent)), (1, 1));
        let second = counts.enter(vec![(parent, 2)]).unwrap();
        assert!(counts.enter(vec![(parent, 2)]).is_none());
        drop((first, second));
        assert!(counts.lock().is_empty());
        assert!(counts.enter(vec![(child, 0)]).is_none());
    }
}
