//! Budgets of several limits: each is counted for itself, and the tightest binds.

use super::world::*;
use crate::model::{Amount, BlockedBy, Budget, Clock, Key, KeyPatch, NewKey, Period, Spent};
use crate::store::Store;

fn day_and_month(day: i32, month: i32) -> Budget {
    Budget::daily(c(day)).and_monthly(c(month))
}

/// Returns what a key has spent in a period.
async fn spent<S: Store>(w: &World<S>, key: &Key, period: Period) -> Option<Amount> {
    w.store.lineage(key.id).await.unwrap()?.key().balance.spent_in(period)
}

/// The tightest limit binds; each rolls in its own window.
pub async fn the_tightest_limit_binds<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme().budget(day_and_month(10, 25))).await;
    assert_eq!(w.accept(&pay(&key, c(4))).await.remaining, Some(c(6)));
    w.paid(&key, 6).await;
    w.short(&pay(&key, c(1))).await;
    w.clock.advance(secs(DAY));
    assert_eq!(w.accept(&pay(&key, c(10))).await.remaining, Some(NOTHING));
    w.clock.advance(secs(DAY));
    assert_eq!(w.accept(&pay(&key, c(5))).await.remaining, Some(NOTHING), "of the month");
    w.short(&pay(&key, c(1))).await;
    assert_eq!(spent(&w, &key, Period::Day).await, Some(c(5)));
    assert_eq!(spent(&w, &key, Period::Month).await, Some(c(25)));
    assert_eq!(spent(&w, &key, Period::Week).await, None);
}

/// A refusal names the period of the limit that refused, its figures, and when it resets.
pub async fn a_refusal_names_the_period<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme().budget(day_and_month(10, 25))).await;
    w.paid(&key, 8).await;
    let short = w.short(&pay(&key, c(3))).await;
    assert_eq!((short.period, short.limit, short.spent), (Period::Day, Some(c(10)), c(8)));
    assert_eq!(short.resets_at, Some(at("2026-02-01T12:00:00Z")));
    assert_eq!(w.short(&pay(&key, c(11))).await.resets_at, None, "it never fits into a day");
    for _ in 0..2 {
        w.clock.advance(secs(DAY));
        w.paid(&key, 8).await;
    }
    let short = w.short(&pay(&key, c(2))).await;
    assert_eq!((short.period, short.limit, short.spent), (Period::Month, Some(c(25)), c(24)));
    assert_eq!(short.remaining, c(1));
    assert_eq!(short.resets_at, Some(at("2026-02-28T12:00:00Z")));
    let both = w.short(&pay(&key, c(3))).await;
    assert_eq!(both.period, Period::Month, "both refuse, and the month resets last");

    let child = w.create(NewKey::child_of(key.id).budget(Budget::weekly(c(9)))).await;
    let short = w.short(&pay(&child, c(2))).await;
    assert_eq!((short.blocked_by, short.period), (BlockedBy::Ancestor, Period::Month));
    assert_eq!((short.limit, short.spent), (Some(c(9)), NOTHING), "its own figures");
}

/// What is held counts against every limit, and survives the end of a window.
pub async fn held_counts_against_every_limit<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme().budget(day_and_month(10, 25))).await;
    w.clock.advance(secs(DAY - MINUTE));
    let held = hold(&key, c(10), DAY);
    w.accept(&held).await;
    w.short(&pay(&key, c(1))).await;
    w.clock.advance(secs(MINUTE));
    w.short(&pay(&key, c(1))).await;
    // The settlement counts in the new day, and in the month.
    assert_eq!(w.accept(&settle(&key, &[&held], c(7))).await.remaining, Some(c(3)));
    assert_eq!(spent(&w, &key, Period::Day).await, Some(c(7)));
    assert_eq!(spent(&w, &key, Period::Month).await, Some(c(7)));
}

/// A refund counts for each limit whose window of the refunded entry is current.
pub async fn a_refund_counts_by_each_window<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme().budget(day_and_month(10, 25))).await;
    w.ceiling(&key.account, day_and_month(50, 80)).await;
    let entry = w.paid(&key, 9).await;
    w.clock.advance(secs(DAY));
    w.paid(&key, 2).await;
    w.accept(&refund(&key, entry, c(4))).await;
    assert_eq!(spent(&w, &key, Period::Day).await, Some(c(2)));
    assert_eq!(spent(&w, &key, Period::Month).await, Some(c(7)));
    let account = w.store.account(&key.account).await.unwrap().expect("it has a ceiling");
    assert_eq!(account.balance.spent_in(Period::Day), Some(c(2)));
    assert_eq!(account.balance.spent_in(Period::Month), Some(c(7)));
}

/// A new limit is counted from the entries, a changed one keeps what was spent, and one that is
/// removed forgets only itself.
pub async fn limits_come_and_go<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme().budget(Budget::daily(c(50)))).await;
    let child = w.create(NewKey::child_of(key.id)).await;
    w.paid(&child, 5).await;
    w.clock.advance(secs(DAY));
    w.paid(&key, 7).await;
    let held = hold(&key, c(2), DAY);
    w.accept(&held).await;
    let counted =
        |key: &Key| key.balance.windows().map(|s| (s.period, s.amount)).collect::<Vec<_>>();
    for (budget, windows) in [
        (day_and_month(50, 60), vec![(Period::Day, c(7)), (Period::Month, c(12))]),
        (
            day_and_month(8, 60).and_lifetime(c(90)).and_weekly(c(70)).calendar(),
            // It is noon on Sunday, 1 February.
            vec![
                (Period::CalendarDay, c(7)),
                (Period::CalendarWeek, c(12)),
                (Period::CalendarMonth, c(7)),
                (Period::Lifetime, c(12)),
            ],
        ),
        (Budget::monthly(c(13)), vec![(Period::Month, c(12))]),
        (Budget::unlimited(), vec![(Period::Lifetime, c(12))]),
    ] {
        let updated = w.update(&key, KeyPatch::new().budget(budget)).await.expect("it may");
        assert_eq!(updated.budget, budget);
        assert_eq!(counted(&updated), windows, "{budget:?}");
        let read = w.store.lineage(key.id).await.unwrap().expect("it is there").key().clone();
        assert_eq!(read, updated, "{budget:?}");
        assert_eq!(read.balance.held, c(2));
    }
    // Lowered below what was spent, it refuses; removed, it does not.
    w.update(&key, KeyPatch::new().budget(day_and_month(100, 11))).await.expect("it may");
    assert_eq!(w.short(&pay(&key, c(1))).await.period, Period::Month);
    w.update(&key, KeyPatch::new().budget(Budget::daily(c(100)))).await.expect("it may");
    w.paid(&key, 1).await;
}

/// An account has several limits, too.
pub async fn an_account_has_several_limits<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme()).await;
    w.paid(&key, 3).await;
    let account = w.ceiling(&key.account, day_and_month(10, 25)).await;
    assert_eq!(
        account.balance.windows().map(|spent| spent.amount).collect::<Vec<_>>(),
        [c(3), c(3)]
    );
    w.paid(&key, 7).await;
    let short = w.short(&pay(&key, c(1))).await;
    assert_eq!((short.blocked_by, short.period), (BlockedBy::Account, Period::Day));
    w.clock.advance(secs(DAY));
    w.paid(&key, 10).await;
    w.clock.advance(secs(DAY));
    assert_eq!(w.short(&pay(&key, c(6))).await.period, Period::Month);
    let account = w.store.account(&key.account).await.unwrap().expect("it has a ceiling");
    let month = Spent::new(Period::Month, c(20), account.created_at);
    assert_eq!(account.balance.windows().nth(1), Some(&month));
}

/// Where the first limit alone is taken away, the others stay, and count as before.
pub async fn the_other_limits_bind_without_the_first<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let mut budget = Budget::lifetime(c(90)).and_daily(c(10));
    let key = w.create(acme().budget(budget)).await;
    w.ceiling(&key.account, budget).await;
    w.clock.advance(secs(DAY));
    w.paid(&key, 6).await;
    budget.limit = None;
    w.ceiling(&key.account, budget).await;
    w.update(&key, KeyPatch::new().budget(budget)).await.expect("it may");
    let account = w.store.account(&key.account).await.unwrap().expect("it has a ceiling");
    let read = w.store.lineage(key.id).await.unwrap().expect("it is there").key().clone();
    assert_eq!((account.budget, read.budget), (budget, budget));
    for balance in [account.balance, read.balance] {
        assert_eq!(balance.spent_in(Period::Day), Some(c(6)));
    }
    w.short(&pay(&key, c(5))).await;
    w.paid(&key, 4).await;
}

/// Every limit may be as large as an amount can be.
pub async fn a_limit_may_be_the_largest_amount<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let budget = Budget::daily(c(10)).and_lifetime(Amount::MAX);
    let key = w.create(acme().budget(budget)).await;
    let account = w.ceiling(&key.account, budget).await;
    let updated = w.update(&key, KeyPatch::new().budget(budget.and_weekly(Amount::MAX))).await;
    assert_eq!((key.budget, account.budget), (budget, budget));
    assert_eq!(updated.expect("it may").budget, budget.and_weekly(Amount::MAX));
    w.paid(&key, 1).await;
}

/// A child's limit is not above an ancestor's for the same or a longer period.
pub async fn a_child_stays_inside_every_limit<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let parent = w.create(acme().budget(day_and_month(10, 25))).await;
    let child = |budget| w.try_create(NewKey::child_of(parent.id).budget(budget));
    for budget in [
        Budget::daily(c(11)),
        Budget::monthly(c(26)),
        Budget::weekly(c(26)),
        day_and_month(10, 26),
        Budget::monthly(c(1)).and_daily(c(11)),
    ] {
        let refused = child(budget).await.expect_err("beyond the parent's").to_string();
        assert!(refused.starts_with("budgets: "), "{refused}");
        // The figures and the id of an ancestor are not the child's to know.
        assert!(!refused.contains(&parent.id.to_string()), "{refused}");
        assert!(!refused.contains("25") && !refused.contains("10"), "{refused}");
    }
    for budget in [day_and_month(10, 25), Budget::weekly(c(25)), Budget::lifetime(c(1_000))] {
        child(budget).await.expect("inside the parent's");
    }
}
