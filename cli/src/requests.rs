//! The arguments that limit the requests of a key: how many, and from where.

use agentkey::KeyPatch;
use agentkey::NewKey;
use agentkey::model::{Cidrs, RateLimit};

use crate::error::Error;
use crate::values;

/// The arguments that limit requests.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RequestArgs {
    /// How many requests in a window, such as 100/1m or 5/s
    #[arg(long, value_name = "COUNT/WINDOW", value_parser = rate)]
    rate: Option<RateLimit>,
    /// How many of them may come at once; without it, those of a window
    #[arg(long, value_name = "COUNT", requires = "rate")]
    burst: Option<u32>,
    /// How many requests may be in flight at once
    #[arg(long, value_name = "COUNT")]
    in_flight: Option<u32>,
    /// From where it may be used, such as 192.0.2.0/24; repeat it, or put commas between
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    allow_cidr: Vec<String>,
}

impl RequestArgs {
    /// Sets what was given.
    pub(crate) fn create(&self, mut new: NewKey) -> Result<NewKey, Error> {
        if let Some(limit) = self.rate_limit(None) {
            new = new.rate_limit(limit);
        }
        if let Some(ranges) = self.cidrs()? {
            new = new.allowed_cidrs(ranges);
        }
        Ok(new)
    }

    /// Returns whether the limit of requests is to be set.
    pub(crate) fn sets_limit(&self) -> bool {
        self.rate.is_some() || self.in_flight.is_some()
    }

    /// Sets what was given, beside what stays of the key's limit. What is to be removed and is not set, is removed.
    pub(crate) fn update(
        &self,
        mut patch: KeyPatch,
        stays: Option<RateLimit>,
        removes_rate: bool,
        removes_cidrs: bool,
    ) -> Result<KeyPatch, Error> {
        let ranges = self.cidrs()?;
        if self.sets_limit() || removes_rate {
            patch = patch.rate_limit(self.rate_limit(stays.filter(|_| !removes_rate)));
        }
        if ranges.is_some() || removes_cidrs {
            patch = patch.allowed_cidrs(ranges);
        }
        Ok(patch)
    }

    fn rate_limit(&self, stays: Option<RateLimit>) -> Option<RateLimit> {
        let rate = match self.burst {
            Some(burst) => self.rate.map(|rate| rate.burst(burst)),
            None => self.rate,
        };
        let in_flight = self.in_flight.or(stays.and_then(|limit| limit.max_in_flight()));
        match (rate.or(stays), in_flight) {
            (limit, None) => limit,
            (None, Some(in_flight)) => Some(RateLimit::at_once(in_flight)),
            (Some(limit), Some(in_flight)) => Some(limit.in_flight(in_flight)),
        }
    }

    fn cidrs(&self) -> Result<Option<Cidrs>, Error> {
        if self.allow_cidr.is_empty() {
            return Ok(None);
        }
        let ranges = Cidrs::parse(self.allow_cidr.iter().map(String::as_str));
        ranges.map(Some).map_err(|error| Error::Usage(format!("`--allow-cidr`: {error}")))
    }
}

/// Reads `100/1m`; `5/s` is five a second.
fn rate(text: &str) -> Result<RateLimit, String> {
    let error = || "a rate is a count and a window, such as 100/1m or 5/s".to_owned();
    let (count, window) = text.split_once('/').ok_or_else(error)?;
    let window = match window.starts_with(|char: char| char.is_ascii_digit()) {
        true => values::duration(window),
        false => values::duration(&format!("1{window}")),
    };
    let limit = RateLimit::new(count.parse().map_err(|_| error())?, window.map_err(|_| error())?);
    limit.validate().map_err(|error| error.to_string())?;
    Ok(limit)
}

/// Returns a limit as the arguments have it.
pub(crate) fn shown(limit: &RateLimit) -> String {
    let mut parts = Vec::new();
    if let (Some(requests), Some(window)) = (limit.requests(), limit.window()) {
        parts.push(format!("{requests} in {} s", window.as_secs()));
        parts.extend(
            limit
                .burst_size()
                .filter(|burst| *burst != requests)
                .map(|burst| format!("{burst} at once")),
        );
    }
    parts.extend(limit.max_in_flight().map(|requests| format!("{requests} in flight")));
    parts.join(", ")
}

/// Returns a limit as one word.
pub(crate) fn word(limit: &RateLimit) -> String {
    let mut parts = Vec::new();
    if let (Some(requests), Some(window)) = (limit.requests(), limit.window()) {
        parts.push(format!("{requests}/{}s", window.as_secs()));
        let burst = limit.burst_size().filter(|burst| *burst != requests);
        parts.extend(burst.map(|burst| format!("burst:{burst}")));
    }
    parts.extend(limit.max_in_flight().map(|requests| format!("in_flight:{requests}")));
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_count_and_a_window() {
        assert_eq!(rate("100/1m"), Ok(RateLimit::per_minute(100)));
        assert_eq!(rate("5/s"), Ok(RateLimit::per_second(5)));
        assert_eq!(rate("5/h"), Ok(RateLimit::per_hour(5)));
        for text in ["100", "100/", "/1m", "100/month", "-1/m", "100/0s", "100/2d"] {
            assert!(rate(text).is_err(), "{text}");
        }
        let limit = RateLimit::per_minute(100).burst(20).in_flight(4);
        assert_eq!(shown(&limit), "100 in 60 s, 20 at once, 4 in flight");
        assert_eq!(shown(&RateLimit::at_once(2)), "2 in flight");
    }
}
