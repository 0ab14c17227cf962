//! Rate limits: how many requests in a window, and how many at once.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How many requests a key and its descendants may send.
///
/// A limit has a rate, a number of requests in flight at once, or both. A rate refills evenly: of 100 a
/// minute, one comes back every 600 ms. So in any span of time at most [`burst`](Self::burst) requests
/// pass, and what the rate gives in that span. Zero lets nothing through.
///
/// ```
/// use agentkey::model::RateLimit;
///
/// let limit = RateLimit::per_minute(100).burst(20).in_flight(4);
/// let same: RateLimit = serde_json::from_str(
///     r#"{"requests": 100, "window_seconds": 60, "burst": 20, "in_flight": 4}"#,
/// )?;
/// assert_eq!(limit, same);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    rate: Option<Rate>,
    in_flight: Option<u32>,
}

/// So many requests in a window, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) requests: u32,
    pub(crate) window_seconds: u32,
    pub(crate) burst: u32,
}

/// A rate limit that is out of bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RateLimitError {
    /// More than a million requests in a window, in a burst or in flight.
    #[error("requests, burst and in_flight are at most 1,000,000")]
    TooMany,
    /// The window is not 1 second to a day.
    #[error("window_seconds is from 1 to 86,400")]
    Window,
    /// The burst is zero, although the rate is not.
    #[error("burst is at least 1; for no requests, set requests to 0")]
    NoBurst,
    /// There is neither a rate nor a number of requests in flight.
    #[error("a rate limit has requests and window_seconds, in_flight, or all three")]
    Empty,
}

/// The most requests in a window, in a burst and in flight.
const MAX: u32 = 1_000_000;

const MAX_WINDOW: u32 = 24 * 60 * 60;

impl RateLimit {
    /// Returns a limit of so many requests in a window, all of which may come at once.
    ///
    /// The window is in whole seconds, rounded up.
    pub fn new(requests: u32, window: Duration) -> Self {
        let seconds = window.as_secs() + u64::from(window.subsec_nanos() > 0);
        let window_seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        let rate = Rate { requests, window_seconds, burst: requests };
        Self { rate: Some(rate), in_flight: None }
    }

    /// Returns a limit of so many requests a second.
    pub fn per_second(requests: u32) -> Self {
        Self::new(requests, Duration::from_secs(1))
    }

    /// Returns a limit of so many requests a minute.
    pub fn per_minute(requests: u32) -> Self {
        Self::new(requests, Duration::from_secs(60))
    }

    /// Returns a limit of so many requests an hour.
    pub fn per_hour(requests: u32) -> Self {
        Self::new(requests, Duration::from_secs(3_600))
    }

    /// Returns a limit of so many requests in flight at once, without a rate.
    pub const fn at_once(requests: u32) -> Self {
        Self { rate: None, in_flight: Some(requests) }
    }

    /// Sets how many requests may come at once. Default: those of a window.
    ///
    /// A limit without a rate stays as it is.
    #[must_use]
    pub fn burst(mut self, requests: u32) -> Self {
        self.rate = self.rate.map(|rate| Rate { burst: requests, ..rate });
        self
    }

    /// Sets how many requests may be in flight at once, from the look-up of their key to the end of
    /// their response's body. Default: any number.
    ///
    /// Each process counts its own.
    #[must_use]
    pub const fn in_flight(mut self, requests: u32) -> Self {
        self.in_flight = Some(requests);
        self
    }

    /// Returns the requests of a window, if there is a rate.
    pub fn requests(&self) -> Option<u32> {
        self.rate.map(|rate| rate.requests)
    }

    /// Returns the window, if there is a rate.
    pub fn window(&self) -> Option<Duration> {
        self.rate.map(|rate| Duration::from_secs(rate.window_seconds.into()))
    }

    /// Returns how many requests may come at once, if there is a rate.
    pub fn burst_size(&self) -> Option<u32> {
        self.rate.map(|rate| rate.burst)
    }

    /// Returns how many requests may be in flight at once, if that is limited.
    pub const fn max_in_flight(&self) -> Option<u32> {
        self.in_flight
    }

    pub(crate) const fn rate(&self) -> Option<Rate> {
        self.rate
    }

    /// Checks the bounds.
    ///
    /// # Errors
    ///
    /// [`RateLimitError`], for the first that is crossed.
    pub fn validate(&self) -> Result<(), RateLimitError> {
        if let Some(Rate { requests, window_seconds, burst }) = self.rate {
            if requests > MAX || burst > MAX {
                return Err(RateLimitError::TooMany);
            }
            if !(1..=MAX_WINDOW).contains(&window_seconds) {
                return Err(RateLimitError::Window);
            }
            if burst == 0 && requests > 0 {
                return Err(RateLimitError::NoBurst);
            }
        }
        match self.in_flight {
            Some(requests) if requests > MAX => Err(RateLimitError::TooMany),
            None if self.rate.is_none() => Err(RateLimitError::Empty),
            _ => Ok(()),
        }
    }

    /// Returns whether every request that passes this limit passes the other.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        let rate = match (self.rate, other.rate) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(own), Some(other)) => {
                let fast = |a: Rate, b: Rate| u64::from(a.requests) * u64::from(b.window_seconds);
                own.burst <= other.burst && fast(own, other) <= fast(other, own)
            }
        };
        let in_flight = match (self.in_flight, other.in_flight) {
            (_, None) => true,
            (own, Some(other)) => own.is_some_and(|own| own <= other),
        };
        rate && in_flight
    }
}

/// A [`RateLimit`] in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateLimitJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    requests: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    window_seconds: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    burst: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    in_flight: Option<u32>,
}

impl Serialize for RateLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json = RateLimitJson {
            requests: self.requests(),
            window_seconds: self.rate.map(|rate| rate.window_seconds),
            burst: self.burst_size(),
            in_flight: self.in_flight,
        };
        json.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RateLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let RateLimitJson { requests, window_seconds, burst, in_flight } =
            RateLimitJson::deserialize(deserializer)?;
        let rate = match (requests, window_seconds) {
            (Some(requests), Some(window_seconds)) => {
                Some(Rate { requests, window_seconds, burst: burst.unwrap_or(requests) })
            }
            (None, None) if burst.is_none() => None,
            _ => return Err(D::Error::custom(RateLimitError::Empty)),
        };
        let limit = Self { rate, in_flight };
        limit.validate().map_err(D::Error::custom)?;
        Ok(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<RateLimit, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn json_reads_back_and_names_what_is_wrong() {
        for limit in [
            RateLimit::per_minute(100),
            RateLimit::per_second(0),
            RateLimit::at_once(3),
            RateLimit::new(7, Duration::from_secs(86_400)).burst(1_000_000).in_flight(0),
        ] {
            let text = serde_json::to_string(&limit).unwrap();
            assert_eq!(read(&text).as_ref(), Ok(&limit), "{text}");
        }
        for (json, text) in [
            ("{}", "a rate limit has requests"),
            (r#"{"requests":5}"#, "a rate limit has requests"),
            (r#"{"burst":5,"in_flight":1}"#, "a rate limit has requests"),
            (r#"{"requests":5,"window_seconds":0}"#, "window_seconds is from 1"),
            (r#"{"requests":5,"window_seconds":86401}"#, "window_seconds is from 1"),
            (r#"{"requests":5,"window_seconds":60,"burst":0}"#, "burst is at least 1"),
            (r#"{"requests":1000001,"window_seconds":60}"#, "requests, burst and in_flight"),
            (r#"{"in_flight":1000001}"#, "requests, burst and in_flight"),
            (r#"{"in_flight":1,"per":"minute"}"#, "unknown field `per`"),
            (r#"{"in_flight":-1}"#, "invalid value"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.starts_with(text), "{json}: {error}");
        }
    }

    #[test]
    fn a_limit_is_within_another_that_lets_all_of_it_through() {
        let minute = RateLimit::per_minute(60);
        for (limit, other, is_within) in [
            (minute, minute, true),
            (minute, RateLimit::per_second(1), false), // its burst is larger
            (minute.burst(1), RateLimit::per_second(1), true),
            (RateLimit::per_second(2).burst(60), minute, false),
            (minute, RateLimit::at_once(2), false),
            (minute.in_flight(2), RateLimit::at_once(2), true),
            (minute.in_flight(3), minute.in_flight(2), false),
            (RateLimit::at_once(2), minute, false),
            (RateLimit::per_minute(0), minute, true),
        ] {
            assert_eq!(limit.is_within(&other), is_within, "{limit:?} {other:?}");
        }
    }
}
