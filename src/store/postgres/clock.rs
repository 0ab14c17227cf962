//! The time of the store: the server's, whatever the clocks of the processes show.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::model::clock::from_micros;
use crate::model::{Clock, ManualClock};

/// The server's clock between its answers: the time of the last answer, plus what has passed since. The system clock of
/// the process is never used. A manual clock replaces the server's.
#[derive(Debug)]
pub(super) struct ServerClock {
    manual: Option<ManualClock>,
    begun: Instant,
    /// What the server's clock showed at `begun`, in microseconds.
    shown: AtomicI64,
}

impl ServerClock {
    /// Returns a clock that is not set yet. Opening the store sets it before anything else, by a query to the server.
    pub(super) fn new(clock: &Clock) -> Self {
        Self { manual: clock.manual().cloned(), begun: Instant::now(), shown: AtomicI64::new(0) }
    }

    /// Records the server's time in an answer to a query that was sent at `asked_at`. The travel time of the answer
    /// makes this clock late, and never early. An answer does not set the clock back if its travel time explains the
    /// difference.
    pub(super) fn observe(&self, shown: Timestamp, asked_at: Instant) {
        let (passed, travel) = (self.passed(), micros(asked_at.elapsed()));
        let reported = shown.as_microsecond().saturating_sub(passed);
        let is_late =
            |current: i64| (reported..=reported.saturating_add(travel)).contains(&current);
        let _ = self.shown.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |current| {
            (!is_late(current)).then_some(reported)
        });
    }

    pub(super) fn now(&self) -> Timestamp {
        let shown = || from_micros(self.shown.load(Ordering::SeqCst).saturating_add(self.passed()));
        self.manual.as_ref().map_or_else(shown, ManualClock::now)
    }

    /// Returns the time of the manual clock, if there is one.
    pub(super) fn set(&self) -> Option<Timestamp> {
        self.manual.as_ref().map(ManualClock::now)
    }

    fn passed(&self) -> i64 {
        micros(self.begun.elapsed())
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_that_of_the_last_answer_and_what_has_passed_since() {
        let (clock, reported) =
            (ServerClock::new(&Clock::system()), "2001-02-03T04:05:06Z".parse().unwrap());
        let begun = Instant::now();
        clock.observe(reported, begun);
        let (first, second) = (clock.now(), clock.now());
        assert!(
            reported <= first
                && first <= second
                && second <= reported + begun.elapsed() + Duration::from_secs(1)
        );
        // It follows the server's clock, also backwards.
        clock.observe(reported - Duration::from_secs(60), Instant::now());
        assert!(clock.now() < reported);
        // An answer that waited in the socket of a stopped process says nothing about the time since.
        clock.observe(reported, Instant::now());
        if let Some(long_ago) = Instant::now().checked_sub(Duration::from_secs(30)) {
            clock.observe(reported - Duration::from_secs(20), long_ago);
            assert!(clock.now() >= reported);
        }
        assert_eq!(clock.set(), None);
    }

    #[test]
    fn a_manual_clock_replaces_the_servers() {
        let manual = ManualClock::at("2001-02-03T04:05:06Z".parse().unwrap());
        let clock = ServerClock::new(&Clock::from(&manual));
        clock.observe(Timestamp::UNIX_EPOCH, Instant::now());
        assert_eq!((clock.now(), clock.set()), (manual.now(), Some(manual.now())));
    }
}
