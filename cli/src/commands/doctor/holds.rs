//! Holds that no process looks after.

use agentkey::AgentKeys;
use agentkey::jiff::{SignedDuration, Timestamp};
use agentkey::model::OpenHold;

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
    let is_overdue = |hold: &&OpenHold| now.duration_since(hold.expires_at) > MAX_OVERDUE;
    let is_old =
        |hold: &&OpenHold| !is_overdue(hold) && now.duration_since(hold.created_at) > MAX_AGE;
    let overdue = holds.iter().filter(is_overdue).count();
    let old: Vec<_> = holds.iter().filter(is_old).collect();
    checks.push(if overdue > 0 {
        Check::warning(
            "expired holds",
            format!("{overdue} holds are over and were not ended"),
            "no process sweeps: start the service, which ends them within its `sweep_interval`",
        )
    } else if let Some(oldest) = old.first() {
        let age = now.duration_since(oldest.created_at).as_mins();
        Check::warning(
            "old holds",
            format!("{} holds are old; key {} has one for {age} minutes", old.len(), oldest.key),
            "look for a handler that keeps its charge, or a `max_hold_age` above 15 minutes",
        )
    } else {
        let count = match u32::try_from(holds.len()) {
            Ok(OLDEST) => format!("{OLDEST} or more"),
            _ => holds.len().to_string(),
        };
        Check::ok("holds", format!("{count} open, none of them old"))
    });
    Ok(())
}
