//! The limits of a request's lineage: from where it may come, how many may, and what is left of that.
//!
//! `RateLimit` and `RateLimit-Policy` are those of draft-ietf-httpapi-ratelimit-headers-11, structured
//! fields of RFC 9651.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Response};

use crate::engine::agent_keys::Inner;
use crate::engine::batch::takes::Rates;
use crate::engine::rate_limits::InFlightPermit;
use crate::ledger::{Quota, RateId, Taken, rate_time};
use crate::model::{Key, KeyId, Lineage, RateLimit, Refusal};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// How long a client waits that has too many requests in flight.
const IN_FLIGHT_WAIT: Duration = Duration::from_secs(1);

/// The limits that a request counts for at a layer: those of its lineage, of the key first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    own: KeyId,
    limits: Vec<Limit>,
    /// Whether an outer layer has counted the request for limits too.
    is_inner: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Limit {
    id: RateId,
    key: KeyId,
    limit: RateLimit,
}

/// What layers have counted a request for: the limits of its lineage, and these defaults.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    defaults: Vec<RateLimit>,
}

/// What is left to a request of the limits that it has passed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateStatus {
    rate: Option<RateLeft>,
    in_flight: Option<InFlightLeft>,
    /// Whether an outer layer says what is left too.
    is_inner: bool,
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
    /// Returns the limits of a lineage that no outer layer has `counted` the request for. A key without a
    /// parent that has none of its own has the default.
    ///
    /// So has the whole tree below it: neither a child nor a limit that a child is given lifts it.
    pub(crate) fn of(
        lineage: &Lineage,
        default: Option<RateLimit>,
        counted: Option<&Counted>,
    ) -> Option<Self> {
        if !Self::bind(lineage, default) {
            return None;
        }
        let default =
            default.filter(|limit| !counted.is_some_and(|it| it.defaults.contains(limit)));
        let limit_of = |key: &Key| match (key.rate_limit, default) {
            (Some(limit), _) if counted.is_none() => {
                Some(Limit { id: key.id.into(), key: key.id, limit })
            }
            (None, Some(limit)) if key.parent.is_none() => {
                Some(Limit { id: RateId::of_default(key.id, &limit), key: key.id, limit })
            }
            _ => None,
        };
        let limits: Vec<_> = lineage.keys().filter_map(limit_of).collect();
        let is_inner = counted.is_some();
        (!limits.is_empty()).then(|| Self { own: lineage.id(), limits, is_inner })
    }

    /// Returns whether a lineage has limits.
    pub(crate) fn bind(lineage: &Lineage, default: Option<RateLimit>) -> bool {
        default.is_some() || lineage.keys().any(|key| key.rate_limit.is_some())
    }

    pub(crate) fn rates(&self) -> Rates {
        self.limits.iter().filter_map(|it| Some((it.id, Quota::of(&it.limit)?))).collect()
    }

    /// Counts a request that is in flight, or refuses it.
    pub(crate) fn enter(&self, keys: &Inner) -> Result<Option<InFlightPermit>, Refused> {
        let max = |it: &Limit| Some((it.id, it.limit.max_in_flight()?));
        let limits: Vec<_> = self.limits.iter().filter_map(max).collect();
        if limits.is_empty() {
            return Ok(None);
        }
        let permit = keys.rate_limits.in_flight.enter(limits);
        permit.map(Some).ok_or_else(|| Refused {
            refusal: Refusal::RateLimited { retry_after: IN_FLIGHT_WAIT },
            status: Some(self.status(None, keys)),
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
        let rates = self.limits.iter().filter_map(|it| Some((it, Quota::of(&it.limit)?)));
        let left = rates.zip(&taken.used).map(|((it, quota), used)| RateLeft {
            name: if it.key == self.own { "key" } else { "ancestor" },
            limit: it.limit,
            left: quota.available(*used, taken.at),
            next_in: quota.next_in(*used, taken.at).map(nanos),
        });
        let rate = left.min_by_key(RateLeft::rank);
        let status = Some(self.status(rate, keys));
        if taken.granted > 0 {
            return Ok(Admitted { permit, status });
        }
        // A limit of zero never lets a request through: its window is as good as any time.
        let window = rate.and_then(|rate| rate.limit.window());
        let retry_after = rate.and_then(|rate| rate.next_in).or(window).unwrap_or(IN_FLIGHT_WAIT);
        Err(Refused { refusal: Refusal::RateLimited { retry_after }, status })
    }

    fn status(&self, rate: Option<RateLeft>, keys: &Inner) -> RateStatus {
        let left = self.limits.iter().filter_map(|it| {
            let max = it.limit.max_in_flight()?;
            let left = max.saturating_sub(keys.rate_limits.in_flight.of(it.id));
            Some(InFlightLeft { max, left })
        });
        let in_flight = left.min_by_key(InFlightLeft::rank);
        RateStatus { rate, in_flight, is_inner: self.is_inner }
    }
}

impl Counted {
    /// Returns what a request is counted for with a layer's default.
    pub(crate) fn and(mut self, default: Option<RateLimit>) -> Self {
        self.defaults.extend(default);
        self
    }
}

impl RateLeft {
    /// The least has the least left. Of equals, it is the one that takes longer.
    fn rank(&self) -> (u32, Reverse<Option<Duration>>) {
        (self.left, Reverse(self.next_in))
    }
}

impl InFlightLeft {
    fn rank(&self) -> (u32, u32) {
        (self.left, self.max)
    }
}

impl RateStatus {
    /// Sets the headers that say what is left, at this layer or an inner one, whichever is less. Other
    /// values that are already there are replaced: a proxy's upstream may have put its own.
    pub(crate) fn put<B>(mut self, response: &mut Response<B>) {
        if let Some(inner) = response.extensions_mut().remove::<Self>() {
            let rates = self.rate.into_iter().chain(inner.rate);
            let in_flight = self.in_flight.into_iter().chain(inner.in_flight);
            self.rate = rates.min_by_key(RateLeft::rank);
            self.in_flight = in_flight.min_by_key(InFlightLeft::rank);
        }
        self.put_headers(response.headers_mut());
        if self.is_inner {
            response.extensions_mut().insert(self);
        }
    }

    fn put_headers(&self, headers: &mut HeaderMap) {
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
