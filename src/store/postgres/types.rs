//! Instants and row versions in the wire format.

use jiff::Timestamp;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

use crate::model::clock::from_micros;

/// An instant as `timestamptz` stores it: whole microseconds. A column of the type `timestamp` is read as UTC.
///
/// `jiff-sqlx` does not fit: a column of the application may have `infinity`, which it refuses, and with it every row
/// of the answer. Here the ends of jiff's range are PostgreSQL's infinities. They are [`Timestamp::MIN`], and the last
/// whole microsecond with everything after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instant(pub(super) Timestamp);

const TIMESTAMP: PgTypeInfo = PgTypeInfo::with_oid(Oid(1114));
const TIMESTAMPTZ: PgTypeInfo = PgTypeInfo::with_oid(Oid(1184));
const TIMESTAMPTZ_ARRAY: PgTypeInfo = PgTypeInfo::with_oid(Oid(1185));

/// 2000-01-01, the epoch of PostgreSQL, in microseconds since 1970.
const EPOCH: i64 = 946_684_800_000_000;
/// The first microsecond of PostgreSQL (4714-11-24 BC), counted from 2000.
const FIRST: i64 = -211_813_488_000_000_000;

impl Type<Postgres> for Instant {
    fn type_info() -> PgTypeInfo {
        TIMESTAMPTZ
    }

    fn compatible(ty: &PgTypeInfo) -> bool {
        *ty == TIMESTAMPTZ || *ty == TIMESTAMP
    }
}

impl PgHasArrayType for Instant {
    fn array_type_info() -> PgTypeInfo {
        TIMESTAMPTZ_ARRAY
    }
}

impl Encode<'_, Postgres> for Instant {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.wire().to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for Instant {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => {
                Ok(Self::from_wire(i64::from_be_bytes(value.as_bytes()?.try_into()?)))
            }
            PgValueFormat::Text => Err("an instant came as text".into()),
        }
    }
}

impl Instant {
    fn wire(self) -> i64 {
        let micros = self.0.as_microsecond();
        if self.0 == Timestamp::MIN || micros < FIRST + EPOCH {
            i64::MIN
        } else if micros >= Timestamp::MAX.as_microsecond() {
            i64::MAX
        } else {
            micros - EPOCH
        }
    }

    fn from_wire(wire: i64) -> Self {
        Self(match wire {
            i64::MIN => Timestamp::MIN,
            wire => from_micros(wire.saturating_add(EPOCH)),
        })
    }
}

/// The version of a row, `xmin`, which changes with every change of the row, by any SQL.
///
/// It is sent as `int4`, which can be compared with `xid`, and is received as text. For an `xid`, sqlx would ask the
/// server for the type, which destroys the unnamed statement that is about to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowVersion(pub(super) u32);

const INT4: PgTypeInfo = PgTypeInfo::with_oid(Oid(23));
const INT4_ARRAY: PgTypeInfo = PgTypeInfo::with_oid(Oid(1007));

impl Type<Postgres> for RowVersion {
    fn type_info() -> PgTypeInfo {
        INT4
    }
}

impl PgHasArrayType for RowVersion {
    fn array_type_info() -> PgTypeInfo {
        INT4_ARRAY
    }
}

impl Encode<'_, Postgres> for RowVersion {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for RowVersion {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        Ok(Self(value.as_str()?.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Period;

    #[test]
    fn instants_survive_the_wire_and_the_ends_of_time_are_infinite() {
        for text in [
            "2026-01-31T12:00:00.123456Z",
            "1969-12-31T23:59:59.999999Z",
            "-000044-03-15T00:00:00Z",
        ] {
            let at: Timestamp = text.parse().unwrap();
            assert_eq!(Instant::from_wire(Instant(at).wire()).0, at, "{text}");
        }
        assert_eq!(Instant(Timestamp::MIN).wire(), i64::MIN);
        assert_eq!(Instant(Timestamp::MAX).wire(), i64::MAX);
        assert_eq!(Instant::from_wire(i64::MIN).0, Timestamp::MIN);
        let last = from_micros(i64::MAX);
        assert_eq!(Instant(last).wire(), i64::MAX);
        assert_eq!(Instant::from_wire(i64::MAX).0, last);
        assert_eq!(Instant::from_wire(i64::MAX - 1).0, last);
    }

    /// Returns the values that a server may send.
    fn wires() -> impl Strategy<Value = i64> {
        prop_oneof![Just(i64::MIN), FIRST..=i64::MAX, FIRST..=Timestamp::MAX.as_microsecond()]
    }

    proptest! {
        #[test]
        fn decoded_instants_survive_the_wire(wire in wires()) {
            let read = Instant::from_wire(wire);
            prop_assert_eq!(Instant::from_wire(read.wire()), read);
            prop_assert_eq!(read.0.subsec_nanosecond() % 1_000, 0);
        }

        #[test]
        fn windows_are_those_that_were_stored(anchor in wires(), now in wires()) {
            let (Instant(anchor), Instant(now)) = (Instant::from_wire(anchor), Instant::from_wire(now));
            for period in [Period::Day, Period::Week, Period::Month] {
                let start = Instant(period.window(anchor, now).start);
                prop_assert!(start.wire() == i64::MIN || Instant::from_wire(start.wire()) == start);
            }
        }
    }
}
