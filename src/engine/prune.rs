//! Retention: what is older than it is to be kept is rolled up or deleted.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::agent_keys::AgentKeys;
use crate::engine::error::Error;
use crate::ledger::day_start;
use crate::model::clock::earlier;
use crate::model::{ChangeError, Note};
use crate::store::{Prunable, PruneCutoffs, PruneStep, PruneTable};

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// How old an entry is at least when it is rolled up. A limit counts its window from the entries when it is added, and the
/// longest window that is open, a month, began less than this ago.
const MIN_AGE: Duration = Duration::from_secs(32 * 24 * 3_600);

/// How old a hold is at least when it goes, so that a retry finds it.
const HOLDS_KEPT: Duration = DAY;

/// The most rows of one transaction.
const ROWS: u32 = 500;

/// How many times as long as a step a run rests after it, so that it takes a quarter of one writer.
const REST: u32 = 3;

/// What is pruned, and how long it may take.
///
/// Entries older than the age become daily sums by key and labels. Usage and budgets have the same figures as
/// before. What was summed up is no longer listed, and can no longer be refunded: use [`AgentKeys::adjust`].
///
/// ```
/// use agentkey::Prune;
/// use std::time::Duration;
///
/// const DAY: Duration = Duration::from_secs(24 * 3_600);
/// let prune = Prune::older_than(90 * DAY).events_older_than(365 * DAY).time_bound(Duration::from_secs(60));
/// # let _ = prune;
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is pruned until it is passed to `AgentKeys::prune`"]
pub struct Prune {
    older_than: Duration,
    events_older_than: Duration,
    time_bound: Option<Duration>,
    left_out: Vec<String>,
}

impl Prune {
    /// Prunes entries and events of this age, which is at least 32 days.
    ///
    /// A client's `Idempotency-Key` is kept as long as the entry that it was charged by. A posting id takes effect at most
    /// once within this age. An ended hold goes one day after it was made, whatever the age: nothing but a retry reads it.
    pub fn older_than(age: Duration) -> Self {
        let left_out = vec![Note::REQUEST_ID.to_owned()];
        Self { older_than: age, events_older_than: age, time_bound: None, left_out }
    }

    /// Prunes events of another age than entries, at least one day.
    pub const fn events_older_than(mut self, age: Duration) -> Self {
        self.events_older_than = age;
        self
    }

    /// Begins no step after this time. A step takes some milliseconds, and what is left is counted after it.
    pub const fn time_bound(mut self, bound: Duration) -> Self {
        self.time_bound = Some(bound);
        self
    }

    /// Leaves a label out of the sums. Usage by this label then has what was summed up in the group "".
    ///
    /// Name each label that has another value in nearly every request, such as an order number: sums by it would be as
    /// many as the entries. The label `request_id` is always left out.
    pub fn without_label(mut self, name: impl Into<String>) -> Self {
        self.left_out.push(name.into());
        self
    }

    fn check(&self) -> Result<(), ChangeError> {
        let invalid =
            |field, reason: &str| ChangeError::Invalid { field, reason: reason.to_owned() };
        if self.older_than < MIN_AGE {
            let reason =
                "is at least 32 days: a month that a limit counts may have begun 31 days ago";
            return Err(invalid("older_than", reason));
        }
        if self.events_older_than < DAY {
            return Err(invalid("events_older_than", "is at least one day"));
        }
        Ok(())
    }

    fn cutoffs(&self, now: Timestamp) -> PruneCutoffs {
        PruneCutoffs {
            // Whole days, so that no day has sums and entries.
            entries: day_start(earlier(now, self.older_than)),
            holds: earlier(now, HOLDS_KEPT),
            events: earlier(now, self.events_older_than),
        }
    }
}

/// What a run of [`AgentKeys::prune`] has done, and what is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Pruned {
    /// The entries that were rolled up.
    pub entries: u64,
    /// The ended holds that were deleted.
    pub holds: u64,
    /// The events that were deleted.
    pub events: u64,
    /// The idempotency keys that were deleted, with their entries or because their request never ended.
    pub idempotency_keys: u64,
    /// The rows of shared rate limits that were deleted, because nothing was in use.
    pub rate_limits: u64,
    /// Whether the run came to its end within its time, and left no account out whose entries other transactions had
    /// locked.
    pub is_complete: bool,
    /// What is older than it is kept, and still there.
    pub left: Prunable,
}

impl AgentKeys {
    /// Rolls up old entries, and deletes ended holds, old events and what else is no longer read.
    ///
    /// Run it once a day, from one process or from several. It works in small transactions, and rests three times as
    /// long as it works, so that it runs beside full load. If its process dies, the next run goes on where it stopped.
    ///
    /// An entry is rolled up into the sum of its day (UTC), its key and its labels, so
    /// [`usage`](Self::usage) over whole days, by any group but the hour, has the same figures as before.
    /// In a part of a day that was rolled up, and by the hour, the day counts at its start. Balances
    /// stay as they are. A limit that is added later is counted as
    /// before. A charge stays as long as a refund of it is younger than the age.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where an age is too small; [`Error::Store`] where the store does not answer. What was done until
    /// then is kept.
    ///
    /// ```
    /// use agentkey::{AgentKeys, MemoryStore, Prune};
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = AgentKeys::new(MemoryStore::new())?;
    /// let pruned = keys.prune(&Prune::older_than(Duration::from_secs(90 * 24 * 3_600))).await?;
    /// assert!(pruned.is_complete);
    /// assert_eq!(pruned.left.entries, 0);
    /// # Ok(()) }
    /// ```
    pub async fn prune(&self, prune: &Prune) -> Result<Pruned, Error> {
        self.prune_reporting(prune, |_| {}).await
    }

    /// Prunes as [`prune`](Self::prune) does, and calls `progress` after each step with what was done so far.
    ///
    /// Of these reports, `left` is empty. [`prunable`](Self::prunable) says before the run how much there is to do.
    ///
    /// # Errors
    ///
    /// As for [`prune`](Self::prune).
    pub async fn prune_reporting(
        &self,
        prune: &Prune,
        mut progress: impl FnMut(&Pruned),
    ) -> Result<Pruned, Error> {
        prune.check()?;
        let now = self.inner().now();
        let cutoffs = prune.cutoffs(now);
        let deadline = prune.time_bound.and_then(|bound| Instant::now().checked_add(bound));
        let is_over = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let mut pruned = Pruned { is_complete: true, ..Pruned::default() };
        let tables = [
            (PruneTable::Entries, cutoffs.entries),
            (PruneTable::Holds, cutoffs.holds),
            (PruneTable::Events, cutoffs.events),
            (PruneTable::IdempotencyKeys, cutoffs.entries),
            (PruneTable::RateLimits, now),
        ];
        let step = |(table, before)| {
            let left_out = prune.left_out.clone();
            PruneStep { table, before, after: None, limit: ROWS, left_out }
        };
        // A step of each table in turn, so that none waits until another has nothing left.
        let mut steps: VecDeque<_> = tables.into_iter().map(step).collect();
        while let Some(mut step) = steps.pop_front() {
            if is_over() {
                pruned.is_complete = false;
                break;
            }
            let began = Instant::now();
            let done = self.change_store(|store| store.prune(&step)).await?;
            pruned.add(step.table, done.rows);
            pruned.idempotency_keys += done.idempotency_keys;
            pruned.is_complete &= !done.has_left_some;
            progress(&pruned);
            if let Some(next) = done.next {
                step.after = Some(next);
                steps.push_back(step);
                let rest = REST * began.elapsed();
                let left = deadline.map_or(rest, |it| it.saturating_duration_since(Instant::now()));
                tokio::time::sleep(rest.min(left)).await;
            }
        }
        pruned.left = self.with_store(|store| store.prunable(cutoffs)).await?;
        tracing::info!(
            entries = pruned.entries,
            holds = pruned.holds,
            events = pruned.events,
            is_complete = pruned.is_complete,
            "agentkey has pruned"
        );
        Ok(pruned)
    }

    /// Counts what is older than it is to be kept. It changes nothing.
    ///
    /// # Errors
    ///
    /// As for [`prune`](Self::prune).
    pub async fn prunable(&self, prune: &Prune) -> Result<Prunable, Error> {
        prune.check()?;
        let cutoffs = prune.cutoffs(self.inner().now());
        self.with_store(|store| store.prunable(cutoffs)).await
    }
}

impl Pruned {
    fn add(&mut self, table: PruneTable, rows: u64) {
        let sum = match table {
            PruneTable::Entries => &mut self.entries,
            PruneTable::Holds => &mut self.holds,
            PruneTable::Events => &mut self.events,
            PruneTable::IdempotencyKeys => &mut self.idempotency_keys,
            PruneTable::RateLimits => &mut self.rate_limits,
        };
        *sum += rows;
    }
}
