//! Holds that no process looks after.

use agentkey::jiff::{SignedDuration, Timestamp};
use agentkey::model::OpenHold;
use agentkey::{AgentKeys, Amount};

use super::check::Check;
use crate::error::Error;

/// The default of `Builder::max_hold_age`.
const MAX_AGE: SignedDuration = SignedDuration::from_mins(15);

/// Several intervals of the sweep, whose default is 30 s.
const MAX_OVERDUE: SignedDuration = SignedDuration::from_mins(2);

/// How many holds are looked at, the oldest first.
const OLDEST: u32 = 1_000;

pub(super) async fn check(
    keys: &AgentKeys,
    now: Timestamp,
    checks: &mut Vec<Check>,
) -> Result<(), Error> {
    let holds = keys.open_holds(OLDEST).await?;
    // There may be more than were looked at.
    let more = if holds.len() >= OLDEST as usize { " or more" } else { "" };
    let counted = |holds: &[&OpenHold]| format!("{}{more} of {} in all", holds.len(), sum(holds));
    let is_overdue = |hold: &OpenHold| now.duration_since(hold.expires_at) > MAX_OVERDUE;
    let is_old = |hold: &OpenHold| now.duration_since(hold.created_at) > MAX_AGE;
    let (overdue, open): (Vec<_>, Vec<_>) = holds.iter().partition(|hold| is_overdue(hold));
    let old: Vec<_> = open.iter().copied().filter(|hold| is_old(hold)).collect();
    if !overdue.is_empty() {
        checks.push(Check::warning(
            "expired holds",
            format!("{} were not ended; they keep no money from being spent", counted(&overdue)),
            "no process sweeps: start the service, which ends them within its `sweep_interval`, and \
             charges those that are to be charged at their end",
        ));
    }
    checks.push(match old.first() {
        Some(oldest) => Check::warning(
            "old holds",
            format!(
                "{} for more than {} minutes; key {} for {}",
                counted(&old),
                MAX_AGE.as_mins(),
                oldest.key,
                now.duration_since(oldest.created_at).as_mins()
            ),
            "well where work takes that long; else look for a response that nobody reads, or a \
             handler that keeps its charge",
        ),
        None if open.is_empty() => Check::ok("holds", "none is open".to_owned()),
        None => Check::ok("holds", format!("{} open, none of them for long", counted(&open))),
    });
    Ok(())
}

fn sum(holds: &[&OpenHold]) -> Amount {
    holds.iter().fold(Amount::ZERO, |sum, hold| sum.saturating_add(hold.amount))
}
