//! Ranges of addresses from which a key may be used.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The ranges of addresses from which a key and its descendants may be used.
///
/// A range is in CIDR notation, and an address by itself is a range of one. An IPv4 address that is
/// mapped into IPv6 (`::ffff:192.0.2.1`) counts as IPv4, in a range and in a request. Without any
/// range, the key may be used from nowhere.
///
/// ```
/// use agentkey::model::Cidrs;
///
/// let office = Cidrs::parse(["192.0.2.0/24", "2001:db8::/48"])?;
/// assert!(office.contains("192.0.2.7".parse()?) && office.contains("::ffff:192.0.2.7".parse()?));
/// assert!(!office.contains("198.51.100.1".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cidrs(Vec<IpNet>);

/// A text that is no list of ranges.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CidrsError {
    /// The text is no range.
    #[error("{0:?} is no range of addresses such as 192.0.2.0/24 or 2001:db8::/48")]
    NoRange(String),
    /// The address has bits to the right of the prefix.
    #[error("{given} has bits beyond its prefix; the range is {range}")]
    HostBits {
        /// What was given.
        given: String,
        /// The range that it is in.
        range: String,
    },
    /// There are too many ranges.
    #[error("there are at most {max} ranges", max = MAX)]
    TooMany,
}

/// The most ranges of a key.
const MAX: usize = 64;

impl Cidrs {
    /// Reads ranges. The order stays, and a range that comes twice is kept once.
    ///
    /// # Errors
    ///
    /// [`CidrsError`] where a text is no range, its address has bits beyond the prefix, or there are
    /// more than 64.
    pub fn parse<'a>(ranges: impl IntoIterator<Item = &'a str>) -> Result<Self, CidrsError> {
        let mut all = Vec::new();
        for text in ranges {
            let range = parse(text)?;
            if !all.contains(&range) {
                all.push(range);
            }
            if all.len() > MAX {
                return Err(CidrsError::TooMany);
            }
        }
        Ok(Self(all))
    }

    /// Returns no range: a key with it may be used from nowhere.
    pub const fn nowhere() -> Self {
        Self(Vec::new())
    }

    /// Returns whether an address is in one of the ranges.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|range| range.contains(&address))
    }

    /// Returns whether every address of these ranges is in the others.
    pub fn is_within(&self, others: &Self) -> bool {
        // Neighbours are merged, so a range in the union of others is in one of them.
        let others = IpNet::aggregate(&others.0);
        self.0.iter().all(|range| others.iter().any(|other| other.contains(range)))
    }

    pub(crate) fn ranges(&self) -> &[IpNet] {
        &self.0
    }

    /// Returns the ranges as texts, each with its prefix.
    pub fn iter(&self) -> impl Iterator<Item = String> + '_ {
        self.ranges().iter().map(ToString::to_string)
    }
}

fn parse(text: &str) -> Result<IpNet, CidrsError> {
    let no_range = || CidrsError::NoRange(text.chars().take(64).collect());
    let range = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => IpNet::from_str(text).map_err(|_| no_range())?,
    };
    if range.trunc() != range {
        let (given, range) = (range.to_string(), range.trunc().to_string());
        return Err(CidrsError::HostBits { given, range });
    }
    let IpNet::V6(mapped) = range else { return Ok(range) };
    let (Some(address), Some(prefix)) =
        (mapped.addr().to_ipv4_mapped(), mapped.prefix_len().checked_sub(96))
    else {
        return Ok(range);
    };
    Ok(IpNet::V4(Ipv4Net::new(address, prefix).map_err(|_| no_range())?))
}

impl fmt::Display for Cidrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iter().collect::<Vec<_>>().join(", "))
    }
}

impl Serialize for Cidrs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Cidrs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ranges = Vec::<String>::deserialize(deserializer)?;
        Self::parse(ranges.iter().map(String::as_str)).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidrs(ranges: &[&str]) -> Cidrs {
        Cidrs::parse(ranges.iter().copied()).unwrap()
    }

    #[test]
    fn mapped_addresses_are_ipv4_in_ranges_and_requests() {
        for (ranges, address, is_in) in [
            (&["10.0.0.0/8"] as &[&str], "10.1.2.3", true),
            (&["10.0.0.0/8"], "::ffff:10.1.2.3", true),
            (&["::ffff:10.0.0.0/104"], "10.1.2.3", true),
            (&["::ffff:10.0.0.0/104"], "11.1.2.3", false),
            (&["::ffff:10.0.0.9"], "10.0.0.9", true),
            (&["::/0"], "10.1.2.3", false),
            (&["0.0.0.0/0"], "2001:db8::1", false),
            (&["2001:db8::/48", "192.0.2.1"], "2001:db8::1", true),
            (&["2001:db8::/48", "192.0.2.1"], "192.0.2.2", false),
            (&[], "192.0.2.1", false),
        ] {
            let is_found = cidrs(ranges).contains(address.parse().unwrap());
            assert_eq!(is_found, is_in, "{ranges:?} {address}");
        }
    }

    #[test]
    fn what_is_no_range_is_named() {
        for (text, error) in [
            ("10.0.0.1/8", "10.0.0.1/8 has bits beyond its prefix; the range is 10.0.0.0/8"),
            ("10.0.0.0/33", "\"10.0.0.0/33\" is no range"),
            ("example.com", "\"example.com\" is no range"),
            ("10.0.0.0/8 ", "\"10.0.0.0/8 \" is no range"),
            ("", "\"\" is no range"),
        ] {
            let found = Cidrs::parse([text]).unwrap_err().to_string();
            assert!(found.starts_with(error), "{found}");
        }
        let many: Vec<_> = (0..=64).map(|n| format!("10.0.{n}.0/24")).collect();
        let many = Cidrs::parse(many.iter().map(String::as_str));
        assert_eq!(many, Err(CidrsError::TooMany));
    }

    #[test]
    fn halves_that_meet_are_the_whole() {
        let halves = cidrs(&["10.0.0.0/9", "10.128.0.0/9", "2001:db8::/32"]);
        assert!(cidrs(&["10.0.0.0/8"]).is_within(&halves));
        assert!(cidrs(&["10.200.0.0/16", "2001:db8:1::/48"]).is_within(&halves));
        assert!(!cidrs(&["10.0.0.0/7"]).is_within(&halves));
        assert!(!cidrs(&["10.0.0.0/8"]).is_within(&cidrs(&["10.0.0.0/9"])));
        assert!(cidrs(&[]).is_within(&halves) && !halves.is_within(&cidrs(&[])));
    }

    proptest! {
        #[test]
        fn within_is_what_addresses_say(
            ranges in prop::collection::vec((0..16_u8, 28..=32_u8), 0..6),
            others in prop::collection::vec((0..16_u8, 28..=32_u8), 0..6),
        ) {
            let cidrs = |ranges: &[(u8, u8)]| {
                let nets = ranges.iter().map(|(host, prefix)| {
                    IpNet::new(IpAddr::from([10, 0, 0, *host]), *prefix).unwrap().trunc()
                });
                Cidrs(nets.collect())
            };
            let (own, others) = (cidrs(&ranges), cidrs(&others));
            let all = (0..16_u8).map(|host| IpAddr::from([10, 0, 0, host]));
            let is_within = all.into_iter().all(|at| !own.contains(at) || others.contains(at));
            prop_assert_eq!(own.is_within(&others), is_within);
        }
    }
}
