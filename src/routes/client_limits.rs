//! Limits of sign-ups: for each client address, and in total.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::ConnectInfo;
use http::request::Parts;
use tokio::time::Instant;

/// Counts requests in windows of one length. All counts end with the window, so the memory is
/// bounded by the total of one window.
#[derive(Debug)]
pub(super) struct ClientLimits {
    pub(super) per_client: u32,
    pub(super) total: u32,
    pub(super) window: Duration,
    counted: Mutex<Option<Counted>>,
}

#[derive(Debug)]
struct Counted {
    since: Instant,
    total: u32,
    by_client: HashMap<Client, u32>,
}

/// Who is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Client {
    /// An IPv4 address, or the first 64 bits of an IPv6 address.
    Address(IpAddr),
    /// All requests whose address the server does not know.
    Unknown,
}

impl ClientLimits {
    pub(super) fn new(per_client: u32, total: u32, window: Duration) -> Self {
        Self { per_client, total, window, counted: Mutex::default() }
    }

    /// Counts a request, or returns how long the client has to wait.
    pub(super) fn count(&self, client: Client) -> Result<(), Duration> {
        let now = Instant::now();
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over =
            |counted: &Counted| now.saturating_duration_since(counted.since) >= self.window;
        if counted.as_ref().is_none_or(is_over) {
            *counted = None;
        }
        let counted = counted.get_or_insert_with(|| Counted {
            since: now,
            total: 0,
            by_client: HashMap::new(),
        });
        let of_client = counted.by_client.get(&client).copied().unwrap_or(0);
        if counted.total >= self.total || of_client >= self.per_client {
            return Err(self.window.saturating_sub(now.saturating_duration_since(counted.since)));
        }
        counted.total += 1;
        counted.by_client.insert(client, of_client + 1);
        Ok(())
    }
}

impl Client {
    /// Returns who is counted for a client's address.
    pub(super) fn new(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
            }
        })
    }
}

/// Returns the address of a client: the peer's, or the one that the outermost of `trusted_hops`
/// proxies has seen.
///
/// Each proxy appends to `X-Forwarded-For` the address that it was connected from. What the client
/// itself wrote is further left, and is not looked at. No other header is.
pub(super) fn address(parts: &Parts, trusted_hops: usize) -> Option<IpAddr> {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    if trusted_hops == 0 {
        return peer;
    }
    let lines = parts.headers.get_all("x-forwarded-for").iter();
    // As bytes: what the client wrote may be no text, and does not hide what a proxy appended.
    let addresses: Vec<_> =
        lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).collect();
    let at = addresses.len().checked_sub(trusted_hops);
    let address = at.and_then(|at| std::str::from_utf8(addresses.get(at)?).ok());
    // A request that did not come through all the proxies is its peer's.
    address.and_then(|address| parse(address.trim())).or(peer)
}

/// Reads an address, with or without a port.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(forwarded: &[&str]) -> Parts {
        let mut request = Request::builder();
        for line in forwarded {
            request = request.header("x-forwarded-for", *line);
        }
        let peer: SocketAddr = "192.0.2.1:4711".parse().unwrap();
        request.extension(ConnectInfo(peer)).body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_trusted_hops_say_where_a_client_is() {
        for (hops, forwarded, expected) in [
            (0, &["203.0.113.9"] as &[&str], "192.0.2.1"),
            (1, &[], "192.0.2.1"),
            (1, &["203.0.113.9"], "203.0.113.9"),
            (1, &["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
            (1, &["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
            (2, &["1.1.1.1, 203.0.113.9, 10.0.0.1"], "203.0.113.9"),
            (2, &["203.0.113.9"], "192.0.2.1"),
            (1, &["203.0.113.9, nonsense"], "192.0.2.1"),
            (1, &["\u{fc}, 203.0.113.9"], "203.0.113.9"),
            (1, &["203.0.113.9:1234"], "203.0.113.9"),
            (1, &["[2001:db8::1]:1234"], "2001:db8::1"),
            (1, &["[2001:db8::1]"], "2001:db8::1"),
        ] {
            let address = address(&parts(forwarded), hops).unwrap();
            assert_eq!(address.to_string(), expected, "{hops} {forwarded:?}");
        }
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let client = |text: &str| Client::new(text.parse().unwrap());
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff::9"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
    }

    #[tokio::test(start_paused = true)]
    async fn counts_end_with_the_window_and_memory_with_the_total() {
        let limits = ClientLimits::new(2, 5, Duration::from_secs(60));
        let client = |n: u8| Client::new(IpAddr::from([192, 0, 2, n]));
        assert!(limits.count(client(1)).is_ok() && limits.count(client(1)).is_ok());
        assert_eq!(limits.count(client(1)), Err(Duration::from_secs(60)));
        for n in 2..=255 {
            assert_eq!(limits.count(client(n)).is_ok(), n <= 4, "{n}");
        }
        assert_eq!(limits.counted.lock().unwrap().as_ref().unwrap().by_client.len(), 4);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(limits.count(client(9)), Err(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(limits.count(client(1)).is_ok());
    }
}
