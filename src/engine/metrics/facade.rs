//! Metrics by the facade of the crate `metrics`.

use std::time::Duration;

use tokio::time::Instant;

use super::names::{Kind, Metric};
use super::since::Since;

/// The value of a metric's label, if it has one.
type Value = Option<&'static str>;

/// How often the age of the oldest is set.
const AGE_INTERVAL: Duration = Duration::from_secs(1);

/// Tells the recorder what a metric says.
pub(super) fn describe(metric: &Metric) {
    let Metric { kind, name, help, .. } = *metric;
    match kind {
        Kind::Counter => metrics::describe_counter!(name, help),
        Kind::Gauge => metrics::describe_gauge!(name, help),
        Kind::Histogram => metrics::describe_histogram!(name, help),
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Counter(metrics::Counter);

impl Counter {
    pub(super) fn register(metric: &Metric, value: Value) -> Self {
        Self(match metric.label.zip(value) {
            None => metrics::counter!(metric.name),
            Some((label, value)) => metrics::counter!(metric.name, label => value),
        })
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.increment(count);
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Gauge(metrics::Gauge);

impl Gauge {
    pub(super) fn register(metric: &Metric, value: Value) -> Self {
        Self(match metric.label.zip(value) {
            None => metrics::gauge!(metric.name),
            Some((label, value)) => metrics::gauge!(metric.name, label => value),
        })
    }

    pub(crate) fn add(&self, value: f64) {
        self.0.increment(value);
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Histogram(metrics::Histogram);

impl Histogram {
    pub(super) fn register(metric: &Metric, value: Value) -> Self {
        Self(match metric.label.zip(value) {
            None => metrics::histogram!(metric.name),
            Some((label, value)) => metrics::histogram!(metric.name, label => value),
        })
    }

    pub(super) fn record_count(&self, count: usize) {
        // A batch has at most 512.
        self.0.record(u32::try_from(count).unwrap_or(u32::MAX));
    }

    pub(super) fn record_time(&self, timer: Timer) {
        self.0.record(timer.0.elapsed());
    }
}

#[derive(Debug)]
pub(super) struct Timer(Instant);

impl Timer {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }
}

/// Sets a gauge to the age of the oldest, for as long as it is polled.
pub(super) fn keep_age(age: &Gauge, since: &Since) -> Option<impl Future<Output = ()> + use<>> {
    let (age, since) = (age.0.clone(), since.clone());
    Some(async move {
        loop {
            age.set(since.oldest().1.unwrap_or_default());
            tokio::time::sleep(AGE_INTERVAL).await;
        }
    })
}
