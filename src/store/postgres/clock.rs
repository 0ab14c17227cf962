//! The time of the store: the server's, whatever the clocks of the processes say.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::model::clock::from_micros;
use crate::model::{Clock, ManualClock};

/// What the server's clock shows, as far as that is known between its answers: what the last one told, and what has
/// passed since. The process's own clock of the day is never asked. A clock that was set takes the server's place.
#[derive(Debug)]
pub(super) struct ServerClock {
    hand: Option<ManualClock>,
    begun: Instant,
    /// What the server's clock showed at `begun`, in microseconds.
    shown: AtomicI64,
}

impl ServerClock {
    /// Opening asks the server before anything else is done.
    pub(super) fn new(clock: &Clock) -> Self {
        Self { hand: clock.manual().cloned(), begun: Instant::now(), shown: AtomicI64::new(0) }
    }

    /// Takes note of an answer to what was asked at that instant. The way that an answer took makes this clock late, and
    /// never early. One that says no more than that it was long on its way does not put the clock back.
    pub(super) fn observe(&self, shown: Timestamp, asked_at: Instant) {
        let (passed, way) = (self.passed(), micros(asked_at.elapsed()));
        let told = shown.as_microsecond().saturating_sub(passed);
        let is_late = |known: i64| (told..=told.saturating_add(way)).contains(&known);
        let _ = self.shown.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |known| (!is_late(known)).then_some(told));
    }

    pub(super) fn now(&self) -> Timestamp {
        let shown = || from_micros(self.shown.load(Ordering::SeqCst).saturating_add(self.passed()));
        self.hand.as_ref().map_or_else(shown, ManualClock::now)
    }

    /// What was set in place of the server's clock.
    pub(super) fn set(&self) -> Option<Timestamp> {
        self.hand.as_ref().map(ManualClock::now)
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
    fn the_time_is_what_the_server_told_and_what_has_passed_since() {
        let (clock, told) = (ServerClock::new(&Clock::system()), "2001-02-03T04:05:06Z".parse().unwrap());
        let begun = Instant::now();
        clock.observe(told, begun);
        let (first, second) = (clock.now(), clock.now());
        assert!(told <= first && first <= second && second <= told + begun.elapsed() + Duration::from_secs(1));
        // It goes where the server's goes, and back with it.
        clock.observe(told - Duration::from_secs(60), Instant::now());
        assert!(clock.now() < told);
        // An answer that lay in the socket of a process that was stopped says nothing of the time since.
        clock.observe(told, Instant::now());
        if let Some(long_ago) = Instant::now().checked_sub(Duration::from_secs(30)) {
            clock.observe(told - Duration::from_secs(20), long_ago);
            assert!(clock.now() >= told);
        }
        assert_eq!(clock.set(), None);
    }

    #[test]
    fn a_clock_that_was_set_takes_the_servers_place() {
        let hand = ManualClock::at("2001-02-03T04:05:06Z".parse().unwrap());
        let clock = ServerClock::new(&Clock::from(&hand));
        clock.observe(Timestamp::UNIX_EPOCH, Instant::now());
        assert_eq!((clock.now(), clock.set()), (hand.now(), Some(hand.now())));
    }
}
