//! The postings of the fast path, and the order of entries, for all databases.

use jiff::Timestamp;

use crate::ledger::{Action, Posting};
use crate::model::PostingId;

/// Returns whether a posting can be decided by cached data. It then needs only its lineage and live holds, and a second
/// write of its id fails.
pub(super) fn is_fast_path(posting: &Posting) -> bool {
    holds_of(&posting.action).is_some()
}

/// Returns the holds that a posting of the fast path needs; `None` for another posting.
pub(super) fn holds_of(action: &Action) -> Option<&[PostingId]> {
    match action {
        Action::Hold { claim: None, .. } | Action::Pay { claim: None, .. } => Some(&[]),
        Action::Renew { holds, claim: None, .. } => Some(holds),
        Action::Settle { holds, void, claim: None, .. } if void.is_empty() => Some(holds),
        _ => None,
    }
}

/// Returns the smallest `seq` of an entry that is written at `at`.
pub(super) fn min_seq_at(at: Timestamp) -> i64 {
    const END: i64 = 1 << 54;
    at.as_microsecond().clamp(-END, END) << 8
}

/// Returns the `seq` of an entry that is written at `at` after the entry with the `seq` `last`.
pub(super) fn next_seq(last: i64, at: Timestamp) -> i64 {
    last.saturating_add(1).max(min_seq_at(at))
}

/// Returns a `seq` that no entry written before `at` can have reached.
pub(super) fn seq_after(at: Timestamp) -> i64 {
    min_seq_at(crate::model::clock::later(at, std::time::Duration::from_secs(3_600)))
}

/// Returns the first whole microsecond that is not before `at`. Stored instants have no smaller parts.
pub(super) fn ceiling(at: Timestamp) -> Timestamp {
    let finer = at.subsec_nanosecond().rem_euclid(1_000) != 0;
    // Truncation goes towards zero, which before 1970 is already upwards.
    crate::model::clock::from_micros(
        at.as_microsecond() + i64::from(finer && at > Timestamp::UNIX_EPOCH),
    )
}
