//! Budgets: how much may be spent, and in which period.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use crate::model::{Amount, Period};

/// A limit and the period in which it may be spent.
///
/// In JSON it is `{"limit_cents": 5000, "period": "month"}`, with `null` for no limit. Both members
/// are required, and a negative limit is refused.
///
/// ```
/// use agentkey::{Amount, Budget};
/// use agentkey::model::Period;
///
/// let budget = Budget::monthly(Amount::cents(5_000));
/// assert_eq!(budget.limit, Some(Amount::cents(5_000)));
/// assert_eq!(budget.period, Period::Month);
/// assert_eq!(budget.calendar().period, Period::CalendarMonth);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
#[must_use = "a budget takes effect in `NewKey`, `KeyPatch` or `AgentKeys::ensure_account`"]
pub struct Budget {
    /// The most that may be spent in a window of `period`; `None` for no limit. A key with zero may
    /// use free routes only.
    // `deserialize_with` makes a missing member an error instead of "no limit".
    #[serde(rename = "limit_cents", deserialize_with = "read_limit")]
    pub limit: Option<Amount>,
    /// The period after which the limit may be spent again.
    pub period: Period,
}

impl Budget {
    /// Returns this limit (`None` for none) in each window of this period.
    pub const fn new(limit: Option<Amount>, period: Period) -> Self {
        Self { limit, period }
    }

    /// Returns no limit. This is the default.
    pub const fn unlimited() -> Self {
        Self::new(None, Period::Lifetime)
    }

    /// Returns a limit for the whole life of the key.
    pub const fn lifetime(limit: Amount) -> Self {
        Self::new(Some(limit), Period::Lifetime)
    }

    /// Returns a limit for each 24 hours, counted from the creation of the key.
    pub const fn daily(limit: Amount) -> Self {
        Self::new(Some(limit), Period::Day)
    }

    /// Returns a limit for each 7 days, counted from the creation of the key.
    pub const fn weekly(limit: Amount) -> Self {
        Self::new(Some(limit), Period::Week)
    }

    /// Returns a limit for each month, counted from the creation of the key.
    pub const fn monthly(limit: Amount) -> Self {
        Self::new(Some(limit), Period::Month)
    }

    /// Sets windows that follow the calendar in UTC, instead of the creation of the key.
    pub const fn calendar(mut self) -> Self {
        self.period = match self.period {
            Period::Day => Period::CalendarDay,
            Period::Week => Period::CalendarWeek,
            Period::Month => Period::CalendarMonth,
            other => other,
        };
        self
    }

    /// Checks that the limit is not negative.
    ///
    /// # Errors
    ///
    /// [`BudgetError::NegativeLimit`] where the limit is below zero.
    ///
    /// ```
    /// use agentkey::{Amount, Budget};
    /// use agentkey::model::BudgetError;
    ///
    /// assert_eq!(Budget::daily(Amount::ZERO).validate(), Ok(()));
    /// assert_eq!(Budget::daily(Amount::cents(-1)).validate(), Err(BudgetError::NegativeLimit));
    /// ```
    pub const fn validate(&self) -> Result<(), BudgetError> {
        match self.limit {
            Some(limit) if limit.is_negative() => Err(BudgetError::NegativeLimit),
            _ => Ok(()),
        }
    }

    /// Returns limit − spent − held, not below zero; `None` where there is no limit.
    pub(crate) fn remaining(&self, balance: &Balance) -> Option<Amount> {
        let limit = self.limit?;
        Some(limit.saturating_sub(balance.spent).saturating_sub(balance.held).max(Amount::ZERO))
    }

    /// Returns whether `amount` more fits: `spent + held + amount ≤ limit`.
    ///
    /// Without a limit, the sum must not exceed the largest amount.
    pub(crate) fn fits(&self, balance: &Balance, amount: Amount) -> bool {
        let total =
            balance.spent.checked_add(balance.held).and_then(|used| used.checked_add(amount));
        total.is_some_and(|total| total <= self.limit.unwrap_or(Amount::MAX))
    }
}

/// Money spent in the current window, and money held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Balance {
    /// What was charged in the window, less what was refunded of it.
    #[serde(rename = "spent_cents")]
    pub spent: Amount,
    /// What live holds set aside.
    #[serde(rename = "held_cents")]
    pub held: Amount,
    /// The start of the window that `spent` counts.
    #[serde(rename = "window_start")]
    pub since: Timestamp,
}

impl Balance {
    /// Returns a balance with nothing spent and nothing held, in the window that starts at `since`.
    pub const fn empty(since: Timestamp) -> Self {
        Self { spent: Amount::ZERO, held: Amount::ZERO, since }
    }

    /// Starts the window that is current at `now`, if `spent` still counts an earlier one. Holds
    /// stay.
    pub(crate) fn roll(&mut self, budget: &Budget, anchor: Timestamp, now: Timestamp) {
        let start = budget.period.window(anchor, now).start;
        if self.since < start {
            self.since = start;
            self.spent = Amount::ZERO;
        }
    }

    /// Returns a balance as a store loaded it.
    pub const fn stored(spent: Amount, held: Amount, since: Timestamp) -> Self {
        Self { spent, held, since }
    }
}

fn read_limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Amount>, D::Error> {
    let limit = Option::<Amount>::deserialize(deserializer)?;
    Budget::new(limit, Period::Lifetime).validate().map_err(serde::de::Error::custom)?;
    Ok(limit)
}

/// Why a budget is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// The limit is below zero.
    #[error("a limit is zero or more, or null for none")]
    NegativeLimit,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_both_members() {
        for (budget, json) in [
            (Budget::unlimited(), r#"{"limit_cents":null,"period":"lifetime"}"#),
            (Budget::monthly(Amount::cents(5_000)), r#"{"limit_cents":5000,"period":"month"}"#),
            (
                Budget::daily(Amount::micros(300)).calendar(),
                r#"{"limit_cents":0.03,"period":"calendar_day"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&budget).unwrap(), json);
            assert_eq!(serde_json::from_str::<Budget>(json).unwrap(), budget);
        }
    }

    #[test]
    fn a_missing_member_never_means_unlimited() {
        for (json, text) in [
            (r#"{"period":"day"}"#, "missing field `limit_cents`"),
            (r#"{"limit_cents":1}"#, "missing field `period`"),
            (r#"{"limit_cents":-1,"period":"day"}"#, "a limit is zero or more, or null for none"),
            (
                r#"{"limit_cents":"1","period":"day"}"#,
                "invalid type: string \"1\", expected a number of cents",
            ),
        ] {
            let error = serde_json::from_str::<Budget>(json).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
    }

    #[test]
    fn it_can_be_flattened() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Row {
            #[serde(flatten)]
            budget: Budget,
        }
        let row = Row { budget: Budget::weekly(Amount::micros(15_000)) };
        let json = serde_json::to_string(&row).unwrap();
        assert_eq!(json, r#"{"limit_cents":1.5,"period":"week"}"#);
        assert_eq!(serde_json::from_str::<Row>(&json).unwrap(), row);
        assert!(serde_json::from_str::<Row>(r#"{"period":"week"}"#).is_err());
    }

    #[test]
    fn calendar_leaves_lifetime_alone() {
        assert_eq!(Budget::lifetime(Amount::ZERO).calendar(), Budget::lifetime(Amount::ZERO));
        assert_eq!(Budget::weekly(Amount::ZERO).calendar().calendar().period, Period::CalendarWeek);
        assert_eq!(Budget::default(), Budget::unlimited());
    }
}
