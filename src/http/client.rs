//! Where a client is: the peer of the connection, or what trusted proxies have seen.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{Extensions, HeaderMap};

/// The address of the peer of a connection, in the extensions of a request.
///
/// It is for servers other than axum's. `axum::serve` puts a `ConnectInfo` there, if the app is made by
/// `into_make_service_with_connect_info::<SocketAddr>()`, and then this is not needed.
///
/// ```
/// use agentkey::http::PeerAddress;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(PeerAddress("192.0.2.1".parse()?));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress(pub IpAddr);

/// Who is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// An IPv4 address, or the first 64 bits of an IPv6 address.
    Address(IpAddr),
    /// All requests whose address the server does not know.
    Unknown,
}

impl Client {
    /// Returns who is counted for a client's address.
    pub(crate) fn new(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
            }
        })
    }
}

/// Returns the address of a client: the peer's, or the one that the outermost of `trusted_hops`
/// proxies has seen. A request that did not come through all the proxies has none: its peer is one of
/// them, or got past them.
///
/// Each proxy appends to `X-Forwarded-For` the address that it was connected from. What the client
/// itself wrote is further left, and is not looked at. No other header is.
pub(crate) fn client_address(
    headers: &HeaderMap,
    extensions: &Extensions,
    trusted_hops: usize,
) -> Option<IpAddr> {
    if trusted_hops == 0 {
        return peer(extensions);
    }
    let lines = headers.get_all("x-forwarded-for").iter();
    // As bytes: what the client wrote may be no text, and does not hide what a proxy appended.
    let addresses: Vec<_> =
        lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).collect();
    let address = addresses.get(addresses.len().checked_sub(trusted_hops)?)?;
    parse(std::str::from_utf8(address).ok()?.trim())
}

fn peer(extensions: &Extensions) -> Option<IpAddr> {
    let own = extensions.get::<PeerAddress>().map(|peer| peer.0);
    #[cfg(feature = "axum")]
    let own = own.or_else(|| {
        let peer = extensions.get::<axum::extract::ConnectInfo<SocketAddr>>()?;
        Some(peer.0.ip())
    });
    own
}

/// Reads an address, with or without a port.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http::request::Parts;

    use super::*;

    fn parts(forwarded: &[&str]) -> Parts {
        let mut request = Request::builder();
        for line in forwarded {
            request = request.header("x-forwarded-for", *line);
        }
        let peer = PeerAddress("192.0.2.1".parse().unwrap());
        request.extension(peer).body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_trusted_hops_say_where_a_client_is() {
        for (hops, forwarded, expected) in [
            (0, &["203.0.113.9"] as &[&str], Some("192.0.2.1")),
            (1, &[], None),
            (1, &[""], None),
            (1, &["203.0.113.9"], Some("203.0.113.9")),
            (1, &["1.1.1.1, 203.0.113.9"], Some("203.0.113.9")),
            (1, &["1.1.1.1", "203.0.113.9"], Some("203.0.113.9")),
            (2, &["1.1.1.1, 203.0.113.9, 10.0.0.1"], Some("203.0.113.9")),
            (2, &["203.0.113.9"], None),
            (1, &["203.0.113.9, nonsense"], None),
            (1, &["\u{fc}, 203.0.113.9"], Some("203.0.113.9")),
            (1, &["203.0.113.9:1234"], Some("203.0.113.9")),
            (1, &["[2001:db8::1]:1234"], Some("2001:db8::1")),
            (1, &["[2001:db8::1]"], Some("2001:db8::1")),
        ] {
            let parts = parts(forwarded);
            let address = client_address(&parts.headers, &parts.extensions, hops);
            let address = address.map(|address| address.to_string());
            assert_eq!(address.as_deref(), expected, "{hops} {forwarded:?}");
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
}
