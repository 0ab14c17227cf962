//! How arguments are read: limits, amounts, scopes, expiries, instants.

use std::time::Duration;

use agentkey::jiff::civil::Date;
use agentkey::jiff::tz::TimeZone;
use agentkey::jiff::{SignedDuration, Timestamp};
use agentkey::model::{Metadata, Period, Validity};
use agentkey::{Amount, Budget, ScopeSet};

use crate::error::Error;

/// A limit of one period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeriodLimit {
    pub(crate) amount: Amount,
    pub(crate) period: Period,
}

/// The end of a key: at an instant, or so long after the command.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expiry {
    At(Timestamp),
    In(Validity),
}

/// The arguments that set limits.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BudgetArgs {
    /// A limit in units of money, such as 50, 50/month or 2.50/day; repeat it for other periods
    ///
    /// Periods are day, week, month, calendar_day, calendar_week, calendar_month and lifetime.
    /// Without one, the limit is for the whole life.
    #[arg(
        long,
        visible_alias = "spendLimit",
        value_name = "AMOUNT[/PERIOD]",
        value_parser = limit
    )]
    spend_limit: Vec<PeriodLimit>,
    /// A limit in cents, such as 5000/month
    #[arg(long, visible_alias = "limitCents", value_name = "CENTS[/PERIOD]", value_parser = limit_in_cents)]
    limit_cents: Vec<PeriodLimit>,
}

impl BudgetArgs {
    /// Returns the budget, if a limit was given.
    pub(crate) fn budget(&self) -> Result<Option<Budget>, Error> {
        let limits: Vec<_> = self.spend_limit.iter().chain(&self.limit_cents).copied().collect();
        let Some((first, more)) = limits.split_first() else { return Ok(None) };
        let mut budget = Budget::new(Some(first.amount), first.period);
        for limit in more {
            let before = budget.limits().count();
            budget = budget.and(limit.amount, limit.period);
            if budget.limits().count() == before {
                return Err(Error::Usage(format!(
                    "two limits are for the same unit of time, {}: give one",
                    limit.period
                )));
            }
        }
        Ok(Some(budget))
    }
}

/// Reads a limit in units of money.
pub(crate) fn limit(text: &str) -> Result<PeriodLimit, String> {
    period_limit(text, |amount| amount.parse::<Amount>().map_err(|error| error.to_string()))
}

/// Reads a limit in cents, with at most four decimals.
pub(crate) fn limit_in_cents(text: &str) -> Result<PeriodLimit, String> {
    period_limit(text, cents)
}

fn period_limit(
    text: &str,
    amount: impl Fn(&str) -> Result<Amount, String>,
) -> Result<PeriodLimit, String> {
    let (amount, period) = match text.split_once('/') {
        Some((number, period)) => {
            let period = period.replace('-', "_").parse().map_err(|error| format!("{error}"))?;
            (amount(number)?, period)
        }
        None => (amount(text)?, Period::default()),
    };
    let amount = amount.non_negative().map_err(|error| error.to_string())?;
    Ok(PeriodLimit { amount, period })
}

fn cents(text: &str) -> Result<Amount, String> {
    let hundredfold: Amount = text.parse().map_err(|error| format!("{error}"))?;
    match hundredfold.as_micros() {
        micros if micros % 100 == 0 => Ok(Amount::micros(micros / 100)),
        _ => Err("an amount in cents has at most four decimals".to_owned()),
    }
}

/// Reads an amount of money above zero, in units.
pub(crate) fn positive_amount(text: &str) -> Result<Amount, String> {
    match text.parse::<Amount>() {
        Ok(amount) if amount.is_positive() => Ok(amount),
        Ok(_) => Err("the amount must be above zero".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads scopes with commas or spaces between them.
pub(crate) fn scopes(lists: &[String]) -> Result<ScopeSet, Error> {
    let words =
        lists.iter().flat_map(|list| list.split([',', ' '])).filter(|word| !word.is_empty());
    ScopeSet::parse(words).map_err(|error| Error::Usage(format!("`--scopes`: {error}")))
}

/// Reads an expiry: `30d`, an instant or a date.
pub(crate) fn expiry(text: &str) -> Result<Expiry, String> {
    if let Ok(validity) = text.parse() {
        return Ok(Expiry::In(validity));
    }
    parse_instant(text).map(Expiry::At).ok_or_else(|| {
        "an expiry is a number of m, h, d, w, mo or y such as 30d, a date such as 2027-01-31, or an \
         instant such as 2027-01-31T12:00:00Z"
            .to_owned()
    })
}

/// Reads an instant: an RFC 3339 text, a date at midnight in UTC, or a time ago such as `7d`.
pub(crate) fn instant(text: &str) -> Result<Timestamp, String> {
    let ago = duration(text).ok().and_then(|ago| SignedDuration::try_from(ago).ok());
    if let Some(ago) = ago {
        return Timestamp::now().checked_sub(ago).map_err(|error| error.to_string());
    }
    parse_instant(text).ok_or_else(|| {
        "an instant is a time ago such as 7d or 12h, a date such as 2027-01-31, or \
         2027-01-31T12:00:00Z"
            .to_owned()
    })
}

fn parse_instant(text: &str) -> Option<Timestamp> {
    let day = |date: Date| date.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    text.parse::<Timestamp>().ok().or_else(|| text.parse::<Date>().ok().and_then(day))
}

/// Reads a length of time: a number of s, m, h, d or w.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let error = || "a length of time is a number of s, m, h, d or w, such as 30m".to_owned();
    let unit = text.trim_start_matches(|char: char| char.is_ascii_digit());
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(error()),
    };
    let count: u64 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| error())?;
    count.checked_mul(seconds).map(Duration::from_secs).ok_or_else(error)
}

/// Reads a JSON object.
pub(crate) fn metadata(text: &str) -> Result<Metadata, String> {
    text.parse().map_err(|error| format!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(limit: Result<PeriodLimit, String>) -> Result<(i64, &'static str), String> {
        limit.map(|limit| (limit.amount.as_micros(), limit.period.as_str()))
    }

    #[test]
    fn units_and_cents_are_told_apart() {
        assert_eq!(micros(limit("50")), Ok((50_000_000, "lifetime")));
        assert_eq!(micros(limit("2.50/day")), Ok((2_500_000, "day")));
        assert_eq!(micros(limit("1/calendar-month")), Ok((1_000_000, "calendar_month")));
        assert_eq!(micros(limit_in_cents("5000/month")), Ok((50_000_000, "month")));
        assert_eq!(micros(limit_in_cents("0.0001")), Ok((1, "lifetime")));
        assert_eq!(micros(limit("0")), Ok((0, "lifetime")));
    }

    #[test]
    fn what_is_no_limit_says_what_one_is() {
        for (text, says) in [
            ("fifty", "decimal number"),
            ("50/year", "a period is one of"),
            ("-1", "zero or more"),
            ("0.0000001", "decimals"),
            ("", "empty"),
        ] {
            let error = limit(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(limit_in_cents("0.00001").unwrap_err().contains("four decimals"));
    }

    #[test]
    fn times_are_read_in_every_form() {
        assert_eq!(duration("90m"), Ok(Duration::from_secs(5_400)));
        assert!(duration("m").is_err() && duration("1mo").is_err() && duration("-1d").is_err());
        let midnight: Timestamp = "2027-01-31T00:00:00Z".parse().unwrap();
        assert_eq!(instant("2027-01-31"), Ok(midnight));
        assert_eq!(instant("2027-01-31T00:00:00Z"), Ok(midnight));
        assert!(instant("1d").unwrap() < Timestamp::now());
        assert!(matches!(expiry("30d"), Ok(Expiry::In(_))));
        assert!(matches!(expiry("2027-01-31"), Ok(Expiry::At(at)) if at == midnight));
        assert!(expiry("soon").unwrap_err().contains("such as 30d"));
    }
}
