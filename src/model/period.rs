//! Periods of a budget, and the windows that they divide time into.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::Offset;
use serde::{Deserialize, Serialize};

/// The time after which a limit may be spent again. All periods are in UTC.
///
/// Plain periods are counted from an anchor, the creation of the key. A month that starts on the
/// 31st starts on the last day of shorter months, and on the 31st again where there is one.
///
/// `Calendar` periods start at midnight, on Monday (ISO 8601), and on the first of the month.
///
/// ```
/// use agentkey::model::Period;
/// use jiff::Timestamp;
///
/// let anchor: Timestamp = "2026-01-31T09:00:00Z".parse()?;
/// let now: Timestamp = "2026-03-14T12:00:00Z".parse()?;
///
/// let window = Period::Month.window(anchor, now);
/// assert_eq!(window.start, "2026-02-28T09:00:00Z".parse()?);
/// assert_eq!(window.end, Some("2026-03-31T09:00:00Z".parse()?));
///
/// let window = Period::CalendarWeek.window(anchor, now);
/// assert_eq!(window.start, "2026-03-09T00:00:00Z".parse()?);
/// # Ok::<(), jiff::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Period {
    /// One window without an end.
    #[default]
    Lifetime,
    /// 24 hours, from the anchor on.
    Day,
    /// 7 times 24 hours, from the anchor on.
    Week,
    /// A month, from the anchor on.
    Month,
    /// From midnight to midnight.
    CalendarDay,
    /// From Monday to Monday.
    CalendarWeek,
    /// From the first of a month to the first of the next.
    CalendarMonth,
}

const SECOND: i128 = 1_000_000_000;
const DAY: i128 = 86_400 * SECOND;
const WEEK: i128 = 7 * DAY;
/// 1970-01-05, in nanoseconds.
const A_MONDAY: i128 = 4 * DAY;

impl Period {
    const ALL: [Self; 7] = [
        Self::Lifetime,
        Self::Day,
        Self::Week,
        Self::Month,
        Self::CalendarDay,
        Self::CalendarWeek,
        Self::CalendarMonth,
    ];

    /// Returns the window that contains `now`. The `anchor` may be after `now`: windows reach back
    /// as well.
    ///
    /// jiff's range of time is the years −9999 to 9999. A window beyond it starts at
    /// [`Timestamp::MIN`], or has no end.
    pub fn window(self, anchor: Timestamp, now: Timestamp) -> Window {
        match self {
            Self::Lifetime => Window { start: Timestamp::MIN, end: None },
            Self::Day => fixed(DAY, anchor.as_nanosecond(), now),
            Self::Week => fixed(WEEK, anchor.as_nanosecond(), now),
            Self::Month => month(anchor, now),
            Self::CalendarDay => fixed(DAY, 0, now),
            Self::CalendarWeek => fixed(WEEK, A_MONDAY, now),
            Self::CalendarMonth => month(Timestamp::UNIX_EPOCH, now),
        }
    }

    /// Returns whether it lasts no longer than `other`, by its unit: a day, a week, a month, a
    /// lifetime.
    ///
    /// Anchored and calendar periods of one unit are equally long.
    ///
    /// ```
    /// use agentkey::model::Period;
    ///
    /// assert!(Period::Week.is_shorter_or_equal(Period::CalendarWeek));
    /// assert!(!Period::Lifetime.is_shorter_or_equal(Period::Month));
    /// ```
    pub const fn is_shorter_or_equal(self, other: Self) -> bool {
        self.rank() <= other.rank()
    }

    /// Returns whether it is of the same unit of time: a day and a calendar day are.
    pub(crate) const fn is_as_long_as(self, other: Self) -> bool {
        self.rank() == other.rank()
    }

    /// Returns the period of the same unit that follows the calendar in UTC.
    pub(crate) const fn calendar(self) -> Self {
        match self {
            Self::Day => Self::CalendarDay,
            Self::Week => Self::CalendarWeek,
            Self::Month => Self::CalendarMonth,
            other => other,
        }
    }

    /// Returns its name in JSON and in text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lifetime => "lifetime",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::CalendarDay => "calendar_day",
            Self::CalendarWeek => "calendar_week",
            Self::CalendarMonth => "calendar_month",
        }
    }

    pub(crate) const fn rank(self) -> u8 {
        match self {
            Self::Day | Self::CalendarDay => 0,
            Self::Week | Self::CalendarWeek => 1,
            Self::Month | Self::CalendarMonth => 2,
            Self::Lifetime => 3,
        }
    }
}

/// Returns the window that contains `now`, where windows last `length` nanoseconds and one starts
/// at `anchor`.
fn fixed(length: i128, anchor: i128, now: Timestamp) -> Window {
    let now = now.as_nanosecond();
    let start = now - (now - anchor).rem_euclid(length);
    Window {
        start: Timestamp::from_nanosecond(start).unwrap_or(Timestamp::MIN),
        end: Timestamp::from_nanosecond(start + length).ok(),
    }
}

/// Returns the window that contains `now`, where each starts a whole number of months from
/// `anchor`.
///
/// Months are always added to the anchor itself. Added from window to window, the 31st would become
/// the 28th forever.
fn month(anchor: Timestamp, now: Timestamp) -> Window {
    let (anchor, now) = (Offset::UTC.to_datetime(anchor), Offset::UTC.to_datetime(now));
    // The window starts in this month, or in the one before if this month's start is after `now`.
    let mut nth = months(now) - months(anchor);
    if plus_months(anchor, nth).is_none_or(|start| start > now) {
        nth -= 1;
    }
    let instant = |nth| plus_months(anchor, nth).and_then(|at| Offset::UTC.to_timestamp(at).ok());
    Window { start: instant(nth).unwrap_or(Timestamp::MIN), end: instant(nth + 1) }
}

fn months(at: DateTime) -> i64 {
    i64::from(at.year()) * 12 + i64::from(at.month()) - 1
}

/// Returns the same time of day the given number of months later, on the last day of the month
/// where it is too short.
///
/// A `Span` would cost twice as much, and every look-up and every posting calls this.
fn plus_months(at: DateTime, months: i64) -> Option<DateTime> {
    let total = self::months(at).checked_add(months)?;
    let year = i16::try_from(total.div_euclid(12)).ok()?;
    let month = i8::try_from(total.rem_euclid(12) + 1).ok()?;
    let first = Date::new(year, month, 1).ok()?;
    let date = Date::new(year, month, at.day().min(first.days_in_month())).ok()?;
    Some(date.to_datetime(at.time()))
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        Self::ALL.into_iter().find(|period| period.as_str() == text).ok_or(PeriodError::Unknown)
    }
}

/// A part of time in which a limit may be spent once: from `start` on, until just before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// The first instant of the window.
    pub start: Timestamp,
    /// The first instant after the window; `None` where it never ends.
    pub end: Option<Timestamp>,
}

impl Window {
    /// Returns whether `at` is in the window.
    pub fn contains(&self, at: Timestamp) -> bool {
        self.start <= at && self.end.is_none_or(|end| at < end)
    }
}

/// Why a text is not a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeriodError {
    /// No period has this name.
    #[error(
        "a period is one of lifetime, day, week, month, calendar_day, calendar_week, calendar_month"
    )]
    Unknown,
}

#[cfg(test)]
mod tests {
    use jiff::civil::Weekday;
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(period: Period, anchor: &str, now: &str, start: &str, end: &str) {
        let window = period.window(at(anchor), at(now));
        assert_eq!((window.start, window.end), (at(start), Some(at(end))));
    }

    #[test]
    fn months_from_the_31st_do_not_drift() {
        let anchor = "2026-01-31T09:30:00Z";
        for (now, start, end) in [
            ("2026-01-31T09:30:00Z", "2026-01-31T09:30:00Z", "2026-02-28T09:30:00Z"),
            ("2026-02-28T09:29:59.999Z", "2026-01-31T09:30:00Z", "2026-02-28T09:30:00Z"),
            ("2026-02-28T09:30:00Z", "2026-02-28T09:30:00Z", "2026-03-31T09:30:00Z"),
            ("2026-04-30T12:00:00Z", "2026-04-30T09:30:00Z", "2026-05-31T09:30:00Z"),
            ("2026-12-31T12:00:00Z", "2026-12-31T09:30:00Z", "2027-01-31T09:30:00Z"),
            ("2027-01-01T00:00:00Z", "2026-12-31T09:30:00Z", "2027-01-31T09:30:00Z"),
            ("2028-03-01T00:00:00Z", "2028-02-29T09:30:00Z", "2028-03-31T09:30:00Z"),
        ] {
            check(Period::Month, anchor, now, start, end);
        }
    }

    #[test]
    fn leap_years() {
        let anchor = "2024-02-29T00:00:00Z";
        check(
            Period::Month,
            anchor,
            "2025-02-28T00:00:00Z",
            "2025-02-28T00:00:00Z",
            "2025-03-29T00:00:00Z",
        );
        check(
            Period::Month,
            anchor,
            "2025-03-28T23:59:59Z",
            "2025-02-28T00:00:00Z",
            "2025-03-29T00:00:00Z",
        );
        let anchor = "2024-01-30T00:00:00Z";
        check(
            Period::Month,
            anchor,
            "2024-02-29T00:00:00Z",
            "2024-02-29T00:00:00Z",
            "2024-03-30T00:00:00Z",
        );
        check(
            Period::Month,
            anchor,
            "2100-03-01T00:00:00Z",
            "2100-02-28T00:00:00Z",
            "2100-03-30T00:00:00Z",
        );
        check(
            Period::CalendarMonth,
            anchor,
            "2024-02-29T23:00:00Z",
            "2024-02-01T00:00:00Z",
            "2024-03-01T00:00:00Z",
        );
        check(
            Period::CalendarMonth,
            anchor,
            "2100-02-28T23:00:00Z",
            "2100-02-01T00:00:00Z",
            "2100-03-01T00:00:00Z",
        );
    }

    #[test]
    fn days_and_weeks_from_the_anchor() {
        let anchor = "2026-03-04T15:00:00Z";
        check(
            Period::Day,
            anchor,
            "2026-03-05T14:59:59Z",
            "2026-03-04T15:00:00Z",
            "2026-03-05T15:00:00Z",
        );
        check(
            Period::Day,
            anchor,
            "2027-01-01T00:00:00Z",
            "2026-12-31T15:00:00Z",
            "2027-01-01T15:00:00Z",
        );
        check(
            Period::Week,
            anchor,
            "2026-03-11T15:00:00Z",
            "2026-03-11T15:00:00Z",
            "2026-03-18T15:00:00Z",
        );
    }

    #[test]
    fn calendar_periods_ignore_the_anchor() {
        let anchor = "2026-03-04T15:00:00Z";
        check(
            Period::CalendarDay,
            anchor,
            "2026-12-31T23:59:59Z",
            "2026-12-31T00:00:00Z",
            "2027-01-01T00:00:00Z",
        );
        check(
            Period::CalendarDay,
            anchor,
            "1969-12-31T23:59:59Z",
            "1969-12-31T00:00:00Z",
            "1970-01-01T00:00:00Z",
        );
        check(
            Period::CalendarWeek,
            anchor,
            "2027-01-01T00:00:00Z",
            "2026-12-28T00:00:00Z",
            "2027-01-04T00:00:00Z",
        );
        check(
            Period::CalendarWeek,
            anchor,
            "1969-12-31T00:00:00Z",
            "1969-12-29T00:00:00Z",
            "1970-01-05T00:00:00Z",
        );
        check(
            Period::CalendarMonth,
            anchor,
            "2026-12-31T23:59:59Z",
            "2026-12-01T00:00:00Z",
            "2027-01-01T00:00:00Z",
        );
    }

    #[test]
    fn an_anchor_ahead_of_the_clock_is_no_error() {
        let anchor = "2026-03-31T12:00:00Z";
        check(
            Period::Day,
            anchor,
            "2026-03-31T11:59:59Z",
            "2026-03-30T12:00:00Z",
            "2026-03-31T12:00:00Z",
        );
        check(
            Period::Week,
            anchor,
            "2026-03-31T11:59:59Z",
            "2026-03-24T12:00:00Z",
            "2026-03-31T12:00:00Z",
        );
        check(
            Period::Month,
            anchor,
            "2026-03-31T11:59:59Z",
            "2026-02-28T12:00:00Z",
            "2026-03-31T12:00:00Z",
        );
    }

    #[test]
    fn at_the_ends_of_time_windows_are_cut() {
        for period in Period::ALL {
            for anchor in [Timestamp::MIN, Timestamp::MAX, at("2026-01-31T23:59:59.999999999Z")] {
                for now in [Timestamp::MIN, Timestamp::MAX] {
                    assert!(period.window(anchor, now).contains(now), "{period} {anchor} {now}");
                }
            }
        }
        let last = Period::CalendarMonth.window(Timestamp::UNIX_EPOCH, Timestamp::MAX);
        assert_eq!(last, Window { start: at("9999-12-01T00:00:00Z"), end: None });
        let first = Period::CalendarMonth.window(Timestamp::UNIX_EPOCH, Timestamp::MIN);
        assert_eq!(
            first,
            Window { start: Timestamp::MIN, end: Some(at("-009999-02-01T00:00:00Z")) }
        );
        // Here the start in now's own month lies past the end of time.
        let late = Period::Month.window(at("2026-01-31T00:00:00Z"), at("9999-12-15T00:00:00Z"));
        assert_eq!(late, Window { start: at("9999-11-30T00:00:00Z"), end: None });
        let whole = Period::Lifetime.window(Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        assert_eq!(whole, Window { start: Timestamp::MIN, end: None });
    }

    #[test]
    fn names() {
        for period in Period::ALL {
            assert_eq!(period.to_string().parse(), Ok(period));
            assert_eq!(serde_json::to_string(&period).unwrap(), format!("\"{period}\""));
            assert_eq!(serde_json::from_str::<Period>(&format!("\"{period}\"")).unwrap(), period);
        }
        assert_eq!(
            "Month".parse::<Period>().unwrap_err().to_string(),
            "a period is one of lifetime, day, week, month, calendar_day, calendar_week, calendar_month"
        );
        let error = serde_json::from_str::<Period>("\"fortnight\"").unwrap_err().to_string();
        assert!(error.contains("`calendar_month`"), "{error}");
    }

    #[test]
    fn lengths_go_by_unit() {
        use Period::*;
        for (unit, same) in
            [(Day, CalendarDay), (Week, CalendarWeek), (Month, CalendarMonth), (Lifetime, Lifetime)]
        {
            assert!(unit.is_shorter_or_equal(same) && same.is_shorter_or_equal(unit));
        }
        for pair in [Day, Week, Month, Lifetime].windows(2) {
            assert!(pair[0].is_shorter_or_equal(pair[1]) && !pair[1].is_shorter_or_equal(pair[0]));
        }
    }

    fn instants() -> impl Strategy<Value = Timestamp> {
        let year_0_to_4000 = -62_167_219_200_i64..64_060_588_800;
        (year_0_to_4000, 0..1_000_000_000_i32)
            .prop_map(|(second, nano)| Timestamp::new(second, nano).unwrap())
    }

    fn any_instant() -> impl Strategy<Value = Timestamp> {
        let (first, last) = (Timestamp::MIN.as_nanosecond(), Timestamp::MAX.as_nanosecond());
        (first..=last).prop_map(|nanos| Timestamp::from_nanosecond(nanos).unwrap())
    }

    fn periods() -> impl Strategy<Value = Period> {
        prop::sample::select(Period::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn the_window_contains_now(period in periods(), anchor in any_instant(), now in any_instant()) {
            prop_assert!(period.window(anchor, now).contains(now));
        }

        #[test]
        fn windows_touch(period in periods(), anchor in instants(), now in instants()) {
            let window = period.window(anchor, now);
            if let Some(end) = window.end {
                prop_assert_eq!(period.window(anchor, end).start, end);
                let last = Timestamp::from_nanosecond(end.as_nanosecond() - 1).unwrap();
                prop_assert_eq!(period.window(anchor, last), window);
                prop_assert_eq!(period.window(anchor, window.start), window);
            }
        }

        #[test]
        fn one_window_starts_at_the_anchor(anchor in instants()) {
            for period in [Period::Day, Period::Week, Period::Month] {
                prop_assert_eq!(period.window(anchor, anchor).start, anchor);
            }
        }

        #[test]
        fn months_keep_the_day_and_the_time(anchor in instants(), now in instants()) {
            let (start, anchor_civil) = (Period::Month.window(anchor, now).start, Offset::UTC.to_datetime(anchor));
            let start = Offset::UTC.to_datetime(start);
            prop_assert_eq!(start.day(), anchor_civil.day().min(start.days_in_month()));
            prop_assert_eq!(start.time(), anchor_civil.time());
        }

        #[test]
        fn calendar_windows_start_at_midnight(now in instants()) {
            for period in [Period::CalendarDay, Period::CalendarWeek, Period::CalendarMonth] {
                let start = Offset::UTC.to_datetime(period.window(now, now).start);
                prop_assert_eq!(start.time(), jiff::civil::Time::midnight());
                prop_assert!(period != Period::CalendarWeek || start.weekday() == Weekday::Monday);
                prop_assert!(period != Period::CalendarMonth || start.day() == 1);
            }
        }
    }
}
