//! Validities: how long a key is valid, as text such as `30d`.

use std::fmt;
use std::str::FromStr;

use jiff::tz::Offset;
use jiff::{SignedDuration, Span, Timestamp};
use serde::{Deserialize, Serialize};

/// How long a key is valid: one positive whole number and one unit.
///
/// The units are `m`inutes, `h`ours, `d`ays, `w`eeks, `mo`nths and `y`ears. JSON has the same form.
///
/// Months and years follow the calendar in UTC: a month after 31 January is the last day of
/// February. A day is 24 hours.
///
/// ```
/// use agentkey::model::Validity;
/// use jiff::Timestamp;
///
/// let created: Timestamp = "2026-01-31T09:00:00Z".parse()?;
/// let validity: Validity = "1mo".parse()?;
/// assert_eq!(validity, Validity::months(1));
/// assert_eq!(validity.after(created)?.to_string(), "2026-02-28T09:00:00Z");
/// assert!("7days".parse::<Validity>().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Validity {
    count: u32,
    unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Unit {
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Validity {
    /// Returns a validity of `count` minutes. [`after`](Self::after) refuses zero, for every unit.
    pub const fn minutes(count: u32) -> Self {
        Self { count, unit: Unit::Minute }
    }

    /// Returns a validity of `count` hours.
    pub const fn hours(count: u32) -> Self {
        Self { count, unit: Unit::Hour }
    }

    /// Returns a validity of `count` times 24 hours.
    pub const fn days(count: u32) -> Self {
        Self { count, unit: Unit::Day }
    }

    /// Returns a validity of `count` times 7 days.
    pub const fn weeks(count: u32) -> Self {
        Self { count, unit: Unit::Week }
    }

    /// Returns a validity of `count` calendar months.
    pub const fn months(count: u32) -> Self {
        Self { count, unit: Unit::Month }
    }

    /// Returns a validity of `count` calendar years.
    pub const fn years(count: u32) -> Self {
        Self { count, unit: Unit::Year }
    }

    /// Returns when the validity ends, if it starts at `at`.
    ///
    /// # Errors
    ///
    /// [`ValidityError::OutOfRange`] after the year 9999; [`ValidityError::Zero`] where it is zero.
    ///
    /// ```
    /// use agentkey::model::{Validity, ValidityError};
    /// use jiff::Timestamp;
    ///
    /// let at = Timestamp::UNIX_EPOCH;
    /// assert_eq!(Validity::hours(1).after(at)?.as_second(), 3_600);
    /// assert_eq!(Validity::years(10_000).after(at), Err(ValidityError::OutOfRange));
    /// # Ok::<(), ValidityError>(())
    /// ```
    pub fn after(self, at: Timestamp) -> Result<Timestamp, ValidityError> {
        const MINUTE: i64 = 60;
        const DAY: i64 = 24 * 60 * MINUTE;
        let count = i64::from(self.count);
        if count == 0 {
            return Err(ValidityError::Zero);
        }
        let after = match self.unit {
            Unit::Minute => later(at, count * MINUTE),
            Unit::Hour => later(at, count * 60 * MINUTE),
            Unit::Day => later(at, count * DAY),
            Unit::Week => later(at, count * 7 * DAY),
            Unit::Month => months_later(at, count),
            Unit::Year => months_later(at, count * 12),
        };
        after.ok_or(ValidityError::OutOfRange)
    }
}

fn later(at: Timestamp, seconds: i64) -> Option<Timestamp> {
    at.checked_add(SignedDuration::from_secs(seconds)).ok()
}

fn months_later(at: Timestamp, months: i64) -> Option<Timestamp> {
    let span = Span::new().try_months(months).ok()?;
    Offset::UTC.to_timestamp(Offset::UTC.to_datetime(at).checked_add(span).ok()?).ok()
}

impl Unit {
    const ALL: [Self; 6] =
        [Self::Minute, Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "m",
            Self::Hour => "h",
            Self::Day => "d",
            Self::Week => "w",
            Self::Month => "mo",
            Self::Year => "y",
        }
    }
}

impl FromStr for Validity {
    type Err = ValidityError;

    fn from_str(text: &str) -> Result<Self, ValidityError> {
        let unit = text.trim_start_matches(|char: char| char.is_ascii_digit());
        let count = text.strip_suffix(unit).unwrap_or_default();
        let unit = Unit::ALL
            .into_iter()
            .find(|known| known.as_str() == unit)
            .ok_or(ValidityError::Malformed)?;
        if count.is_empty() {
            return Err(ValidityError::Malformed);
        }
        // The text has digits only, so the number can only be too large.
        match count.parse() {
            Ok(0) => Err(ValidityError::Zero),
            Ok(count) => Ok(Self { count, unit }),
            Err(_) => Err(ValidityError::OutOfRange),
        }
    }
}

impl TryFrom<String> for Validity {
    type Error = ValidityError;

    fn try_from(text: String) -> Result<Self, ValidityError> {
        text.parse()
    }
}

impl From<Validity> for String {
    fn from(validity: Validity) -> Self {
        validity.to_string()
    }
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.count, self.unit.as_str())
    }
}

impl fmt::Debug for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Validity({self})")
    }
}

/// Why a text is not a validity, or a validity has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValidityError {
    /// The text is not a number and a unit.
    #[error(
        "a validity is a whole number and a unit (m, h, d, w, mo or y), such as 30m, 1h, 7d, 2w, 1mo or 1y"
    )]
    Malformed,
    /// The number is zero.
    #[error("a validity is at least 1 of its unit, such as 30m")]
    Zero,
    /// It ends after the year 9999.
    #[error(
        "a validity ends in the year 9999 at the latest; leave it out where there is to be no end"
    )]
    OutOfRange,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn written_as_people_write_it() {
        for (text, validity) in [
            ("30m", Validity::minutes(30)),
            ("1h", Validity::hours(1)),
            ("7d", Validity::days(7)),
            ("2w", Validity::weeks(2)),
            ("1mo", Validity::months(1)),
            ("1y", Validity::years(1)),
        ] {
            assert_eq!(text.parse(), Ok(validity));
            assert_eq!(validity.to_string(), text);
            assert_eq!(serde_json::to_string(&validity).unwrap(), format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<Validity>(&format!("\"{text}\"")).unwrap(), validity);
        }
        assert_eq!(format!("{:?}", Validity::days(7)), "Validity(7d)");
    }

    #[test]
    fn anything_else_is_refused_with_what_is_accepted() {
        for text in [
            "", "7", "d", "7days", "7 d", " 7d", "7D", "7M", "-7d", "+7d", "1.5h", "1h30m", "1s",
            "٣d", "7dd",
        ] {
            assert_eq!(text.parse::<Validity>(), Err(ValidityError::Malformed), "{text:?}");
        }
        assert_eq!("0d".parse::<Validity>(), Err(ValidityError::Zero));
        assert_eq!("4294967296m".parse::<Validity>(), Err(ValidityError::OutOfRange));
        for (error, text) in [
            (
                ValidityError::Malformed,
                "a validity is a whole number and a unit (m, h, d, w, mo or y), such as 30m, 1h, 7d, 2w, 1mo or 1y",
            ),
            (ValidityError::Zero, "a validity is at least 1 of its unit, such as 30m"),
            (
                ValidityError::OutOfRange,
                "a validity ends in the year 9999 at the latest; leave it out where there is to be no end",
            ),
        ] {
            assert_eq!(error.to_string(), text);
        }
        let error = serde_json::from_str::<Validity>("\"7days\"").unwrap_err().to_string();
        assert_eq!(error, ValidityError::Malformed.to_string());
    }

    #[test]
    fn it_ends_by_the_calendar() {
        for (validity, from, to) in [
            ("30m", "2026-12-31T23:45:00Z", "2027-01-01T00:15:00Z"),
            ("2w", "2026-02-20T00:00:00Z", "2026-03-06T00:00:00Z"),
            ("1mo", "2024-01-31T12:00:00Z", "2024-02-29T12:00:00Z"),
            ("2mo", "2024-01-31T12:00:00Z", "2024-03-31T12:00:00Z"),
            ("1y", "2024-02-29T12:00:00Z", "2025-02-28T12:00:00Z"),
            ("4y", "2024-02-29T12:00:00Z", "2028-02-29T12:00:00Z"),
        ] {
            let validity: Validity = validity.parse().unwrap();
            assert_eq!(
                validity.after(from.parse().unwrap()).unwrap(),
                to.parse().unwrap(),
                "{validity}"
            );
        }
    }

    #[test]
    fn no_end_and_no_length_are_errors() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(Validity::days(0).after(now), Err(ValidityError::Zero));
        for validity in [Validity::days, Validity::weeks, Validity::months, Validity::years] {
            assert_eq!(validity(u32::MAX).after(now), Err(ValidityError::OutOfRange));
        }
        assert_eq!(Validity::minutes(1).after(Timestamp::MAX), Err(ValidityError::OutOfRange));
    }

    proptest! {
        #[test]
        fn round_trips_and_moves_forward(count in 1_u32.., unit in prop::sample::select(Unit::ALL.to_vec()), at in 0..4_000_000_000_i64) {
            let validity = Validity { count, unit };
            prop_assert_eq!(validity.to_string().parse(), Ok(validity));
            let at = Timestamp::from_second(at).unwrap();
            prop_assert!(validity.after(at).is_ok_and(|end| end > at) || validity.after(at) == Err(ValidityError::OutOfRange));
        }

        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = text.parse::<Validity>();
        }
    }
}
