//! Rate limits: the order of the checks, what a refusal uses up, and the headers, which a parser of structured fields reads.

use std::time::Duration;

use agentkey::http::PeerAddress;
use agentkey::model::{Cidrs, ManualClock, RateLimit};
use agentkey::{
    AgentKeyLayer, AgentKeys, Amount, Budget, Charge, KeyContext, KeyPatch, NewKey, RequireBudget,
    RequireScope, ScopeSet, Token,
};
use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use sfv::{BareItem, List, ListEntry, Parser};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::support::{Fault, Faults, Seen, World, acme, clock, dollar};

fn scopes(list: &[&str]) -> ScopeSet {
    ScopeSet::parse(list.iter().copied()).unwrap()
}

pub(crate) fn routes() -> Router {
    Router::new()
        .route("/free", get(async |_: KeyContext| "free"))
        .route("/read", get(async || "read").layer(RequireScope::one("read").unwrap()))
        .route("/buy", post(async |charge: Charge| charge.add(Amount::cents(1))))
        .route(
            "/dear",
            get(async || "dear")
                .layer((RequireScope::one("read").unwrap(), RequireBudget::hold(Amount::cents(5)))),
        )
}

pub(crate) fn request(token: &str, path: &str, from: Option<&str>) -> Request<Body> {
    let method = if path == "/buy" { Method::POST } else { Method::GET };
    let mut request = Request::builder().method(method).uri(path);
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut request = request.body(Body::empty()).unwrap();
    if let Some(from) = from {
        request.extensions_mut().insert(PeerAddress(from.parse().unwrap()));
    }
    request
}

pub(crate) async fn send(app: &Router, token: &str, path: &str, from: Option<&str>) -> Seen {
    Seen::read(app.clone().oneshot(request(token, path, from)).await.unwrap()).await
}

pub(crate) async fn free(app: &Router, token: &Token) -> Seen {
    send(app, token.expose(), "/free", None).await
}

/// The members of a header: the name of each, and its parameters.
fn field(seen: &Seen, name: &str) -> Vec<(String, Vec<(String, String)>)> {
    let Some(text) = seen.header(name) else { return Vec::new() };
    let list: List = Parser::new(text).parse().unwrap();
    let item = |entry: &ListEntry| {
        let ListEntry::Item(item) = entry else { panic!("{text}") };
        let BareItem::String(name) = &item.bare_item else { panic!("{text}") };
        let value = |value: &BareItem| match value {
            BareItem::Integer(number) => number.to_string(),
            BareItem::String(text) => text.as_str().to_owned(),
            other => panic!("{other:?} in {text}"),
        };
        let params = item.params.iter().map(|(name, of)| (name.as_str().to_owned(), value(of)));
        (name.as_str().to_owned(), params.collect())
    };
    list.iter().map(item).collect()
}

fn member(name: &str, params: &[(&str, &str)]) -> (String, Vec<(String, String)>) {
    let params = params.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    (name.to_owned(), params.collect())
}

/// What is left, as the header says.
fn left(seen: &Seen) -> String {
    let members = field(seen, "ratelimit");
    members[0].1.iter().find(|(name, _)| name == "r").unwrap().1.clone()
}

async fn limited(clock: &ManualClock, limit: RateLimit) -> (World, Router, Token) {
    let world = World::at(clock).await;
    let (_, token) = world.create(NewKey::new(acme()).rate_limit(limit)).await;
    let app = routes().layer(world.layer());
    (world, app, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_concurrent_requests_a_hundred_pass() {
    for is_shared in [false, true] {
        let clock = clock();
        let builder = AgentKeys::builder().shared_rate_limits(is_shared);
        let world = World::with_clock(builder, &clock).await;
        let (_, token) =
            world.create(NewKey::new(acme()).rate_limit(RateLimit::per_minute(100))).await;
        let app = routes().layer(world.layer());
        let mut all = JoinSet::new();
        for _ in 0..1_000 {
            let (app, token) = (app.clone(), token.expose().to_owned());
            all.spawn(async move { send(&app, &token, "/free", None).await.status });
        }
        let passed = all.join_all().await;
        let count = |status| passed.iter().filter(|seen| **seen == status).count();
        let counts = (count(StatusCode::OK), count(StatusCode::TOO_MANY_REQUESTS));
        assert_eq!(counts, (100, 900), "{is_shared}");
    }
}

#[tokio::test]
async fn accepted_refused_and_streaming_answers_say_what_is_left() {
    let clock = clock();
    let (world, app, token) = limited(&clock, RateLimit::per_minute(3)).await;
    let streamed = async |_: KeyContext| {
        let rest = futures_util::stream::iter([Ok::<_, std::io::Error>("a"), Ok("b")]);
        Body::from_stream(rest).into_response()
    };
    let app = app.route("/streamed", get(streamed).layer(world.layer()));
    let policy = [member("key", &[("q", "3"), ("w", "60")])];

    let streaming = send(&app, token.expose(), "/streamed", None).await;
    assert_eq!((streaming.status.as_u16(), &*streaming.data), (200, "ab"));
    assert_eq!(field(&streaming, "ratelimit-policy"), policy);
    assert_eq!(field(&streaming, "ratelimit"), [member("key", &[("r", "2"), ("t", "20")])]);
    // A request that its scope refuses has used the rate, which comes before.
    let no_scope = send(&app, token.expose(), "/read", None).await;
    assert_eq!(no_scope.refused(), (403, "insufficient_scope".into()));
    assert_eq!(field(&no_scope, "ratelimit-policy"), policy);
    assert_eq!(left(&no_scope), "1");
    assert_eq!(free(&app, &token).await.header("ratelimit"), Some("\"key\";r=0;t=20"));

    clock.advance(Duration::from_millis(1));
    let refused = free(&app, &token).await;
    assert_eq!(refused.refused(), (429, "rate_limited".into()));
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    // Rounded up: after 19 seconds it would be refused once more.
    assert_eq!(refused.header("retry-after"), Some("20"));
    assert_eq!(field(&refused, "ratelimit-policy"), policy);
    assert_eq!(field(&refused, "ratelimit"), [member("key", &[("r", "0"), ("t", "20")])]);
    clock.advance(Duration::from_secs(19));
    assert_eq!(free(&app, &token).await.header("retry-after"), Some("1"));
    clock.advance(Duration::from_secs(1));
    assert_eq!(free(&app, &token).await.status, 200);
}

#[tokio::test]
async fn a_request_without_limits_says_nothing() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let seen = free(&routes().layer(world.layer()), &token).await;
    assert_eq!((seen.header("ratelimit"), seen.header("ratelimit-policy")), (None, None));
}

#[tokio::test]
async fn a_refused_request_uses_nothing_of_what_comes_after() {
    let clock = clock();
    for is_shared in [false, true] {
        let builder = AgentKeys::builder().shared_rate_limits(is_shared);
        let world = World::with_clock(builder, &clock).await;
        let new = NewKey::new(acme())
            .budget(Budget::lifetime(Amount::cents(5)))
            .rate_limit(RateLimit::per_minute(4))
            .allowed_cidrs(Cidrs::parse(["192.0.2.0/24"]).unwrap());
        let (id, token) = world.create(new).await;
        let (app, inside) = (routes().layer(world.layer()), Some("192.0.2.1"));
        let to = async |path, from| send(&app, token.expose(), path, from).await;
        let patch = async |patch| world.keys.update(id, patch).await.unwrap();

        // The credential comes first, whatever else is wrong.
        assert_eq!(send(&app, "", "/dear", None).await.refused().0, 401);
        let unknown = Token::generate(&"ak".parse().unwrap()).unwrap();
        let seen = send(&app, unknown.expose(), "/dear", None).await;
        assert_eq!(seen.refused(), (401, "invalid_key".into()));
        // The state of the key comes before its address,
        patch(KeyPatch::new().disabled(true)).await;
        for _ in 0..9 {
            let seen = to("/dear", Some("198.51.100.1")).await;
            assert_eq!(seen.refused(), (401, "disabled_key".into()));
        }
        patch(KeyPatch::new().disabled(false)).await;
        // the address before the rate,
        for _ in 0..9 {
            let seen = to("/dear", Some("198.51.100.1")).await;
            assert_eq!(seen.refused(), (403, "address_not_allowed".into()));
            assert_eq!(seen.header("ratelimit"), None);
        }
        assert_eq!(left(&to("/free", inside).await), "3");
        // the rate before the scope,
        for left_over in ["2", "1", "0"] {
            let seen = to("/dear", inside).await;
            assert_eq!(seen.refused(), (403, "insufficient_scope".into()));
            assert_eq!(left(&seen), left_over);
        }
        for _ in 0..9 {
            assert_eq!(to("/dear", inside).await.refused(), (429, "rate_limited".into()));
        }
        // and the scope before the budget, of which nothing was used so far.
        clock.advance(Duration::from_secs(60));
        patch(KeyPatch::new().scopes(scopes(&["read"]))).await;
        assert_eq!(to("/dear", inside).await.status, 200);
        assert_eq!(to("/buy", inside).await.status, 200);
        assert_eq!(to("/dear", inside).await.refused(), (402, "budget_exceeded".into()));
        world.keys.shutdown().await;
    }
}

#[tokio::test]
async fn every_limit_of_a_lineage_binds_and_the_tightest_is_told() {
    let clock = clock();
    let world = World::at(&clock).await;
    let (parent, above) =
        world.create(NewKey::new(acme()).rate_limit(RateLimit::per_minute(5))).await;
    let wide = NewKey::child_of(parent).rate_limit(RateLimit::per_minute(500));
    let (_, wide) = world.create(wide).await;
    let (_, narrow) =
        world.create(NewKey::child_of(parent).rate_limit(RateLimit::per_second(2))).await;
    let app = routes().layer(world.layer());
    assert_eq!(free(&app, &narrow).await.header("ratelimit-policy"), Some("\"key\";q=2;w=1"));
    assert_eq!(free(&app, &narrow).await.status, 200);
    assert_eq!(free(&app, &narrow).await.status, 429);
    // What the child's own limit refused, the parent has not lost.
    let seen = free(&app, &wide).await;
    assert_eq!(seen.header("ratelimit-policy"), Some("\"ancestor\";q=5;w=60"));
    assert_eq!(left(&seen), "2");
    assert_eq!(
        (left(&free(&app, &above).await), left(&free(&app, &wide).await)),
        ("1".into(), "0".into())
    );
    for token in [&above, &wide, &narrow] {
        assert_eq!(free(&app, token).await.status, 429);
    }
}

#[tokio::test]
async fn the_default_is_of_a_key_without_a_parent_and_no_child_lifts_it() {
    let clock = clock();
    let world = World::at(&clock).await;
    let (root, token) = world.create(NewKey::new(acme())).await;
    let fast = NewKey::child_of(root).rate_limit(RateLimit::per_second(1_000));
    let (_, child) = world.create(fast).await;
    let own = NewKey::new(acme()).rate_limit(RateLimit::per_minute(7));
    let (_, own) = world.create(own).await;
    let app = routes().layer(world.layer().rate_limit(RateLimit::per_minute(2)));
    assert_eq!(free(&app, &child).await.status, 200);
    assert_eq!(free(&app, &token).await.header("ratelimit"), Some("\"key\";r=0;t=30"));
    assert_eq!([free(&app, &child).await.status, free(&app, &token).await.status], [429, 429]);
    assert_eq!(left(&free(&app, &own).await), "6");
    // Behind two layers with one key a request counts once.
    let twice = app.layer(world.layer().rate_limit(RateLimit::per_minute(2)));
    assert_eq!(left(&free(&twice, &own).await), "5");
}

#[tokio::test]
async fn an_outer_layer_that_limits_nothing_lifts_no_limit_of_an_inner_one() {
    let clock = clock();
    for is_shared in [false, true] {
        let builder = AgentKeys::builder().shared_rate_limits(is_shared);
        let world = World::with_clock(builder, &clock).await;
        let (_, token) = world.create(NewKey::new(acme())).await;
        let limited = routes().layer(world.layer().rate_limit(RateLimit::per_minute(2)));
        let app = limited.layer(world.layer()).layer(world.layer());
        assert_eq!(left(&free(&app, &token).await), "1");
        assert_eq!(left(&free(&app, &token).await), "0");
        assert_eq!(free(&app, &token).await.refused(), (429, "rate_limited".into()));
    }
}

/// An app with a limit of its own in front of `/free`, and one of the whole app in front of all.
fn nested(world: &World, whole: RateLimit, free: RateLimit) -> Router {
    let free = Router::new()
        .route("/free", get(async |_: KeyContext| "free"))
        .layer(world.layer().rate_limit(free));
    free.route("/other", get(async |_: KeyContext| "other")).layer(world.layer().rate_limit(whole))
}

#[tokio::test]
async fn the_defaults_of_nested_layers_all_bind_and_the_tightest_is_told() {
    let clock = clock();
    for is_shared in [false, true] {
        let builder = AgentKeys::builder().shared_rate_limits(is_shared);
        let world = World::with_clock(builder, &clock).await;
        let token = async || world.create(NewKey::new(acme())).await.1;
        let per_minute = RateLimit::per_minute;

        let (app, first) = (nested(&world, per_minute(5), per_minute(2)), token().await);
        let other = async || send(&app, first.expose(), "/other", None).await;
        for left_over in ["1", "0"] {
            let seen = free(&app, &first).await;
            assert_eq!((seen.status.as_u16(), left(&seen)), (200, left_over.to_owned()));
            assert_eq!(seen.header("ratelimit-policy"), Some("\"key\";q=2;w=60"));
        }
        let refused = free(&app, &first).await;
        assert_eq!(refused.refused(), (429, "rate_limited".into()));
        assert_eq!(refused.header("ratelimit-policy"), Some("\"key\";q=2;w=60"));
        // Each request has counted once for the whole app, the refused one too, and the rest of the app
        // has what is left of that.
        for left_over in ["1", "0"] {
            let seen = other().await;
            assert_eq!((seen.status.as_u16(), left(&seen)), (200, left_over.to_owned()));
            assert_eq!(seen.header("ratelimit-policy"), Some("\"key\";q=5;w=60"));
        }
        assert_eq!([other().await.status, free(&app, &first).await.status], [429, 429]);

        // The tightest may be the outer one,
        let (app, second) = (nested(&world, per_minute(2), per_minute(5)), token().await);
        assert_eq!(
            [left(&free(&app, &second).await), left(&free(&app, &second).await)],
            ["1", "0"]
        );
        assert_eq!(free(&app, &second).await.header("ratelimit-policy"), Some("\"key\";q=2;w=60"));
        // and what a long window counts takes nothing of a short one.
        let daily = RateLimit::new(1_000, Duration::from_secs(86_400));
        let (app, third) = (nested(&world, daily, per_minute(2)), token().await);
        for status in [200, 200, 429] {
            assert_eq!(free(&app, &third).await.status, status);
        }
        assert_eq!(send(&app, third.expose(), "/other", None).await.status, 200);
        // Nor do layers beside one another.
        let other = Router::new().route("/other", get(async |_: KeyContext| "other"));
        let app = routes()
            .layer(world.layer().rate_limit(per_minute(2)))
            .merge(other.layer(world.layer().rate_limit(daily)));
        let fourth = token().await;
        let other = send(&app, fourth.expose(), "/other", None).await;
        assert_eq!([left(&other), left(&free(&app, &fourth).await)], ["999", "1"]);
    }
}

#[tokio::test]
async fn requests_in_flight_count_for_each_of_nested_layers() {
    let world = World::new().await;
    let (_, token) = world.create(NewKey::new(acme())).await;
    let (started, mut runs) = mpsc::unbounded_channel();
    let waits = async move |_: KeyContext| -> Response {
        started.send(()).unwrap();
        std::future::pending().await
    };
    let app = Router::new()
        .route("/free", get(async |_: KeyContext| "free"))
        .route("/waits", get(waits.clone()))
        .layer(world.layer().rate_limit(RateLimit::at_once(1)))
        .route("/outside", get(waits))
        .layer(world.layer().rate_limit(RateLimit::at_once(2)));
    let mut running = JoinSet::new();
    let mut start = async |running: &mut JoinSet<_>, path| {
        running.spawn(app.clone().oneshot(request(token.expose(), path, None)));
        runs.recv().await.unwrap();
    };
    // What is in flight in the rest of the app takes no place of the inner layer.
    start(&mut running, "/outside").await;
    let seen = free(&app, &token).await;
    assert_eq!((seen.status.as_u16(), seen.header("ratelimit")), (200, Some("\"in-flight\";r=0")));
    start(&mut running, "/waits").await;
    assert_eq!(free(&app, &token).await.refused(), (429, "rate_limited".into()));
    running.shutdown().await;
    start(&mut running, "/waits").await;
    let seen = free(&app, &token).await;
    let policy = Some("\"in-flight\";q=1;qu=\"concurrent-requests\"");
    assert_eq!((seen.status.as_u16(), seen.header("ratelimit-policy")), (429, policy));
    running.shutdown().await;
    assert_eq!(free(&app, &token).await.status, 200);
}

#[tokio::test]
async fn a_changed_limit_is_in_force_at_once_and_zero_lets_nothing_through() {
    let clock = clock();
    for is_shared in [false, true] {
        let builder = AgentKeys::builder().shared_rate_limits(is_shared);
        let world = World::with_clock(builder, &clock).await;
        let new = NewKey::new(acme()).rate_limit(RateLimit::per_hour(2));
        let (id, token) = world.create(new).await;
        let app = routes().layer(world.layer());
        let patch =
            async |limit| world.keys.update(id, KeyPatch::new().rate_limit(limit)).await.unwrap();
        assert_eq!([free(&app, &token).await.status, free(&app, &token).await.status], [200, 200]);
        assert_eq!(free(&app, &token).await.status, 429);
        for narrowed in [RateLimit::per_hour(2).in_flight(9), RateLimit::per_hour(1)] {
            patch(Some(narrowed)).await;
            assert_eq!(free(&app, &token).await.status, 429, "no change gives a burst anew");
        }
        patch(Some(RateLimit::per_minute(0))).await;
        let seen = free(&app, &token).await;
        assert_eq!((seen.status.as_u16(), seen.header("retry-after")), (429, Some("60")));
        assert_eq!(seen.header("ratelimit-policy"), Some("\"key\";q=0;w=60"));
        patch(None).await;
        assert_eq!(free(&app, &token).await.status, 200);
    }
}

/// Sends the frames that a test gives it.
fn held(frames: mpsc::UnboundedReceiver<Result<Bytes, std::io::Error>>) -> Response {
    let frames = futures_util::stream::unfold(frames, async |mut frames| {
        Some((frames.recv().await?, frames))
    });
    Body::from_stream(frames).into_response()
}

#[tokio::test]
async fn a_request_is_in_flight_until_its_body_ends_fails_or_is_dropped() {
    let world = World::new().await;
    let (parent, _) = world.create(NewKey::new(acme()).rate_limit(RateLimit::at_once(1))).await;
    let (_, token) = world.create(NewKey::child_of(parent).budget(dollar())).await;
    for takes_charge in [false, true] {
        let (bodies, open) = mpsc::unbounded_channel();
        let open = std::sync::Arc::new(tokio::sync::Mutex::new(open));
        let handler = move |key: KeyContext| async move {
            let charge = match takes_charge {
                true => Some(Charge::begin(&key).await.unwrap()),
                false => None,
            };
            let frames = open.lock().await.recv().await.unwrap();
            let mut response = held(frames);
            if let Some(charge) = charge {
                let body = std::mem::take(response.body_mut());
                *response.body_mut() = Body::new(body.map_frame(move |frame| {
                    let _kept = &charge;
                    frame
                }));
            }
            response
        };
        let app = routes().route("/held", get(handler)).layer(world.layer());
        let begin = async || {
            let (frames, body) = mpsc::unbounded_channel();
            bodies.send(body).unwrap();
            let response =
                app.clone().oneshot(request(token.expose(), "/held", None)).await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(
                response.headers()["ratelimit-policy"],
                "\"in-flight\";q=1;qu=\"concurrent-requests\""
            );
            assert_eq!(response.headers()["ratelimit"], "\"in-flight\";r=0");
            (frames, response.into_body())
        };
        let is_full = async || {
            let seen = free(&app, &token).await;
            assert_eq!(seen.header("retry-after"), (seen.status == 429).then_some("1"));
            seen.status == 429
        };
        for end in ["end", "error", "drop"] {
            let (frames, mut body) = begin().await;
            frames.send(Ok(Bytes::from_static(b"a"))).unwrap();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
            assert!(is_full().await, "{end}");
            match end {
                "end" => {
                    drop(frames);
                    assert!(body.frame().await.is_none());
                    assert!(!is_full().await, "before the body is dropped");
                }
                "error" => {
                    frames.send(Err(std::io::Error::other("broken"))).unwrap();
                    assert!(body.frame().await.unwrap().is_err());
                }
                _ => drop(body),
            }
            assert!(!is_full().await, "{end} {takes_charge}");
        }
        // A client that leaves while the handler runs is not in flight any more.
        let waiting = tokio::spawn({
            let (app, request) = (app.clone(), request(token.expose(), "/held", None));
            async move { app.oneshot(request).await }
        });
        while !is_full().await {
            tokio::task::yield_now().await;
        }
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        assert!(!is_full().await);
    }
}

#[tokio::test]
async fn a_handler_that_panics_is_not_in_flight_any_more() {
    let world = World::new().await;
    let (_, token) = world.create(NewKey::new(acme()).rate_limit(RateLimit::at_once(1))).await;
    let fails = async |_: KeyContext| -> Response { panic!("a bug") };
    let app = routes().route("/fails", get(fails)).layer(world.layer());
    for _ in 0..3 {
        let (app, request) = (app.clone(), request(token.expose(), "/fails", None));
        assert!(tokio::spawn(app.oneshot(request)).await.unwrap_err().is_panic());
    }
    assert_eq!(free(&app, &token).await.status, 200);
}

#[tokio::test]
async fn shared_limits_that_cannot_be_counted_are_503_and_not_more_requests() {
    let clock = clock();
    let builder = AgentKeys::builder().shared_rate_limits(true).request_timeout(Duration::ZERO);
    let world = World::with_clock(builder, &clock).await;
    let (_, token) = world.create(NewKey::new(acme()).rate_limit(RateLimit::per_minute(3))).await;
    let app = routes().layer(world.layer());
    assert_eq!(left(&free(&app, &token).await), "2");
    world.spy.set(Faults { takes: Fault::Down, ..Faults::default() });
    assert_eq!(free(&app, &token).await.refused(), (503, "unavailable".into()));
    world.spy.set(Faults::default());
    assert_eq!(left(&free(&app, &token).await), "1");
}

/// Two handles on one file are as two processes.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn handles_on_one_file_share_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.db").display().to_string();
    let mut apps = Vec::new();
    let clock = clock();
    for _ in 0..2 {
        let options = agentkey::store::SqliteOptions::new(&path).clock(&clock);
        let store = agentkey::SqliteStore::open(options).await.unwrap();
        let keys = AgentKeys::builder().shared_rate_limits(true).build(store).unwrap();
        apps.push((routes().layer(AgentKeyLayer::new(&keys)), keys));
    }
    let new = NewKey::new(acme()).rate_limit(RateLimit::per_minute(3));
    let token = apps[0].1.create(new).await.unwrap().token;
    let mut seen = Vec::new();
    for at in 0..4 {
        seen.push(free(&apps[at % 2].0, &token).await);
    }
    let rest: Vec<_> = seen.iter().map(left).collect();
    assert_eq!((rest.join(" "), seen[3].status.as_u16()), ("2 1 0 0".to_owned(), 429));
    for (_, keys) in apps {
        keys.shutdown().await;
    }
}
