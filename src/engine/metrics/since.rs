//! Since when each of some things lasts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Since when each of some things lasts.
#[derive(Clone, Debug, Default)]
pub(super) struct Since(Arc<Mutex<Register>>);

#[derive(Debug, Default)]
struct Register {
    last: u64,
    /// By number, and so in the order in which they began.
    begun: BTreeMap<u64, Instant>,
}

/// One of the things, until it is dropped.
#[derive(Debug)]
pub(super) struct Entered {
    since: Since,
    number: u64,
}

impl Since {
    pub(super) fn enter(&self) -> Entered {
        let mut register = self.register();
        register.last += 1;
        let number = register.last;
        register.begun.insert(number, Instant::now());
        Entered { since: self.clone(), number }
    }

    /// Returns how many there are, and how long the oldest lasts.
    pub(super) fn oldest(&self) -> (usize, Option<Duration>) {
        let register = self.register();
        (register.begun.len(), register.begun.first_key_value().map(|(_, at)| at.elapsed()))
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.since.register().begun.remove(&self.number);
    }
}
