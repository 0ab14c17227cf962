//! Renews the holds of open charges, with one task for all of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::store::BoxFuture;

/// A charge with holds that are renewed.
pub(crate) trait Renew: Send + Sync + 'static {
    /// Renews the holds, and plans the next renewal.
    fn renew(self: Arc<Self>) -> BoxFuture<'static, ()>;
}

/// The charges that are renewed, by the instant of their next renewal.
#[derive(Default)]
pub(crate) struct Renewals {
    due: Mutex<Due>,
    earlier: Notify,
}

#[derive(Default)]
struct Due {
    charges: BTreeMap<RenewalKey, Weak<dyn Renew>>,
    last: u64,
}

/// The key of a planned renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RenewalKey {
    at: Instant,
    number: u64,
}

impl RenewalKey {
    /// Returns whether the renewal is due within `after`.
    pub(crate) fn is_within(&self, after: Duration) -> bool {
        self.at <= Instant::now() + after
    }
}

impl Renewals {
    /// Plans a renewal, and returns its key.
    pub(crate) fn insert(&self, charge: Weak<dyn Renew>, after: Duration) -> RenewalKey {
        let mut due = self.due();
        due.last += 1;
        let key = RenewalKey { at: Instant::now() + after, number: due.last };
        due.charges.insert(key, charge);
        if due.charges.first_key_value().is_some_and(|(first, _)| *first == key) {
            self.earlier.notify_one();
        }
        key
    }

    /// Cancels a planned renewal.
    pub(crate) fn remove(&self, key: RenewalKey) {
        self.due().charges.remove(&key);
    }

    /// Renews due charges, for as long as it is polled.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let next = self.due().charges.first_key_value().map(|(key, _)| key.at);
            match next {
                None => self.earlier.notified().await,
                Some(at) => tokio::select! {
                    () = sleep_until(at) => self.renew_due(),
                    () = self.earlier.notified() => {}
                },
            }
        }
    }

    fn renew_due(&self) {
        let now = Instant::now();
        let mut due = self.due();
        while let Some(first) = due.charges.first_entry().filter(|first| first.key().at <= now) {
            if let Some(charge) = first.remove().upgrade() {
                tokio::spawn(charge.renew());
            }
        }
    }

    fn due(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Renewals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewals")
            .field("planned", &self.due().charges.len())
            .finish_non_exhaustive()
    }
}
