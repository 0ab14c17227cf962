//! Windows of budgets, and the time that decides them.

use std::time::Duration;

use super::world::*;
use crate::ledger::Outcome;
use crate::model::{BlockedBy, Budget, Clock, NewKey};
use crate::store::{EntryQuery, Store};

/// A child with a daily budget, its parent with a monthly one and the account with a weekly one
/// roll independently.
pub async fn every_member_counts_in_its_own_window<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await; // a Saturday
    w.ensure(&account("acme"), Budget::weekly(c(60)).calendar()).await;
    let parent = w.create(acme().budget(Budget::monthly(c(45)))).await;
    let child = w.create(NewKey::child_of(parent.id).budget(Budget::daily(c(20)))).await;
    w.paid(&child, 20).await;
    assert_eq!(w.short(&pay(&child, c(1))).await.blocked_by, BlockedBy::Key);
    w.clock.set(at("2026-02-01T12:00:00Z"));
    w.paid(&child, 20).await;
    for (key, spent) in [(&child, 20), (&parent, 40)] {
        assert_eq!(w.balance(key).await, (c(spent), NOTHING));
    }
    assert_eq!(w.account_balance(&child).await, (c(40), NOTHING));
    w.clock.set(at("2026-02-02T00:00:00Z"));
    assert_eq!(w.account_balance(&child).await, (NOTHING, NOTHING), "Monday");
    assert_eq!(w.balance(&child).await, (c(20), NOTHING));
    w.clock.set(at("2026-02-02T12:00:00Z"));
    assert_eq!(w.short(&pay(&child, c(6))).await.blocked_by, BlockedBy::Ancestor);
    w.paid(&child, 5).await;
    assert_eq!(w.account_balance(&child).await, (c(5), NOTHING));
    w.clock.set(at("2026-02-28T12:00:00Z"));
    w.paid(&child, 20).await;
    assert_eq!(w.balance(&parent).await, (c(20), NOTHING));
}

/// A monthly key from the 31st resets on the last day of short months and on the 31st of long ones.
pub async fn months_do_not_drift<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme().budget(Budget::monthly(c(10)))).await;
    for end in [
        "2026-02-28",
        "2026-03-31",
        "2026-04-30",
        "2026-05-31",
        "2026-12-31",
        "2027-01-31",
        "2027-02-28",
    ] {
        w.paid(&key, 10).await;
        w.clock.set(at(&format!("{end}T11:59:59.999999Z")));
        if end != "2026-12-31" {
            w.short(&pay(&key, c(1))).await;
        }
        w.clock.set(at(&format!("{end}T12:00:00Z")));
        assert_eq!(w.balance(&key).await, (NOTHING, NOTHING), "{end}");
    }
    let calendar = w.create(acme().budget(Budget::monthly(c(10)).calendar())).await;
    w.paid(&calendar, 10).await;
    w.clock.set(at("2027-02-28T23:59:59.999999Z"));
    w.short(&pay(&calendar, c(1))).await;
    w.clock.set(at("2027-03-01T00:00:00Z"));
    w.paid(&calendar, 10).await;
}

/// Debt is not carried into the next window.
pub async fn debt_ends_with_its_window<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme().budget(Budget::daily(c(10)))).await;
    w.accept(&settle(&key, &[], c(35))).await;
    w.clock.advance(secs(DAY) - Duration::from_micros(1));
    w.short(&pay(&key, NOTHING)).await;
    w.clock.advance(Duration::from_micros(1));
    assert_eq!(w.accept(&pay(&key, c(10))).await.remaining, Some(NOTHING));
}

/// A refusal has the end of the last window that blocks it, if waiting for that helps.
pub async fn a_refusal_says_when_waiting_helps<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let day = w.create(acme().budget(Budget::daily(c(10)))).await;
    let month = w.create(acme().budget(Budget::monthly(c(10)))).await;
    let under_month = w.create(NewKey::child_of(month.id).budget(Budget::daily(c(5)))).await;
    w.clock.advance(secs(MINUTE));
    w.paid(&day, 8).await;
    assert_eq!(w.short(&pay(&day, c(3))).await.resets_at, Some(at("2026-02-01T12:00:00Z")));
    assert_eq!(w.short(&pay(&day, c(11))).await.resets_at, None, "it never fits");
    w.paid(&under_month, 5).await;
    assert_eq!(w.short(&pay(&under_month, c(1))).await.resets_at, Some(at("2026-02-01T12:00:00Z")));
    w.paid(&month, 5).await;
    assert_eq!(w.short(&pay(&under_month, c(1))).await.resets_at, Some(at("2026-02-28T12:00:00Z")));
    let lifetime = w.key(1).await;
    assert_eq!(w.short(&pay(&lifetime, c(2))).await.resets_at, None);
}

/// If the clock goes back, the account's time stays at its last change.
pub async fn time_never_goes_back_for_an_account<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme().budget(Budget::daily(c(100)))).await;
    let other = w.create(NewKey::new(account("other"))).await;
    let start = w.clock.now();
    let later = start + secs(DAY);
    w.clock.set(later);
    w.paid(&key, 10).await;
    w.clock.set(start);

    assert_eq!(w.short(&pay(&key, c(91))).await.at, later);
    w.paid(&key, 20).await;
    assert_eq!(
        w.accept(&hold(&key, c(1), MINUTE)).await.outcome,
        Outcome::Held { until: later + secs(MINUTE) }
    );
    let entries = w.entries(EntryQuery::for_account(account("acme"))).await;
    assert!(
        entries.iter().all(|entry| entry.at == later && entry.counts_at == later),
        "{entries:?}"
    );
    assert_eq!(w.balance(&key).await, (c(30), c(1)), "the window did not go back either");
    assert!(w.revoke(&key).await.revoked_at >= Some(later));

    w.paid(&other, 1).await;
    let theirs = w.entries(EntryQuery::for_account(account("other"))).await;
    assert_eq!(theirs[0].at, start, "another account has its own time");
    w.clock.set(later + secs(MINUTE));
    assert_eq!(w.balance(&key).await, (c(30), NOTHING));
}

/// A key is created at its account's time, so that its windows start before its first entry.
pub async fn a_key_is_not_made_in_the_past_of_its_account<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    let first = w.key(100).await;
    let start = w.clock.now();
    w.clock.advance(secs(DAY));
    w.paid(&first, 1).await;
    let paid_at = w.clock.now();
    w.clock.set(start);
    assert!(w.key(100).await.created_at >= paid_at);
    assert!(w.child(&first, 100).await.created_at >= paid_at);
}
