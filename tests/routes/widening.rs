//! Nothing widens, whatever a key asks for: random trees, random requests, and parents that are
//! narrowed meanwhile by another process on the same database.

use std::process::Stdio;
use std::time::Duration;

use agentkey::http::PeerAddress;
use agentkey::model::{Cidrs, Limit, Lineage, Period, RateLimit};
use agentkey::routes::SelfServe;
#[cfg(feature = "postgres")]
use agentkey::store::{PostgresOptions, PostgresStore};
use agentkey::store::{SqliteOptions, Store};
use agentkey::{
    AgentKeys, Amount, Budget, Key, KeyId, KeyPatch, KeyQuery, NewKey, SqliteStore, Token,
};
use axum::Router;
use http::Method;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, FileFailurePersistence};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tower::ServiceExt;

use super::support::{App, Seen, acme, request, scopes};

/// What a key asks for.
#[derive(Clone, Debug)]
enum Ask {
    Mint {
        body: Value,
    },
    #[cfg(feature = "sessions")]
    Session {
        body: Value,
    },
    Patch {
        body: Value,
    },
    Act {
        action: &'static str,
    },
    Revoke,
}

#[derive(Clone, Debug)]
struct Step {
    caller: Index,
    target: Index,
    ask: Ask,
}

fn maybe(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Option<Value>> {
    prop::option::of(value)
}

fn body() -> impl Strategy<Value = Value> {
    let scope = select(vec!["read", "write.a", "write.*", "pay", "*", "keys"]);
    let scopes = prop_oneof![
        6 => prop::collection::vec(scope, 0..3).prop_map(|list| json!(list)),
        1 => Just(json!(null)),
    ];
    let period = select(vec!["day", "calendar_day", "week", "month", "lifetime"]);
    let limit = (0..60_i64, period)
        .prop_map(|(limit_cents, period)| json!({"limit_cents": limit_cents, "period": period}));
    let budgets = prop_oneof![
        6 => prop::collection::vec(limit, 0..3).prop_map(|list| json!(list)),
        1 => Just(json!(null)),
    ];
    let expires_at = prop_oneof![
        6 => (1..30_u8).prop_map(|day| json!(format!("2026-03-{day:02}T00:00:00Z"))),
        1 => Just(json!(null)),
    ];
    let rate_limit = prop_oneof![
        6 => (0..90_u32, 1..3_u32, 1..4_u32).prop_map(|(requests, minutes, in_flight)| {
            json!({"requests": requests, "window_seconds": 60 * minutes, "in_flight": in_flight})
        }),
        1 => Just(json!(null)),
    ];
    let range = select(vec!["10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "::/0"]);
    let cidrs = prop_oneof![
        6 => prop::collection::vec(range, 0..3).prop_map(|list| json!(list)),
        1 => Just(json!(null)),
    ];
    let fields =
        (maybe(scopes), maybe(budgets), maybe(expires_at), maybe(rate_limit), maybe(cidrs));
    fields.prop_map(|(scopes, budgets, expires_at, rate_limit, cidrs)| {
        let mut body = json!({});
        for (name, value) in [
            ("scopes", scopes),
            ("budgets", budgets),
            ("expires_at", expires_at),
            ("rate_limit", rate_limit),
            ("allowed_cidrs", cidrs),
        ] {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        body
    })
}

/// What a session is asked for with.
#[cfg(feature = "sessions")]
fn session_body() -> impl Strategy<Value = Value> {
    let of_key = body().prop_map(|body| body.get("scopes").cloned());
    let ttl = maybe(select(vec![60, 3_600, 86_400]).prop_map(|seconds| json!(seconds)));
    let cap = maybe((0..60_i64).prop_map(|cents| json!(cents)));
    (of_key, ttl, cap).prop_map(|(scopes, ttl, cap)| {
        let mut body = json!({});
        for (name, value) in [("scopes", scopes), ("ttl_seconds", ttl), ("spend_cap_cents", cap)] {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        body
    })
}

fn minting() -> impl Strategy<Value = Ask> {
    let mint = body().prop_map(|body| Ask::Mint { body });
    #[cfg(feature = "sessions")]
    let mint = prop_oneof![2 => mint, 1 => session_body().prop_map(|body| Ask::Session { body })];
    mint
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ask = prop_oneof![
        9 => minting(),
        6 => body().prop_map(|body| Ask::Patch { body }),
        3 => select(vec!["rotate", "end-grace", "disable", "enable"]).prop_map(|action| Ask::Act { action }),
        1 => Just(Ask::Revoke),
    ];
    let step = (any::<Index>(), any::<Index>(), ask).prop_map(|(caller, target, ask)| Step {
        caller,
        target,
        ask,
    });
    prop::collection::vec(step, 1..40)
}

fn root() -> NewKey {
    NewKey::new(acme())
        .scopes(scopes(&["read", "write.*", "keys"]))
        .budget(Budget::daily(Amount::cents(20)).and_monthly(Amount::cents(50)))
        .rate_limit(RateLimit::per_minute(60).in_flight(2))
        .allowed_cidrs(Cidrs::parse(["10.0.0.0/9", "10.128.0.0/9"]).unwrap())
        .expires_at("2026-03-20T00:00:00Z".parse().unwrap())
}

/// What a key may spend at most in each unit of time, by its own and all its ancestors' limits.
fn ceilings(lineage: &[Key]) -> Vec<(u8, Amount)> {
    let rank = |period: Period| match period {
        Period::Day | Period::CalendarDay => 0,
        Period::Week | Period::CalendarWeek => 1,
        Period::Month | Period::CalendarMonth => 2,
        _ => 3,
    };
    let limits = lineage.iter().flat_map(|key| key.budget.limits().collect::<Vec<Limit>>());
    limits.map(|limit| (rank(limit.period), limit.amount)).collect()
}

/// Whether a limit gives no more than another in any respect, by its own figures.
fn gives_no_more(new: RateLimit, old: RateLimit) -> bool {
    let rate = |limit: RateLimit| {
        let window = limit.window().map_or(f64::INFINITY, |window| window.as_secs_f64());
        limit.requests().map_or(f64::INFINITY, |requests| f64::from(requests) / window)
    };
    let at_once = |limit: Option<u32>| limit.unwrap_or(u32::MAX);
    rate(new) <= rate(old)
        && at_once(new.burst_size()) <= at_once(old.burst_size())
        && at_once(new.max_in_flight()) <= at_once(old.max_in_flight())
}

/// Checks that no key has more than an ancestor, and no key more than it once had.
async fn nothing_is_wider(keys: &AgentKeys, before: &mut Vec<Key>) {
    let all = keys.keys(&KeyQuery::for_account(acme()).limit(1_000)).await.unwrap().items;
    for key in &all {
        let lineage = keys.find_by_id(key.id).await.unwrap().unwrap();
        for ancestor in lineage.ancestors() {
            let above = keys.find_by_id(ancestor.id).await.unwrap().unwrap();
            assert!(lineage.scopes(None).is_within(&above.scopes(None)), "{key:?} {ancestor:?}");
            assert!(lineage.expires_at() <= above.expires_at(), "{key:?} {ancestor:?}");
            assert!(
                lineage.remaining().is_some_and(|left| Some(left) <= above.remaining()),
                "{key:?} {ancestor:?}"
            );
            assert!(key.expires_at.is_some(), "the root ends, so all do: {key:?}");
            // The ranges of an ancestor that became fewer bind a key whose own did not.
            for address in ["10.0.0.1", "10.1.0.1", "10.128.0.1", "11.0.0.1", "2001:db8::1"] {
                let may = |lineage: &Lineage| lineage.allows_address(address.parse().unwrap());
                assert!(may(&above) || !may(&lineage), "{address} {key:?} {ancestor:?}");
            }
        }
        if let Some(old) = before.iter().find(|old| old.id == key.id) {
            assert!(key.scopes.is_within(&old.scopes), "{old:?} {key:?}");
            assert!(key.expires_at <= old.expires_at, "{old:?} {key:?}");
            for limit in old.budget.limits() {
                let kept = |new: &Limit| new.period == limit.period && new.amount <= limit.amount;
                assert!(key.budget.limits().any(|new| kept(&new)), "{old:?} {key:?}");
            }
            if let Some(old_limit) = old.rate_limit {
                let new = key.rate_limit.expect("no null lifts it");
                assert!(gives_no_more(new, old_limit), "{old:?} {key:?}");
            }
            if let Some(old_ranges) = &old.allowed_cidrs {
                let new = key.allowed_cidrs.as_ref().expect("no null lifts them");
                assert!(new.is_within(old_ranges), "{old:?} {key:?}");
            }
            assert_eq!((key.parent, &key.account), (old.parent, &old.account));
        }
    }
    *before = all;
}

async fn ask(router: &Router, token: &Token, target: KeyId, ask: &Ask) -> Seen {
    let (method, path, body) = match ask {
        Ask::Mint { body } => (Method::POST, "/keys".to_owned(), body.to_string()),
        #[cfg(feature = "sessions")]
        Ask::Session { body } => (Method::POST, "/sessions".to_owned(), body.to_string()),
        Ask::Patch { body } => (Method::PATCH, format!("/keys/{target}"), body.to_string()),
        Ask::Act { action } => (Method::POST, format!("/keys/{target}/{action}"), String::new()),
        Ask::Revoke => (Method::DELETE, format!("/keys/{target}"), String::new()),
    };
    let mut request = request(Some(token), method, &path, &body);
    request.extensions_mut().insert(PeerAddress("10.1.2.3".parse().unwrap()));
    let response = router.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let bytes = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes().to_vec();
    Seen { status: head.status, headers: head.headers, bytes }
}

/// The key or the session that an answer with a token made.
fn made(seen: &Seen) -> (KeyId, Token) {
    #[cfg(feature = "sessions")]
    if let Some(id) = seen.json()["session_id"].as_str() {
        let id: agentkey::session::SessionId = id.parse().unwrap();
        return (id.key(), Token::parse_session(seen.json()["token"].as_str().unwrap()).unwrap());
    }
    let made = seen.created();
    (made.id, made.token)
}

/// Spends as much as each key and session may.
async fn spend_all(keys: &AgentKeys, of: impl IntoIterator<Item = KeyId>) {
    for key in of {
        let Ok(context) = keys.authorize_by_id(key).await else { continue };
        let Ok(charge) = keys.charge(&context).await else { continue };
        while charge.pay(Amount::cents(7)).await.is_ok() {}
        while charge.pay(Amount::cents(1)).await.is_ok() {}
        charge.settle().await.unwrap();
    }
}

proptest! {
    #![proptest_config(Config {
        cases: 64,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/routes.txt"))),
        ..Config::default()
    })]

    #[test]
    fn nothing_widens(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let app = App::with(|serve| serve.account_scope("keys".parse().unwrap())).await;
            // Two roots, so that the account scope has something beside its own subtree.
            let mut tokens = Vec::new();
            for _ in 0..2 {
                let made = app.create(root()).await;
                tokens.push((made.id, made.token));
            }
            let mut before = Vec::new();
            nothing_is_wider(&app.keys, &mut before).await;
            for step in steps {
                let (caller, token) = step.caller.get(&tokens);
                let (caller, target) = (*caller, step.target.get(&tokens).0);
                // All of it in one minute of one clock would be too many requests.
                app.clock.advance(Duration::from_secs(60));
                let seen = ask(&app.router, token, target, &step.ask).await;
                assert!(!seen.status.is_server_error(), "{step:?}: {seen:?}");
                if seen.status.is_success() && seen.json().get("token").is_some() {
                    // A token that a key gets is its own, or of a key below it.
                    let made = made(&seen);
                    let lineage = app.keys.find_by_id(made.0).await.unwrap().unwrap();
                    assert!(lineage.keys().any(|key| key.id == caller), "{step:?}");
                    tokens.retain(|(id, _)| *id != made.0);
                    tokens.push(made);
                }
                nothing_is_wider(&app.keys, &mut before).await;
            }
            // Whatever was made, it spends no more than its lineage may.
            let roots: Vec<_> = before.iter().filter(|key| key.parent.is_none()).cloned().collect();
            spend_all(&app.keys, before.iter().map(|key| key.id)).await;
            for root in roots {
                let lineage = app.keys.find_by_id(root.id).await.unwrap().unwrap();
                for (_, ceiling) in ceilings(&[root]) {
                    assert!(lineage.key().balance.spent() <= ceiling);
                }
            }
            app.keys.shutdown().await;
        });
    }
}

/// Says to this test binary that it is the other process, and on which database.
const DATABASE: &str = "AGENTKEY_TEST_OTHER_PROCESS";

/// Another process on the same database, which changes keys as it is told.
struct OtherProcess {
    _child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl OtherProcess {
    async fn start(url: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "widening::the_other_process", "--nocapture"])
            .env(DATABASE, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut other = Self { _child: child, orders, answers };
        other.answer("ready").await;
        other
    }

    async fn answer(&mut self, of: &str) {
        // The test harness of the other process prints lines of its own.
        while !self.answers.next_line().await.unwrap().expect("it lives").ends_with(of) {}
    }

    async fn order(&mut self, order: &str, key: KeyId, micros: u64) {
        let line = format!("{order} {key} {micros}\n");
        self.orders.write_all(line.as_bytes()).await.unwrap();
        self.answer("done").await;
    }
}

/// Narrows and revokes keys, where it is started as the other process.
#[tokio::test(flavor = "multi_thread")]
async fn the_other_process() {
    let Ok(url) = std::env::var(DATABASE) else { return };
    let keys = AgentKeys::connect(&url).await.unwrap();
    println!("ready");
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Some(order) = orders.next_line().await.unwrap() {
        let mut parts = order.split(' ');
        let (order, key) = (parts.next().unwrap(), parts.next().unwrap().parse().unwrap());
        tokio::time::sleep(Duration::from_micros(parts.next().unwrap().parse().unwrap())).await;
        if order == "revoke" {
            keys.revoke(key, None).await.unwrap();
        } else {
            let narrower = KeyPatch::new()
                .scopes(scopes(&["read"]))
                .budget(Budget::daily(Amount::cents(5)))
                .expires_in("1h".parse().unwrap());
            keys.update(key, narrower).await.unwrap();
        }
        println!("done");
    }
}

/// Mints and opens sessions through the routes and spends, while another process narrows the parent.
async fn race(store: impl Store, url: &str) {
    let builder = AgentKeys::builder();
    #[cfg(feature = "sessions")]
    let builder = builder.sessions(agentkey::session::Sessions::new());
    let (keys, mut other) = (builder.build(store).unwrap(), OtherProcess::start(url).await);
    let serve = SelfServe::new(&keys).mint().manage().max_children(1_000);
    #[cfg(feature = "sessions")]
    let serve = serve.sessions();
    let router = serve.into_router().unwrap();
    let (mut early, mut late) = (0, 0);
    for round in 0..15 {
        let new = NewKey::new(acme())
            .scopes(scopes(&["read", "write"]))
            .budget(Budget::daily(Amount::cents(50)));
        let parent = keys.create(new).await.unwrap();
        let (id, token) = (parent.key.id, parent.token);
        let mint = async {
            let mut made = Vec::new();
            for n in 0..12 {
                let asked = match n % 4 {
                    #[cfg(feature = "sessions")]
                    1 => Ask::Session { body: json!({}) },
                    #[cfg(feature = "sessions")]
                    2 => Ask::Session {
                        body: json!({"scopes": ["write"], "ttl_seconds": 7200, "spend_cap_cents": 40}),
                    },
                    0 => Ask::Mint { body: json!({}) },
                    _ => Ask::Mint {
                        body: json!({"scopes": ["write"], "expires_in": "2h", "budgets": [{"limit_cents": 40, "period": "day"}]}),
                    },
                };
                let seen = ask(&router, &token, id, &asked).await;
                assert!([201, 403].contains(&seen.status.as_u16()), "{seen:?}");
                if seen.status == 201 {
                    let key = self::made(&seen).0;
                    if let Ok(context) = keys.authorize_by_id(key).await
                        && let Ok(charge) = keys.charge(&context).await
                    {
                        // Refused once the parent is narrowed and has nothing left.
                        drop(charge.pay(Amount::cents(1)).await);
                        charge.settle().await.unwrap();
                    }
                    made.push(key);
                }
            }
            made
        };
        let ((), made) = tokio::join!(other.order("narrow", id, 500 * round), mint);
        let narrowed = keys.find_by_id(id).await.unwrap().unwrap().key().clone();
        assert!(!made.is_empty());
        // What was spent before the change stays spent, and nothing is spent beyond the new limit.
        let max = narrowed.balance.spent().max(Amount::cents(5));
        spend_all(&keys, made.iter().copied()).await;
        let spent = keys.find_by_id(id).await.unwrap().unwrap().key().balance.spent();
        assert!(spent <= max && max <= Amount::cents(50), "{spent:?} {max:?}");
        for child in made {
            let lineage = keys.find_by_id(child).await.unwrap().unwrap();
            assert!(lineage.scopes(None).is_within(&narrowed.scopes));
            assert!(lineage.expires_at() <= narrowed.expires_at);
            assert!(lineage.remaining() <= Some(Amount::cents(5)));
            // What was made before is bound by its lineage, what was made after it by its own record
            // too.
            let key = lineage.key();
            if key.created_at <= narrowed_at(&narrowed) {
                early += 1;
            } else {
                late += 1;
                assert!(key.scopes.is_within(&narrowed.scopes), "{key:?}");
                assert!(key.expires_at.is_some() && key.expires_at <= narrowed.expires_at);
                assert!(
                    key.budget.limits().all(|limit| limit.amount <= Amount::cents(5)),
                    "{key:?}"
                );
            }
        }
    }
    assert!(early > 0 && late > 0, "the race has both orders: {early} {late}");
    // A caller that the other process revokes mints nothing more.
    let parent = keys.create(NewKey::new(acme())).await.unwrap();
    other.order("revoke", parent.key.id, 0).await;
    let seen = ask(&router, &parent.token, parent.key.id, &Ask::Mint { body: json!({}) }).await;
    assert_eq!(seen.refused(), (401, "revoked_key".into()));
    keys.shutdown().await;
}

/// The expiry of the narrowed key was set to an hour after the change.
fn narrowed_at(key: &Key) -> agentkey::jiff::Timestamp {
    key.expires_at.unwrap() - agentkey::jiff::SignedDuration::from_hours(1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_is_narrowed_by_another_process_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let url = dir.path().join("keys.db").display().to_string();
    race(SqliteStore::open(SqliteOptions::new(&url)).await.unwrap(), &url).await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_parent_is_narrowed_by_another_process_meanwhile_on_postgres() {
    let Some(server) = crate::postgres_server::Server::shared() else { return };
    let database = server.database().await;
    let store = PostgresStore::open(PostgresOptions::new(database.url())).await.unwrap();
    race(store, database.url()).await;
}
