//! What was used of rate limits, in the memory of this process.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ledger::{Quota, Taken, decide_rate};

/// For each key the instant until which what it used counts: 16 bytes for a
/// [`RateId`](crate::ledger::RateId), and one that the map adds.
///
/// The number of keys is bounded. In a full table, keys of whose use nothing counts any more go first,
/// then those whose use counts for the shortest time. A key that had to go has its whole burst again.
pub(crate) struct RateTable<K> {
    used: Mutex<HashMap<K, i64>>,
    max: usize,
}

impl<K: Copy + Eq + Hash> RateTable<K> {
    /// Returns a table of at most so many keys.
    pub(crate) fn new(max: usize) -> Self {
        Self { used: Mutex::default(), max: max.max(1) }
    }

    /// Takes a request from all these limits, or from none.
    pub(crate) fn take(&self, limits: &[(K, Quota)], at: i64) -> Taken {
        let mut table = self.lock();
        let used: Vec<_> =
            limits.iter().map(|(key, _)| table.get(key).copied().unwrap_or(0)).collect();
        let taken = decide_rate(limits.iter().map(|(_, quota)| *quota), &used, 1, at);
        if taken.granted > 0 {
            for ((key, _), until) in limits.iter().zip(&taken.used) {
                if !table.contains_key(key) && table.len() >= self.max {
                    make_room(&mut table, self.max, at);
                }
                table.insert(*key, *until);
            }
        }
        taken
    }

    /// Gives a request back that was taken.
    pub(crate) fn give_back(&self, key: &K, quota: Quota) {
        if let Some(used) = self.lock().get_mut(key) {
            *used = quota.used_without(*used);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, i64>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes half of the keys at least, so that this happens once for many new keys, and so that the map
/// uses its places again: one that is more than half full would grow.
fn make_room<K: Eq + Hash>(table: &mut HashMap<K, i64>, max: usize, at: i64) {
    table.retain(|_, used| *used > at);
    let spare = max / 2 + 1;
    let Some(excess) =
        table.len().checked_sub(max.saturating_sub(spare)).filter(|excess| *excess > 0)
    else {
        return;
    };
    let mut ends: Vec<_> = table.values().copied().collect();
    let (_, least, _) = ends.select_nth_unstable(excess - 1);
    let least = *least;
    // Of equals, as many go as have to.
    let mut left = excess;
    table.retain(|_, used| {
        let goes = left > 0 && *used <= least;
        left -= usize::from(goes);
        !goes
    });
}

impl<K> fmt::Debug for RateTable<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateTable").field("max", &self.max).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::model::{KeyId, RateLimit};

    const AT: i64 = 1_800_000_000_000_000_000;

    fn quota(limit: RateLimit) -> Quota {
        Quota::of(&limit).unwrap()
    }

    #[test]
    fn of_a_thousand_concurrent_requests_exactly_a_hundred_pass() {
        let (table, passed) = (RateTable::new(1_000), AtomicUsize::new(0));
        let quota = quota(RateLimit::per_minute(100));
        let limits = [(KeyId::new(2), quota), (KeyId::new(1), quota)];
        std::thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let granted = table.take(&limits, AT).granted;
                        passed.fetch_add(granted as usize, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(passed.into_inner(), 100);
    }

    /// The bound that `docs/rate-limits.md` states, with a million keys that all have something used.
    #[test]
    fn a_million_keys_take_no_more_memory_than_the_bound() {
        let table = RateTable::new(super::super::MAX_KEYS);
        let (quota, busy) = (quota(RateLimit::per_hour(100)), KeyId::new(-1));
        for _ in 0..100 {
            table.take(&[(busy, quota)], AT);
        }
        for key in 0..1_000_000 {
            assert_eq!(table.take(&[(KeyId::new(key), quota)], AT).granted, 1);
        }
        let used = table.lock();
        assert!(used.len() <= super::super::MAX_KEYS, "{}", used.len());
        // The map has one byte of its own for each of its places, of which it fills seven of eight.
        let places = (used.capacity() * 8).div_ceil(7).next_power_of_two();
        let bytes = places * (size_of::<(KeyId, i64)>() + 1);
        assert_eq!((size_of::<(KeyId, i64)>(), bytes), (16, 17_825_792));
        drop(used);
        // The key that is at its limit was not freed by the flood.
        assert_eq!(table.take(&[(busy, quota)], AT).granted, 0);
    }

    #[test]
    fn keys_that_have_used_nothing_any_more_go_first() {
        let (table, quota) = (RateTable::new(8), quota(RateLimit::per_minute(1)));
        let granted = |key, at| table.take(&[(KeyId::new(key), quota)], at).granted;
        let later = AT + 61_000_000_000;
        assert_eq!([1, 2, 3, 4, 5, 6].map(|key| granted(key, AT)), [1; 6]);
        assert_eq!([7, 8, 9].map(|key| granted(key, later)), [1, 1, 1]);
        assert_eq!([7, 8, 9].map(|key| granted(key, later)), [0, 0, 0]);
        assert_eq!(table.lock().len(), 3);
    }

    #[test]
    fn what_is_given_back_may_be_taken_again() {
        let (table, quota) = (RateTable::new(4), quota(RateLimit::per_minute(1)));
        let limits = [("client", quota)];
        assert_eq!(table.take(&limits, AT).granted, 1);
        table.give_back(&"client", quota);
        assert_eq!([0, 1].map(|_| table.take(&limits, AT).granted), [1, 0]);
    }
}
