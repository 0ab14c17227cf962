//! Options of stores that are out of their range.

use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The longest that a store waits for one thing.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(3_600);

/// Checks an option.
///
/// # Errors
///
/// A text that names the option and what it takes.
pub(super) fn check<T: PartialOrd + Debug>(
    option: &str,
    given: T,
    range: RangeInclusive<T>,
) -> Result<(), String> {
    match range.contains(&given) {
        true => Ok(()),
        false => Err(format!(
            "{option} is {given:?}, and must be from {:?} to {:?}",
            range.start(),
            range.end()
        )),
    }
}
