//! Money: whole micro-units, checked arithmetic, no floats.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// An amount of money in micro-units of the account's currency: 1 USD is 1 000 000, 1 cent is 10 000.
///
/// It may be negative, as in the entry of a refund. Arithmetic is checked or saturates; there is no
/// `+` that could wrap.
///
/// Its text is in units, with at most six decimals: `12.50`. **In JSON it is a number of cents**
/// with at most four decimals: `1250`, or `0.03` for 300 micro-units.
///
/// JSON libraries read such a number as an IEEE 754 double, which has room for four decimals below
/// 10¹¹ cents (a billion units). Beyond that, an amount with a fraction of a cent is a string of
/// cents: `"100000000000.0001"`. Every amount is read back as it was written; another string is
/// refused, because the text of an amount is in units. The query of a URL has strings only: read a
/// number there, and use [`try_cents`](Self::try_cents).
///
/// ```
/// use agentkey::Amount;
///
/// let price = Amount::cents(1_250);
/// assert_eq!(price, "12.50".parse()?);
/// assert_eq!(price.as_micros(), 12_500_000);
/// assert_eq!(price.checked_add(Amount::micros(300)), Some("12.5003".parse()?));
/// assert_eq!(price.to_string(), "12.50");
/// # Ok::<(), agentkey::model::AmountError>(())
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i64);

const MICROS_PER_UNIT: i64 = 1_000_000;
const MICROS_PER_CENT: i64 = 10_000;
const DECIMALS_OF_UNIT: u32 = 6;
const DECIMALS_OF_CENT: u32 = 4;

impl Amount {
    /// Zero.
    pub const ZERO: Self = Self(0);
    /// The largest amount: 9 223 372 036 854.775 807 units.
    pub const MAX: Self = Self(i64::MAX);

    /// Returns an amount in micro-units: millionths of a unit.
    pub const fn micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Returns an amount in cents: hundredths of a unit. For numbers read at run time, see
    /// [`try_cents`](Self::try_cents).
    pub const fn cents(cents: i32) -> Self {
        Self(cents as i64 * MICROS_PER_CENT)
    }

    /// Returns an amount in whole units.
    pub const fn units(units: i32) -> Self {
        Self(units as i64 * MICROS_PER_UNIT)
    }

    /// Returns an amount in cents: hundredths of a unit.
    ///
    /// # Errors
    ///
    /// [`AmountError::OutOfRange`] beyond ±922 337 203 685 477 cents.
    ///
    /// ```
    /// use agentkey::Amount;
    /// use agentkey::model::AmountError;
    ///
    /// assert_eq!(Amount::try_cents(1_250), Ok(Amount::cents(1_250)));
    /// assert_eq!(Amount::try_cents(i64::MAX), Err(AmountError::OutOfRange));
    /// ```
    pub const fn try_cents(cents: i64) -> Result<Self, AmountError> {
        match cents.checked_mul(MICROS_PER_CENT) {
            Some(micros) => Ok(Self(micros)),
            None => Err(AmountError::OutOfRange),
        }
    }

    /// Reads decimal units as programs print floats: `0.1`, `25`, `1.5e-05`. What is finer than a
    /// micro-unit is rounded up.
    ///
    /// Read money that another program keeps as a float through its text. The text is the number that
    /// was meant; a multiplication of the float would not be exact.
    ///
    /// # Errors
    ///
    /// [`AmountError`] where the text is not a finite decimal number, or is out of range.
    ///
    /// ```
    /// use agentkey::Amount;
    ///
    /// assert_eq!(Amount::parse_rounding_up("0.1")?, Amount::cents(10));
    /// assert_eq!(Amount::parse_rounding_up("0.0000001")?, Amount::micros(1));
    /// assert_eq!(Amount::parse_rounding_up("2.5e-05")?, Amount::micros(25));
    /// # Ok::<(), agentkey::model::AmountError>(())
    /// ```
    pub fn parse_rounding_up(text: &str) -> Result<Self, AmountError> {
        let (number, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (negative, number) =
            number.strip_prefix('-').map_or((false, number), |number| (true, number));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if text.is_empty() {
            return Err(AmountError::Empty);
        }
        if !all_digits(whole) || !all_digits(fraction) {
            return Err(AmountError::NotANumber);
        }
        let exponent: i16 = exponent.parse().map_err(|_| AmountError::NotANumber)?;
        let digits = || whole.bytes().chain(fraction.bytes()).map(|byte| byte - b'0');
        // How many of the digits are before the end of the micro-units. The others are rounded.
        let kept = whole.len() as i64 + i64::from(exponent) + i64::from(DECIMALS_OF_UNIT);
        let kept = usize::try_from(kept.max(0)).map_err(|_| AmountError::OutOfRange)?;
        let zeros = std::iter::repeat_n(0, kept.saturating_sub(whole.len() + fraction.len()));
        let micros = digits().take(kept).chain(zeros).try_fold(0_i64, |sum, digit| {
            // The sum is negative, because the range reaches one further below zero.
            sum.checked_mul(10)?.checked_sub(i64::from(digit))
        });
        let is_rounded = !negative && digits().skip(kept).any(|digit| digit > 0);
        let micros = if negative { micros } else { micros.and_then(i64::checked_neg) };
        let micros = micros.and_then(|micros| micros.checked_add(i64::from(is_rounded)));
        micros.map(Self).ok_or(AmountError::OutOfRange)
    }

    /// Returns the amount in millionths of a unit.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Returns the sum; `None` where it is out of range.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        wrap(self.0.checked_add(other.0))
    }

    /// Returns the difference; `None` where it is out of range.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        wrap(self.0.checked_sub(other.0))
    }

    /// Returns `times` the amount; `None` where it is out of range.
    pub const fn checked_mul(self, times: i64) -> Option<Self> {
        wrap(self.0.checked_mul(times))
    }

    /// Returns the sum, saturating at the ends of the range.
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Returns the difference, saturating at the ends of the range. It may be negative.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Returns whether it is zero.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Returns whether it is below zero.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Returns whether it is above zero.
    pub const fn is_positive(self) -> bool {
        self.0 > 0
    }

    /// Returns the amount itself, if it is zero or more.
    ///
    /// # Errors
    ///
    /// [`AmountError::Negative`] where it is below zero.
    ///
    /// ```
    /// use agentkey::Amount;
    /// use agentkey::model::AmountError;
    ///
    /// assert_eq!(Amount::ZERO.non_negative(), Ok(Amount::ZERO));
    /// assert_eq!(Amount::cents(-1).non_negative(), Err(AmountError::Negative));
    /// ```
    pub const fn non_negative(self) -> Result<Self, AmountError> {
        if self.is_negative() { Err(AmountError::Negative) } else { Ok(self) }
    }

    /// Returns the text of the cents if a double is not exact for them.
    fn exact_cents(self) -> Option<String> {
        const DOUBLES_BELOW: u64 = 1_000_000_000_000_000;
        let per_cent = MICROS_PER_CENT.unsigned_abs();
        let micros = self.0.unsigned_abs();
        let (cents, fraction) = (micros / per_cent, micros % per_cent);
        (micros >= DOUBLES_BELOW && fraction != 0).then(|| {
            let sign = if self.is_negative() { "-" } else { "" };
            format!("{sign}{cents}.{fraction:04}").trim_end_matches('0').to_owned()
        })
    }

    /// Reads a number of cents as JSON libraries pass it.
    ///
    /// It reads the float's shortest decimal text, which is what the client wrote. A multiplication
    /// of the float would not be exact.
    fn from_float_cents(cents: f64) -> Result<Self, AmountError> {
        const FRACTIONS_BELOW: f64 = 1e11;
        const ALL_BELOW: f64 = 1e15;
        if !cents.is_finite() {
            return Err(AmountError::NotANumber);
        }
        if cents.abs() >= ALL_BELOW {
            return Err(AmountError::OutOfRange);
        }
        if cents.abs() >= FRACTIONS_BELOW && cents.fract() != 0.0 {
            return Err(AmountError::TooLargeForFraction);
        }
        parse_decimal(&cents.to_string(), DECIMALS_OF_CENT)
    }
}

const fn wrap(micros: Option<i64>) -> Option<Amount> {
    match micros {
        Some(micros) => Some(Amount(micros)),
        None => None,
    }
}

fn all_digits(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
}

/// Reads `-?[0-9]+(\.[0-9]+)?` with at most `decimals` digits after the point, the last of which is
/// a micro-unit.
fn parse_decimal(text: &str, decimals: u32) -> Result<Amount, AmountError> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    if text.is_empty() {
        return Err(AmountError::Empty);
    }
    if !all_digits(whole) || !all_digits(fraction) {
        return Err(AmountError::NotANumber);
    }
    let missing = usize::try_from(decimals).ok().and_then(|max| max.checked_sub(fraction.len()));
    let missing = missing.ok_or(AmountError::TooPrecise)?;
    let zeros = std::iter::repeat_n(b'0', missing);
    let micros = whole.bytes().chain(fraction.bytes()).chain(zeros).try_fold(0_i64, |sum, byte| {
        // The sum is negative, because the range reaches one further below zero.
        sum.checked_mul(10)?.checked_sub(i64::from(byte - b'0'))
    });
    let micros = if negative { micros } else { micros.and_then(i64::checked_neg) };
    micros.map(Amount).ok_or(AmountError::OutOfRange)
}

impl FromStr for Amount {
    type Err = AmountError;

    /// Reads decimal units: an optional `-`, digits, and an optional point with up to six decimals.
    fn from_str(text: &str) -> Result<Self, AmountError> {
        parse_decimal(text, DECIMALS_OF_UNIT)
    }
}

/// Units with two to six decimals: `12.50`, `-0.01`, `0.0003`.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_unit = MICROS_PER_UNIT.unsigned_abs();
        let micros = self.0.unsigned_abs();
        let (units, mut fraction, mut digits) = (micros / per_unit, micros % per_unit, 6);
        while digits > 2 && fraction % 10 == 0 {
            fraction /= 10;
            digits -= 1;
        }
        f.pad_integral(!self.is_negative(), "", &format!("{units}.{fraction:0digits$}"))
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Amount({self})")
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            serializer.serialize_i64(self.0)
        } else if self.0 % MICROS_PER_CENT == 0 {
            serializer.serialize_i64(self.0 / MICROS_PER_CENT)
        } else if let Some(cents) = self.exact_cents() {
            serializer.serialize_str(&cents)
        } else {
            // Both are exact doubles below 10¹¹ cents, and their division rounds to the nearest
            // double.
            serializer.serialize_f64(self.0 as f64 / MICROS_PER_CENT as f64)
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.is_human_readable() {
            true => deserializer.deserialize_any(Cents),
            false => i64::deserialize(deserializer).map(Self),
        }
    }
}

struct Cents;

impl Visitor<'_> for Cents {
    type Value = Amount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of cents with at most four decimals")
    }

    fn visit_i64<E: de::Error>(self, cents: i64) -> Result<Amount, E> {
        Amount::try_cents(cents).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, cents: u64) -> Result<Amount, E> {
        let cents = i64::try_from(cents).map_err(|_| E::custom(AmountError::OutOfRange))?;
        self.visit_i64(cents)
    }

    fn visit_f64<E: de::Error>(self, cents: f64) -> Result<Amount, E> {
        Amount::from_float_cents(cents).map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
        parse_decimal(text, DECIMALS_OF_CENT)
            .ok()
            .filter(|amount| amount.exact_cents().as_deref() == Some(text))
            .ok_or_else(|| E::invalid_type(de::Unexpected::Str(text), &self))
    }
}

/// Why a text or a number is not a valid amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AmountError {
    /// The text is empty.
    #[error("an amount is empty; give units with at most six decimals, such as 12.50")]
    Empty,
    /// The text is not a decimal number, or the number is infinite or NaN.
    #[error("an amount is a decimal number, such as 12.50")]
    NotANumber,
    /// It has more decimals than a micro-unit.
    #[error("an amount has at most six decimals of a unit, which is four of a cent")]
    TooPrecise,
    /// It is beyond the range of amounts.
    #[error("an amount lies between -9223372036854.775808 and 9223372036854.775807 units")]
    OutOfRange,
    /// A JSON number is too large to be exact with a fraction.
    #[error("an amount of 100000000000 cents or more must be whole cents, or a string of cents")]
    TooLargeForFraction,
    /// It is below zero where only zero or more is accepted.
    #[error("an amount must be zero or more here")]
    Negative,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(json: &str) -> Result<Amount, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    fn written(amount: Amount) -> String {
        serde_json::to_string(&amount).unwrap()
    }

    #[test]
    fn text_is_units() {
        for (text, micros) in [
            ("12.50", 12_500_000),
            ("-3", -3_000_000),
            ("0.000001", 1),
            ("-0.01", -10_000),
            ("-0", 0),
            ("007", 7_000_000),
            ("9223372036854.775807", i64::MAX),
            ("-9223372036854.775808", i64::MIN),
        ] {
            assert_eq!(text.parse(), Ok(Amount::micros(micros)), "{text}");
        }
    }

    #[test]
    fn text_that_is_no_amount_is_refused() {
        use AmountError::*;
        for (text, error) in [
            ("", Empty),
            ("-", NotANumber),
            ("+1", NotANumber),
            ("1.", NotANumber),
            (".5", NotANumber),
            ("1.2.3", NotANumber),
            ("1e3", NotANumber),
            (" 1", NotANumber),
            ("1,50", NotANumber),
            ("--1", NotANumber),
            ("1.-5", NotANumber),
            ("٣", NotANumber),
            ("NaN", NotANumber),
            ("0.0000001", TooPrecise),
            ("1.0000000", TooPrecise),
            ("9223372036854.775808", OutOfRange),
            ("-9223372036854.775809", OutOfRange),
            ("99999999999999999999999999", OutOfRange),
        ] {
            assert_eq!(text.parse::<Amount>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn floats_are_read_by_their_text_and_rounded_up() {
        use AmountError::*;
        for (text, micros) in [
            ("0.1", 100_000),
            ("25", 25_000_000),
            ("0.30000000000000004", 300_001),
            ("1.5e-05", 15),
            ("2.5E-07", 1),
            ("1e-300", 1),
            ("0e-300", 0),
            ("0.0", 0),
            ("1e+2", 100_000_000),
            ("1.234567e3", 1_234_567_000),
            ("12e-1", 1_200_000),
            ("-0.1", -100_000),
            ("-0.0000019", -1),
            ("9223372036854.775807", i64::MAX),
            ("-9223372036854.775808", i64::MIN),
            ("9.223372036854775807e12", i64::MAX),
        ] {
            assert_eq!(Amount::parse_rounding_up(text), Ok(Amount::micros(micros)), "{text}");
        }
        for (text, error) in [
            ("", Empty),
            ("-", NotANumber),
            ("NaN", NotANumber),
            ("Infinity", NotANumber),
            ("1e", NotANumber),
            ("e5", NotANumber),
            (".5", NotANumber),
            ("$1", NotANumber),
            ("1,50", NotANumber),
            ("9223372036854.7758071", OutOfRange),
            ("1e300", OutOfRange),
            ("1e99999", NotANumber),
        ] {
            assert_eq!(Amount::parse_rounding_up(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn errors_say_what_is_accepted() {
        for (error, text) in [
            (
                AmountError::Empty,
                "an amount is empty; give units with at most six decimals, such as 12.50",
            ),
            (AmountError::NotANumber, "an amount is a decimal number, such as 12.50"),
            (
                AmountError::TooPrecise,
                "an amount has at most six decimals of a unit, which is four of a cent",
            ),
            (
                AmountError::OutOfRange,
                "an amount lies between -9223372036854.775808 and 9223372036854.775807 units",
            ),
            (
                AmountError::TooLargeForFraction,
                "an amount of 100000000000 cents or more must be whole cents, or a string of cents",
            ),
            (AmountError::Negative, "an amount must be zero or more here"),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn shown_with_two_to_six_decimals() {
        for (micros, text) in [
            (0, "0.00"),
            (12_500_000, "12.50"),
            (300, "0.0003"),
            (-10_000, "-0.01"),
            (-1, "-0.000001"),
            (100_000_000, "100.00"),
            (i64::MIN, "-9223372036854.775808"),
        ] {
            assert_eq!(Amount::micros(micros).to_string(), text);
        }
        assert_eq!(format!("{:?}", Amount::cents(1_250)), "Amount(12.50)");
        assert_eq!(format!("{:>8}", Amount::cents(-1_250)), "  -12.50");
    }

    #[test]
    fn json_is_cents() {
        for (micros, json) in [
            (0, "0"),
            (12_500_000, "1250"),
            (-10_000, "-1"),
            (300, "0.03"),
            (1, "0.0001"),
            (-15_001, "-1.5001"),
            (999_999_999_999_999, "99999999999.9999"),
            (1_000_000_000_000_001, "\"100000000000.0001\""),
            (-1_000_000_000_005_000, "\"-100000000000.5\""),
            (i64::MAX, "\"922337203685477.5807\""),
            (i64::MIN, "\"-922337203685477.5808\""),
        ] {
            assert_eq!(written(Amount::micros(micros)), json);
            assert_eq!(read(json), Ok(Amount::micros(micros)));
        }
        for (json, micros) in [
            ("1250.0", 12_500_000),
            ("1.10", 11_000),
            ("1e2", 1_000_000),
            ("-0.0", 0),
            ("1e12", 10_000_000_000_000_000),
            ("922337203685477", 9_223_372_036_854_770_000),
            ("922337203685477.0", 9_223_372_036_854_770_000),
            ("-922337203685477", -9_223_372_036_854_770_000),
        ] {
            assert_eq!(read(json), Ok(Amount::micros(micros)), "{json}");
        }
    }

    #[test]
    fn json_that_is_no_amount_is_refused() {
        let too_precise = "an amount has at most six decimals of a unit, which is four of a cent";
        let out_of_range =
            "an amount lies between -9223372036854.775808 and 9223372036854.775807 units";
        let too_large = "an amount of 100000000000 cents or more must be whole cents";
        for (json, text) in [
            ("0.00001", too_precise),
            ("1e-300", too_precise),
            ("1.00009", too_precise),
            ("922337203685478", out_of_range),
            ("922337203685478.0", out_of_range),
            ("9223372036854775808", out_of_range),
            ("1e300", out_of_range),
            ("-1e15", out_of_range),
            ("100000000000.5", too_large),
            ("-100000000000.5", too_large),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.starts_with(text), "{json}: {error}");
        }
        for text in [
            "",
            "12",
            "0.5",
            "12.50",
            "100000000000",
            "100000000000.50",
            "100000000000.00001",
            "1e15",
            "0100000000000.5",
            "922337203685477.5808",
            "+100000000000.5",
        ] {
            let error = read(&format!("\"{text}\"")).unwrap_err();
            let wanted = "expected a number of cents with at most four decimals";
            assert!(error.contains(wanted), "{text}: {error}");
        }
        assert!(read("null").is_err());
        for float in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(Amount::from_float_cents(float), Err(AmountError::NotANumber));
        }
    }

    #[test]
    fn a_missing_amount_is_an_error() {
        #[derive(serde::Deserialize, Debug)]
        struct Ask {
            cost: Amount,
        }
        assert!(serde_json::from_str::<Ask>("{}").is_err());
        assert_eq!(
            serde_json::from_value::<Ask>(serde_json::json!({"cost": 1.5})).unwrap().cost,
            Amount::micros(15_000)
        );
    }

    #[test]
    fn arithmetic_never_wraps() {
        let (most, one) = (Amount::MAX, Amount::micros(1));
        let least = Amount::micros(i64::MIN);
        assert_eq!(most.checked_add(one), None);
        assert_eq!(least.checked_sub(one), None);
        assert_eq!(most.checked_mul(2), None);
        assert_eq!(most.saturating_add(one), most);
        assert_eq!(least.saturating_sub(one), least);
        assert_eq!(Amount::cents(i32::MIN).as_micros(), i64::from(i32::MIN) * 10_000);
        assert_eq!(Amount::units(i32::MAX).as_micros(), i64::from(i32::MAX) * 1_000_000);
        assert!(Amount::default().is_zero() && one.is_positive() && least.is_negative());
    }

    proptest! {
        #[test]
        fn text_round_trips(micros: i64) {
            let amount = Amount::micros(micros);
            prop_assert_eq!(amount.to_string().parse(), Ok(amount));
        }

        #[test]
        fn a_text_of_six_decimals_is_read_alike_by_both(micros: i64) {
            let text = Amount::micros(micros).to_string();
            prop_assert_eq!(Amount::parse_rounding_up(&text), text.parse());
        }

        #[test]
        fn json_round_trips(micros: i64, round in 0..5_u32) {
            let amount = Amount::micros(micros / 10_i64.pow(round) * 10_i64.pow(round));
            prop_assert_eq!(read(&written(amount)), Ok(amount));
            let value = serde_json::to_value(amount).unwrap();
            prop_assert_eq!(serde_json::from_value::<Amount>(value).unwrap(), amount);
        }

        #[test]
        fn json_numbers_round_trip_below_a_billion_units(micros in -999_999_999_999_999_i64..=999_999_999_999_999) {
            let amount = Amount::micros(micros);
            prop_assert!(!written(amount).starts_with('"'));
            prop_assert_eq!(read(&written(amount)), Ok(amount));
        }

        #[test]
        fn whole_cents_round_trip(cents in -922_337_203_685_477_i64..=922_337_203_685_477) {
            let amount = Amount::try_cents(cents).unwrap();
            prop_assert_eq!(written(amount), cents.to_string());
            prop_assert_eq!(read(&cents.to_string()), Ok(amount));
        }

        #[test]
        fn nothing_panics(text in "\\PC*", float: f64) {
            let _ = text.parse::<Amount>();
            let _ = Amount::parse_rounding_up(&text);
            let _ = Amount::from_float_cents(float);
        }
    }
}
