//! Retention: entries are rolled up, and what is no longer read goes.

use std::time::Duration;

use tokio::task::JoinSet;

use serde_json::json;

use super::adjustments::adjust_by;
use super::world::*;
use crate::ledger::{Action, IdempotencyClaim, IdempotencyKey, OnExpiry, Outcome, Posting};
use crate::model::{
    Budget, Clock, Event, EventKind, Key, KeyImport, KeyPatch, Labels, NewKey, Note, Opening,
    Origin, Refusal,
};
use crate::store::{
    EntryQuery, EventQuery, Prunable, PruneCutoffs, PruneStep, PruneTable, Store, Usage, UsageBy,
    UsageQuery,
};

const HOUR: u64 = 60 * MINUTE;

impl<S: Store> World<S> {
    /// Prunes a table of what is older than `age`, by small steps. Returns how many rows went.
    async fn prune(&self, table: PruneTable, age: Duration) -> u64 {
        let left_out = vec!["request_id".to_owned()];
        let before = self.clock.now() - age;
        let mut step = PruneStep { table, before, after: None, limit: 3, left_out };
        let mut rows = 0;
        loop {
            let done = self.store.prune(&step).await.unwrap();
            rows += done.rows;
            let Some(next) = done.next else { return rows };
            step.after = Some(next);
        }
    }

    async fn prunable(&self, age: Duration) -> Prunable {
        let before = self.clock.now() - age;
        let cutoffs = PruneCutoffs { entries: before, holds: before, events: before };
        self.store.prunable(cutoffs).await.unwrap()
    }

    pub(super) async fn prune_entries(&self, days: u64) -> u64 {
        self.prune(PruneTable::Entries, secs(days * DAY)).await
    }

    async fn usage_of(&self, query: &UsageQuery) -> Vec<Usage> {
        self.store.usage(query).await.unwrap()
    }
}

fn labelled(pairs: &[(&str, &str)]) -> Note {
    let mut labels = Labels::new();
    for (name, value) in pairs {
        labels.insert(*name, *value).expect("a label");
    }
    Note::new(labels, None)
}

fn pay_with(key: &Key, cents: i32, note: Note) -> Posting {
    posting(key, Action::Pay { amount: c(cents), note, claim: None })
}

/// Returns usage by every group, and by pairs of groups, of the account, of keys and of a subtree, over ranges of whole
/// days.
async fn every_usage<S: Store>(w: &World<S>, root: &Key, child: &Key) -> Vec<Vec<Usage>> {
    let groups = || {
        let label = |name: &str| UsageBy::Label(name.to_owned());
        [UsageBy::Key, UsageBy::Day, UsageBy::Month, label("model"), label("route")]
    };
    let start = at("2026-01-31T00:00:00Z");
    let day = |n: u64| start + secs(n * DAY);
    let ranges = [
        (None, None),
        (Some(day(1)), None),
        (None, Some(day(2))),
        (Some(day(1)), Some(day(2))),
        (Some(day(2)), Some(day(40))),
    ];
    let mut all = Vec::new();
    for by in groups() {
        let account = || UsageQuery::for_account(account("acme"), by.clone());
        let mut queries = vec![account(), account().key(child.id), account().subtree(root.id)];
        queries.extend(groups().into_iter().map(|second| account().then_by(second)));
        for mut query in queries {
            for (since, until) in ranges {
                (query.since, query.until) = (since, until);
                all.push(w.usage_of(&query).await);
            }
        }
    }
    all
}

/// Charges, refunds, adjustments, openings and charged holds over three days of two keys.
async fn history<S: Store>(w: &World<S>) -> (Key, Key) {
    w.ensure(&account("acme"), Budget::unlimited()).await;
    let root = w.create(acme()).await;
    let child = w.create(NewKey::child_of(root.id)).await;
    for n in 0..24_u64 {
        let key = if n % 3 == 0 { &child } else { &root };
        let model = ["small", "large"][usize::from(n % 4 == 0)];
        let request = format!("request {n}");
        let labels: &[(&str, &str)] = match n % 5 {
            0 => &[("request_id", &request)],
            1 => &[("model", model), ("request_id", &request), ("route", "/chat")],
            _ => &[("model", model), ("route", "/embed")],
        };
        let charge = pay_with(key, i32::try_from(n).unwrap() + 1, labelled(labels));
        w.accept(&charge).await;
        if n % 6 == 1 {
            w.accept(&refund(key, charge.id.into(), c(1))).await;
        }
        if n % 6 == 2 {
            w.clock.advance(secs(HOUR));
            for _ in 0..i32::try_from(n).unwrap() + 1 {
                w.accept(&refund(key, charge.id.into(), c(1))).await;
            }
        }
        if n % 8 == 5 {
            w.accept(&adjust_by(key, -2, &Origin::new())).await;
            w.accept(&Posting { key: None, ..adjust_by(key, 3, &Origin::new()) }).await;
        }
        if n % 8 == 6 {
            let held = hold_or_charge(key, c(9), MINUTE);
            w.accept(&held).await;
            w.clock.advance(secs(2 * MINUTE));
            let holds = [&held];
            w.accept(&settle(key, &holds[..usize::from(n == 6)], c(4))).await;
        }
        w.clock.advance(secs(3 * HOUR - 7 * MINUTE));
    }
    (root, child)
}

/// Usage over whole days, by any group, is the same before and after entries are rolled up, part by part; and what was
/// rolled up is listed no more.
pub async fn usage_is_the_same_after_a_roll_up<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (root, child) = history(&w).await;
    let before = every_usage(&w, &root, &child).await;
    let spent = (w.balance(&root).await, w.balance(&child).await, w.account_balance(&root).await);
    let query = EntryQuery::for_account(account("acme")).limit(1_000);
    let all = w.entries(query.clone()).await.len() as u64;
    let mut gone = 0;
    w.clock.set(at("2026-04-01T00:00:00Z"));
    for cutoff in [
        "2026-01-31T20:00:00Z",
        "2026-02-01T13:30:00Z",
        "2026-02-02T00:00:00Z",
        "2026-03-01T00:00:00Z",
    ] {
        let before_cutoff = w.clock.now().duration_since(at(cutoff)).unsigned_abs();
        let rows = w.prune(PruneTable::Entries, before_cutoff).await;
        assert!(rows > 0, "{cutoff}");
        gone += rows;
        assert_eq!(every_usage(&w, &root, &child).await, before, "{cutoff}");
        assert_eq!(w.entries(query.clone()).await.len() as u64, all - gone, "{cutoff}");
    }
    assert_eq!(gone, all, "in the end nothing is left");
    assert_eq!(w.prunable(secs(0)).await.entries, 0);
    assert_eq!(w.prune_entries(0).await, 0);
    let after = (w.balance(&root).await, w.balance(&child).await, w.account_balance(&root).await);
    assert_eq!(after, spent, "balances stay");
    w.paid(&root, 5).await;
    assert_eq!(w.ledger(&account("acme")).await, [("pay", c(5))], "the ledger goes on");
}

/// By the hour, and in a range within a day, a day that was rolled up counts at its start.
pub async fn a_rolled_up_day_counts_at_its_start<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await; // noon
    let key = w.key(100).await;
    w.paid(&key, 3).await;
    w.clock.advance(secs(2 * HOUR));
    w.paid(&key, 4).await;
    w.clock.advance(secs(DAY));
    assert_eq!(w.prune_entries(0).await, 2);
    let query = UsageQuery::for_account(account("acme"), UsageBy::Hour);
    let midnight = at("2026-01-31T00:00:00Z");
    let day = [Usage::new(midnight.to_string(), c(7), 2, NOTHING)];
    assert_eq!(w.usage_of(&query.clone().until(midnight + secs(HOUR))).await, day);
    assert_eq!(w.usage_of(&query.since(midnight + secs(HOUR))).await, []);
}

/// A label that sums leave out is in the group without a value afterwards.
pub async fn a_label_may_be_left_out<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    for request in ["a", "b"] {
        let note = labelled(&[("model", "small"), ("request_id", request)]);
        w.accept(&pay_with(&key, 2, note)).await;
    }
    w.clock.advance(secs(DAY));
    assert_eq!(w.prune_entries(0).await, 2);
    for (label, group) in [("request_id", ""), ("model", "small")] {
        let by = UsageBy::Label(label.to_owned());
        let usage = w.usage_of(&UsageQuery::for_account(account("acme"), by)).await;
        assert_eq!(usage, [Usage::new(group.to_owned(), c(4), 2, NOTHING)]);
    }
}

/// A charge stays while a refund of it is younger. A charge that was rolled up cannot be refunded.
pub async fn a_charge_goes_with_its_refunds<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let (early, late) = (w.paid(&key, 10).await, w.paid(&key, 20).await);
    w.clock.advance(secs(40 * DAY));
    w.accept(&refund(&key, late, c(5))).await;
    w.clock.advance(secs(MINUTE));
    assert_eq!(w.prunable(secs(32 * DAY)).await.entries, 2);
    assert_eq!(w.prune_entries(32).await, 1, "only the charge without a refund");
    assert_eq!(w.prunable(secs(32 * DAY)).await.entries, 1, "the other one is old too");
    assert_eq!(w.ledger(&account("acme")).await, [("pay", c(20)), ("refund", c(-5))]);
    assert_eq!(w.refuse(&refund(&key, early, c(1))).await, Refusal::UnknownEntry);
    w.accept(&refund(&key, late, c(15))).await;
    w.clock.advance(secs(40 * DAY));
    assert_eq!(w.prune_entries(32).await, 3, "the charge and both refunds");
    assert!(w.ledger(&account("acme")).await.is_empty());
    let usage = w.usage_of(&UsageQuery::for_account(account("acme"), UsageBy::Key)).await;
    assert_eq!(
        usage,
        [Usage::new(key.id.to_string(), c(10), 1, NOTHING)],
        "one was given back whole"
    );
}

/// A refund that comes while its charge is rolled up is accepted and counted, or refused: no charge is counted as kept that
/// was given back.
pub async fn refunds_race_with_a_roll_up<S: Store>(make: impl AsyncFn(Clock) -> S) {
    const CHARGES: i32 = 120;
    let w = World::new(make).await;
    let key = w.key(100_000).await;
    let mut charges = Vec::new();
    for _ in 0..CHARGES {
        charges.push(w.paid(&key, 10).await);
    }
    w.clock.advance(secs(40 * DAY));
    let mut racing = JoinSet::new();
    for part in charges.chunks(15) {
        let (store, part, key) = (w.store.clone(), part.to_vec(), key.clone());
        racing.spawn(async move {
            let mut accepted = 0;
            for entry in part {
                match store.post(&[refund(&key, entry, c(10))]).await.unwrap().remove(0) {
                    Ok(_) => accepted += 1,
                    Err(refusal) => assert_eq!(refusal, Refusal::UnknownEntry),
                }
            }
            accepted
        });
    }
    w.prune_entries(32).await;
    let accepted: i32 = racing.join_all().await.into_iter().sum();
    let kept = u64::try_from(CHARGES - accepted).unwrap();
    let query = UsageQuery::for_account(account("acme"), UsageBy::Key);
    let usage = [Usage::new(key.id.to_string(), c(10 * (CHARGES - accepted)), kept, NOTHING)];
    assert_eq!(w.usage_of(&query).await, usage);
    assert_eq!(w.balance(&key).await.0, c(10 * (CHARGES - accepted)));
    w.clock.advance(secs(40 * DAY));
    w.prune_entries(32).await;
    assert_eq!(w.usage_of(&query).await, usage);
    assert!(w.ledger(&account("acme")).await.is_empty());
}

/// A limit that is added, and another period, count what was rolled up, of the key, its descendants and the account.
pub async fn a_new_limit_counts_what_was_rolled_up<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    w.ensure(&account("acme"), Budget::monthly(c(500))).await;
    let root = w.create(acme().budget(Budget::monthly(c(100)))).await;
    let child = w.create(NewKey::child_of(root.id).budget(Budget::monthly(c(90)))).await;
    let import = KeyImport::new(
        NewKey::child_of(root.id).budget(Budget::monthly(c(80))),
        crate::model::TokenHash::digest("foreign"),
    );
    let opened = import.opening(Opening::spent(c(7)));
    assert!(w.import(vec![opened]).await.iter().all(Result::is_ok));
    w.paid(&child, 20).await;
    w.paid(&root, 3).await;
    w.accept(&adjust_by(&child, -4, &Origin::new())).await;
    w.clock.advance(secs(40 * DAY));
    assert_eq!(w.prune_entries(32).await, 4);
    w.paid(&child, 1).await;
    let lifetime = || KeyPatch::new().budget(Budget::lifetime(c(90)));
    w.update(&child, lifetime()).await.unwrap();
    assert_eq!(w.balance(&child).await.0, c(17));
    w.update(&root, lifetime()).await.unwrap();
    assert_eq!(w.balance(&root).await.0, c(27));
    w.ceiling(&account("acme"), Budget::lifetime(c(500))).await;
    assert_eq!(w.account_balance(&root).await.0, c(27));
    w.update(&child, KeyPatch::new().budget(Budget::daily(c(90)))).await.unwrap();
    assert_eq!(w.balance(&child).await.0, c(1), "today's charge alone");
}

/// Sums of amounts that together are beyond the largest amount saturate as those of entries do.
pub async fn roll_ups_do_not_overflow<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme().budget(Budget::daily(c(1)))).await;
    let most = crate::model::Amount::MAX;
    for _ in 0..3 {
        w.accept(&settle(&key, &[], most)).await;
        w.clock.advance(secs(DAY));
    }
    let query = UsageQuery::for_account(account("acme"), UsageBy::Key);
    let before = w.usage_of(&query).await;
    assert_eq!(w.prune_entries(0).await, 3);
    assert_eq!(w.usage_of(&query).await, before);
    assert_eq!(before[0].amount, most);
}

/// An idempotency key goes with the entry that it is bound to, unless its request still runs. One whose request died goes
/// by its own age.
pub async fn idempotency_keys_go_with_their_entries<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let ttl = secs(50 * DAY);
    let open = |name: &str, ttl| {
        let claim = Some(IdempotencyKey::new(name, [7; 32]));
        posting(&key, Action::Open { claim, ttl })
    };
    let by = |name: &str, opened: &Posting| Some(IdempotencyClaim::new(name, opened.id));
    let (done, runs, dead) = (open("done", ttl), open("runs", ttl), open("dead", secs(MINUTE)));
    for ask in [&done, &runs, &dead] {
        assert_eq!(w.accept(ask).await.outcome, Outcome::Opened);
    }
    w.accept(&settle_with(&key, &[], &[], c(2), by("done", &done))).await;
    w.accept(&pay_claimed(&key, c(3), by("runs", &runs))).await;
    w.clock.advance(secs(40 * DAY));
    assert!(matches!(w.accept(&open("done", ttl)).await.outcome, Outcome::Claimed { .. }));
    assert_eq!(w.prune_entries(32).await, 1, "the payment is of a request that runs");
    assert_eq!(w.refuse(&open("runs", ttl)).await, Refusal::InFlight);
    assert_eq!(w.accept(&open("done", ttl)).await.outcome, Outcome::Opened, "it is free again");
    let age = secs(32 * DAY);
    assert_eq!(w.prune(PruneTable::IdempotencyKeys, age).await, 1, "the dead one");
    assert_eq!(w.prune(PruneTable::IdempotencyKeys, age).await, 0);
}

/// Ended holds go. A live hold stays, and one that was charged at its expiry stays as long as its entry.
pub async fn ended_holds_go<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let mut live = hold(&key, c(5), 400 * DAY);
    if let Action::Hold { on_expiry, .. } = &mut live.action {
        *on_expiry = OnExpiry::Charge;
    }
    w.accept(&live).await;
    let charged = hold_or_charge(&key, c(7), MINUTE);
    w.accept(&charged).await;
    for _ in 0..10 {
        let held = hold(&key, c(1), HOUR);
        w.accept(&held).await;
        w.accept(&settle(&key, &[&held], NOTHING)).await;
    }
    w.clock.advance(secs(2 * DAY));
    w.store.sweep().await.unwrap();
    assert_eq!(w.prune(PruneTable::Holds, secs(3 * DAY)).await, 0, "they are younger");
    assert_eq!(w.prunable(secs(DAY)).await.holds, 12);
    assert_eq!(w.prune(PruneTable::Holds, secs(DAY)).await, 10);
    assert_eq!(w.prunable(secs(DAY)).await.holds, 2);
    w.accept(&settle(&key, &[&charged], c(2))).await;
    assert_eq!(w.balance(&key).await, (c(2), c(5)), "the settle took the charged hold back");
    w.clock.advance(secs(40 * DAY));
    assert_eq!(w.prune_entries(32).await, 3);
    assert_eq!(w.prune(PruneTable::Holds, secs(DAY)).await, 1, "the charged one");
    w.accept(&settle(&key, &[&live], c(5))).await;
    assert_eq!(w.balance(&key).await, (c(7), NOTHING));
}

/// Refusals that come after their event was pruned are an event again.
pub async fn refusals_are_counted_after_old_events_went<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    let mut refusal = Event::new(
        w.clock.now(),
        key.account,
        EventKind::Refused,
        json!({"reason": "revoked_key"}),
    );
    (refusal.key, refusal.lineage, refusal.count) = (Some(key.id), vec![key.id], 3);
    w.store.record_refusals(&[refusal.clone()]).await.unwrap();
    w.clock.advance(secs(DAY));
    assert_eq!(w.prune(PruneTable::Events, secs(HOUR)).await, 2);
    for count in [3, 6] {
        w.store.record_refusals(&[refusal.clone()]).await.unwrap();
        let events = w.store.events(&EventQuery::for_account(account("acme"))).await.unwrap();
        let counts: Vec<_> = events.iter().map(|(_, event)| event.count).collect();
        assert_eq!(counts, [count]);
    }
}

/// Old events go, and those that follow keep their positions.
pub async fn old_events_go<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    for n in 0..8 {
        w.update(&key, KeyPatch::new().name(format!("early {n}"))).await.unwrap();
    }
    w.clock.advance(secs(DAY));
    w.update(&key, KeyPatch::new().name("late")).await.unwrap();
    let query = EventQuery::for_account(account("acme")).kind(EventKind::KeyUpdated);
    let before = w.store.events(&query).await.unwrap();
    assert_eq!(w.prunable(secs(HOUR)).await.events, 9);
    assert_eq!(w.prune(PruneTable::Events, secs(HOUR)).await, 9);
    let after = w.store.events(&query).await.unwrap();
    assert_eq!(after, before[8..], "the late one, at its position");
    w.update(&key, KeyPatch::new().name("later")).await.unwrap();
    let next = w.store.events(&query.after(after[0].0)).await.unwrap();
    assert_eq!(next.len(), 1, "a page goes on after a position");
}
