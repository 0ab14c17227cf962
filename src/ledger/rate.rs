//! The generic cell rate algorithm: how many requests a rate limit lets through at an instant.
//!
//! One number is kept for each key: the instant at which nothing of what it used counts any more. A
//! request moves it on by the interval of the rate, and passes if it then is no further ahead than a
//! burst. Instants and spans are nanoseconds. PostgreSQL decides by the same rule, in
//! `agentkey_take_rates`.

use jiff::Timestamp;

use crate::model::{KeyId, RateLimit};

/// A rate as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    /// After how long one request comes back.
    pub interval: i64,
    /// How far what was used may reach into the future.
    pub capacity: i64,
}

/// A third of a century: so far may a burst reach, so that no instant overflows.
const MAX_CAPACITY: i64 = 1_000_000_000_000_000_000;

const NANOS: i64 = 1_000_000_000;

impl Quota {
    /// Returns the rate of a limit, if it has one.
    pub fn of(limit: &RateLimit) -> Option<Self> {
        let rate = limit.rate()?;
        let window = i64::from(rate.window_seconds).saturating_mul(NANOS);
        let requests = i64::from(rate.requests);
        if requests == 0 {
            return Some(Self { interval: window.max(1), capacity: 0 });
        }
        // Rounded up, so that the rate is never exceeded.
        let interval = (window / requests + i64::from(window % requests > 0)).max(1);
        let capacity = interval.saturating_mul(rate.burst.into()).min(MAX_CAPACITY);
        Some(Self { interval, capacity })
    }

    /// Returns how many requests may come at once at this instant.
    pub fn available(self, used_until: i64, at: i64) -> u32 {
        let room = at.saturating_add(self.capacity).saturating_sub(self.current(used_until, at));
        u32::try_from(room / self.interval).unwrap_or(u32::MAX)
    }

    /// Returns how long it takes until one more request may come than now; `None` if a whole burst
    /// may.
    pub fn next_in(self, used_until: i64, at: i64) -> Option<i64> {
        let used = self.current(used_until, at).saturating_sub(at);
        let over = (self.capacity.saturating_sub(used)) % self.interval;
        (used > 0).then(|| self.interval.saturating_sub(over).min(used))
    }

    /// Returns until when what was used counts, after so many more requests.
    pub fn used_after(self, used_until: i64, at: i64, requests: u32) -> i64 {
        let more = self.interval.saturating_mul(requests.into());
        self.current(used_until, at).saturating_add(more)
    }

    /// Returns until when what was used counts, after a request was taken back.
    pub fn used_without(self, used_until: i64) -> i64 {
        used_until.saturating_sub(self.interval)
    }

    /// A clock that went back, and a limit that was lowered, leave no more used than a burst.
    fn current(self, used_until: i64, at: i64) -> i64 {
        used_until.clamp(at, at.saturating_add(self.capacity))
    }
}

/// What the use of a limit is counted under: an id of a key for the limit of its record, and a negative
/// number for the default that a layer gives to a key.
///
/// So layers with different defaults take nothing from one another. The number follows from the key and
/// the default, and is the same in all processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RateId(i64);

impl RateId {
    /// Returns what the default of a layer is counted under for a key.
    pub fn of_default(key: KeyId, default: &RateLimit) -> Self {
        let rate = default.rate();
        let parts = [
            rate.map_or(u64::MAX, |rate| rate.requests.into()),
            rate.map_or(u64::MAX, |rate| rate.window_seconds.into()),
            rate.map_or(u64::MAX, |rate| rate.burst.into()),
            default.max_in_flight().map_or(u64::MAX, u64::from),
            key.get().cast_unsigned(),
        ];
        Self(parts.into_iter().fold(0, mix).cast_signed() | i64::MIN)
    }

    /// Returns the number.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl From<KeyId> for RateId {
    fn from(key: KeyId) -> Self {
        Self(key.get())
    }
}

/// The step of SplitMix64: of one `mixed`, no two numbers have the same result.
fn mix(mixed: u64, number: u64) -> u64 {
    let mut z = (mixed ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Requests of one lineage, to be taken from all its limits or from none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Take {
    /// The limits of the lineage that have a rate, each with it.
    pub limits: Vec<(RateId, Quota)>,
    pub requests: u32,
}

/// What was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// How many of the requests pass: the first ones.
    pub granted: u32,
    /// Until when what was used counts, for each limit.
    pub used: Vec<i64>,
    /// When it was decided.
    pub at: i64,
}

impl Take {
    /// Decides by what was used of each limit, in the order of the limits; zero for nothing.
    pub fn decide(&self, used: &[i64], at: i64) -> Taken {
        decide_rate(self.limits.iter().map(|(_, quota)| *quota), used, self.requests, at)
    }
}

/// Decides as [`Take::decide`] does.
pub(crate) fn decide_rate(
    quotas: impl Iterator<Item = Quota> + Clone,
    used: &[i64],
    requests: u32,
    at: i64,
) -> Taken {
    let limits = || quotas.clone().zip(used);
    let free = limits().map(|(quota, used)| quota.available(*used, at));
    let granted = free.min().unwrap_or(u32::MAX).min(requests);
    let after = |(quota, used): (Quota, &i64)| match granted {
        0 => *used,
        _ => quota.used_after(*used, at, granted),
    };
    Taken { granted, used: limits().map(after).collect(), at }
}

/// Returns an instant in nanoseconds since 1970, clamped to those that rates are counted in.
pub(crate) fn rate_time(at: Timestamp) -> i64 {
    at.as_microsecond().clamp(0, MAX_CAPACITY / 250).saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const START: i64 = 1_800_000_000 * NANOS;

    fn quota(limit: RateLimit) -> Quota {
        Quota::of(&limit).unwrap()
    }

    fn take(quota: Quota, used: &mut i64, at: i64, requests: u32) -> u32 {
        let taken =
            Take { limits: vec![(KeyId::new(1).into(), quota)], requests }.decide(&[*used], at);
        *used = taken.used[0];
        taken.granted
    }

    #[test]
    fn a_hundred_a_minute_are_a_hundred_and_then_one_each_600_ms() {
        let (quota, mut used) = (quota(RateLimit::per_minute(100)), 0);
        assert_eq!(take(quota, &mut used, START, 1_000), 100);
        assert_eq!((quota.available(used, START), take(quota, &mut used, START, 1)), (0, 0));
        let ms = NANOS / 1_000;
        assert_eq!(quota.next_in(used, START), Some(600 * ms));
        assert_eq!(take(quota, &mut used, START + 600 * ms - 1, 1), 0);
        assert_eq!(quota.next_in(used, START + 600 * ms - 1), Some(1));
        assert_eq!(take(quota, &mut used, START + 600 * ms, 5), 1);
        assert_eq!(take(quota, &mut used, START + 120_000 * ms, 1_000), 100);
        assert_eq!(quota.next_in(0, START), None);
    }

    #[test]
    fn zero_lets_nothing_through_and_waits_for_the_window() {
        let (quota, mut used) = (quota(RateLimit::per_minute(0)), 0);
        assert_eq!((take(quota, &mut used, START, 5), used), (0, 0));
        assert_eq!((quota.interval, quota.next_in(used, START)), (60 * NANOS, None));
    }

    #[test]
    fn all_limits_of_a_lineage_are_taken_from_or_none() {
        let [wide, narrow] = [RateLimit::per_minute(10), RateLimit::per_minute(3)].map(quota);
        let limits = vec![(KeyId::new(2).into(), wide), (KeyId::new(1).into(), narrow)];
        let first = Take { limits: limits.clone(), requests: 5 }.decide(&[0, 0], START);
        assert_eq!(first.granted, 3);
        let left = [wide.available(first.used[0], START), narrow.available(first.used[1], START)];
        assert_eq!(left, [7, 0]);
        let second = Take { limits, requests: 5 }.decide(&first.used, START);
        assert_eq!((second.granted, second.used), (0, first.used));
    }

    #[test]
    fn a_clock_that_goes_back_and_a_lowered_limit_leave_a_burst_at_most() {
        let (quota, mut used) = (quota(RateLimit::per_minute(60)), 0);
        assert_eq!(take(quota, &mut used, START + 86_400 * NANOS, 60), 60);
        assert_eq!(take(quota, &mut used, START, 1), 0);
        assert_eq!(quota.next_in(used, START), Some(NANOS));
        // What a day's limit used counts for that day, so that no change of a limit gives a burst anew.
        for at in [START, START + 86_339 * NANOS] {
            assert_eq!(quota.available(START + 86_400 * NANOS, at), 0);
            assert_eq!(quota.next_in(START + 86_400 * NANOS, at), Some(NANOS));
        }
    }

    #[test]
    fn a_default_is_counted_apart_for_each_key_and_default() {
        let defaults = [
            RateLimit::per_minute(100),
            RateLimit::per_minute(99),
            RateLimit::per_hour(100),
            RateLimit::per_minute(100).burst(20),
            RateLimit::per_minute(100).in_flight(4),
            RateLimit::at_once(100),
        ];
        let keys = || (1..=1_000).map(KeyId::new);
        let ids: BTreeSet<_> = keys()
            .flat_map(|key| defaults.map(|default| RateId::of_default(key, &default)))
            .chain(keys().map(RateId::from))
            .collect();
        assert_eq!(ids.len(), 7_000);
        // Processes of different versions count together, so no version may change it.
        let id = RateId::of_default(KeyId::new(7), &RateLimit::per_minute(100));
        assert_eq!(id.get(), -7_932_483_029_524_217_320);
    }

    fn limits() -> impl Strategy<Value = RateLimit> {
        (1..500_u32, 1..3_600_u64, 1..300_u32).prop_map(|(requests, window, burst)| {
            RateLimit::new(requests, Duration::from_secs(window)).burst(burst)
        })
    }

    proptest! {
        #[test]
        fn no_span_has_more_than_a_burst_and_what_the_rate_gives(
            limit in limits(),
            steps in prop::collection::vec((0..40_000_000_000_i64, 1..40_u32), 1..60),
        ) {
            let (quota, mut used, mut at) = (quota(limit), 0, START);
            let mut passed: Vec<(i64, u32)> = Vec::new();
            for (pause, requests) in steps {
                at += pause;
                let granted = take(quota, &mut used, at, requests);
                // What is left is refused, and not less.
                prop_assert!(granted == requests || quota.available(used, at) == 0);
                passed.push((at, granted));
            }
            let window = i128::from(limit.window().unwrap().as_secs()) * i128::from(NANOS);
            let (requests, burst) = (limit.requests().unwrap(), limit.burst_size().unwrap());
            for (first, (from, _)) in passed.iter().enumerate() {
                let mut sum = 0_i128;
                for (to, granted) in &passed[first..] {
                    sum += i128::from(*granted);
                    let rate = i128::from(to - from) * i128::from(requests) / window;
                    prop_assert!(sum <= i128::from(burst) + rate, "{sum} {burst} {rate}");
                }
            }
        }

        #[test]
        fn a_client_that_waits_as_long_as_it_is_told_passes(
            limit in limits(),
            counts in prop::collection::vec(1..400_u32, 1..20),
        ) {
            let (quota, mut used, mut at) = (quota(limit), 0, START);
            for count in counts {
                take(quota, &mut used, at, count);
                if quota.available(used, at) == 0 {
                    let wait = quota.next_in(used, at).unwrap();
                    prop_assert_eq!(quota.available(used, at + wait - 1), 0);
                    at += wait;
                    prop_assert_eq!(take(quota, &mut used, at, 1), 1);
                }
            }
        }
    }
}
