//! Refunds.

use super::world::*;
use crate::ledger::Outcome;
use crate::model::{Amount, Budget, Clock, EntryId, EntryKind, NewKey, PostingId, Refusal};
use crate::store::{EntryQuery, Store};

/// An entry can be refunded in parts until nothing of it is left. The refusal says how much is
/// left.
pub async fn an_entry_is_given_back_in_parts_and_no_further<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    let root = w.key(100).await;
    let key = w.child(&root, 50).await;
    let entry = w.paid(&key, 10).await;
    assert_eq!(
        w.refuse(&refund(&key, entry, c(11))).await,
        Refusal::RefundTooLarge { left: c(10) }
    );
    let back = refund(&key, entry, c(4));
    w.clock.advance(secs(MINUTE));
    let posted = w.accept(&back).await;
    assert_eq!(posted.outcome, Outcome::Refunded { entry: back.id.into() });
    assert_eq!(posted.remaining, Some(c(44)));
    assert_eq!(w.refuse(&refund(&key, entry, c(7))).await, Refusal::RefundTooLarge { left: c(6) });
    w.accept(&refund(&key, entry, c(6))).await;
    assert_eq!(
        w.refuse(&refund(&key, entry, c(1))).await,
        Refusal::RefundTooLarge { left: NOTHING }
    );
    for key in [&key, &root] {
        assert_eq!(w.balance(key).await, (NOTHING, NOTHING));
    }
    assert_eq!(w.account_balance(&key).await, (NOTHING, NOTHING));
    let entries = w.entries(EntryQuery::for_account(account("acme"))).await;
    let second = &entries[1];
    assert_eq!((second.id, second.kind, second.amount), (back.id.into(), EntryKind::Refund, c(-4)));
    assert_eq!((second.refunds, second.key), (Some(entry), Some(key.id)));
    assert_eq!((second.at, second.counts_at), (w.clock.now(), entries[0].at));

    let end = settle(&key, &[], c(8));
    w.accept(&end).await;
    w.accept(&refund(&key, end.id.into(), c(8))).await;
    assert_eq!(
        w.balance(&key).await,
        (NOTHING, NOTHING),
        "settlements are refunded as payments are"
    );
}

/// A repeated refund returns the first answer, and gives nothing back.
pub async fn a_refund_takes_effect_once<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let entry = w.paid(&key, 10).await;
    let back = refund(&key, entry, c(7));
    let first = w.accept(&back).await;
    assert_eq!(w.accept(&back).await.outcome, first.outcome, "though 7 more are not left");
    assert_eq!(w.balance(&key).await, (c(3), NOTHING));
    assert_eq!(w.ledger(&key.account).await.len(), 2);
}

/// An entry that is unknown, of another account, or itself a refund cannot be refunded.
pub async fn only_charges_of_the_account_are_refunded<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (key, theirs) = (w.key(100).await, w.create(NewKey::new(account("other"))).await);
    let (entry, foreign) = (w.paid(&key, 10).await, w.paid(&theirs, 10).await);
    let back = refund(&key, entry, c(5));
    w.accept(&back).await;
    for of in [EntryId::from(PostingId::new()), foreign, back.id.into()] {
        assert_eq!(w.refuse(&refund(&key, of, NOTHING)).await, Refusal::UnknownEntry);
        assert_eq!(w.refuse(&refund(&key, of, c(1))).await, Refusal::UnknownEntry);
    }
    assert_eq!(w.balance(&theirs).await, (c(10), NOTHING));
}

/// A refund into a past window does not lower what is spent in the current one.
pub async fn a_refund_into_a_past_window_leaves_the_current_one<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    let key = w.create(acme().budget(Budget::daily(c(10)))).await;
    let old = w.paid(&key, 10).await;
    w.clock.advance(secs(DAY));
    let new = w.paid(&key, 4).await;
    assert_eq!(w.accept(&refund(&key, old, c(10))).await.remaining, Some(c(6)));
    assert_eq!(w.balance(&key).await, (c(4), NOTHING));
    w.accept(&refund(&key, new, c(1))).await;
    assert_eq!(w.balance(&key).await, (c(3), NOTHING));
    assert_eq!(
        w.account_balance(&key).await,
        (c(3), NOTHING),
        "the account's lifetime counts both"
    );

    // The same holds if the refund itself rolls the window over.
    w.clock.advance(secs(DAY));
    w.accept(&refund(&key, new, c(3))).await;
    assert_eq!(w.balance(&key).await, (NOTHING, NOTHING));
}

/// One refund can count in the parent's month and not in the child's day.
pub async fn a_refund_counts_for_each_member_by_its_own_window<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    let parent = w.create(acme().budget(Budget::monthly(c(100)))).await;
    let child = w.create(NewKey::child_of(parent.id).budget(Budget::daily(c(50)))).await;
    let entry = w.paid(&child, 10).await;
    w.clock.advance(secs(DAY));
    w.paid(&child, 1).await;
    w.accept(&refund(&child, entry, c(10))).await;
    assert_eq!(w.balance(&child).await, (c(1), NOTHING));
    assert_eq!(w.balance(&parent).await, (c(1), NOTHING));
    w.clock.set(at("2026-02-28T12:00:00Z"));
    w.accept(&refund(&child, w.paid(&child, 3).await, c(2))).await;
    assert_eq!(w.balance(&parent).await, (c(1), NOTHING));
}

/// Charges saturate at the largest amount, so a refund takes back no more than was charged.
pub async fn a_refund_of_a_cost_beyond_the_largest_amount_leaves_the_rest<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    let root = w.create(acme()).await;
    let key = w.create(NewKey::child_of(root.id).budget(Budget::lifetime(c(100)))).await;
    w.accept(&pay(&root, c(60))).await;
    w.accept(&pay(&key, c(50))).await;
    let absurd = [settle(&key, &[], Amount::MAX), settle(&key, &[], Amount::MAX)];
    for settle in &absurd {
        w.accept(settle).await;
    }
    let charged = Amount::MAX.saturating_sub(c(110));
    assert_eq!(w.ledger(&key.account).await[2..], [("settle", charged), ("settle", NOTHING)]);
    assert_eq!(w.account_balance(&key).await, (Amount::MAX, NOTHING));
    for (settle, charged) in absurd.iter().zip([charged, NOTHING]) {
        w.accept(&refund(&key, settle.id.into(), charged)).await;
    }
    assert_eq!(
        (w.balance(&key).await, w.balance(&root).await),
        ((c(50), NOTHING), (c(110), NOTHING))
    );
    assert_eq!(w.account_balance(&key).await, (c(110), NOTHING));

    // After the end of a window there is room in the next one.
    let daily = Budget::new(None, crate::model::Period::Day);
    let other = w.create(NewKey::new(account("other")).budget(daily)).await;
    w.ceiling(&other.account, daily).await;
    w.accept(&settle(&other, &[], Amount::MAX)).await;
    w.clock.advance(secs(DAY));
    w.accept(&settle(&other, &[], c(3))).await;
    assert_eq!(
        (w.balance(&other).await, w.account_balance(&other).await),
        ((c(3), NOTHING), (c(3), NOTHING))
    );
}
