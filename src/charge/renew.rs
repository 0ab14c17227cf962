//! Keeps the holds of open charges alive: one task for all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Tab;

/// Which tabs are to be renewed, and when.
#[derive(Debug, Default)]
pub(crate) struct Renewals {
    due: Mutex<Due>,
    sooner: Notify,
}

#[derive(Debug, Default)]
struct Due {
    tabs: BTreeMap<RenewalKey, Weak<Tab>>,
    last: u64,
}

/// A tab's place among the renewals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RenewalKey {
    at: Instant,
    number: u64,
}

impl RenewalKey {
    /// Whether its time comes within `after`, or has come.
    pub(super) fn is_within(&self, after: Duration) -> bool {
        self.at <= Instant::now() + after
    }
}

impl Renewals {
    pub(super) fn remember(&self, tab: &Arc<Tab>, after: Duration) -> RenewalKey {
        let mut due = self.due();
        due.last += 1;
        let key = RenewalKey { at: Instant::now() + after, number: due.last };
        due.tabs.insert(key, Arc::downgrade(tab));
        if due.tabs.first_key_value().is_some_and(|(first, _)| *first == key) {
            self.sooner.notify_one();
        }
        key
    }

    pub(super) fn forget(&self, key: RenewalKey) {
        self.due().tabs.remove(&key);
    }

    /// Renews what is due, for as long as it is polled.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let next = self.due().tabs.first_key_value().map(|(key, _)| key.at);
            match next {
                None => self.sooner.notified().await,
                Some(at) => tokio::select! {
                    () = sleep_until(at) => self.renew_due(),
                    () = self.sooner.notified() => {}
                },
            }
        }
    }

    fn renew_due(&self) {
        let now = Instant::now();
        let mut due = self.due();
        while let Some(first) = due.tabs.first_entry().filter(|first| first.key().at <= now) {
            if let Some(tab) = first.remove().upgrade() {
                tokio::spawn(async move {
                    let after = tab.renew().await;
                    tab.renew_again(after);
                });
            }
        }
    }

    fn due(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
