//! Metrics: their names and labels, and what each of them counts.
//!
//! The metrics of a handle are registered when it is built, with the recorder that the application has installed by
//! then. Without the feature `metrics`, the types of the metrics are empty, and their calls compile to nothing. Only
//! the settles that wait are counted without it too, for [`AgentKeys::health`](crate::AgentKeys::health).

#[cfg(feature = "metrics")]
mod facade;
pub(crate) mod names;
#[cfg(not(feature = "metrics"))]
mod off;
mod since;

use std::time::Duration;

use crate::ledger::{Action, Outcome, Posted};
use crate::model::Amount;
use crate::store::StoreResult;

#[cfg(feature = "metrics")]
use facade as backend;
#[cfg(not(feature = "metrics"))]
use off as backend;

pub(crate) use backend::{Counter, Gauge};
use backend::{Histogram, Timer};
use names::{
    ALL, BATCH_SIZE, OPEN_CHARGES, OPEN_HOLDS, POSTED, QUEUE_DEPTH, REQUESTS, RETRIES, SETTLE_AGE,
    SETTLE_BACKLOG, SETTLES_LOST, STORE_DURATION, STORE_ERRORS, decision,
};
use since::{Entered, Since};

/// The metrics of a handle.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) decisions: Decisions,
    pub(crate) lookups: QueueMetrics,
    pub(crate) takes: QueueMetrics,
    pub(crate) postings: PostingMetrics,
    pub(crate) settles: SettleBacklog,
    pub(crate) open_charges: Gauge,
    pub(crate) open_holds: Gauge,
    pub(crate) store: StoreMetrics,
}

impl Metrics {
    /// Registers the metrics with the recorder of the application.
    pub(crate) fn register() -> Self {
        ALL.iter().for_each(backend::describe);
        Self {
            decisions: Decisions::register(),
            lookups: QueueMetrics::register("lookups"),
            takes: QueueMetrics::register("takes"),
            postings: PostingMetrics {
                queue: QueueMetrics::register("postings"),
                held: Counter::register(&POSTED, Some("hold")),
                settled: Counter::register(&POSTED, Some("settle")),
                paid: Counter::register(&POSTED, Some("pay")),
                refunded: Counter::register(&POSTED, Some("refund")),
                retries: Retries {
                    unavailable: Counter::register(&RETRIES, Some("unavailable")),
                    undecided: Counter::register(&RETRIES, Some("undecided")),
                    rejected: Counter::register(&RETRIES, Some("rejected")),
                },
            },
            settles: SettleBacklog {
                size: Gauge::register(&SETTLE_BACKLOG, None),
                age: Gauge::register(&SETTLE_AGE, None),
                lost: Counter::register(&SETTLES_LOST, None),
                since: Since::default(),
            },
            open_charges: Gauge::register(&OPEN_CHARGES, None),
            open_holds: Gauge::register(&OPEN_HOLDS, None),
            store: StoreMetrics {
                find: StoreCalls::register("find"),
                post: StoreCalls::register("post"),
                change: StoreCalls::register("change"),
                read: StoreCalls::register("read"),
                sweep: StoreCalls::register("sweep"),
                poll: StoreCalls::register("poll"),
                take: StoreCalls::register("take"),
            },
        }
    }
}

/// The decisions about requests.
#[derive(Clone, Debug)]
pub(crate) struct Decisions {
    accepted: Counter,
}

impl Decisions {
    /// The decisions that alerts watch are there from the start: to Prometheus, a series that begins with
    /// its first request has not increased.
    fn register() -> Self {
        for watched in decision::WATCHED {
            Counter::register(&REQUESTS, Some(watched));
        }
        Self { accepted: Counter::register(&REQUESTS, Some(decision::ACCEPTED)) }
    }

    /// Counts a decision: one of [`decision`], or the code of a refusal.
    pub(crate) fn count(&self, decision: &'static str) {
        if decision == decision::ACCEPTED {
            self.accepted.add(1);
        } else {
            Counter::register(&REQUESTS, Some(decision)).add(1);
        }
    }
}

/// What waits for the store, and is sent to it in batches.
#[derive(Clone, Debug)]
pub(crate) struct QueueMetrics {
    pub(crate) depth: Gauge,
    batch_size: Histogram,
}

impl QueueMetrics {
    fn register(queue: &'static str) -> Self {
        let label = Some(queue);
        Self {
            depth: Gauge::register(&QUEUE_DEPTH, label),
            batch_size: Histogram::register(&BATCH_SIZE, label),
        }
    }

    /// Records that a batch of this size goes to the store.
    pub(crate) fn batch(&self, size: usize) {
        self.batch_size.record_count(size);
    }
}

/// The postings.
#[derive(Clone, Debug)]
pub(crate) struct PostingMetrics {
    pub(crate) queue: QueueMetrics,
    held: Counter,
    settled: Counter,
    paid: Counter,
    refunded: Counter,
    pub(crate) retries: Retries,
}

impl PostingMetrics {
    /// Counts the money of an accepted posting.
    pub(crate) fn posted(&self, action: &Action, posted: &Posted) {
        let (counter, amount) = match (action, &posted.outcome) {
            (Action::Hold { amount, .. }, Outcome::Held { .. }) => (&self.held, amount),
            (Action::Settle { cost, .. }, Outcome::Settled { .. }) => (&self.settled, cost),
            (Action::Pay { amount, .. }, Outcome::Paid { .. }) => (&self.paid, amount),
            (Action::Refund { amount, .. }, Outcome::Refunded { .. }) => (&self.refunded, amount),
            _ => return,
        };
        counter.add(micros(*amount));
    }
}

fn micros(amount: Amount) -> u64 {
    u64::try_from(amount.as_micros()).unwrap_or(0)
}

/// The postings that are sent again, by why.
#[derive(Clone, Debug)]
pub(crate) struct Retries {
    /// The store did not answer.
    pub(crate) unavailable: Counter,
    /// The store answered the batch, but not these postings of it.
    pub(crate) undecided: Counter,
    /// The store rejected the batch, so that each posting of it is sent alone.
    pub(crate) rejected: Counter,
}

/// The settles that are not committed.
#[derive(Clone, Debug)]
pub(crate) struct SettleBacklog {
    size: Gauge,
    age: Gauge,
    lost: Counter,
    since: Since,
}

impl SettleBacklog {
    /// Records that a settle is sent, until the answer is dropped.
    pub(crate) fn enter(&self) -> SentSettle {
        SentSettle {
            _counted: self.size.enter(),
            lost: self.lost.clone(),
            _since: self.since.enter(),
        }
    }

    /// Returns how many settles are not committed, and how long the oldest of them waits.
    pub(crate) fn oldest(&self) -> (usize, Option<Duration>) {
        self.since.oldest()
    }

    /// Returns what sets the age of the oldest settle each second, for as long as it is polled.
    pub(crate) fn keep_age(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        backend::keep_age(&self.age, &self.since)
    }
}

/// A settle that is sent and not committed.
#[derive(Debug)]
pub(crate) struct SentSettle {
    _counted: Counted,
    lost: Counter,
    _since: Entered,
}

impl SentSettle {
    /// Counts the settle as lost.
    pub(crate) fn lost(&self) {
        self.lost.add(1);
    }
}

/// The calls of the store, by what is asked of it.
#[derive(Clone, Debug)]
pub(crate) struct StoreMetrics {
    pub(crate) find: StoreCalls,
    pub(crate) post: StoreCalls,
    pub(crate) change: StoreCalls,
    pub(crate) read: StoreCalls,
    pub(crate) sweep: StoreCalls,
    pub(crate) poll: StoreCalls,
    pub(crate) take: StoreCalls,
}

/// The calls of the store of one kind.
#[derive(Clone, Debug)]
pub(crate) struct StoreCalls {
    duration: Histogram,
    errors: Counter,
}

impl StoreCalls {
    fn register(operation: &'static str) -> Self {
        let label = Some(operation);
        Self {
            duration: Histogram::register(&STORE_DURATION, label),
            errors: Counter::register(&STORE_ERRORS, label),
        }
    }

    /// Awaits a call, and records how long it took and whether it failed.
    pub(crate) async fn observe<T>(
        &self,
        call: impl Future<Output = StoreResult<T>>,
    ) -> StoreResult<T> {
        let timer = Timer::start();
        let answer = call.await;
        self.duration.record_time(timer);
        if answer.is_err() {
            self.errors.add(1);
        }
        answer
    }
}

/// One that a gauge counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Gauge {
    /// Counts one more, until the answer is dropped.
    pub(crate) fn enter(&self) -> Counted {
        self.add(1.0);
        Counted(self.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.add(-1.0);
    }
}
