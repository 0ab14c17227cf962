//! Clocks: the one source of time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

/// The clock of a store. The store judges expiry, windows and holds by it alone.
///
/// Instants are whole microseconds, which is the precision that every store keeps.
///
/// ```
/// use agentkey::model::{Clock, ManualClock};
///
/// let manual = ManualClock::at("2026-01-31T12:00:00Z".parse()?);
/// let clock = Clock::from(&manual);
/// manual.set("2026-02-28T12:00:00Z".parse()?);
/// assert_eq!(clock.now().to_string(), "2026-02-28T12:00:00Z");
/// # Ok::<(), jiff::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Clock(ClockSource);

#[derive(Clone, Default)]
enum ClockSource {
    #[default]
    System,
    Manual(ManualClock),
}

impl Clock {
    /// Returns the machine's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// Returns the manual clock, unless it is the machine's.
    #[cfg(feature = "postgres")]
    pub(crate) fn manual(&self) -> Option<&ManualClock> {
        match &self.0 {
            ClockSource::System => None,
            ClockSource::Manual(manual) => Some(manual),
        }
    }

    /// Returns the present instant, cut to whole microseconds.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            ClockSource::System => from_micros(Timestamp::now().as_microsecond()),
            ClockSource::Manual(manual) => manual.now(),
        }
    }
}

impl From<&ManualClock> for Clock {
    fn from(manual: &ManualClock) -> Self {
        Self(ClockSource::Manual(manual.clone()))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            ClockSource::System => "Clock(system)",
            ClockSource::Manual(_) => "Clock(manual)",
        })
    }
}

/// A clock for tests, which shows one instant until a test moves it. Clones share one time.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// Returns a clock that shows `at`.
    pub fn at(at: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(at.as_microsecond())))
    }

    /// Returns the current time of the clock.
    pub fn now(&self) -> Timestamp {
        from_micros(self.0.load(Ordering::SeqCst))
    }

    /// Sets the clock to `at`, forwards or backwards.
    pub fn set(&self, at: Timestamp) {
        self.0.store(at.as_microsecond(), Ordering::SeqCst);
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        self.0.fetch_add(by, Ordering::SeqCst);
    }
}

/// Returns the instant `micros` after the Unix epoch, clamped to the whole microseconds in jiff's
/// range.
///
/// The last one is before [`Timestamp::MAX`], whose nanoseconds would not survive a store. Windows
/// counted from such an instant would differ from the stored ones.
pub(crate) fn from_micros(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or_else(|_| {
        // jiff refuses the microseconds of the very last second as well.
        let micros = micros.clamp(Timestamp::MIN.as_microsecond(), Timestamp::MAX.as_microsecond());
        Timestamp::from_nanosecond(i128::from(micros) * 1_000).unwrap_or(Timestamp::MIN)
    })
}

/// Returns `at + by`, clamped to the range of time.
pub(crate) fn later(at: Timestamp, by: Duration) -> Timestamp {
    from_micros(at.as_microsecond().saturating_add(micros(by)))
}

/// Returns `at - by`, clamped to the range of time.
pub(crate) fn earlier(at: Timestamp, by: Duration) -> Timestamp {
    from_micros(at.as_microsecond().saturating_sub(micros(by)))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
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
