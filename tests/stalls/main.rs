//! Processes that are stopped or cut off in the middle of a transaction: no other process waits for them for longer than
//! a few seconds, and they serve again as soon as they can.
//!
//! The other binaries' load runs here: two processes on one account. `AGENTKEY_CHAOS_SECONDS` of 45 or more adds the
//! long outages.
#![cfg(all(feature = "axum", feature = "postgres"))]

#[path = "../postgres/audit.rs"]
mod audit;
#[path = "../support/invariants.rs"]
mod invariants;
#[path = "../chaos/journal.rs"]
mod journal;
mod network;
#[path = "../support/postgres.rs"]
mod postgres_server;
#[path = "../chaos/process.rs"]
mod process;
#[path = "../chaos/random.rs"]
mod random;
#[path = "../chaos/worker.rs"]
mod worker;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agentkey::{AgentKeys, NewKey};
use sqlx::postgres::PgPool;

use journal::Journals;
use network::{Dropped, Network};
use postgres_server::{Database, Server};
use process::Process;

/// Only a hang gets here.
const HANG: Duration = Duration::from_secs(90);

/// For how long no request may be served because another process is stopped or cut off: two seconds in which the server
/// keeps its transaction, and what a busy machine adds.
const OTHERS_BOUND: Duration = Duration::from_secs(4);

/// For how long a process that was cut off may serve no request after the network is back.
const HEALED_BOUND: Duration = Duration::from_secs(3);

/// Two processes at work on one account.
struct Site {
    database: Database,
    directory: tempfile::TempDir,
    pool: PgPool,
}

impl Site {
    async fn new(server: &Server) -> Self {
        let database = server.database().await;
        let directory = tempfile::tempdir().unwrap();
        let keys = AgentKeys::postgres(database.url()).await.unwrap();
        let root = keys.create(NewKey::new("acme".parse().unwrap())).await.unwrap();
        let mut tokens = Vec::new();
        for _ in 0..4 {
            tokens.push(
                keys.create(NewKey::child_of(root.key.id)).await.unwrap().token.expose().to_owned(),
            );
        }
        std::fs::write(directory.path().join("tokens"), tokens.join("\n")).unwrap();
        keys.shutdown().await;
        let pool = PgPool::connect(database.url()).await.unwrap();
        Self { database, directory, pool }
    }

    fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Whether the process of this name has locked the account, and the server waits for what it does next.
    async fn is_kept_by(&self, name: &str) -> bool {
        // What it had asked before is done.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let keeps = "SELECT EXISTS (SELECT FROM pg_stat_activity a JOIN pg_locks l USING (pid) \
            WHERE a.application_name = $1 AND a.state = 'idle in transaction' \
            AND l.relation = 'agentkey_accounts'::regclass AND l.mode IN ('RowShareLock', 'RowExclusiveLock'))";
        sqlx::query_scalar(keeps).bind(name).fetch_one(&self.pool).await.unwrap()
    }

    /// Every acknowledged charge is there once, no refused one is, and the sums are right; the process that was never
    /// disturbed answered no request with 503.
    async fn check(&self, bystander: usize) {
        let journals = Journals::read(self.directory());
        audit::figures(&self.pool).await;
        audit::charged(&self.pool, &journals.acknowledged).await;
        audit::entries(&self.pool, &journals.entries).await;
        audit::not_charged(&self.pool, &journals.refused).await;
        let own =
            std::fs::read_to_string(self.directory().join(format!("journal-{bystander}"))).unwrap();
        assert_eq!(own.lines().filter(|line| line.starts_with("503 ")).count(), 0);
    }
}

/// Counts what a process acknowledges.
#[derive(Default)]
struct Served(Arc<AtomicUsize>);

impl Served {
    async fn more(&self, more: usize) {
        let (enough, begun) = (self.0.load(Ordering::SeqCst) + more, Instant::now());
        while self.0.load(Ordering::SeqCst) < enough {
            assert!(begun.elapsed() < HANG, "nobody is served any more");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The longest time without an answer, until `end`.
    async fn longest_pause(&self, end: Instant) -> Duration {
        let (mut longest, mut last, mut seen) =
            (Duration::ZERO, Instant::now(), self.0.load(Ordering::SeqCst));
        loop {
            let now = self.0.load(Ordering::SeqCst);
            longest = longest.max(last.elapsed());
            if now != seen {
                (seen, last) = (now, Instant::now());
            }
            if Instant::now() >= end {
                return longest;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn finish(workers: impl IntoIterator<Item = Process>) {
    for worker in workers {
        tokio::task::spawn_blocking(move || worker.finish()).await.unwrap();
    }
}

fn signal(signal: &str, worker: &Process) {
    assert!(
        Command::new("kill").args([signal, &worker.pid().to_string()]).status().unwrap().success()
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_process_stopped_in_a_transaction_delays_no_other_process() {
    let Some(server) = Server::shared() else { return };
    let site = Site::new(server).await;
    let start = |name: &str, number: usize, served: &Served| {
        let url = format!("{}?application_name={name}", site.database.url());
        worker::start(&url, site.directory(), number, number as u64, &served.0)
    };
    let (stopped, other) = (Served::default(), Served::default());
    let workers = [start("stopped", 1, &stopped), start("other", 2, &other)];
    let (mut hits, begun) = (0, Instant::now());
    while hits < 3 {
        assert!(begun.elapsed() < HANG, "{hits} times it was stopped in a transaction");
        stopped.more(1).await;
        other.more(1).await;
        signal("-STOP", &workers[0]);
        if site.is_kept_by("stopped").await {
            hits += 1;
            let paused =
                other.longest_pause(Instant::now() + OTHERS_BOUND + Duration::from_secs(1)).await;
            signal("-CONT", &workers[0]);
            assert!(paused < OTHERS_BOUND, "{paused:?}");
        } else {
            signal("-CONT", &workers[0]);
        }
    }
    finish(workers).await;
    site.check(2).await;
}

async fn a_partition(dropped: Dropped, seconds: u64) {
    let Some(network) = Network::new() else { return };
    let settings = [("listen_addresses", "*"), ("hba_file", network.hba_file()), ("fsync", "off")];
    let Some(server) = Server::start(&settings) else { return };
    let site = Site::new(&server).await;
    let near_url = format!("{}?application_name=near", site.database.url());
    let far_url = site.database.url().replace("127.0.0.1", network.server_address());
    let far_url = format!("{far_url}?application_name=far");
    let (near, far) = (Served::default(), Served::default());
    let workers = [
        worker::run(network.far_program(), &far_url, site.directory(), 1, 1, &far.0),
        worker::start(&near_url, site.directory(), 2, 2, &near.0),
    ];
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < HANG, "it was never cut off in a transaction");
        far.more(20).await;
        near.more(20).await;
        network.cut(dropped);
        if site.is_kept_by("far").await {
            break;
        }
        network.heal();
    }
    let cut = Instant::now();
    let paused = near.longest_pause(cut + Duration::from_secs(seconds)).await;
    network.heal();
    let healed = Instant::now();
    far.more(1).await;
    let back = healed.elapsed();
    eprintln!(
        "{dropped:?} for {seconds} s: the other paused for {paused:?}, the one cut off was back after {back:?}"
    );
    far.more(20).await;
    finish(workers).await;
    assert!(paused < OTHERS_BOUND, "{paused:?}");
    assert!(back < HEALED_BOUND, "{back:?}");
    site.check(2).await;
}

/// Makes of every partition a test.
macro_rules! partitions {
    ($($name:ident: $dropped:ident, $seconds:literal)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            #[ignore = "needs PostgreSQL: ./scripts/test"]
            async fn $name() {
                let is_long = std::env::var("AGENTKEY_CHAOS_SECONDS").is_ok_and(|it| it.parse::<u64>().unwrap() >= 45);
                if $seconds >= 10 && !is_long {
                    return eprintln!("left out: {}, for want of AGENTKEY_CHAOS_SECONDS=45", stringify!($name));
                }
                a_partition(Dropped::$dropped, $seconds).await;
            }
        )*
    };
}

partitions! {
    a_partition_of_five_seconds: BothWays, 5
    a_partition_of_five_seconds_in_which_the_server_hears_nothing: ToServer, 5
    a_partition_of_five_seconds_in_which_the_server_is_not_heard: FromServer, 5
    a_partition_of_thirty_seconds: BothWays, 30
    a_partition_of_thirty_seconds_in_which_the_server_hears_nothing: ToServer, 30
    a_partition_of_thirty_seconds_in_which_the_server_is_not_heard: FromServer, 30
}

#[test]
fn a_worker_process() {
    // Does nothing as a test: it is started by the ones above.
    worker::serve();
}
