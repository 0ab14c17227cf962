//! Pruning: which rows retention no longer keeps, and how far a run has come.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::AccountId;

/// A table that is pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PruneTable {
    /// Entries are rolled up: each charge with all its refunds, once the last of them is old enough. The
    /// idempotency key that a charge is bound to goes with it.
    Entries,
    /// Holds that have ended, by the time at which they were made.
    Holds,
    Events,
    /// Idempotency keys whose request never ended, because its process died.
    IdempotencyKeys,
    /// Rate limits of which nothing is in use at `before`.
    RateLimits,
}

/// A step of a run: some rows of one table, in one transaction.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct PruneStep {
    pub table: PruneTable,
    /// Only rows older than this go.
    pub before: Timestamp,
    /// Where the step before it ended.
    pub after: Option<PrunePosition>,
    /// The most rows that it looks at.
    pub limit: u32,
    /// The names of labels that roll-ups do not keep.
    pub left_out: Vec<String>,
}

/// How far a run has come in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PrunePosition {
    Number(i64),
    Id([u8; 16]),
    /// A `seq` in an account.
    Seq(AccountId, i64),
    /// An idempotency key of a key.
    Claim(i64, String),
}

/// What a step deleted.
#[derive(Clone, Debug, Default)]
pub struct PrunedStep {
    /// The rows of its table.
    pub rows: u64,
    /// The idempotency keys that went with entries.
    pub idempotency_keys: u64,
    /// Where the next step begins; `None` where the table has no more such rows.
    pub next: Option<PrunePosition>,
    /// Whether it left rows to the next run, because other transactions had them locked.
    pub has_left_some: bool,
}

impl PrunedStep {
    /// Returns the result of a step that deleted the first rows it found. While there are any, the next step begins anew.
    pub fn of_first(rows: u64) -> Self {
        let next = if rows > 0 { Some(PrunePosition::Number(0)) } else { None };
        Self { rows, next, ..Self::default() }
    }
}

/// How many rows are older than retention keeps them, and still there.
///
/// Not all of them can go. A charge stays while a refund of it is younger, and a live hold stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Prunable {
    /// Entries.
    pub entries: u64,
    /// Holds, ended or not.
    pub holds: u64,
    /// Events.
    pub events: u64,
}

impl Prunable {
    /// Returns these numbers of rows.
    pub const fn new(entries: u64, holds: u64, events: u64) -> Self {
        Self { entries, holds, events }
    }
}

/// The oldest instants that are kept.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct PruneCutoffs {
    pub entries: Timestamp,
    pub holds: Timestamp,
    pub events: Timestamp,
}

/// Returns the entries of the charges of which every row could be read: `rows` are a charge and its entries, or `None` for
/// what could not. A charge and its refunds stay together, so that no more is ever refunded than it was.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(super) fn of_whole_charges<C: PartialEq, E>(rows: Vec<(C, Option<E>)>) -> Vec<E> {
    let (rows, unreadable): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, it)| it.is_some());
    let is_whole = |charge: &C| unreadable.iter().all(|(other, _)| other != charge);
    rows.into_iter().filter_map(|(charge, entry)| entry.filter(|_| is_whole(&charge))).collect()
}

/// Returns a sum in two halves, of which stores add up each: the multiples of 2^32, and the rest.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(super) fn halves(sum: i128) -> (i64, i64) {
    let low = sum.rem_euclid(1 << 32);
    (saturated(sum >> 32), saturated(low))
}

/// No sum of a step is as large.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
fn saturated(half: i128) -> i64 {
    i64::try_from(half).unwrap_or(if half < 0 { i64::MIN } else { i64::MAX })
}
