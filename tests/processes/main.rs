//! Claims that need whole processes: several on one database, and `kill -9` in the middle of load.
//!
//! The worker processes are this test binary again; their environment says to serve instead of test.
#![cfg(all(feature = "axum", any(feature = "postgres", feature = "sqlite")))]

mod first_seen;
mod fixture;
#[cfg(feature = "postgres")]
#[path = "../support/postgres.rs"]
mod postgres_server;
mod retention;
mod worker;

use std::collections::HashMap;
use std::time::Duration;

use agentkey::model::{EventKind, ManualClock, RateLimit};
use agentkey::{Amount, Budget, EntryQuery, EventQuery, NewKey};
use http::StatusCode;
use tokio::task::JoinSet;

use first_seen::{
    another_process_takes_over_from_one_that_was_killed_in_the_hook,
    two_hundred_first_requests_of_a_subject_ask_the_hook_once,
};
use fixture::{ACCOUNT, Fixture};
use retention::a_prune_goes_on_beside_load_where_kill_9_stopped_it;
use worker::Worker;

/// Makes of every check a test with so many processes. Without a database there is none.
macro_rules! checks {
    ($($check:ident)*) => {
        #[cfg(feature = "sqlite")]
        checks! { @ sqlite_one_process, [], Fixture::sqlite, 1, $($check)* }
        #[cfg(feature = "sqlite")]
        checks! { @ sqlite_two_processes, [], Fixture::sqlite, 2, $($check)* }
        #[cfg(feature = "postgres")]
        checks! { @ postgres_two_processes, [ignore = "needs PostgreSQL: ./scripts/test"], Fixture::postgres, 2, $($check)* }
        #[cfg(feature = "postgres")]
        checks! { @ postgres_four_processes, [ignore = "needs PostgreSQL: ./scripts/test"], Fixture::postgres, 4, $($check)* }
        #[cfg(feature = "postgres")]
        checks! {
            @ postgres_processes_with_other_clocks, [ignore = "needs PostgreSQL and faketime: ./scripts/test"],
            Fixture::postgres_with_other_clocks, 3, $($check)*
        }
    };
    (@ $database:ident, $ignore:tt, $fixture:expr, $processes:literal, $($check:ident)*) => {
        mod $database {
            use super::*;

            $(checks! { % $ignore $check, $fixture, $processes })*
        }
    };
    (% [$($ignore:meta)?] $check:ident, $fixture:expr, $processes:literal) => {
        #[tokio::test(flavor = "multi_thread")]
        $(#[$ignore])?
        async fn $check() {
            let Some(fixture) = $fixture().await else { return };
            super::$check(&fixture, $processes).await;
        }
    };
}

checks! {
    a_thousand_requests_against_a_hundred_cents_are_a_hundred
    ten_children_with_the_parents_limit_get_the_parents_limit_together
    an_accounts_ceiling_holds_over_ten_unlimited_keys
    a_revocation_in_one_process_holds_at_the_next_request_of_another
    a_shared_limit_of_a_hundred_is_a_hundred
    one_idempotency_key_sent_to_all_processes_is_one_charge
    what_one_process_holds_no_other_spends
    work_in_flight_in_one_process_is_taken_over_by_no_other
    clients_that_hang_up_pay_for_the_work_and_free_the_rest
    two_hundred_first_requests_of_a_subject_ask_the_hook_once
    another_process_takes_over_from_one_that_was_killed_in_the_hook
    kill_9_loses_no_acknowledged_charge_and_doubles_none
    refusals_of_all_processes_are_counted_in_a_handful_of_events
    a_prune_goes_on_beside_load_where_kill_9_stopped_it
}

/// Sends all requests at once, spread over the workers; counts the answers by status.
async fn storm(
    workers: &[Worker],
    tokens: &[String],
    route: &str,
    requests: usize,
) -> HashMap<StatusCode, usize> {
    let clients: Vec<_> = workers.iter().map(Worker::client).collect();
    let mut storm = JoinSet::new();
    for request in 0..requests {
        let client = clients[request % clients.len()].clone();
        // Each key is known to all processes.
        let token = tokens[request / clients.len() % tokens.len()].clone();
        let route = route.to_owned();
        storm.spawn(async move { client.post(&route, &token).await.unwrap().0 });
    }
    let mut answers = HashMap::new();
    while let Some(status) = storm.join_next().await {
        *answers.entry(status.unwrap()).or_default() += 1;
    }
    answers
}

async fn a_thousand_requests_against_a_hundred_cents_are_a_hundred(
    fixture: &Fixture,
    processes: usize,
) {
    let (key, token) = fixture.key(Budget::lifetime(Amount::cents(100))).await;
    let workers = fixture.workers(processes);

    let answers = storm(&workers, &[token], "/hold", 1_000).await;

    assert_eq!(answers.get(&StatusCode::OK), Some(&100), "{answers:?}");
    // On a machine that has too much to do, an account's row may be kept for longer than it is waited for: then a refusal is 503.
    let refused = [StatusCode::PAYMENT_REQUIRED, StatusCode::SERVICE_UNAVAILABLE];
    let refused = refused.iter().filter_map(|status| answers.get(status)).sum::<usize>();
    assert_eq!(refused, 900, "{answers:?}");
    let mut worked = 0;
    for worker in &workers {
        worked += worker.handlers_that_worked().await;
    }
    assert_eq!(worked, 100, "only the requests that could hold did the work");
    assert_eq!(fixture.spent_and_held(key).await, (Amount::cents(100), Amount::ZERO));
}

async fn refusals_of_all_processes_are_counted_in_a_handful_of_events(
    fixture: &Fixture,
    processes: usize,
) {
    let (key, token) = fixture.key(Budget::unlimited()).await;
    let workers = fixture.workers(processes);
    fixture.keys.revoke(key, None).await.unwrap();

    let answers = storm(&workers, &[token], "/hold", 1_000).await;

    let refused = answers.get(&StatusCode::UNAUTHORIZED).copied().unwrap_or(0);
    assert!(refused > 500, "{answers:?}");
    let query = EventQuery::for_account(ACCOUNT.parse().unwrap()).kind(EventKind::Refused);
    let events = async {
        loop {
            let events = fixture.keys.events(&query).await.unwrap().items;
            if events.iter().map(|event| event.count).sum::<u64>() >= refused as u64 {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // Only a hang gets to the bound.
    let events = tokio::time::timeout(Duration::from_secs(60), events).await.unwrap();
    assert_eq!(events.iter().map(|event| event.count).sum::<u64>(), refused as u64);
    assert!(events.len() <= 3, "one in each minute of the storm: {events:?}");
    assert!(events.iter().all(|event| event.key == Some(key)));
    assert!(events.iter().all(|event| event.origin.route.as_deref() == Some("/hold")));
}

async fn ten_children_with_the_parents_limit_get_the_parents_limit_together(
    fixture: &Fixture,
    processes: usize,
) {
    let hundred = Budget::lifetime(Amount::cents(100));
    let (parent, _) = fixture.key(hundred).await;
    let mut tokens = Vec::new();
    for _ in 0..10 {
        tokens.push(fixture.create(NewKey::child_of(parent).budget(hundred)).await.1);
    }

    let answers = storm(&fixture.workers(processes), &tokens, "/pay", 300).await;

    assert_eq!(answers.get(&StatusCode::OK), Some(&100), "{answers:?}");
    assert_eq!(fixture.spent_and_held(parent).await, (Amount::cents(100), Amount::ZERO));
}

async fn an_accounts_ceiling_holds_over_ten_unlimited_keys(fixture: &Fixture, processes: usize) {
    let ceiling = Budget::monthly(Amount::cents(100));
    fixture.keys.ensure_account(ACCOUNT.parse().unwrap(), ceiling).await.unwrap();
    let mut tokens = Vec::new();
    for _ in 0..10 {
        tokens.push(fixture.key(Budget::unlimited()).await.1);
    }

    let answers = storm(&fixture.workers(processes), &tokens, "/pay", 300).await;

    assert_eq!(answers.get(&StatusCode::OK), Some(&100), "{answers:?}");
    let account = fixture.keys.account(&ACCOUNT.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(account.balance.spent(), Amount::cents(100));
}

async fn a_shared_limit_of_a_hundred_is_a_hundred(fixture: &Fixture, processes: usize) {
    let minute = RateLimit::per_minute(100);
    let day = RateLimit::new(100, Duration::from_secs(86_400));
    // In a minute, requests come back while the test runs, so there the clock is stopped.
    for (limit, noon) in [(minute, Some("2026-01-31T12:00:00Z")), (day, None)] {
        let parent = fixture.create(NewKey::new(ACCOUNT.parse().unwrap()).rate_limit(limit)).await;
        let workers = fixture.limited_workers(processes, noon);
        let answers = storm(&workers, &[parent.1], "/free", 1_000).await;
        assert_eq!(answers.get(&StatusCode::OK), Some(&100), "{answers:?}");
        assert_eq!(answers.get(&StatusCode::TOO_MANY_REQUESTS), Some(&900), "{answers:?}");

        // Ten children with more each have the parent's together.
        let (parent, _) =
            fixture.create(NewKey::new(ACCOUNT.parse().unwrap()).rate_limit(limit)).await;
        let mut tokens = Vec::new();
        for _ in 0..10 {
            let new = NewKey::child_of(parent).rate_limit(RateLimit::per_second(500));
            tokens.push(fixture.create(new).await.1);
        }
        let answers = storm(&workers, &tokens, "/free", 300).await;
        assert_eq!(answers.get(&StatusCode::OK), Some(&100), "{answers:?}");
        assert_eq!(answers.get(&StatusCode::TOO_MANY_REQUESTS), Some(&200), "{answers:?}");
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread")]
async fn sqlite_four_processes_share_a_limit() {
    let fixture = Fixture::sqlite().await.unwrap();
    a_shared_limit_of_a_hundred_is_a_hundred(&fixture, 4).await;
}

async fn a_revocation_in_one_process_holds_at_the_next_request_of_another(
    fixture: &Fixture,
    processes: usize,
) {
    let (parent, _) = fixture.key(Budget::unlimited()).await;
    let (_, child) = fixture.create(NewKey::child_of(parent)).await;
    let workers = fixture.workers(processes);
    for worker in &workers {
        assert_eq!(worker.client().post("/pay", &child).await.unwrap().0, StatusCode::OK);
    }

    fixture.keys.revoke(parent, None).await.unwrap();

    for worker in &workers {
        assert_eq!(worker.client().post("/pay", &child).await.unwrap().0, StatusCode::UNAUTHORIZED);
    }
}

async fn one_idempotency_key_sent_to_all_processes_is_one_charge(
    fixture: &Fixture,
    processes: usize,
) {
    let (key, token) = fixture.key(Budget::unlimited()).await;
    let workers = fixture.workers(processes);
    let mut charged = Amount::ZERO;
    for route in ["/pay", "/hold"] {
        let mut storm = JoinSet::new();
        for worker in workers.iter().cycle().take(40) {
            let (client, token) = (worker.client(), token.clone());
            storm.spawn(async move {
                client.post_once(route, &token, &format!("order{route}")).await.unwrap().0
            });
        }
        let answers = storm.join_all().await;

        charged = charged.checked_add(Amount::cents(1)).unwrap();
        let of = |status| answers.iter().filter(|answer| **answer == status).count();
        assert_eq!((of(StatusCode::OK), of(StatusCode::CONFLICT)), (1, 39), "{answers:?}");
        for worker in &workers {
            let (status, body) =
                worker.client().post_once(route, &token, &format!("order{route}")).await.unwrap();
            assert_eq!(status, StatusCode::CONFLICT);
            assert!(body.contains("already_charged"), "{body}");
        }
        assert_eq!(fixture.spent_and_held(key).await, (charged, Amount::ZERO));
    }
}

async fn what_one_process_holds_no_other_spends(fixture: &Fixture, processes: usize) {
    // The clock that is ahead comes last, as a holder: time never goes back for an account.
    for holder in (0..processes).rev() {
        let (key, token) = fixture.key(Budget::lifetime(Amount::cents(20))).await;
        let workers = fixture.workers(processes);
        let mut requests = JoinSet::new();
        for _ in 0..4 {
            let (client, token) = (workers[holder].client(), token.clone());
            requests.spawn(async move { client.post("/never", &token).await.map(drop) });
        }
        until(async || fixture.spent_and_held(key).await == (Amount::ZERO, Amount::cents(20)))
            .await;
        for worker in &workers {
            for route in ["/pay", "/hold"] {
                assert_eq!(
                    worker.client().post(route, &token).await.unwrap().0,
                    StatusCode::PAYMENT_REQUIRED
                );
            }
        }
        requests.shutdown().await;
        until(async || fixture.spent_and_held(key).await == (Amount::cents(4), Amount::ZERO)).await;
        let answers = storm(&workers, &[token], "/pay", 40).await;
        assert_eq!(answers.get(&StatusCode::OK), Some(&16), "{answers:?}");
        assert_eq!(fixture.spent_and_held(key).await, (Amount::cents(20), Amount::ZERO));
    }
}

async fn work_in_flight_in_one_process_is_taken_over_by_no_other(
    fixture: &Fixture,
    processes: usize,
) {
    for at_work in (0..processes).rev() {
        let (key, token) = fixture.key(Budget::unlimited()).await;
        let workers = fixture.workers(processes);
        let (client, sent) = (workers[at_work].client(), token.clone());
        let mut request = JoinSet::new();
        request.spawn(async move { client.post_once("/never", &sent, "order").await.map(drop) });
        until(async || fixture.spent_and_held(key).await.1 == Amount::cents(5)).await;
        for worker in &workers {
            let client = worker.client();
            let answer =
                tokio::time::timeout(HANG / 6, client.post_once("/never", &token, "order")).await;
            let (status, body) = answer.expect("it works too").unwrap();
            assert_eq!(status, StatusCode::CONFLICT, "{body}");
            assert!(body.contains("in_flight"), "{body}");
        }
        request.shutdown().await;
        until(async || fixture.spent_and_held(key).await == (Amount::cents(1), Amount::ZERO)).await;
    }
}

async fn clients_that_hang_up_pay_for_the_work_and_free_the_rest(
    fixture: &Fixture,
    processes: usize,
) {
    let (key, token) = fixture.key(Budget::lifetime(Amount::cents(100))).await;
    let workers = fixture.workers(processes);
    let mut requests = JoinSet::new();
    for worker in workers.iter().cycle().take(20) {
        let (client, token) = (worker.client(), token.clone());
        requests.spawn(async move { client.post("/never", &token).await.map(drop) });
    }
    let holds_all =
        async || fixture.spent_and_held(key).await == (Amount::ZERO, Amount::cents(100));
    until(holds_all).await;
    let mut worked = 0;
    for worker in &workers {
        worked += worker.handlers_that_worked().await;
    }
    assert_eq!(worked, 20);

    requests.shutdown().await; // Every connection is closed.

    until(async || fixture.spent_and_held(key).await == (Amount::cents(20), Amount::ZERO)).await;
}

async fn kill_9_loses_no_acknowledged_charge_and_doubles_none(fixture: &Fixture, processes: usize) {
    let (key, token) = fixture.key(Budget::unlimited()).await;

    let mut acknowledged = Vec::new();
    for round in 0..4 / processes {
        let mut workers = fixture.workers(processes);
        let mut load = JoinSet::new();
        for slot in 0..16 {
            let worker = slot % workers.len();
            let (client, token) = (workers[worker].client(), token.clone());
            load.spawn(async move {
                let mut acknowledged = Vec::new();
                for request in 0.. {
                    let route = if request % 2 == 0 { "pay" } else { "hold" };
                    let reference = format!("{round}-{slot}-{request}");
                    match client.post(&format!("/{route}?reference={reference}"), &token).await {
                        Ok((StatusCode::OK, _)) => acknowledged.push(reference),
                        Ok((status, body)) => panic!("{status}: {body}"),
                        Err(_) => break, // the process is gone
                    }
                }
                acknowledged
            });
        }
        // In the middle of load, one after the other: killed once a few hundred handlers have worked, while others
        // are at it.
        for worker in &mut workers {
            worker.kill_after_handlers(300);
        }
        for of_lane in load.join_all().await {
            acknowledged.extend(of_lane);
        }
    }
    assert!(acknowledged.len() >= 300, "there was load: {}", acknowledged.len());

    // After a restart, beyond the time to live of what the dead processes held.
    let later = ManualClock::at(jiff::Timestamp::now() + jiff::SignedDuration::from_mins(2));
    let keys = fixture.open_at(&later).await;
    let mut posted: HashMap<String, usize> = HashMap::new();
    let mut total = Amount::ZERO;
    let mut query = EntryQuery::for_account(ACCOUNT.parse().unwrap()).limit(1_000);
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
    assert_eq!(balance.spent(), total, "spent is the sum of the entries");
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

async fn until(mut done: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(HANG, async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it does not happen");
}
