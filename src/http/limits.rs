//! The limits of a request's lineage: from where it may come, how many may, and what is left of that.
//!
//! `RateLimit` and `RateLimit-Policy` are those of draft-ietf-httpapi-ratelimit-headers-11, structured
//! fields of RFC 9651.

use std::net::IpAddr;
use std::time::Duration;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use crate::engine::agent_keys::Inner;
use crate::engine::batch::takes::Rates;
use crate::engine::rate_limits::InFlightPermit;
use crate::ledger::{Quota, Taken, rate_time};
use crate::model::{KeyId, Lineage, RateLimit, Refusal};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// How long a client waits that has too many requests in flight.
const IN_FLIGHT_WAIT: Duration = Duration::from_secs(1);

/// The rate limits of a lineage, of the key first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    own: KeyId,
    limits: Vec<(KeyId, RateLimit)>,
}

/// What is left to a request of the limits that it has passed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateStatus {
    rate: Option<RateLeft>,
    in_flight: Option<InFlightLeft>,
}

/// The rate that has the least left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RateLeft {
    name: &'static str,
    limit: RateLimit,
    left: u32,
    /// When one more may come.
    next_in: Option<Duration>,
}

/// The limit of requests in flight that has the least left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InFlightLeft {
    max: u32,
    left: u32,
}

/// A request that may be handled, until its response has ended.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    pub(crate) permit: Option<InFlightPermit>,
    pub(crate) status: Option<RateStatus>,
}

/// A request that is refused, and what it is told of its limits.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    pub(crate) status: Option<RateStatus>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, status: None }
    }
}

/// Checks that a lineage may be used from an address. Where the address is not known, a lineage with
/// ranges is refused.
pub(crate) fn check_address(lineage: &Lineage, address: Option<IpAddr>) -> Result<(), Refusal> {
    let may = address.map_or(!lineage.has_allowed_cidrs(), |at| lineage.allows_address(at));
    if may { Ok(()) } else { Err(Refusal::AddressNotAllowed) }
}

impl Limits {
    /// Returns the limits of a lineage. A key without a parent that has none of its own has the default.
    ///
    /// So has the whole tree below it: neither a child nor a limit that a child is given lifts it.
    pub(crate) fn of(lineage: &Lineage, default: Option<RateLimit>) -> Option<Self> {
        if !Self::bind(lineage, default) {
            return None;
        }
        let limit_of = |key: &crate::model::Key| {
            let default = default.filter(|_| key.parent.is_none());
            Some((key.id, key.rate_limit.or(default)?))
        };
        let limits: Vec<_> = lineage.keys().filter_map(limit_of).collect();
        (!limits.is_empty()).then(|| Self { own: lineage.id(), limits })
    }

    /// Returns whether a lineage has limits.
    pub(crate) fn bind(lineage: &Lineage, default: Option<RateLimit>) -> bool {
        default.is_some() || lineage.keys().any(|key| key.rate_limit.is_some())
    }

    pub(crate) fn rates(&self) -> Rates {
        self.limits.iter().filter_map(|(key, limit)| Some((*key, Quota::of(limit)?))).collect()
    }

    /// Counts a request that is in flight, or refuses it.
    pub(crate) fn enter(&self, keys: &Inner) -> Result<Option<InFlightPermit>, Refused> {
        let max = |(key, limit): &(KeyId, RateLimit)| Some((*key, limit.max_in_flight()?));
        let limits: Vec<_> = self.limits.iter().filter_map(max).collect();
        if limits.is_empty() {
            return Ok(None);
        }
        let permit = keys.rate_limits.in_flight.enter(limits);
        permit.map(Some).ok_or_else(|| Refused {
            refusal: Refusal::RateLimited { retry_after: IN_FLIGHT_WAIT },
            status: Some(RateStatus { rate: None, in_flight: self.in_flight_left(keys) }),
        })
    }

    /// Takes a request from the rates of this process.
    pub(crate) fn take_here(&self, keys: &Inner) -> Taken {
        keys.rate_limits.used.take(&self.rates(), rate_time(keys.now()))
    }

    /// Decides by what was taken.
    pub(crate) fn decide(
        &self,
        taken: &Taken,
        permit: Option<InFlightPermit>,
        keys: &Inner,
    ) -> Result<Admitted, Refused> {
        let rates =
            self.limits.iter().filter_map(|(key, limit)| Some((*key, *limit, Quota::of(limit)?)));
        let left = rates.zip(&taken.used).map(|((key, limit, quota), used)| RateLeft {
            name: if key == self.own { "key" } else { "ancestor" },
            limit,
            left: quota.available(*used, taken.at),
            next_in: quota.next_in(*used, taken.at).map(nanos),
        });
        // Of equals, the one that takes longer.
        let rate = left.min_by_key(|rate| (rate.left, std::cmp::Reverse(rate.next_in)));
        let status = Some(RateStatus { rate, in_flight: self.in_flight_left(keys) });
        if taken.granted > 0 {
            return Ok(Admitted { permit, status });
        }
        // A limit of zero never lets a request through: its window is as good as any time.
        let window = rate.and_then(|rate| rate.limit.window());
        let retry_after = rate.and_then(|rate| rate.next_in).or(window).unwrap_or(IN_FLIGHT_WAIT);
        Err(Refused { refusal: Refusal::RateLimited { retry_after }, status })
    }

    fn in_flight_left(&self, keys: &Inner) -> Option<InFlightLeft> {
        let left = self.limits.iter().filter_map(|(key, limit)| {
            let max = limit.max_in_flight()?;
            Some(InFlightLeft {
                max,
                left: max.saturating_sub(keys.rate_limits.in_flight.of(*key)),
            })
        });
        left.min_by_key(|limit| limit.left)
    }
}

impl RateStatus {
    /// Sets the headers that say what is left. Values that are already there are replaced: a proxy's
    /// upstream may have put its own.
    pub(crate) fn put(&self, headers: &mut HeaderMap) {
        let (mut policy, mut now) = (String::new(), String::new());
        if let Some(RateLeft { name, limit, left, next_in }) = self.rate {
            let window = limit.window().unwrap_or_default().as_secs();
            policy = format!("\"{name}\";q={};w={window}", limit.requests().unwrap_or_default());
            now = format!("\"{name}\";r={left}");
            if let Some(next_in) = next_in {
                now.push_str(&format!(";t={}", whole_seconds(next_in)));
            }
        }
        if let Some(InFlightLeft { max, left }) = self.in_flight {
            let comma = if policy.is_empty() { "" } else { ", " };
            policy.push_str(&format!("{comma}\"in-flight\";q={max};qu=\"concurrent-requests\""));
            now.push_str(&format!("{comma}\"in-flight\";r={left}"));
        }
        for (name, text) in [(POLICY, policy), (RATE_LIMIT, now)] {
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name, value);
            }
        }
    }
}

fn nanos(nanos: i64) -> Duration {
    Duration::from_nanos(nanos.unsigned_abs())
}

/// Rounds up, so that no client comes back too early.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
