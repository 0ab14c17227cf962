//! Random work by four processes while backends are terminated, the server crashes and processes are killed: at the end
//! the tables agree with each other and with everything that was acknowledged.
//!
//! `AGENTKEY_CHAOS_SECONDS` says for how long (default: 10), `AGENTKEY_CHAOS_SEED` which random numbers. What happens is
//! decided by the seed, when it happens is not: that is up to the machine.
#![cfg(all(feature = "axum", feature = "postgres"))]

#[path = "../postgres/audit.rs"]
mod audit;
mod journal;
#[path = "../support/postgres.rs"]
mod postgres_server;
mod random;
mod worker;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agentkey::{AgentKeys, Amount, Budget, KeyPatch, ManualClock, NewKey, PostgresOptions, PostgresStore, Store};
use sqlx::postgres::PgPool;

use journal::Journals;
use postgres_server::Server;
use random::Random;
use worker::Worker;

const PROCESSES: usize = 4;

/// Only a hang gets here.
const HANG: Duration = Duration::from_secs(90);

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// What was done to them.
#[derive(Debug, Default)]
struct Done {
    kills: usize,
    restarts: usize,
    terminated: i64,
    changes: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_the_books_are_right() {
    let Some(server) = Server::start(&[]) else { return };
    let server = Arc::new(server);
    let seconds = setting("AGENTKEY_CHAOS_SECONDS", 10);
    let seed = setting("AGENTKEY_CHAOS_SEED", 20_261_122);
    let database = server.database().await;
    let dir = tempfile::tempdir().unwrap();
    let keys = AgentKeys::postgres(database.url()).await.unwrap();
    write_tokens(&keys, seconds, &dir.path().join("tokens")).await;

    let acknowledged = Arc::new(AtomicUsize::new(0));
    let mut random = Random::new(seed);
    let mut started = 0;
    let mut start = |random: &mut Random| {
        started += 1;
        Worker::start(database.url(), dir.path(), started, random.next(), &acknowledged)
    };
    let mut workers: Vec<_> = (0..PROCESSES).map(|_| start(&mut random)).collect();
    let mut done = Done::default();
    let begun = Instant::now();
    // Each once, and then as it comes.
    let mut first = [0, 5, 8, 9].into_iter();
    while begun.elapsed() < Duration::from_secs(seconds) {
        // In the middle of load, always.
        wait_for(&acknowledged, random.below(60) as usize + 20).await;
        match first.next().unwrap_or_else(|| random.below(10)) {
            0..5 => done.terminated += terminate(database.url()).await,
            5..8 => {
                let victim = random.below(PROCESSES as u64) as usize;
                workers.remove(victim).kill();
                workers.push(start(&mut random));
                done.kills += 1;
            }
            8 => {
                let server = server.clone();
                let restart = move || {
                    server.stop("immediate");
                    server.start_again();
                };
                tokio::task::spawn_blocking(restart).await.unwrap();
                done.restarts += 1;
            }
            _ => done.changes += change(&keys, &mut random).await,
        }
    }
    for worker in workers {
        tokio::task::spawn_blocking(move || worker.finish()).await.unwrap();
    }
    let took = begun.elapsed();

    let journals = Journals::read(dir.path());
    let pool = PgPool::connect(database.url()).await.unwrap();
    check(&pool, &journals).await;
    // What the killed processes held runs out.
    let later = ManualClock::at(jiff::Timestamp::now() + Duration::from_secs(120));
    let store = PostgresStore::open(PostgresOptions::new(database.url()).clock(&later)).await.unwrap();
    store.sweep().await.unwrap();
    let held: i64 = sqlx::query_scalar(
        "SELECT (SELECT sum(held)::int8 FROM agentkey_accounts) + (SELECT coalesce(sum(held), 0)::int8 FROM agentkey_balances)",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(held, 0, "what the dead held is free");
    check(&pool, &journals).await;
    let log = server.log();
    assert!(!log.contains("deadlock detected"), "{log}");
    assert!(!log.contains("PANIC"), "{log}");
    assert!(!journals.acknowledged.is_empty() && done.kills > 0 && done.restarts > 0, "{done:?}");

    let Done { kills, restarts, terminated, changes } = done;
    let mut out = std::io::stderr().lock(); // Past what libtest captures.
    let _ = writeln!(
        out,
        "chaos: {} operations, {} acknowledged ({} charges), answers {:?}, {kills} processes killed, {restarts} crashes of \
         the server, {terminated} backends terminated, {changes} changes of keys, {:.0} s, seed {seed}",
        journals.answers.values().sum::<usize>(),
        journals.answers.get(&200).copied().unwrap_or_default(),
        journals.acknowledged.len(),
        journals.answers,
        took.as_secs_f64(),
    );
}

async fn check(pool: &PgPool, journals: &Journals) {
    audit::figures(pool).await;
    audit::charged(pool, &journals.acknowledged).await;
    audit::entries(pool, &journals.entries).await;
    audit::not_charged(pool, &journals.refused).await;
}

/// Keys of all kinds: alone, under one parent, under one account's ceiling, and one that everybody uses. What there is
/// to spend lasts for about half of the time.
async fn write_tokens(keys: &AgentKeys, seconds: u64, to: &Path) {
    let dollars = |dollars: u64| Amount::cents(i32::try_from(dollars * seconds * 100).unwrap());
    let limited = |of: u64| Budget::lifetime(dollars(of));
    let mut tokens = Vec::new();
    let parent = keys.create(NewKey::new("family".parse().unwrap()).budget(limited(1))).await.unwrap().key.id;
    for _ in 0..4 {
        let child = keys.create(NewKey::child_of(parent).budget(limited(1))).await.unwrap();
        let grandchild = keys.create(NewKey::child_of(child.key.id)).await.unwrap();
        tokens.extend([child.token, grandchild.token]);
    }
    keys.ensure_account("ceiling".parse().unwrap(), limited(1)).await.unwrap();
    for _ in 0..4 {
        tokens.push(keys.create(NewKey::new("ceiling".parse().unwrap())).await.unwrap().token);
    }
    for account in 0..4 {
        let new = NewKey::new(format!("alone-{account}").parse().unwrap()).budget(Budget::unlimited());
        tokens.push(keys.create(new).await.unwrap().token);
    }
    let hot = keys.create(NewKey::new("hot".parse().unwrap())).await.unwrap();
    let lines: Vec<_> = tokens.iter().chain([&hot.token; 4]).map(|token| token.expose().to_owned()).collect();
    std::fs::write(to, lines.join("\n")).unwrap();
}

async fn wait_for(acknowledged: &AtomicUsize, more: usize) {
    let (enough, begun) = (acknowledged.load(Ordering::SeqCst) + more, Instant::now());
    while acknowledged.load(Ordering::SeqCst) < enough {
        assert!(begun.elapsed() < HANG, "nobody is served any more");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn terminate(url: &str) -> i64 {
    let pool = PgPool::connect(url).await.unwrap();
    let terminated = sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name = 'agentkey'",
    );
    let terminated = terminated.fetch_one(&pool).await.unwrap();
    pool.close().await;
    terminated
}

/// A change of policy that takes nobody's money: it moves the account's version, and may fail with its connection.
async fn change(keys: &AgentKeys, random: &mut Random) -> usize {
    let accounts = ["family", "ceiling", "hot"];
    let account = accounts[random.below(3) as usize].parse().unwrap();
    let Ok(page) = keys.list(&account, None, 100).await else { return 0 };
    let key = &page.items[random.below(page.items.len() as u64) as usize];
    let changed = match random.below(2) {
        0 => keys.update(key.id, KeyPatch::new().name(format!("{}", random.next()))).await.is_ok(),
        _ => keys.create(NewKey::child_of(key.id)).await.is_ok(),
    };
    usize::from(changed)
}

#[test]
fn a_worker_process() {
    // Does nothing as a test: it is started by the one above.
    worker::serve();
}
