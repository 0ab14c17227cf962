//! Sums of entries by group.

use std::collections::BTreeMap;

use jiff::{Timestamp, Unit};

use super::{Usage, UsageBy};
use crate::model::Amount;

/// The sums of groups, in the order of Rust's strings.
#[derive(Default)]
pub(super) struct UsageSums(BTreeMap<(String, Option<String>), (i128, u64, i128)>);

impl UsageSums {
    /// Adds an amount, a number of charges and an adjustment to a group.
    pub(super) fn add(
        &mut self,
        group: (String, Option<String>),
        amount: i128,
        charges: u64,
        adjusted: i128,
    ) {
        let sums = self.0.entry(group).or_default();
        *sums = (sums.0 + amount, sums.1 + charges, sums.2 + adjusted);
    }

    pub(super) fn into_usage(self) -> Vec<Usage> {
        let usage = |((group, subgroup), (amount, charges, adjusted))| Usage {
            subgroup,
            ..Usage::new(group, saturated(amount), charges, saturated(adjusted))
        };
        self.0.into_iter().map(usage).collect()
    }
}

impl UsageBy {
    /// Returns the length of time of a group; `None` if groups are not by time.
    pub(super) const fn unit(&self) -> Option<Unit> {
        match self {
            Self::Key | Self::Label(_) => None,
            Self::Hour => Some(Unit::Hour),
            Self::Day => Some(Unit::Day),
            Self::Month => Some(Unit::Month),
        }
    }
}

/// Returns the start of the hour, day or month of an instant.
pub(super) fn bucket(at: Timestamp, unit: Unit) -> String {
    let text = at.to_string();
    let (kept, rest) = match unit {
        Unit::Month => (7, "-01T00:00:00Z"),
        Unit::Day => (10, "T00:00:00Z"),
        _ => (13, ":00:00Z"),
    };
    text.get(..kept).map_or_else(|| text.clone(), |start| format!("{start}{rest}"))
}

/// Returns a sum of entries, in millionths. Only the final sum saturates, so the order of the entries does not matter.
pub(super) fn saturated(sum: i128) -> Amount {
    Amount::micros(i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX }))
}
