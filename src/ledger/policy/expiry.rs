//! When a key expires.

use jiff::Timestamp;

use crate::model::ChangeError;
use crate::model::clock::{from_micros, later};
use crate::model::key::Expiry;

impl Expiry {
    /// Returns the instant, which must be in the future.
    pub(super) fn at(self, now: Timestamp) -> Result<Option<Timestamp>, ChangeError> {
        match self.resolve(now)? {
            Some(at) if at <= now => Err(ChangeError::invalid(
                "expires_at",
                "is not in the future; to end a key now, revoke it",
            )),
            at => Ok(at),
        }
    }

    pub(super) fn resolve(self, now: Timestamp) -> Result<Option<Timestamp>, ChangeError> {
        match self {
            Self::Never => Ok(None),
            Self::At(at) => Ok(Some(truncated(at))),
            Self::Within(ttl) => Ok(Some(later(now, ttl))),
            Self::In(validity) => validity
                .after(now)
                .map(|at| Some(truncated(at)))
                .map_err(|error| ChangeError::invalid("expires_at", error.to_string())),
        }
    }
}

/// Returns the instant as stores keep it, in whole microseconds.
pub(super) fn truncated(at: Timestamp) -> Timestamp {
    from_micros(at.as_microsecond())
}
