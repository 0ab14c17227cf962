//! Adjustments: top-ups and corrections by the application.

use super::world::*;
use crate::ledger::{Action, Outcome, Posting};
use crate::model::{Amount, Budget, Clock, EntryKind, Key, KeyPatch, NewKey, Origin, Refusal};
use crate::store::{EntryQuery, Store, UsageBy, UsageQuery};

fn adjust(key: &Key, cents: i32) -> Posting {
    adjust_by(key, cents, &Origin::new())
}

pub(super) fn adjust_by(key: &Key, cents: i32, origin: &Origin) -> Posting {
    let (amount, note) = (c(cents), note("reason", "a test", "ticket 17"));
    posting(key, Action::Adjust { amount, note, origin: Box::new(origin.clone()) })
}

fn adjust_account(key: &Key, cents: i32) -> Posting {
    Posting { key: None, ..adjust(key, cents) }
}

/// After a top-up, so much more can be spent, even if `spent` goes below zero. Its entry has the
/// reason and the amount.
pub async fn a_top_up_lets_more_be_spent<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    w.paid(&key, 4).await;
    w.short(&pay(&key, c(7))).await;
    let top_up = adjust(&key, -6);
    let posted = w.accept(&top_up).await;
    assert_eq!(posted.outcome, Outcome::Adjusted { entry: top_up.id.into() });
    assert_eq!(posted.remaining, Some(c(12)));
    assert_eq!(w.balance(&key).await, (c(-2), NOTHING));
    let lineage = w.store.lineage(key.id).await.unwrap().expect("it is there");
    assert_eq!(lineage.remaining(), Some(c(12)));

    let entry = w.store.entry(top_up.id.into()).await.unwrap().expect("its entry");
    assert_eq!((entry.kind, entry.key, entry.amount), (EntryKind::Adjust, Some(key.id), c(-6)));
    assert_eq!((entry.at, entry.counts_at, entry.refunds), (w.clock.now(), w.clock.now(), None));
    assert_eq!(entry.note, note("reason", "a test", "ticket 17"));

    let short = w.short(&pay(&key, c(13))).await;
    assert_eq!((short.spent, short.remaining), (c(-2), c(12)));
    w.accept(&pay(&key, c(12))).await;
    w.short(&pay(&key, c(1))).await;
    assert_eq!(w.refuse(&adjust(&key, 0)).await, Refusal::ZeroAdjustment);
    assert_eq!(w.ledger(&key.account).await, [("pay", c(4)), ("adjust", c(-6)), ("pay", c(12))]);
}

/// A correction is accepted beyond every limit, and for a revoked or expired key, as a settle is.
pub async fn a_correction_is_always_accepted<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    assert_eq!(w.accept(&adjust(&key, 25)).await.remaining, Some(NOTHING));
    assert_eq!(w.balance(&key).await, (c(25), NOTHING));
    let ends = w.clock.now() + secs(MINUTE);
    let expiring = w.create(acme().expires_at(ends)).await;
    w.clock.set(ends);
    w.accept(&adjust(&expiring, 3)).await;
    w.revoke(&key).await;
    w.accept(&adjust(&key, -5)).await;
    assert_eq!(
        (w.balance(&key).await, w.balance(&expiring).await),
        ((c(20), NOTHING), (c(3), NOTHING))
    );
    assert_eq!(w.account_balance(&key).await, (c(23), NOTHING));
}

/// An adjustment counts for the key and its ancestors, and not for its descendants and siblings.
pub async fn an_adjustment_counts_along_the_lineage<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.key(100).await;
    let (mid, beside) = (w.child(&root, 50).await, w.child(&root, 50).await);
    let leaf = w.child(&mid, 20).await;
    w.paid(&leaf, 8).await;
    w.accept(&adjust(&mid, -3)).await;
    for (key, spent) in [(&root, 5), (&mid, 5), (&leaf, 8), (&beside, 0)] {
        assert_eq!(w.balance(key).await, (c(spent), NOTHING));
    }
    assert_eq!(w.account_balance(&root).await, (c(5), NOTHING));
}

/// An adjustment of an account changes no key's balance, and its entry names no key.
pub async fn an_account_is_adjusted_alone<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme()).await;
    w.ceiling(&key.account, Budget::lifetime(c(10))).await;
    w.paid(&key, 10).await;
    w.short(&pay(&key, c(1))).await;
    let top_up = adjust_account(&key, -5);
    assert_eq!(w.accept(&top_up).await.remaining, Some(c(5)));
    assert_eq!(
        (w.balance(&key).await, w.account_balance(&key).await),
        ((c(10), NOTHING), (c(5), NOTHING))
    );
    let entry = w.store.entry(top_up.id.into()).await.unwrap().expect("its entry");
    assert_eq!((entry.kind, entry.key, &entry.account), (EntryKind::Adjust, None, &key.account));
    assert_eq!(
        w.entries(EntryQuery::for_account(account("acme")).key(key.id)).await.len(),
        1,
        "it is no entry of the key"
    );
    w.accept(&pay(&key, c(5))).await;
    for action in
        [pay(&key, c(1)).action, settle(&key, &[], c(1)).action, hold(&key, c(1), MINUTE).action]
    {
        assert_eq!(
            w.refuse(&Posting::new(account("acme"), None, action)).await,
            Refusal::InvalidKey
        );
    }
}

/// In a limit with a period, an adjustment ends with its window, as debt does.
pub async fn an_adjustment_ends_with_its_window<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme().budget(Budget::daily(c(10)))).await;
    let debtor = w.create(acme().budget(Budget::daily(c(10)))).await;
    w.accept(&adjust(&key, -10)).await;
    w.accept(&adjust(&debtor, 30)).await;
    w.accept(&pay(&key, c(20))).await;
    w.clock.advance(secs(DAY));
    assert_eq!((w.balance(&key).await.0, w.balance(&debtor).await.0), (NOTHING, NOTHING));
    w.short(&pay(&key, c(11))).await;
    w.accept(&pay(&debtor, c(10))).await;
}

/// A repeated adjustment returns the first entry and changes nothing, whatever it now says.
pub async fn an_adjustment_takes_effect_once<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    let first = adjust(&key, -5);
    let other = Posting { id: first.id, ..adjust(&key, -7) };
    let both = w.post_all(&[first.clone(), first.clone()]).await;
    for posted in both.into_iter().chain([w.post(&first).await, w.post(&other).await]) {
        assert_eq!(posted.expect("accepted").outcome, Outcome::Adjusted { entry: first.id.into() });
    }
    assert_eq!(w.balance(&key).await, (c(-5), NOTHING));
    assert_eq!(w.ledger(&key.account).await, [("adjust", c(-5))]);
}

/// A posting with the id of another posting is refused as a conflict, and does not return that
/// posting's answer.
pub async fn an_id_that_another_posting_has_is_a_conflict<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    let (key, other) = (w.key(10).await, w.create(NewKey::new(account("elsewhere"))).await);
    let paid = pay(&key, c(2));
    w.accept(&paid).await;
    let first = adjust(&key, -5);
    w.accept(&first).await;
    let entry = paid.id.into();
    for (id, posting) in [
        (first.id, adjust(&other, -5)),
        (first.id, adjust_account(&key, -5)),
        (first.id, pay(&key, c(1))),
        (first.id, refund(&key, entry, c(1))),
        (paid.id, adjust(&key, -5)),
    ] {
        assert_eq!(w.refuse(&Posting { id, ..posting }).await, Refusal::PostingConflict);
    }
    assert_eq!(
        (w.balance(&key).await, w.balance(&other).await),
        ((c(-3), NOTHING), (NOTHING, NOTHING))
    );
}

/// Neither a top-up nor a correction can be refunded. Another adjustment undoes it.
pub async fn an_adjustment_is_not_refunded<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    for posting in [adjust(&key, 5), adjust(&key, -5), adjust_account(&key, 5)] {
        w.accept(&posting).await;
        for amount in [c(1), NOTHING] {
            assert_eq!(
                w.refuse(&refund(&key, posting.id.into(), amount)).await,
                Refusal::UnknownEntry
            );
        }
        w.accept(&settle_with(&key, &[], &[&posting], NOTHING, None)).await;
    }
    assert_eq!(
        (w.balance(&key).await.0, w.account_balance(&key).await.0),
        (NOTHING, c(5)),
        "a void takes none back"
    );
}

/// Usage has adjustments in a column of their own, whatever it is summed by.
pub async fn usage_has_adjustments_in_a_column_of_their_own<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    let charged = w.paid(&key, 9).await;
    w.accept(&refund(&key, charged, c(2))).await;
    for (cents, of_account) in [(-5, false), (3, false), (-4, true)] {
        w.accept(&if of_account { adjust_account(&key, cents) } else { adjust(&key, cents) }).await;
    }
    let own = key.id.to_string();
    let at_once = |group: &str| vec![(group.to_owned(), c(7), 1, c(-6))];
    for (by, wanted) in [
        (UsageBy::Key, vec![(String::new(), NOTHING, 0, c(-4)), (own.clone(), c(7), 1, c(-2))]),
        (UsageBy::Hour, at_once("2026-01-31T12:00:00Z")),
        (UsageBy::Day, at_once("2026-01-31T00:00:00Z")),
        (UsageBy::Month, at_once("2026-01-01T00:00:00Z")),
        (
            UsageBy::Label("reason".into()),
            vec![(String::new(), c(7), 1, NOTHING), ("a test".into(), NOTHING, 0, c(-6))],
        ),
    ] {
        let usage =
            w.store.usage(&UsageQuery::for_account(account("acme"), by.clone())).await.unwrap();
        let groups: Vec<_> =
            usage.into_iter().map(|it| (it.group, it.amount, it.charges, it.adjusted)).collect();
        assert_eq!(groups, wanted, "{by:?}");
    }
    let usage = w
        .store
        .usage(&UsageQuery::for_account(account("acme"), UsageBy::Key).key(key.id))
        .await
        .unwrap();
    assert_eq!((usage.len(), usage[0].adjusted), (1, c(-2)), "of one key");
    let json = serde_json::to_value(&usage[0]).expect("JSON");
    let wanted =
        serde_json::json!({"group": own, "amount_cents": 7, "charges": 1, "adjusted_cents": -2});
    assert_eq!(json, wanted);
}

/// If the period changes, the adjustments of the new window are counted with its charges.
pub async fn another_period_counts_adjustments<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.create(acme().budget(Budget::lifetime(c(1_000)))).await;
    let child = w.create(NewKey::child_of(root.id)).await;
    w.accept(&adjust(&child, -1)).await;
    w.accept(&adjust_account(&root, -2)).await;
    w.clock.advance(secs(DAY));
    w.paid(&child, 32).await;
    w.accept(&adjust(&child, -4)).await;
    w.accept(&adjust(&root, 8)).await;
    w.accept(&adjust_account(&root, 16)).await;
    for (budget, of_key, of_account) in [
        (Budget::daily(c(100)), 36, 52),
        (Budget::monthly(c(100)), 35, 49),
        (Budget::daily(c(100)).calendar(), 36, 52),
    ] {
        let key = w.update(&root, KeyPatch::new().budget(budget)).await.expect("another period");
        let account = w.ceiling(&root.account, budget).await;
        assert_eq!(
            (key.balance.spent(), account.balance.spent()),
            (c(of_key), c(of_account)),
            "{budget:?}"
        );
    }
}

/// An entry never records more than the balances can absorb, at either end.
pub async fn an_adjustment_saturates<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (key, other) = (w.create(acme()).await, w.create(acme()).await);
    let of = |key: &Key, micros: i64| Posting {
        action: Action::Adjust {
            amount: Amount::micros(micros),
            note: note("reason", "a test", "x"),
            origin: Box::default(),
        },
        ..adjust(key, 1)
    };
    let ledger = async || {
        w.ledger(&key.account)
            .await
            .into_iter()
            .map(|(_, amount)| amount.as_micros())
            .collect::<Vec<_>>()
    };
    w.accept(&of(&key, i64::MIN)).await;
    w.accept(&of(&other, -5)).await;
    w.accept(&of(&key, 3)).await;
    w.accept(&of(&other, -5)).await;
    assert_eq!(ledger().await, [i64::MIN, 0, 3, -3]);
    assert_eq!(
        (w.balance(&key).await.0, w.balance(&other).await.0),
        (Amount::micros(i64::MIN + 3), Amount::micros(-3))
    );
    for _ in 0..3 {
        w.accept(&of(&key, i64::MAX)).await;
    }
    assert_eq!(ledger().await[4..], [i64::MAX, i64::MAX - 2, 0]);
    assert_eq!(w.balance(&key).await.0, Amount::MAX);
    assert_eq!(w.account_balance(&key).await.0, Amount::micros(i64::MAX - 3));
}
