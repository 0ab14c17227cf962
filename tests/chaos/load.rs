//! Four processes at work on one database, and what can be done to them on every store.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agentkey::KeyQuery;
use agentkey::{AgentKeys, Amount, Budget, KeyPatch, NewKey};
use tokio::sync::{Mutex, MutexGuard};

use crate::journal::Journals;
use crate::process::Process;
use crate::random::Random;
use crate::worker;

const PROCESSES: usize = 4;

/// One store after the other.
static TURN: Mutex<()> = Mutex::const_new(());

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

pub(crate) struct Load {
    database: String,
    /// Of tokens and journals.
    directory: PathBuf,
    seed: u64,
    pub(crate) random: Random,
    workers: Vec<Process>,
    started: usize,
    acknowledged: Arc<AtomicUsize>,
    begun: Instant,
    duration: Duration,
    pub(crate) kills: usize,
    pub(crate) changes: usize,
    _turn: MutexGuard<'static, ()>,
}

impl Load {
    /// Makes the keys, and starts the processes.
    pub(crate) async fn start(database: &str, keys: &AgentKeys, directory: &Path) -> Self {
        let turn = TURN.lock().await;
        let seconds = setting("AGENTKEY_CHAOS_SECONDS", 10);
        let seed = setting("AGENTKEY_CHAOS_SEED", 20_261_122);
        write_tokens(keys, seconds, &directory.join("tokens")).await;
        let mut load = Self {
            database: database.to_owned(),
            directory: directory.to_owned(),
            seed,
            random: Random::new(seed),
            workers: Vec::new(),
            started: 0,
            acknowledged: Arc::default(),
            begun: Instant::now(),
            duration: Duration::from_secs(seconds),
            kills: 0,
            changes: 0,
            _turn: turn,
        };
        load.start_workers();
        load
    }

    /// Starts as many as are missing.
    pub(crate) fn start_workers(&mut self) {
        while self.workers.len() < PROCESSES {
            self.started += 1;
            let seed = self.random.next();
            self.workers.push(worker::start(
                &self.database,
                &self.directory,
                self.started,
                seed,
                &self.acknowledged,
            ));
        }
    }

    /// Waits until more was acknowledged: what is done next is done in the middle of load, always. Tells whether the time is
    /// not over.
    pub(crate) async fn goes_on(&mut self) -> bool {
        let more = self.random.below(60) as usize + 20;
        let (enough, begun) = (self.acknowledged.load(Ordering::SeqCst) + more, Instant::now());
        while self.acknowledged.load(Ordering::SeqCst) < enough {
            assert!(begun.elapsed() < crate::HANG, "nobody is served any more");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.begun.elapsed() < self.duration
    }

    /// Kills one process, and starts another.
    pub(crate) fn kill_one(&mut self) {
        let victim = self.random.below(PROCESSES as u64) as usize;
        self.workers.remove(victim).kill();
        self.kills += 1;
        self.start_workers();
    }

    /// Kills all processes.
    #[cfg(feature = "sqlite")]
    pub(crate) fn kill_all(&mut self) {
        self.kills += self.workers.len();
        self.workers.drain(..).for_each(Process::kill);
    }

    /// Lets one process end, and starts another.
    #[cfg(feature = "sqlite")]
    pub(crate) async fn replace_one(&mut self) {
        let leaving = self.random.below(PROCESSES as u64) as usize;
        finish(self.workers.remove(leaving)).await;
        self.start_workers();
    }

    /// A policy change that makes no charge fail: it moves the account's version, and may fail with its connection.
    pub(crate) async fn change(&mut self, keys: &AgentKeys) {
        let random = &mut self.random;
        let accounts = ["family", "ceiling", "hot"];
        let account = accounts[random.below(3) as usize].parse().unwrap();
        let Ok(page) = keys.keys(&KeyQuery::for_account(account)).await else { return };
        let key = &page.items[random.below(page.items.len() as u64) as usize];
        let changed = match random.below(3) {
            0 => keys
                .update(key.id, KeyPatch::new().name(format!("{}", random.next())))
                .await
                .is_ok(),
            1 => {
                // A second limit comes and goes. It is as wide as the first, so it refuses nothing more.
                let one = Budget::new(key.budget.limit, key.budget.period);
                let wide = key.budget.limit.unwrap_or(Amount::units(1_000_000));
                let budget = match key.budget.limits().count() {
                    0 | 1 => one.and_monthly(wide),
                    _ => one,
                };
                keys.update(key.id, KeyPatch::new().budget(budget)).await.is_ok()
            }
            _ => keys.create(NewKey::child_of(key.id)).await.is_ok(),
        };
        self.changes += usize::from(changed);
    }

    /// Lets all processes end what they are at, and settle.
    pub(crate) async fn finish(&mut self) -> Journals {
        for worker in self.workers.drain(..) {
            finish(worker).await;
        }
        self.duration = self.begun.elapsed();
        let journals = Journals::read(&self.directory);
        assert!(!journals.acknowledged.is_empty() && self.kills > 0);
        journals
    }

    /// Prints what happened, past what libtest captures.
    pub(crate) fn report(&self, store: &str, journals: &Journals, done: &str) {
        let _ = writeln!(
            std::io::stderr().lock(),
            "chaos on {store}: {} operations, {} acknowledged ({} charges), answers {:?}, {} processes killed, {} changes of \
             keys, {done}, {:.0} s, seed {}",
            journals.answers.values().sum::<usize>(),
            journals.answers.get(&200).copied().unwrap_or_default(),
            journals.acknowledged.len(),
            journals.answers,
            self.kills,
            self.changes,
            self.duration.as_secs_f64(),
            self.seed,
        );
    }
}

async fn finish(worker: Process) {
    tokio::task::spawn_blocking(move || worker.finish()).await.unwrap();
}

/// Keys of all kinds: alone, under one parent, under one account's ceiling, and one that every client uses. What there
/// is to spend lasts for about half of the time.
async fn write_tokens(keys: &AgentKeys, seconds: u64, to: &Path) {
    let dollars = |dollars: u64| Amount::cents(i32::try_from(dollars * seconds * 100).unwrap());
    let limited = |of: u64| Budget::lifetime(dollars(of)).and_monthly(dollars(of));
    let mut tokens = Vec::new();
    let parent = keys
        .create(NewKey::new("family".parse().unwrap()).budget(limited(1)))
        .await
        .unwrap()
        .key
        .id;
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
        let new =
            NewKey::new(format!("alone-{account}").parse().unwrap()).budget(Budget::unlimited());
        tokens.push(keys.create(new).await.unwrap().token);
    }
    let hot = keys.create(NewKey::new("hot".parse().unwrap())).await.unwrap();
    let lines: Vec<_> =
        tokens.iter().chain([&hot.token; 4]).map(|token| token.expose().to_owned()).collect();
    std::fs::write(to, lines.join("\n")).unwrap();
}
