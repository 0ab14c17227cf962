//! Budgets: how much may be spent, and in which periods.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::{Amount, Period};

/// How many limits a budget can have beside its first one: one for each other unit of time.
const MORE: usize = 3;

/// Up to four limits, at most one for each of day, week, month and lifetime. The tightest binds.
///
/// In JSON it is a list, such as `[{"limit_cents": 5000, "period": "month"}]`. An empty list is no
/// limit. Both members are required, and a negative limit is refused.
///
/// ```
/// use agentkey::{Amount, Budget};
/// use agentkey::model::Period;
///
/// let budget = Budget::monthly(Amount::cents(5_000));
/// assert_eq!(budget.limit, Some(Amount::cents(5_000)));
/// assert_eq!(budget.period, Period::Month);
/// assert_eq!(budget.calendar().period, Period::CalendarMonth);
///
/// let both = Budget::daily(Amount::cents(500)).and_monthly(Amount::cents(5_000));
/// assert_eq!(both.limits().count(), 2);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[must_use = "a budget takes effect in `NewKey`, `KeyPatch` or `AgentKeys::set_account_budget`"]
pub struct Budget {
    /// The most that may be spent in a window of `period`; `None` for no limit. A key with zero may
    /// use free routes only.
    pub limit: Option<Amount>,
    /// The period after which the first limit may be spent again. Without a limit, what is spent is
    /// still counted in this period.
    pub period: Period,
    /// The other limits, the shortest period first.
    more: [Option<Limit>; MORE],
}

/// An amount that may be spent in each window of a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Limit {
    /// The most that may be spent in a window.
    #[serde(rename = "limit_cents")]
    pub amount: Amount,
    /// The period after which it may be spent again.
    pub period: Period,
}

impl Budget {
    /// Returns this limit (`None` for none) in each window of this period.
    pub const fn new(limit: Option<Amount>, period: Period) -> Self {
        Self { limit, period, more: [None; MORE] }
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

    /// Adds a limit for the whole life of the key.
    pub fn and_lifetime(self, limit: Amount) -> Self {
        self.and(limit, Period::Lifetime)
    }

    /// Adds a limit for each 24 hours.
    pub fn and_daily(self, limit: Amount) -> Self {
        self.and(limit, Period::Day)
    }

    /// Adds a limit for each 7 days.
    pub fn and_weekly(self, limit: Amount) -> Self {
        self.and(limit, Period::Week)
    }

    /// Adds a limit for each month.
    pub fn and_monthly(self, limit: Amount) -> Self {
        self.and(limit, Period::Month)
    }

    /// Adds a limit for each window of this period. It replaces a limit for the same unit of time.
    ///
    /// ```
    /// use agentkey::{Amount, Budget};
    /// use agentkey::model::Period;
    ///
    /// let budget = Budget::daily(Amount::cents(5)).and(Amount::cents(9), Period::CalendarDay);
    /// assert_eq!(budget, Budget::daily(Amount::cents(9)).calendar());
    /// ```
    pub fn and(mut self, limit: Amount, period: Period) -> Self {
        let is_blank = self == Self::unlimited();
        if is_blank || self.period.is_as_long_as(period) {
            (self.limit, self.period) = (Some(limit), period);
            return self;
        }
        self.and_more(limit, period)
    }

    /// Adds a limit beside the first one, for another unit of time.
    fn and_more(mut self, limit: Amount, period: Period) -> Self {
        // Beside the first limit there are three other units of time, so there is a place for each.
        let same = |slot: &&mut Option<Limit>| {
            slot.is_some_and(|other| other.period.is_as_long_as(period))
        };
        let place = match self.more.iter_mut().find(same) {
            Some(same) => Some(same),
            None => self.more.iter_mut().find(|slot| slot.is_none()),
        };
        if let Some(slot) = place {
            *slot = Some(Limit { amount: limit, period });
        }
        self.more.sort_by_key(|slot| slot.map_or(u8::MAX, |limit| limit.period.rank()));
        self
    }

    /// Sets windows that follow the calendar in UTC, instead of the creation of the key, for the
    /// limits so far.
    pub fn calendar(mut self) -> Self {
        self.period = self.period.calendar();
        for limit in self.more.iter_mut().flatten() {
            limit.period = limit.period.calendar();
        }
        self
    }

    /// Returns the limits. The first one is first, the others by the length of their periods.
    pub fn limits(&self) -> impl Iterator<Item = Limit> {
        let first = self.limit.map(|amount| Limit { amount, period: self.period });
        first.into_iter().chain(self.more())
    }

    /// Returns the limits that a posting has to fit into. Without a limit, that is the largest
    /// amount.
    pub(crate) fn binding(&self) -> impl Iterator<Item = Limit> {
        let first = Limit { amount: self.limit.unwrap_or(Amount::MAX), period: self.period };
        std::iter::once(first).chain(self.more())
    }

    /// Returns the limits beside the first one.
    pub(crate) fn more(&self) -> impl Iterator<Item = Limit> {
        self.more.into_iter().flatten()
    }

    /// Returns the periods in which spending is counted.
    pub(crate) fn periods(&self) -> impl Iterator<Item = Period> {
        std::iter::once(self.period).chain(self.more().map(|limit| limit.period))
    }

    /// Checks that no limit is negative, and that no two are for the same unit of time.
    ///
    /// # Errors
    ///
    /// [`BudgetError::NegativeLimit`] where a limit is below zero. [`BudgetError::SamePeriod`] where
    /// two limits are for the same unit of time.
    ///
    /// ```
    /// use agentkey::{Amount, Budget};
    /// use agentkey::model::{BudgetError, Period};
    ///
    /// assert_eq!(Budget::daily(Amount::ZERO).validate(), Ok(()));
    /// assert_eq!(Budget::daily(Amount::cents(-1)).validate(), Err(BudgetError::NegativeLimit));
    ///
    /// let mut twice = Budget::daily(Amount::ZERO).and_monthly(Amount::ZERO);
    /// twice.period = Period::CalendarMonth;
    /// assert_eq!(twice.validate(), Err(BudgetError::SamePeriod));
    /// ```
    pub fn validate(&self) -> Result<(), BudgetError> {
        if self.limits().any(|limit| limit.amount.is_negative()) {
            return Err(BudgetError::NegativeLimit);
        }
        let same =
            |period: Period| self.periods().filter(|other| other.is_as_long_as(period)).count();
        match self.periods().all(|period| same(period) == 1) {
            true => Ok(()),
            false => Err(BudgetError::SamePeriod),
        }
    }

    /// Returns the least that a limit has left: limit − spent − held, not below zero; `None` where
    /// there is no limit.
    pub(crate) fn remaining(&self, balance: &Balance) -> Option<Amount> {
        self.limits().map(|limit| limit.remaining(balance)).min()
    }
}

impl Limit {
    /// Returns limit − spent − held, not below zero.
    pub(crate) fn remaining(&self, balance: &Balance) -> Amount {
        let spent = balance.spent_in(self.period).unwrap_or(Amount::MAX);
        self.amount.saturating_sub(spent).saturating_sub(balance.held).max(Amount::ZERO)
    }

    /// Returns whether `spent + held + amount ≤ limit`.
    pub(crate) fn fits(&self, balance: &Balance, amount: Amount) -> bool {
        let used = balance.spent_in(self.period).and_then(|spent| spent.checked_add(balance.held));
        used.and_then(|used| used.checked_add(amount)).is_some_and(|total| total <= self.amount)
    }
}

/// Money spent in the current window of each period, and money held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// What live holds set aside. It counts against every limit.
    pub held: Amount,
    first: Spent,
    more: [Option<Spent>; MORE],
}

/// What was charged in the current window of a period, less what was refunded of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Spent {
    /// The period.
    pub period: Period,
    /// How much.
    pub amount: Amount,
    /// The start of the window.
    pub since: Timestamp,
}

impl Spent {
    /// Returns what was spent in a window that starts at `since`.
    pub const fn new(period: Period, amount: Amount, since: Timestamp) -> Self {
        Self { period, amount, since }
    }
}

impl Balance {
    /// Returns a balance with nothing spent and nothing held, in the windows that are current at
    /// `now`.
    pub fn empty(budget: &Budget, anchor: Timestamp, now: Timestamp) -> Self {
        let start =
            |period: Period| Spent::new(period, Amount::ZERO, period.window(anchor, now).start);
        let more = budget.more.map(|limit| limit.map(|limit| start(limit.period)));
        Self { held: Amount::ZERO, first: start(budget.period), more }
    }

    /// Returns a balance as a store loaded it.
    pub fn stored(held: Amount, first: Spent, more: impl IntoIterator<Item = Spent>) -> Self {
        let mut rest = more.into_iter();
        Self { held, first, more: std::array::from_fn(|_| rest.next()) }
    }

    /// Returns the first period.
    pub const fn period(&self) -> Period {
        self.first.period
    }

    /// Returns what was spent in the first period.
    pub const fn spent(&self) -> Amount {
        self.first.amount
    }

    /// Returns the start of the window of the first period.
    pub const fn since(&self) -> Timestamp {
        self.first.since
    }

    /// Returns what was spent in the current window of this period, if it is counted.
    pub fn spent_in(&self, period: Period) -> Option<Amount> {
        self.windows().find(|spent| spent.period == period).map(|spent| spent.amount)
    }

    /// Returns what was spent in each period that is counted, the first period first.
    pub fn windows(&self) -> impl Iterator<Item = &Spent> {
        std::iter::once(&self.first).chain(self.more())
    }

    pub(crate) fn more(&self) -> impl Iterator<Item = &Spent> {
        self.more.iter().flatten()
    }

    pub(crate) fn windows_mut(&mut self) -> impl Iterator<Item = &mut Spent> {
        std::iter::once(&mut self.first).chain(self.more.iter_mut().flatten())
    }

    /// Starts the windows that are current at `now`, where `spent` still counts an earlier one.
    /// Holds stay.
    pub(crate) fn roll(&mut self, anchor: Timestamp, now: Timestamp) {
        for spent in self.windows_mut() {
            let start = spent.period.window(anchor, now).start;
            if spent.since < start {
                (spent.since, spent.amount) = (start, Amount::ZERO);
            }
        }
    }

    /// Returns whether nothing is spent in a current window, and nothing is held.
    pub fn is_zero(&self) -> bool {
        self.held.is_zero() && self.windows().all(|spent| spent.amount.is_zero())
    }

    /// Returns whether it counts the periods of this budget and no others. For stores.
    pub fn counts(&self, budget: &Budget) -> bool {
        self.windows().map(|spent| spent.period).eq(budget.periods())
    }

    /// Counts the periods of this budget and no others, from now on. Returns the windows that are
    /// new, with nothing spent: their spending has to be counted from the entries.
    pub(crate) fn realign(
        &mut self,
        budget: &Budget,
        anchor: Timestamp,
        now: Timestamp,
    ) -> Vec<Spent> {
        let before = std::mem::replace(self, Self::empty(budget, anchor, now));
        self.held = before.held;
        let mut new = Vec::new();
        for spent in self.windows_mut() {
            match before.windows().find(|old| old.period == spent.period) {
                Some(old) => *spent = *old,
                None => new.push(*spent),
            }
        }
        new
    }

    /// Sets what was spent in a window.
    pub(crate) fn set_spent(&mut self, counted: Spent) {
        for spent in self.windows_mut().filter(|spent| spent.period == counted.period) {
            *spent = counted;
        }
    }
}

/// One limit in JSON. Only the first may have none.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitJson {
    // `deserialize_with` makes a missing member an error instead of "no limit".
    #[serde(deserialize_with = "Option::deserialize")]
    limit_cents: Option<Amount>,
    period: Period,
}

impl Serialize for Budget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if *self == Self::unlimited() {
            return serializer.collect_seq([(); 0]);
        }
        let first = LimitJson { limit_cents: self.limit, period: self.period };
        let more = self
            .more()
            .map(|limit| LimitJson { limit_cents: Some(limit.amount), period: limit.period });
        serializer.collect_seq(std::iter::once(first).chain(more))
    }
}

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let limits = Vec::<LimitJson>::deserialize(deserializer)?;
        let limits = limits.into_iter().map(|limit| (limit.limit_cents, limit.period));
        Self::from_limits(limits).map_err(serde::de::Error::custom)
    }
}

impl Budget {
    /// Returns the budget of these limits. Only the first may have no amount.
    pub(crate) fn from_limits(
        limits: impl IntoIterator<Item = (Option<Amount>, Period)>,
    ) -> Result<Self, BudgetError> {
        let mut limits = limits.into_iter();
        let Some((limit, period)) = limits.next() else { return Ok(Self::unlimited()) };
        let mut budget = Self::new(limit, period);
        for (limit, period) in limits {
            if budget.periods().any(|other| other.is_as_long_as(period)) {
                return Err(BudgetError::SamePeriod);
            }
            // The first period is counted also where it has no limit, as the stored balance says.
            budget = budget.and_more(limit.ok_or(BudgetError::NoAmount)?, period);
        }
        budget.validate()?;
        Ok(budget)
    }
}

/// Why a budget is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// The limit is below zero.
    #[error("a limit is zero or more, or null for none")]
    NegativeLimit,
    /// Two limits are for the same unit of time.
    #[error("there is at most one limit for each of day, week, month and lifetime")]
    SamePeriod,
    /// A limit beside the first has no amount.
    #[error("only the first limit may be null; leave the others out")]
    NoAmount,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_a_list_of_limits() {
        for (budget, json) in [
            (Budget::unlimited(), "[]"),
            (Budget::new(None, Period::Day), r#"[{"limit_cents":null,"period":"day"}]"#),
            (Budget::monthly(Amount::cents(5_000)), r#"[{"limit_cents":5000,"period":"month"}]"#),
            (
                Budget::daily(Amount::micros(300)).calendar(),
                r#"[{"limit_cents":0.03,"period":"calendar_day"}]"#,
            ),
            (
                Budget::monthly(Amount::cents(9))
                    .and_lifetime(Amount::cents(50))
                    .and_daily(Amount::ZERO),
                r#"[{"limit_cents":9,"period":"month"},{"limit_cents":0,"period":"day"},{"limit_cents":50,"period":"lifetime"}]"#,
            ),
            (
                Budget {
                    limit: None,
                    ..Budget::lifetime(Amount::ZERO).and_daily(Amount::cents(5))
                },
                r#"[{"limit_cents":null,"period":"lifetime"},{"limit_cents":5,"period":"day"}]"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&budget).unwrap(), json);
            assert_eq!(serde_json::from_str::<Budget>(json).unwrap(), budget);
        }
    }

    #[test]
    fn a_missing_member_never_means_unlimited() {
        for (json, text) in [
            (r#"[{"period":"day"}]"#, "missing field `limit_cents`"),
            (r#"[{"limit_cents":1}]"#, "missing field `period`"),
            (r#"[{"limit_cents":-1,"period":"day"}]"#, "a limit is zero or more, or null for none"),
            (
                r#"[{"limit_cents":"1","period":"day"}]"#,
                "invalid type: string \"1\", expected a number of cents",
            ),
            (
                r#"[{"limit_cents":1,"period":"day"},{"limit_cents":2,"period":"calendar_day"}]"#,
                "there is at most one limit for each of day, week, month and lifetime",
            ),
            (
                r#"[{"limit_cents":1,"period":"day"},{"limit_cents":null,"period":"month"}]"#,
                "only the first limit may be null; leave the others out",
            ),
            (r#"[{"limit_cents":1,"period":"day","limit":2}]"#, "unknown field `limit`"),
            ("null", "invalid type: null"),
        ] {
            let error = serde_json::from_str::<Budget>(json).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
    }

    #[test]
    fn each_limit_counts_for_itself_and_held_against_all() {
        let at = Timestamp::UNIX_EPOCH;
        let budget = Budget::daily(Amount::cents(10)).and_monthly(Amount::cents(50));
        let mut balance = Balance::empty(&budget, at, at);
        balance.set_spent(Spent::new(Period::Day, Amount::cents(4), at));
        balance.set_spent(Spent::new(Period::Month, Amount::cents(43), at));
        balance.held = Amount::cents(2);
        assert_eq!(budget.remaining(&balance), Some(Amount::cents(4)));
        balance.set_spent(Spent::new(Period::Month, Amount::cents(47), at));
        assert_eq!(budget.remaining(&balance), Some(Amount::cents(1)));
        let fits = |amount| budget.binding().all(|limit| limit.fits(&balance, amount));
        assert!(fits(Amount::cents(1)) && !fits(Amount::cents(2)));

        balance.roll(at, "1970-01-02T00:00:00Z".parse().unwrap());
        assert_eq!(balance.spent_in(Period::Day), Some(Amount::ZERO));
        assert_eq!(balance.spent_in(Period::Month), Some(Amount::cents(47)));
    }

    #[test]
    fn another_budget_keeps_the_spending_of_the_periods_that_stay() {
        let at = Timestamp::UNIX_EPOCH;
        let before = Budget::daily(Amount::cents(10)).and_monthly(Amount::cents(50));
        let mut balance = Balance::empty(&before, at, at);
        balance.set_spent(Spent::new(Period::Month, Amount::cents(7), at));
        let after = Budget::monthly(Amount::cents(60)).and_lifetime(Amount::cents(90));
        let new = balance.realign(&after, at, at);
        assert_eq!(balance.spent_in(Period::Month), Some(Amount::cents(7)));
        assert_eq!(balance.spent_in(Period::Day), None);
        assert_eq!(new, [Spent::new(Period::Lifetime, Amount::ZERO, Timestamp::MIN)]);
        assert!(balance.counts(&after) && !balance.counts(&before));
    }

    #[test]
    fn the_order_of_the_other_limits_does_not_matter() {
        let [a, b, c] = [1, 2, 3].map(Amount::cents);
        let budget = Budget::daily(a).and_lifetime(b).and_weekly(c);
        assert_eq!(budget, Budget::daily(a).and_weekly(c).and_lifetime(b));
        assert_eq!(Budget::unlimited().and_weekly(a), Budget::weekly(a));
        assert_eq!(budget.and_weekly(a).limits().count(), 3);
        assert_eq!(
            budget.and_monthly(a).calendar().periods().collect::<Vec<_>>(),
            [Period::CalendarDay, Period::CalendarWeek, Period::CalendarMonth, Period::Lifetime]
        );
    }

    #[test]
    fn calendar_leaves_lifetime_alone() {
        assert_eq!(Budget::lifetime(Amount::ZERO).calendar(), Budget::lifetime(Amount::ZERO));
        assert_eq!(Budget::weekly(Amount::ZERO).calendar().calendar().period, Period::CalendarWeek);
        assert_eq!(Budget::default(), Budget::unlimited());
    }
}
