//! Claims that need whole processes: several on one file, and `kill -9` in the middle of load.
//!
//! The worker processes are this test binary again, told by its environment to serve instead of test.
#![cfg(all(feature = "axum", feature = "sqlite"))]

mod worker;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use agentkey::{AgentKeys, Amount, Budget, EntryQuery, KeyId, ManualClock, NewKey, SqliteOptions, SqliteStore};
use http::StatusCode;
use tokio::task::JoinSet;

use worker::{Client, Worker};

const ACCOUNT: &str = "acme";

struct Fixture {
    dir: tempfile::TempDir,
    keys: AgentKeys,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = AgentKeys::sqlite(path(&dir)).await.unwrap();
        Self { dir, keys }
    }

    fn path(&self) -> &str {
        path(&self.dir)
    }

    async fn key(&self, budget: Budget) -> (KeyId, String) {
        self.create(NewKey::new(ACCOUNT.parse().unwrap()).budget(budget)).await
    }

    async fn create(&self, new: NewKey) -> (KeyId, String) {
        let created = self.keys.create(new).await.unwrap();
        (created.key.id, created.token.expose().to_owned())
    }

    async fn spent_and_held(&self, key: KeyId) -> (Amount, Amount) {
        let lineage = self.keys.find_by_id(key).await.unwrap().unwrap();
        (lineage.key().balance.spent, lineage.key().balance.held)
    }
}

fn path(dir: &tempfile::TempDir) -> &str {
    let file: &'static Path = Box::leak(dir.path().join("keys.db").into_boxed_path());
    file.to_str().unwrap()
}

/// Sends all requests at once, spread over the workers; counts the answers by status.
async fn storm(workers: &[Worker], tokens: &[String], route: &str, requests: usize) -> HashMap<StatusCode, usize> {
    let clients: Vec<_> = workers.iter().map(Worker::client).collect();
    let mut storm = JoinSet::new();
    for request in 0..requests {
        let client: Client = clients[request % clients.len()].clone();
        let token = tokens[request % tokens.len()].clone();
        let route = route.to_owned();
        storm.spawn(async move { client.post(&route, &token).await.unwrap().0 });
    }
    let mut answers = HashMap::new();
    while let Some(status) = storm.join_next().await {
        *answers.entry(status.unwrap()).or_default() += 1;
    }
    answers
}

async fn a_thousand_requests_against_a_hundred_cents(processes: usize) {
    let fixture = Fixture::new().await;
    let (key, token) = fixture.key(Budget::lifetime(Amount::cents(100))).await;
    let workers: Vec<_> = (0..processes).map(|_| Worker::start(fixture.path())).collect();

    let answers = storm(&workers, &[token], "/hold", 1_000).await;

    assert_eq!(answers.get(&StatusCode::OK), Some(&100), "{answers:?}");
    assert_eq!(answers.get(&StatusCode::PAYMENT_REQUIRED), Some(&900), "{answers:?}");
    let mut worked = 0;
    for worker in &workers {
        worked += worker.handlers_that_worked().await;
    }
    assert_eq!(worked, 100, "only the requests that could hold did the work");
    assert_eq!(fixture.spent_and_held(key).await, (Amount::cents(100), Amount::ZERO));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_lets_exactly_a_hundred_of_a_thousand_work() {
    a_thousand_requests_against_a_hundred_cents(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_on_one_file_let_exactly_a_hundred_of_a_thousand_work() {
    a_thousand_requests_against_a_hundred_cents(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_children_with_the_parents_limit_get_the_parents_limit_together() {
    let fixture = Fixture::new().await;
    let hundred = Budget::lifetime(Amount::cents(100));
    let (parent, _) = fixture.key(hundred).await;
    let mut tokens = Vec::new();
    for _ in 0..10 {
        tokens.push(fixture.create(NewKey::child_of(parent).budget(hundred)).await.1);
    }
    let workers = [Worker::start(fixture.path()), Worker::start(fixture.path())];

    let answers = storm(&workers, &tokens, "/pay", 300).await;

    assert_eq!(answers.get(&StatusCode::OK), Some(&100), "{answers:?}");
    assert_eq!(fixture.spent_and_held(parent).await, (Amount::cents(100), Amount::ZERO));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accounts_ceiling_holds_over_ten_unlimited_keys() {
    let fixture = Fixture::new().await;
    let ceiling = Budget::monthly(Amount::cents(100));
    fixture.keys.ensure_account(ACCOUNT.parse().unwrap(), ceiling).await.unwrap();
    let mut tokens = Vec::new();
    for _ in 0..10 {
        tokens.push(fixture.key(Budget::unlimited()).await.1);
    }
    let workers = [Worker::start(fixture.path()), Worker::start(fixture.path())];

    let answers = storm(&workers, &tokens, "/pay", 300).await;

    assert_eq!(answers.get(&StatusCode::OK), Some(&100), "{answers:?}");
    let account = fixture.keys.account(&ACCOUNT.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(account.balance.spent, Amount::cents(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_in_one_process_holds_at_the_next_request_of_another() {
    let fixture = Fixture::new().await;
    let (parent, _) = fixture.key(Budget::unlimited()).await;
    let (_, child) = fixture.create(NewKey::child_of(parent)).await;
    let worker = Worker::start(fixture.path());
    assert_eq!(worker.client().post("/pay", &child).await.unwrap().0, StatusCode::OK);

    fixture.keys.revoke(parent).await.unwrap();

    assert_eq!(worker.client().post("/pay", &child).await.unwrap().0, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_no_acknowledged_charge_and_doubles_none() {
    let fixture = Fixture::new().await;
    let (key, token) = fixture.key(Budget::unlimited()).await;

    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let mut worker = Worker::start(fixture.path());
        let (client, token) = (worker.client(), token.clone());
        let mut load = JoinSet::new();
        for lane in 0..16 {
            let (client, token) = (client.clone(), token.clone());
            load.spawn(async move {
                let mut acknowledged = Vec::new();
                for request in 0.. {
                    let route = if request % 2 == 0 { "pay" } else { "hold" };
                    let reference = format!("{round}-{lane}-{request}");
                    match client.post(&format!("/{route}?reference={reference}"), &token).await {
                        Ok((StatusCode::OK, _)) => acknowledged.push(reference),
                        Ok((status, body)) => panic!("{status}: {body}"),
                        Err(_) => break, // the process is gone
                    }
                }
                acknowledged
            });
        }
        // In the middle of load: killed once a few hundred handlers have worked, while others are at it.
        worker.kill_after_handlers(300);
        for of_lane in load.join_all().await {
            acknowledged.extend(of_lane);
        }
    }
    assert!(acknowledged.len() >= 300, "there was load: {}", acknowledged.len());

    // After a restart, beyond the time to live of what the dead processes held.
    let later = ManualClock::at(jiff::Timestamp::now() + jiff::SignedDuration::from_mins(2));
    let options = SqliteOptions::new(fixture.path()).clock(&later);
    let keys = AgentKeys::new(SqliteStore::open(options).await.unwrap());
    let mut posted: HashMap<String, usize> = HashMap::new();
    let mut total = Amount::ZERO;
    let mut query = EntryQuery::of(ACCOUNT.parse().unwrap()).limit(1_000);
    loop {
        let page = keys.entries(&query).await.unwrap();
        for entry in page.items {
            total = total.checked_add(entry.amount).unwrap();
            *posted.entry(entry.note.reference.unwrap()).or_default() += 1;
        }
        let Some(next) = page.next else { break };
        query = query.after(next);
    }
    for reference in &acknowledged {
        assert_eq!(posted.get(reference), Some(&1), "{reference} was acknowledged");
    }
    assert!(posted.values().all(|count| *count == 1), "nothing is posted twice");
    let balance = keys.find_by_id(key).await.unwrap().unwrap().key().balance;
    assert_eq!(balance.spent, total, "spent is the sum of the entries");
    assert_eq!(balance.held, Amount::ZERO, "holds of the dead processes are free");
}

#[test]
fn a_worker_process() {
    // Does nothing as a test: see the module docs.
    if let Some(database) = std::env::var_os(worker::DATABASE) {
        worker::serve(database.to_str().unwrap());
    }
}

/// A hang in a test is a failure, not a wait.
const HANG: Duration = Duration::from_secs(60);
