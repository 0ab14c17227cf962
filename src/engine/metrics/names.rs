//! The names of all metrics, with their labels and what they say.
//!
//! `docs/operations.md` has the same table, and a test compares the two. No label has values that grow with keys,
//! accounts or routes.

// Without the feature, no recorder is told of them.
#![cfg_attr(not(feature = "metrics"), allow(dead_code))]

/// A metric. Its name ends with its unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metric {
    pub(super) kind: Kind,
    pub(super) name: &'static str,
    pub(super) label: Option<&'static str>,
    pub(super) help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Metric {
    const fn new(kind: Kind, name: &'static str, help: &'static str) -> Self {
        Self { kind, name, label: None, help }
    }

    const fn by(self, label: &'static str) -> Self {
        Self { label: Some(label), ..self }
    }
}

pub(super) const REQUESTS: Metric =
    Metric::new(Kind::Counter, "agentkey_requests_total", "Requests, by what was decided")
        .by("decision");
pub(super) const POSTED: Metric = Metric::new(
    Kind::Counter,
    "agentkey_posted_micros_total",
    "Money of accepted postings, in millionths of the unit of the account's currency",
)
.by("posting");
pub(super) const BATCH_SIZE: Metric =
    Metric::new(Kind::Histogram, "agentkey_batch_size", "Requests in one call of the store")
        .by("queue");
pub(super) const QUEUE_DEPTH: Metric = Metric::new(
    Kind::Gauge,
    "agentkey_queue_depth",
    "Requests that wait for the store, those of the running call included",
)
.by("queue");
pub(super) const STORE_DURATION: Metric = Metric::new(
    Kind::Histogram,
    "agentkey_store_duration_seconds",
    "Duration of one call of the store",
)
.by("operation");
pub(super) const STORE_ERRORS: Metric = Metric::new(
    Kind::Counter,
    "agentkey_store_errors_total",
    "Calls of the store that failed or took too long",
)
.by("operation");
pub(super) const RETRIES: Metric =
    Metric::new(Kind::Counter, "agentkey_retries_total", "Postings that were sent again, by why")
        .by("reason");
pub(super) const OPEN_CHARGES: Metric = Metric::new(
    Kind::Gauge,
    "agentkey_open_charges",
    "Charges of this process that are not settled, those of streams included",
);
pub(super) const OPEN_HOLDS: Metric =
    Metric::new(Kind::Gauge, "agentkey_open_holds", "Live holds of the open charges");
pub(super) const SETTLE_BACKLOG: Metric =
    Metric::new(Kind::Gauge, "agentkey_settle_backlog", "Settles that are not committed");
pub(super) const SETTLE_AGE: Metric = Metric::new(
    Kind::Gauge,
    "agentkey_settle_oldest_age_seconds",
    "Age of the oldest settle that is not committed",
);
pub(super) const SETTLES_LOST: Metric = Metric::new(
    Kind::Counter,
    "agentkey_settles_lost_total",
    "Charges that could not be posted, and are logged to be posted by hand",
);

/// All metrics, as they are described to the recorder.
pub(super) const ALL: [Metric; 12] = [
    REQUESTS,
    POSTED,
    BATCH_SIZE,
    QUEUE_DEPTH,
    STORE_DURATION,
    STORE_ERRORS,
    RETRIES,
    OPEN_CHARGES,
    OPEN_HOLDS,
    SETTLE_BACKLOG,
    SETTLE_AGE,
    SETTLES_LOST,
];

/// The decisions that are no refusals, and those that are watched.
pub(crate) mod decision {
    use crate::model::Refusal;

    pub(crate) const ACCEPTED: &str = "accepted";
    /// Let through without a credential.
    pub(crate) const ANONYMOUS: &str = "anonymous";
    /// Let through although the key could not be looked up.
    pub(crate) const FAIL_OPEN: &str = "fail_open";
    /// Those that `docs/operations.md` has alerts for.
    pub(crate) const WATCHED: [&str; 3] =
        [FAIL_OPEN, Refusal::UNAVAILABLE.code(), Refusal::Misconfigured.code()];
}
