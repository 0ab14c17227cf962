//! A store that is down, slow, forgetful or poisoned: 503 in bounded time, and nothing is lost.

use std::sync::Arc;
use std::time::Duration;

use agentkey::ledger::{Action, OnExpiry, Posting};
use agentkey::model::{EntryKind, Note, PostingId};
use agentkey::{
    AgentKeys, Amount, Charge, EntryQuery, Hold, KeyContext, MemoryStore, NewKey, Rejection,
    RequireScope, Token,
};
use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use http::Request;
use tokio::sync::{Barrier, mpsc, watch};
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::support::{
    Client, Fault, Faults, Ledger, Seen, Version, World, acme, capture_logs, clock, dollar,
    is_hold, is_pay, is_settle, logged, serve, soon,
};

type Answer = Result<&'static str, Rejection>;

async fn work(charge: Charge) -> Answer {
    charge.hold(Amount::cents(10)).await?;
    charge.add(Amount::cents(3));
    Ok("done")
}

fn app(world: &World) -> Router {
    Router::new()
        .route("/work", get(work))
        .route("/free", get(async |_: KeyContext| "free"))
        .route("/scoped", get(async || "scoped").layer(RequireScope::one("read").unwrap()))
        .route(
            "/pay",
            get(async |charge: Charge| -> Answer {
                charge.pay(Amount::cents(3)).await?;
                Ok("paid")
            }),
        )
        .layer(world.layer())
}

/// A request that needs no socket, for tests with paused time.
async fn ask(app: &Router, path: &str, token: &Token) -> Seen {
    let request =
        Request::get(path).header("x-api-key", token.expose()).body(Body::empty()).unwrap();
    Seen::read(app.clone().oneshot(request).await.unwrap()).await
}

fn unavailable() -> (u16, String) {
    (503, "unavailable".into())
}

fn no_patience() -> agentkey::Builder {
    AgentKeys::builder().request_timeout(Duration::ZERO)
}

/// For tests with paused time: no thread may do work of its own.
fn in_memory(builder: agentkey::Builder) -> World {
    World::on(builder, Box::new(MemoryStore::new()))
}

#[tokio::test]
async fn an_outage_is_a_503_and_never_a_bad_key() {
    for fault in [Fault::Down, Fault::Broken, Fault::Panic] {
        for version in Version::BOTH {
            let world = World::with(no_patience()).await;
            let (_, token) = world.key().await;
            let client = Client::new(version, serve(app(&world)).await, &token);
            world.spy.set(Faults { finds: fault, posts: fault, ..Faults::default() });
            for path in ["/free", "/scoped", "/work", "/pay"] {
                let seen = client.get(path).await;
                assert_eq!(seen.refused(), unavailable());
                assert_eq!(seen.header("retry-after"), Some("1"));
                assert!(!seen.data.contains("SECRET"), "{}", seen.data);
            }
            // The look-up works, and the ledger does not.
            world.spy.set(Faults::posts(fault));
            assert_eq!(client.get("/free").await.data, "free");
            for path in ["/work", "/pay"] {
                assert_eq!(client.get(path).await.refused(), unavailable());
            }
            world.spy.mend();
            // What was refused was not charged, and leaves nothing behind.
            world.until(&Ledger::of(&[])).await;
            assert_eq!(client.get("/work").await.data, "done");
            assert_eq!(client.get("/pay").await.data, "paid");
            assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3), ("pay", 3)]));
        }
    }
}

/// Whatever is tried again is charged once, whether the failed attempt took effect or not.
#[tokio::test]
async fn a_short_outage_is_waited_for_and_nothing_is_lost() {
    type Which = fn(&Posting) -> bool;
    for fault in [Fault::Down, Fault::LoseAnswer] {
        for (path, which, ledger) in [
            ("/work", is_hold as Which, Ledger::of(&[("settle", 3)])),
            ("/work", is_settle, Ledger::of(&[("settle", 3)])),
            ("/pay", is_pay, Ledger::of(&[("pay", 3)])),
        ] {
            for version in Version::BOTH {
                let world = World::new().await;
                let (_, token) = world.key().await;
                let client = Client::new(version, serve(app(&world)).await, &token);
                world.spy.set(Faults::posts(fault).only(which));
                let answer = tokio::spawn(async move { client.get(path).await });
                // The second and third attempt came after a pause.
                world.spy.arrived(3, which).await;
                assert!(!answer.is_finished());
                world.spy.mend();
                let seen = answer.await.unwrap();
                let now = world.ledger().await;
                assert_eq!(seen.status, 200, "{fault:?} {path}");
                assert_eq!(now, ledger, "{fault:?} {path}");
            }
        }
    }
}

/// Answers are lost, and the request is given up: what it may have done is undone.
#[tokio::test]
async fn a_payment_of_unknown_fate_is_taken_back() {
    for (path, which, undone) in [
        ("/pay", is_pay as fn(&Posting) -> bool, Ledger::of(&[("pay", 3), ("refund", -3)])),
        ("/work", is_hold, Ledger::of(&[])),
    ] {
        let world = World::with(no_patience()).await;
        let (_, token) = world.key().await;
        let client = Client::new(Version::Http1, serve(app(&world)).await, &token);
        world.spy.set(Faults::posts(Fault::LoseAnswer).only(which));
        assert_eq!(client.get(path).await.refused(), unavailable());
        world.until(&undone).await;
    }
}

/// Refused when it is tried again, it may have been accepted before, and still be on its way.
#[tokio::test]
async fn what_is_refused_after_an_attempt_of_unknown_fate_is_taken_back() {
    for (path, which) in [("/pay", is_pay as fn(&Posting) -> bool), ("/work", is_hold)] {
        let world = World::new().await;
        let (key, token) = world.key().await;
        let client = Client::new(Version::Http1, serve(app(&world)).await, &token);
        world.spy.set(Faults::posts(Fault::Down).only(which));
        let answer = tokio::spawn(async move { client.get(path).await });
        world.spy.arrived(1, which).await;
        world.keys.revoke(key, None).await.unwrap();
        world.spy.mend();
        assert_eq!(answer.await.unwrap().refused(), unavailable());
        let takes_back = |posting: &Posting| match &posting.action {
            Action::Settle { holds, void, .. } => !holds.is_empty() || !void.is_empty(),
            _ => false,
        };
        world.spy.arrived(1, takes_back).await;
        world.until(&Ledger::of(&[])).await;
    }
}

/// Many charges end while the store is away; when it comes back, each is there once.
#[tokio::test]
async fn charges_that_ended_in_an_outage_are_all_there_after_it() {
    let world = World::new().await;
    let (_, token) = world.create(NewKey::new(acme())).await;
    // A hold in one batch with a settle would be down with it.
    let all_hold = Arc::new(Barrier::new(30));
    let work = async move |charge: Charge| -> Answer {
        charge.hold(Amount::cents(10)).await?;
        all_hold.wait().await;
        charge.add(Amount::cents(3));
        Ok("done")
    };
    let addr = serve(Router::new().route("/", get(work)).layer(world.layer())).await;
    world.spy.set(Faults::posts(Fault::Down).only(is_settle));
    let clients = Version::BOTH.map(|version| Client::new(version, addr, &token));
    let mut requests = JoinSet::new();
    for number in 0..30 {
        let client = clients[number % 2].clone();
        requests.spawn(async move { client.get("/").await });
    }
    world.spy.arrived(30, is_settle).await;
    world.spy.mend();
    while let Some(seen) = requests.join_next().await {
        assert_eq!(seen.unwrap().data, "done");
    }
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3); 30]));
}

/// A gate that handlers wait at before they pay, so that their postings meet in one batch.
async fn poisoned(fault: Fault) {
    let world = World::new().await;
    let (poison, poisoned_token) = world.create(NewKey::new(acme()).budget(dollar())).await;
    let (_, token) = world.create(NewKey::new(acme())).await;
    let elsewhere = world.create(NewKey::new("elsewhere".parse().unwrap())).await.1;
    let (entered, mut paying) = mpsc::unbounded_channel();
    let app = Router::new().route(
        "/",
        get(async move |charge: Charge| -> Answer {
            entered.send(()).unwrap();
            charge.pay(Amount::cents(3)).await?;
            Ok("paid")
        }),
    );
    let addr = serve(app.layer(world.layer())).await;
    world.spy.set(Faults::posts(Fault::Hang));
    let mut requests = JoinSet::new();
    for number in 0..30 {
        let token = [&token, &elsewhere, &poisoned_token][number % 3];
        let client = Client::new(Version::Http1, addr, token);
        let is_poisoned = number % 3 == 2;
        requests.spawn(async move { (client.get("/").await, is_poisoned) });
    }
    for _ in 0..30 {
        soon(paying.recv()).await.unwrap();
    }
    world.spy.arrived(1, is_pay).await;
    world.spy.set(Faults::posts(fault).only(move |posting| posting.key == Some(poison)));
    while let Some(answered) = requests.join_next().await {
        let (seen, is_poisoned) = answered.unwrap();
        if is_poisoned {
            assert_eq!(seen.refused(), unavailable(), "{fault:?}");
        } else {
            assert_eq!(seen.data, "paid", "{fault:?}");
        }
    }
    assert_eq!(world.ledger().await, Ledger::of(&[("pay", 3); 10]), "{fault:?}");
    let elsewhere = world.keys.account(&"elsewhere".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(elsewhere.balance.spent(), Amount::cents(30));
    // The poison was in a batch with others.
    assert!(world.spy.count(is_pay) > 30, "{fault:?}");
}

#[tokio::test]
async fn a_poisoned_posting_fails_alone() {
    poisoned(Fault::Broken).await;
    poisoned(Fault::Panic).await;
}

/// A settle that can never be posted is in the log, with all that is needed to post it by hand.
#[tokio::test]
async fn a_settle_that_cannot_be_posted_is_logged_and_its_batch_is_posted() {
    capture_logs();
    let world = World::new().await;
    let account: agentkey::AccountId = "poisoned-settle".parse().unwrap();
    let (poison, token) = world.create(NewKey::new(account)).await;
    let (_, sound) = world.key().await;
    let app = Router::new().route(
        "/",
        post(async |charge: Charge| -> Answer {
            charge.label("model", "small-1")?;
            charge.reference("order-7")?;
            charge.hold(Amount::cents(10)).await?;
            charge.add(Amount::cents(3));
            Ok("done")
        }),
    );
    let addr = serve(app.layer(world.layer())).await;
    world.spy.set(
        Faults::posts(Fault::Broken)
            .only(move |posting| posting.key == Some(poison) && is_settle(posting)),
    );
    assert_eq!(
        Client::new(Version::Http1, addr, &token).post("/", "of-order-7").await.refused(),
        unavailable()
    );
    assert_eq!(Client::new(Version::Http1, addr, &sound).post("/", "other").await.data, "done");
    let wanted = [
        "ERROR",
        "idempotency_key=Some(\"of-order-7\")",
        "post it by hand with `AgentKeys::settle_as`",
        "posting=",
        "account=poisoned-settle",
        &format!("key={poison}"),
        "cost_micros=30000",
        "holds=[\"",
        "\"model\": \"small-1\"",
        "Some(\"order-7\")",
    ];
    let lines = logged(&wanted);
    assert_eq!(lines.len(), 1, "{:?}", logged(&["poisoned-settle"]));
    assert!(!lines[0].contains(token.expose()));

    // The call that the line names does it, once.
    world.spy.mend();
    let field = |name: &str| {
        let value = lines[0].split(&format!("{name}=")).nth(1).unwrap();
        value.split(' ').next().unwrap().to_owned()
    };
    let id: PostingId = field("posting").parse().unwrap();
    let cost = Amount::micros(field("cost_micros").parse().unwrap());
    let mut note = Note::default();
    note.set_reference("order-7").unwrap();
    let key = field("key").parse().unwrap();
    let holds = Vec::new(); // they are released when they expire
    let entry = world.keys.settle_as(id, key, cost, note, holds).await.unwrap();
    assert_eq!(entry, Some(id.into()));
    let again = world.keys.settle_as(id, key, cost, Note::default(), Vec::new()).await.unwrap();
    assert_eq!(again, entry);
    let query = EntryQuery::for_account("poisoned-settle".parse().unwrap());
    let entries = world.keys.entries(&query).await.unwrap().items;
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].kind, entries[0].amount), (EntryKind::Settle, Amount::cents(3)));
    assert_eq!(entries[0].note.reference.as_deref(), Some("order-7"));
    let nothing = world
        .keys
        .settle_as(PostingId::new(), key, Amount::ZERO, Note::default(), Vec::new())
        .await;
    assert_eq!(nothing.unwrap(), None);
}

/// A hold that was charged when it expired is taken back, so the work is charged once.
#[tokio::test]
async fn a_charge_that_is_posted_by_hand_takes_back_what_its_settle_would_have() {
    capture_logs();
    let clock = clock();
    let world = World::at(&clock).await;
    let (key, token) = world.create(NewKey::new("by-hand".parse().unwrap())).await;
    let app = Router::new().route(
        "/",
        get(async |charge: Charge| -> Answer {
            charge.hold(Hold::new(Amount::cents(10)).on_expiry(OnExpiry::Charge)).await?;
            charge.add(Amount::cents(3));
            Ok("done")
        }),
    );
    let app = app.layer(world.layer());
    world.spy.set(Faults::posts(Fault::Broken).only(is_settle));
    assert_eq!(ask(&app, "/", &token).await.refused(), unavailable());
    world.spy.mend();
    clock.advance(Duration::from_secs(3_600));
    let spent = async || {
        let account = world.keys.account(&"by-hand".parse().unwrap()).await.unwrap().unwrap();
        (account.balance.spent(), account.balance.held)
    };
    assert_eq!(spent().await, (Amount::cents(10), Amount::ZERO), "the hold is charged whole");

    let line = logged(&["post it by hand", "account=by-hand"]).remove(0);
    let field = |name: &str, end: char| {
        let value = line.split(&format!(" {name}=")).nth(1).unwrap();
        value.split(end).next().unwrap().to_owned()
    };
    let id: PostingId = field("posting", ' ').parse().unwrap();
    let holds = field("holds", ']').trim_start_matches("[\"").trim_end_matches('"').parse();
    let holds: Vec<PostingId> = vec![holds.unwrap()];
    for _ in 0..2 {
        let posted =
            world.keys.settle_as(id, key, Amount::cents(3), Note::default(), holds.clone()).await;
        assert_eq!(posted.unwrap(), Some(id.into()));
        assert_eq!(spent().await, (Amount::cents(3), Amount::ZERO));
    }
}

/// A store that is down may come back, so a settle is retried for its whole timeout. No retry cures a broken one.
#[tokio::test(start_paused = true)]
async fn a_settle_is_given_up_at_once_only_where_no_retry_helps() {
    for (fault, attempts, seconds) in
        [(Fault::Broken, 2..=2, 0..=0), (Fault::Down, 10..=200, 30..=31)]
    {
        let world = in_memory(AgentKeys::builder());
        let (_, token) = world.key().await;
        let app = app(&world);
        world.spy.set(Faults::posts(fault).only(is_settle));
        let began = tokio::time::Instant::now();
        assert_eq!(ask(&app, "/work", &token).await.refused(), unavailable());
        assert!(seconds.contains(&began.elapsed().as_secs()), "{fault:?}: {:?}", began.elapsed());
        assert!(attempts.contains(&world.spy.count(is_settle)), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_a_503_in_bounded_time() {
    for faults in [Faults::finds(Fault::Hang), Faults::posts(Fault::Hang)] {
        let world = in_memory(AgentKeys::builder());
        let (_, token) = world.key().await;
        let app = app(&world);
        world.spy.set(faults);
        let began = tokio::time::Instant::now();
        let mut requests = JoinSet::new();
        for number in 0..40 {
            let (app, token) = (app.clone(), token.expose().to_owned());
            requests.spawn(async move {
                let path = ["/work", "/pay"][number % 2];
                ask(&app, path, &Token::parse(&token).unwrap()).await
            });
        }
        while let Some(seen) = requests.join_next().await {
            assert_eq!(seen.unwrap().refused(), unavailable());
        }
        // 5 s for what was on its way, and 5 s for what waited behind it.
        assert!(began.elapsed() <= Duration::from_secs(11), "{:?}", began.elapsed());
        world.spy.mend();
        assert_eq!(ask(&app, "/work", &token).await.data, "done");
        world.until(&Ledger::of(&[("settle", 3)])).await;
    }
}

/// The end of a charge waits longer than a request does, but not for ever.
#[tokio::test(start_paused = true)]
async fn a_settle_that_hangs_ends_in_bounded_time() {
    let world = in_memory(AgentKeys::builder());
    let (_, token) = world.key().await;
    let app = app(&world);
    world.spy.set(Faults::posts(Fault::Hang).only(is_settle));
    let began = tokio::time::Instant::now();
    assert_eq!(ask(&app, "/work", &token).await.refused(), unavailable());
    assert!(began.elapsed() <= Duration::from_secs(36), "{:?}", began.elapsed());
    assert!(world.spy.count(is_settle) > 1);
    world.spy.mend();
    assert_eq!(world.ledger().await, Ledger::of(&[]).holding(10));
    // Others are served again.
    assert_eq!(ask(&app, "/work", &token).await.data, "done");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_a_503_in_bounded_time() {
    for faults in [Faults::finds(Fault::Hang), Faults::posts(Fault::Hang)] {
        let world =
            in_memory(AgentKeys::builder().max_queue(2).request_timeout(Duration::from_secs(2)));
        let (_, token) = world.key().await;
        let app = app(&world);
        world.spy.set(faults);
        let began = tokio::time::Instant::now();
        let mut requests = JoinSet::new();
        for _ in 0..20 {
            let (app, token) = (app.clone(), token.expose().to_owned());
            requests.spawn(async move { ask(&app, "/pay", &Token::parse(&token).unwrap()).await });
        }
        while let Some(seen) = requests.join_next().await {
            assert_eq!(seen.unwrap().refused(), unavailable());
        }
        assert!(began.elapsed() <= Duration::from_secs(9), "{:?}", began.elapsed());
        world.spy.mend();
        assert_eq!(ask(&app, "/pay", &token).await.data, "paid");
        world.until(&Ledger::of(&[("pay", 3)])).await;
    }
}

/// Who has gone away takes no place in the queue, and nothing of it is posted that was not sent.
#[tokio::test]
async fn waiters_that_left_are_not_posted() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let (entered, mut paying) = mpsc::unbounded_channel();
    let app = Router::new().route(
        "/",
        get(async move |charge: Charge| -> Answer {
            entered.send(()).unwrap();
            charge.pay(Amount::cents(3)).await?;
            Ok("paid")
        }),
    );
    let app = app.layer(world.layer());
    world.spy.set(Faults::posts(Fault::Hang));
    let mut leaving = JoinSet::new();
    for _ in 0..20 {
        let (app, token) = (app.clone(), token.expose().to_owned());
        leaving.spawn(async move { ask(&app, "/", &Token::parse(&token).unwrap()).await });
        soon(paying.recv()).await.unwrap();
        // The first is on its way to the store, the others wait behind it.
        world.spy.arrived(1, is_pay).await;
    }
    leaving.shutdown().await;
    world.spy.mend();
    assert_eq!(ask(&app, "/", &token).await.data, "paid");
    let ledger = world.ledger().await;
    assert_eq!((ledger.spent, ledger.held), (Amount::cents(3), Amount::ZERO));
    assert_eq!(world.spy.count(is_pay), 2);
}

/// Shutdown in the middle of an outage: it waits until the charge is posted, or given up.
#[tokio::test]
async fn shutdown_waits_for_the_store_to_come_back() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let client = Client::new(Version::Http1, serve(app(&world)).await, &token);
    world.spy.set(Faults::posts(Fault::Down).only(is_settle));
    let answer = tokio::spawn(async move { client.get("/work").await });
    world.spy.arrived(2, is_settle).await;
    let keys = world.keys.clone();
    let shutdown = tokio::spawn(async move { keys.shutdown().await });
    world.spy.arrived(4, is_settle).await;
    assert!(!shutdown.is_finished() && !world.spy.is_closed());
    world.spy.mend();
    soon(shutdown).await.unwrap();
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3)]));
    assert_eq!(answer.await.unwrap().data, "done");
}

/// A body that streams through an outage ends when the store is back, and not before.
#[tokio::test]
async fn a_stream_through_an_outage_ends_well() {
    for version in Version::BOTH {
        let world = World::new().await;
        let (_, token) = world.key().await;
        let open = watch::Sender::new(false);
        let gate = open.clone();
        let app = Router::new().route(
            "/",
            get(async move |charge: Charge| -> Result<Body, Rejection> {
                charge.hold(Amount::cents(10)).await?;
                let chunks = futures_util::stream::unfold(
                    (0, charge, gate),
                    async |(number, charge, gate)| {
                        if number == 1 {
                            gate.subscribe().wait_for(|open| *open).await.unwrap();
                        }
                        charge.add(Amount::cents(1));
                        (number < 2).then_some((
                            Ok::<_, std::convert::Infallible>("chunk."),
                            (number + 1, charge, gate),
                        ))
                    },
                );
                Ok(Body::from_stream(chunks))
            }),
        );
        let client = Client::new(version, serve(app.layer(world.layer())).await, &token);
        let head = client.head(client.request(http::Method::GET, "/")).await;
        world.spy.set(Faults { finds: Fault::Down, posts: Fault::Down, ..Faults::default() });
        let rest = tokio::spawn(Seen::read(head));
        open.send_replace(true);
        world.spy.arrived(3, is_settle).await;
        assert!(!rest.is_finished());
        world.spy.mend();
        let seen = rest.await.unwrap();
        assert_eq!((seen.data.as_str(), seen.error), ("chunk.chunk.", None));
        assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3)]));
    }
}

#[cfg(feature = "sqlite")]
mod locked_file {
    use agentkey::SqliteStore;
    use agentkey::store::SqliteOptions;
    use rusqlite::Connection;

    use super::*;

    /// Another process that has the file for itself.
    fn lock(path: &std::path::Path) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        connection
    }

    fn unlock(connection: Connection) {
        connection.execute_batch("ROLLBACK").unwrap();
        connection.close().unwrap();
    }

    async fn world(
        builder: agentkey::Builder,
        directory: &tempfile::TempDir,
    ) -> (World, std::path::PathBuf) {
        let path = directory.path().join("keys.db");
        let options = SqliteOptions::new(&path).busy_timeout(Duration::from_millis(20));
        (World::on(builder, Box::new(SqliteStore::open(options).await.unwrap())), path)
    }

    #[tokio::test]
    async fn work_is_refused_with_503_and_free_routes_are_served() {
        let directory = tempfile::tempdir().unwrap();
        let (world, path) = world(no_patience(), &directory).await;
        let (_, token) = world.key().await;
        let client = Client::new(Version::Http1, serve(app(&world)).await, &token);
        let locked = lock(&path);
        assert_eq!(client.get("/free").await.data, "free");
        for path in ["/work", "/pay"] {
            assert_eq!(client.get(path).await.refused(), unavailable());
        }
        unlock(locked);
        assert_eq!(client.get("/work").await.data, "done");
        let ledger = world.ledger().await;
        assert_eq!((ledger.spent, ledger.held), (Amount::cents(3), Amount::ZERO));
    }

    /// One that comes while another waits is not made to wait for that one's time, and then for its own.
    #[tokio::test]
    async fn every_request_waits_for_its_own_time_and_no_longer() {
        let (directory, second) = (tempfile::tempdir().unwrap(), Duration::from_secs(1));
        let path = directory.path().join("keys.db");
        let store =
            SqliteStore::open(SqliteOptions::new(&path).busy_timeout(second)).await.unwrap();
        let world = World::on(AgentKeys::builder().request_timeout(second), Box::new(store));
        let (_, token) = world.key().await;
        let client = Client::new(Version::Http1, serve(app(&world)).await, &token);
        let locked = lock(&path);
        let ask_after = async |pause: Duration| {
            tokio::time::sleep(pause).await;
            let begun = std::time::Instant::now();
            assert_eq!(client.get("/pay").await.refused(), unavailable());
            begun.elapsed()
        };
        let (first, other) = tokio::join!(ask_after(Duration::ZERO), ask_after(second / 2));
        for waited in [first, other] {
            assert!(waited < second * 5 / 4, "{first:?}, {other:?}");
        }
        unlock(locked);
    }

    #[tokio::test]
    async fn a_charge_that_ends_meanwhile_is_posted_once_afterwards() {
        let directory = tempfile::tempdir().unwrap();
        let (world, path) = world(AgentKeys::builder(), &directory).await;
        let (_, token) = world.key().await;
        let (entered, mut working) = mpsc::unbounded_channel();
        let open = watch::Sender::new(false);
        let gate = open.clone();
        let app = Router::new().route(
            "/",
            get(async move |charge: Charge| -> Answer {
                charge.hold(Amount::cents(10)).await?;
                entered.send(()).unwrap();
                gate.subscribe().wait_for(|open| *open).await.unwrap();
                charge.add(Amount::cents(3));
                Ok("done")
            }),
        );
        let client = Client::new(Version::Http1, serve(app.layer(world.layer())).await, &token);
        let answer = tokio::spawn(async move { client.get("/").await });
        soon(working.recv()).await.unwrap();
        let locked = lock(&path);
        open.send_replace(true);
        world.spy.arrived(2, is_settle).await;
        assert!(!answer.is_finished());
        unlock(locked);
        assert_eq!(answer.await.unwrap().data, "done");
        assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3)]));
    }
}
