//! No metrics: the types of the feature `metrics`, empty.

use std::future::Ready;

use super::names::Metric;
use super::since::Since;

type Value = Option<&'static str>;

pub(super) fn describe(_metric: &Metric) {}

#[derive(Clone, Debug)]
pub(crate) struct Counter;

impl Counter {
    pub(super) fn register(_metric: &Metric, _value: Value) -> Self {
        Self
    }

    pub(crate) fn add(&self, _count: u64) {}
}

#[derive(Clone, Debug)]
pub(crate) struct Gauge;

impl Gauge {
    pub(super) fn register(_metric: &Metric, _value: Value) -> Self {
        Self
    }

    pub(crate) fn add(&self, _value: f64) {}
}

#[derive(Clone, Debug)]
pub(crate) struct Histogram;

impl Histogram {
    pub(super) fn register(_metric: &Metric, _value: Value) -> Self {
        Self
    }

    pub(super) fn record_count(&self, _count: usize) {}

    pub(super) fn record_time(&self, _timer: Timer) {}
}

#[derive(Debug)]
pub(super) struct Timer;

impl Timer {
    pub(super) fn start() -> Self {
        Self
    }
}

pub(super) fn keep_age(_age: &Gauge, _since: &Since) -> Option<Ready<()>> {
    None
}
