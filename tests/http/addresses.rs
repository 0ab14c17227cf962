//! From where requests come: the ranges of keys, proxies, and clients whose keys are not known.

use std::time::Duration;

use agentkey::model::{Cidrs, RateLimit};
use agentkey::{NewKey, Token};
use tower::ServiceExt;

use super::rate_limits::{request, routes, send};
use super::support::{Seen, World, acme, capture_logs, clock, logged};

fn ranges(list: &[&str]) -> Cidrs {
    Cidrs::parse(list.iter().copied()).unwrap()
}

#[tokio::test]
async fn a_key_with_ranges_is_refused_from_elsewhere_and_where_no_address_is_known() {
    capture_logs();
    let world = World::new().await;
    let new = NewKey::new(acme()).allowed_cidrs(ranges(&["192.0.2.0/24", "2001:db8::/48"]));
    let (parent, _) = world.create(new).await;
    let (_, child) = world.create(NewKey::child_of(parent)).await;
    let app = routes().layer(world.layer());
    for (from, status) in [
        (Some("192.0.2.9"), 200),
        (Some("::ffff:192.0.2.9"), 200),
        (Some("2001:db8:0:1::1"), 200),
        (Some("198.51.100.1"), 403),
        (Some("2001:db9::1"), 403),
        (None, 403),
    ] {
        let seen = send(&app, child.expose(), "/free", from).await;
        assert_eq!(seen.status, status, "{from:?}");
    }
    assert!(!logged(&["ERROR", "into_make_service_with_connect_info"]).is_empty());
    // Outside of a request the address is given, or the key is refused.
    let elsewhere = "198.51.100.1".parse().unwrap();
    for result in
        [world.keys.authorize(&child).await, world.keys.authorize_from(&child, elsewhere).await]
    {
        assert_eq!(result.unwrap_err().refusal().code(), "address_not_allowed");
    }
    world.keys.authorize_from(&child, "192.0.2.1".parse().unwrap()).await.unwrap();
}

#[tokio::test]
async fn only_trusted_hops_say_from_where_a_request_comes() {
    let world = World::new().await;
    let (_, token) =
        world.create(NewKey::new(acme()).allowed_cidrs(ranges(&["203.0.113.0/24"]))).await;
    let forwarded = |peer| {
        let mut request = request(token.expose(), "/free", Some(peer));
        let value = "1.1.1.1, 203.0.113.9".parse().unwrap();
        request.headers_mut().insert("x-forwarded-for", value);
        request
    };
    for (hops, status) in [(0, 403), (1, 200), (2, 403)] {
        let app = routes().layer(world.layer().trusted_hops(hops));
        let response = app.oneshot(forwarded("10.0.0.1")).await.unwrap();
        assert_eq!(response.status(), status, "{hops}");
    }
}

/// What comes past the proxies has the address of nobody: neither that of a proxy, nor its peer's.
#[tokio::test]
async fn a_request_past_the_trusted_hops_has_no_address() {
    capture_logs();
    let world = World::new().await;
    let (_, of_network) =
        world.create(NewKey::new(acme()).allowed_cidrs(ranges(&["10.0.0.0/8"]))).await;
    let (_, anywhere) = world.create(NewKey::new(acme())).await;
    let layer = world.layer().trusted_hops(2).unknown_key_limit(RateLimit::per_minute(2));
    let app = routes().layer(layer);
    let send = async |token: &Token, forwarded: &str, peer: &str| {
        let mut request = request(token.expose(), "/free", Some(peer));
        request.headers_mut().insert("x-forwarded-for", forwarded.parse().unwrap());
        Seen::read(app.clone().oneshot(request).await.unwrap()).await
    };
    assert_eq!(send(&of_network, "10.0.0.7, 10.0.0.1", "10.0.0.2").await.status, 200);
    for forwarded in ["", "10.0.0.7", "nonsense, 10.0.0.1"] {
        let seen = send(&of_network, forwarded, "10.0.0.2").await;
        assert_eq!(seen.refused(), (403, "address_not_allowed".into()), "{forwarded}");
        assert_eq!(send(&anywhere, forwarded, "10.0.0.2").await.status, 200);
    }
    assert!(!logged(&["ERROR", "X-Forwarded-For", "trusted_hops"]).is_empty());
    // They are one client, whatever their peers.
    let unknown = || Token::generate(&"ak".parse().unwrap()).unwrap();
    assert_eq!(send(&unknown(), "10.0.0.7", "10.0.0.2").await.status, 401);
    assert_eq!(send(&unknown(), "", "10.0.0.3").await.status, 401);
    assert_eq!(send(&unknown(), "10.0.0.8", "10.0.0.4").await.status, 429);
    assert_eq!(send(&unknown(), "192.0.2.1, 10.0.0.8", "10.0.0.4").await.status, 401);
}

#[tokio::test]
async fn a_flood_of_unknown_tokens_is_refused_before_the_look_up() {
    let clock = clock();
    let world = World::at(&clock).await;
    let (_, known) = world.create(NewKey::new(acme())).await;
    let layer = || world.layer().unknown_key_limit(RateLimit::per_minute(3));
    let app = routes().layer(layer());
    let unknown = || Token::generate(&"ak".parse().unwrap()).unwrap();
    let guess = async |from| send(&app, unknown().expose(), "/free", Some(from)).await;
    // A known key uses nothing, however often it comes.
    for _ in 0..9 {
        assert_eq!(send(&app, known.expose(), "/free", Some("192.0.2.1")).await.status, 200);
    }
    for _ in 0..3 {
        assert_eq!(guess("192.0.2.1").await.refused(), (401, "invalid_key".into()));
    }
    let before = world.spy.finds();
    for _ in 0..50 {
        let seen = guess("192.0.2.1").await;
        assert_eq!(seen.refused(), (429, "rate_limited".into()));
        assert_eq!(seen.header("retry-after"), Some("20"));
    }
    assert_eq!(world.spy.finds(), before, "no look-up");
    // Another client is another one; an IPv6 network of 64 bits is one.
    assert_eq!(guess("192.0.2.2").await.status, 401);
    for host in ["2001:db8::1", "2001:db8::2", "2001:db8::3"] {
        assert_eq!(guess(host).await.status, 401);
    }
    assert_eq!(guess("2001:db8::4").await.status, 429);
    assert_eq!(guess("2001:db8:0:1::4").await.status, 401);
    // A malformed token costs no look-up, and is told so.
    let seen = send(&app, "ak_nonsense", "/free", Some("192.0.2.1")).await;
    assert_eq!(seen.refused(), (401, "invalid_key".into()));
    clock.advance(Duration::from_secs(20));
    assert_eq!(guess("192.0.2.1").await.status, 401);
}
