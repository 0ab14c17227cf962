//! The audit trail: events by their positions.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use crate::model::{Event, KeyId};

#[derive(Debug, Default)]
pub(super) struct Trail {
    events: BTreeMap<i64, Event>,
    last: i64,
    /// The positions of events of refusals.
    refusals: HashMap<RefusalId, i64>,
}

/// What refusals have in common that are one event: key, minute, reason and route.
type RefusalId = (Option<KeyId>, Timestamp, String, Option<String>);

impl Trail {
    pub(super) fn add(&mut self, event: Event) {
        self.last += 1;
        self.events.insert(self.last, event);
    }

    /// Counts refusals, with those that are the same event.
    pub(super) fn fold(&mut self, refusal: &Event) {
        let reason = refusal.reason().unwrap_or_default().to_owned();
        let id = (refusal.key, refusal.at, reason, refusal.origin.route.clone());
        let position = *self.refusals.entry(id).or_insert(self.last + 1);
        match self.events.get_mut(&position) {
            Some(event) => event.count += refusal.count,
            None => self.add(refusal.clone()),
        }
    }

    /// Takes the events before an instant out, and returns how many.
    pub(super) fn prune(&mut self, before: Timestamp) -> usize {
        let all = self.events.len();
        self.events.retain(|_, event| event.at >= before);
        self.refusals.retain(|(_, at, ..), _| *at >= before);
        all - self.events.len()
    }

    /// Returns the events with their positions, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, &Event)> {
        self.events.iter().map(|(position, event)| (*position, event))
    }
}
