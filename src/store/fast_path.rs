//! What databases share in how they keep the ledger: which postings are simple, and where entries stand.

use jiff::Timestamp;

use crate::ledger::{Action, Posting};
use crate::model::PostingId;

/// Whether a posting may be decided by what is known: whether it asks for nothing but its lineage and live holds, and
/// whether its own id, if it was taken before, makes the write fail.
pub(super) fn is_fast_path(posting: &Posting) -> bool {
    holds_of(&posting.action).is_some()
}

/// The holds that a plain posting needs.
pub(super) fn holds_of(action: &Action) -> Option<&[PostingId]> {
    match action {
        Action::Hold { claim: None, .. } | Action::Pay { claim: None, .. } => Some(&[]),
        Action::Renew { holds, claim: None, .. } => Some(holds),
        Action::Settle { holds, void, claim: None, .. } if void.is_empty() => Some(holds),
        _ => None,
    }
}

/// Where the first entry written at `at` stands at the earliest.
pub(super) fn min_seq_at(at: Timestamp) -> i64 {
    const END: i64 = 1 << 54;
    at.as_microsecond().clamp(-END, END) << 8
}

/// Where an entry written at `at` stands behind the entry at `last`.
pub(super) fn next_seq(last: i64, at: Timestamp) -> i64 {
    last.saturating_add(1).max(min_seq_at(at))
}

/// A place that no entry written before `at` can have reached.
pub(super) fn seq_after(at: Timestamp) -> i64 {
    min_seq_at(crate::model::clock::later(at, std::time::Duration::from_secs(3_600)))
}

/// The first whole microsecond that is not before `at`: stored instants have no finer parts.
pub(super) fn ceiling(at: Timestamp) -> Timestamp {
    let finer = at.subsec_nanosecond().rem_euclid(1_000) != 0;
    // A cut goes towards zero, which before 1970 is upwards already.
    crate::model::clock::from_micros(at.as_microsecond() + i64::from(finer && at > Timestamp::UNIX_EPOCH))
}
