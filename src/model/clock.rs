//! The one source of time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

/// Where a store reads the time. Expiry, windows and hold deadlines are judged by it and by nothing else.
///
/// Instants are whole microseconds, the precision every store keeps.
///
/// ```
/// use agentkey::model::{Clock, ManualClock};
///
/// let hand = ManualClock::at("2026-01-31T12:00:00Z".parse()?);
/// let clock = Clock::from(&hand);
/// hand.set("2026-02-28T12:00:00Z".parse()?);
/// assert_eq!(clock.now().to_string(), "2026-02-28T12:00:00Z");
/// # Ok::<(), jiff::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Clock(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    System,
    Manual(ManualClock),
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// The hand that sets it, where it is not the machine's.
    #[cfg(feature = "postgres")]
    pub(crate) fn hand(&self) -> Option<&ManualClock> {
        match &self.0 {
            Source::System => None,
            Source::Manual(hand) => Some(hand),
        }
    }

    /// The present instant, cut to whole microseconds.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => from_micros(Timestamp::now().as_microsecond()),
            Source::Manual(hand) => hand.now(),
        }
    }
}

impl From<&ManualClock> for Clock {
    fn from(hand: &ManualClock) -> Self {
        Self(Source::Manual(hand.clone()))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::System => "Clock(system)",
            Source::Manual(_) => "Clock(manual)",
        })
    }
}

/// A clock that stands still until it is moved, for tests. Clones share one hand.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that shows `at`.
    pub fn at(at: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(at.as_microsecond())))
    }

    /// What the clock shows.
    pub fn now(&self) -> Timestamp {
        from_micros(self.0.load(Ordering::SeqCst))
    }

    /// Moves the hand to `at`, forwards or backwards.
    pub fn set(&self, at: Timestamp) {
        self.0.store(at.as_microsecond(), Ordering::SeqCst);
    }

    /// Moves the hand forward.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        self.0.fetch_add(by, Ordering::SeqCst);
    }
}

/// The instant `micros` after the Unix epoch; beyond jiff's range, the first or last whole microsecond of it. The last
/// one is before [`Timestamp::MAX`]: what is finer than a microsecond would not come back from a store, and windows
/// counted from it would never be those that were stored.
pub(crate) fn from_micros(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or_else(|_| {
        // The microseconds of the very last second are refused there as well.
        let micros = micros.clamp(Timestamp::MIN.as_microsecond(), Timestamp::MAX.as_microsecond());
        Timestamp::from_nanosecond(i128::from(micros) * 1_000).unwrap_or(Timestamp::MIN)
    })
}

/// `at + by`, held at the end of the range of time.
pub(crate) fn later(at: Timestamp, by: Duration) -> Timestamp {
    let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
    from_micros(at.as_microsecond().saturating_add(by))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instant_is_a_whole_microsecond() {
        let (first, last) = (Timestamp::MIN.as_microsecond(), Timestamp::MAX.as_microsecond());
        for micros in [i64::MIN, first - 1, first, -1, 0, 1, last - 1, last, last + 1, i64::MAX] {
            let at = from_micros(micros);
            assert_eq!(at.subsec_nanosecond() % 1_000, 0, "{micros}: {at}");
            assert_eq!(at.as_microsecond(), micros.clamp(first, last));
        }
    }
}
