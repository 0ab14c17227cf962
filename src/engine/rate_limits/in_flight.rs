//! How many requests are in flight in this process, for each limit of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ledger::RateId;

/// Counts the requests in flight for each limit of them. Its memory is bounded by the requests in
/// flight.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Mutex<HashMap<RateId, u32>>);

/// A request in flight. It is over when this is dropped.
#[derive(Debug)]
pub(crate) struct InFlightPermit {
    counts: Arc<InFlight>,
    limits: Vec<RateId>,
}

impl InFlight {
    /// Counts a request for all these limits, each with the most that it lets through; or for none, if
    /// one has as many.
    pub(crate) fn enter(self: &Arc<Self>, limits: Vec<(RateId, u32)>) -> Option<InFlightPermit> {
        let mut counts = self.lock();
        if limits.iter().any(|(id, max)| counts.get(id).copied().unwrap_or(0) >= *max) {
            return None;
        }
        let limits: Vec<_> = limits.into_iter().map(|(id, _)| id).collect();
        limits.iter().for_each(|id| *counts.entry(*id).or_default() += 1);
        drop(counts);
        Some(InFlightPermit { counts: self.clone(), limits })
    }

    /// Returns how many requests are in flight of those that a limit counts.
    pub(crate) fn of(&self, id: RateId) -> u32 {
        self.lock().get(&id).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RateId, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        for id in &self.limits {
            if let Some(count) = counts.get_mut(id) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    counts.remove(id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::KeyId;

    #[test]
    fn a_request_counts_for_all_its_limits_or_for_none_until_it_is_over() {
        let counts = Arc::new(InFlight::default());
        let [child, parent] = [2, 1].map(|id| RateId::from(KeyId::new(id)));
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
