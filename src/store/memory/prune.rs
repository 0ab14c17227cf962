//! Pruning: entries are rolled up, and other rows that retention no longer keeps are taken out.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::Tables;
use crate::ledger::{EntryRow, HoldRow, HoldState, Rollup, rate_time, roll_up};
use crate::model::{Entry, EntryId};
use crate::store::{Prunable, PruneCutoffs, PruneStep, PruneTable, PrunedStep};

impl Tables {
    /// Takes all old rows of a table out, in one step.
    pub(super) fn prune(&mut self, step: &PruneStep) -> PrunedStep {
        let before = step.before;
        let rows = match step.table {
            PruneTable::Entries => return self.roll_up(before, &step.left_out),
            PruneTable::Holds => {
                let charges: HashSet<EntryId> =
                    self.book.entries().map(|row| row.entry.id).collect();
                self.book.remove_holds(|hold| {
                    hold.created_at < before && is_over(hold, |id| charges.contains(id))
                })
            }
            PruneTable::Events => self.trail.prune(before),
            PruneTable::IdempotencyKeys => self.book.remove_claims(|claim| {
                claim.entry.is_none() && claim.in_flight_until.is_some_and(|until| until < before)
            }),
            PruneTable::RateLimits => {
                let all = self.rate_limits.len();
                self.rate_limits.retain(|_, used_until| *used_until >= rate_time(before));
                all - self.rate_limits.len()
            }
        };
        PrunedStep { rows: rows as u64, ..PrunedStep::default() }
    }

    pub(super) fn prunable(&self, cutoffs: PruneCutoffs) -> Prunable {
        let entries = self.book.entries().filter(|row| row.entry.at < cutoffs.entries);
        let holds = self.book.holds().filter(|hold| hold.created_at < cutoffs.holds);
        let events = self.trail.iter().filter(|(_, event)| event.at < cutoffs.events);
        Prunable::new(entries.count() as u64, holds.count() as u64, events.count() as u64)
    }

    fn roll_up(&mut self, before: Timestamp, left_out: &[String]) -> PrunedStep {
        let mut refunds: HashMap<EntryId, Vec<&Entry>> = HashMap::new();
        for EntryRow { entry, .. } in self.book.entries() {
            if let Some(of) = entry.refunds {
                refunds.entry(of).or_default().push(entry);
            }
        }
        let busy: HashSet<EntryId> = (self.book.claims())
            .filter(|claim| claim.in_flight_until.is_some_and(|until| until >= before))
            .filter_map(|claim| claim.entry)
            .collect();
        let mut entries = Vec::new();
        for EntryRow { entry, .. } in self.book.entries() {
            let own = refunds.get(&entry.id).map_or(&[][..], Vec::as_slice);
            let is_old = entry.at < before && own.iter().all(|refund| refund.at < before);
            let is_first = entry.refunds.is_none_or(|of| self.book.entry(of).is_none());
            if is_old && is_first && !busy.contains(&entry.id) {
                entries.push(entry.clone());
                entries.extend(own.iter().map(|refund| (*refund).clone()));
            }
        }
        let ids = entries.iter().map(|entry| entry.id).collect();
        let idempotency_keys = self.book.remove_entries(&ids) as u64;
        for rollup in roll_up(&entries, left_out) {
            let sum = self.rollups.entry(rollup.id()).or_insert(Rollup {
                amount: 0,
                charges: 0,
                adjusted: 0,
                ..rollup.clone()
            });
            sum.amount += rollup.amount;
            sum.charges += rollup.charges;
            sum.adjusted += rollup.adjusted;
        }
        PrunedStep { rows: entries.len() as u64, idempotency_keys, ..PrunedStep::default() }
    }
}

/// Returns whether a hold is of no more use. A hold that was charged at its expiry is, once that charge is rolled up.
fn is_over(hold: &HoldRow, is_kept: impl Fn(&EntryId) -> bool) -> bool {
    match hold.state {
        HoldState::Live => false,
        HoldState::Ended => true,
        HoldState::Charged => !is_kept(&hold.id.into()),
    }
}
