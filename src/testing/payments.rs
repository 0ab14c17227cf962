//! Payments and settles: what is charged, what is refused, and batches.

use std::time::Duration;

use super::world::*;
use crate::ledger::{Action, Outcome, Posting};
use crate::model::{
    Amount, BlockedBy, Budget, Clock, EntryId, EntryKind, Key, KeyId, KeyPatch, Labels, NewKey,
    Note, PostingId, Refusal,
};
use crate::store::{EntryQuery, Store};

fn open(key: &Key) -> Posting {
    posting(key, Action::Open { claim: None, ttl: secs(MINUTE) })
}

/// A key's spend counts on its ancestors and its account too.
pub async fn a_payment_counts_on_the_whole_lineage<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.key(100).await;
    let (mid, other) = (w.child(&root, 80).await, w.child(&root, 100).await);
    let leaf = w.child(&mid, 50).await;
    let stranger = w.create(NewKey::new(account("other"))).await;

    let payment = pay(&leaf, c(5));
    let posted = w.accept(&payment).await;
    assert_eq!(posted.outcome, Outcome::Paid { entry: payment.id.into() });
    assert_eq!(posted.remaining, Some(c(45)), "the least that a member has left");
    for (key, spent) in [(&leaf, 5), (&mid, 5), (&root, 5), (&other, 0), (&stranger, 0)] {
        assert_eq!(w.balance(key).await, (c(spent), NOTHING), "key {}", key.id);
    }
    assert_eq!(w.account_balance(&root).await, (c(5), NOTHING));
    assert_eq!(w.accept(&pay(&mid, c(60))).await.remaining, Some(c(15)));
    assert_eq!(w.accept(&pay(&leaf, c(15))).await.remaining, Some(NOTHING));
    assert_eq!(w.accept(&pay(&stranger, c(1))).await.remaining, None, "no member has a limit");

    let entries = w.entries(EntryQuery::for_account(account("acme"))).await;
    assert_eq!(entries.len(), 3, "one entry for each payment, not for each member");
    let first = &entries[0];
    assert_eq!(
        (first.id, first.key, first.kind),
        (payment.id.into(), Some(leaf.id), EntryKind::Pay)
    );
    assert_eq!((first.amount, first.at, first.counts_at), (c(5), w.clock.now(), w.clock.now()));
    assert_eq!((&first.account, first.refunds), (&leaf.account, None));
}

/// `spent + held + amount ≤ limit`: exactly the limit is accepted, and a micro-unit more is
/// refused.
pub async fn a_limit_can_be_spent_to_the_last_micro<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(1).await;
    w.short(&pay(&key, Amount::micros(10_001))).await;
    w.accept(&pay(&key, Amount::micros(9_000))).await;
    w.accept(&hold(&key, Amount::micros(999), MINUTE)).await;
    w.short(&pay(&key, Amount::micros(2))).await;
    w.short(&hold(&key, Amount::micros(2), MINUTE)).await;
    assert_eq!(w.accept(&pay(&key, Amount::micros(1))).await.remaining, Some(NOTHING));
    w.short(&hold(&key, Amount::micros(1), MINUTE)).await;
    w.accept(&pay(&key, NOTHING)).await;
    assert_eq!(w.balance(&key).await, (Amount::micros(9_001), Amount::micros(999)));
}

/// A refused posting changes no member. The refusal names the member that refused, with the key's
/// own figures.
pub async fn a_refusal_changes_nothing_and_names_the_member<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    w.ensure(&account("acme"), Budget::lifetime(c(30))).await;
    let root = w.key(20).await;
    let mid = w.child(&root, 15).await;
    let leaf = w.child(&mid, 10).await;
    let (free, rich) = (w.create(acme()).await, w.key(1_000).await);
    let before = w.clock.now();
    w.paid(&leaf, 2).await;
    w.accept(&hold(&leaf, c(1), MINUTE)).await;

    let short = w.short(&pay(&leaf, c(8))).await;
    assert_eq!((short.blocked_by, short.limit), (BlockedBy::Key, Some(c(10))));
    assert_eq!((short.spent, short.held, short.remaining), (c(2), c(1), c(7)));
    assert_eq!((short.required, short.resets_at, short.at), (c(8), None, before));

    w.accept(&pay(&mid, c(10))).await; // mid has 2 left
    for ask in [pay(&leaf, c(5)), hold(&leaf, c(5), MINUTE)] {
        let short = w.short(&ask).await;
        assert_eq!(
            (short.blocked_by, short.limit),
            (BlockedBy::Ancestor, Some(c(10))),
            "the key's own limit"
        );
        assert_eq!(
            (short.spent, short.held, short.remaining),
            (c(2), c(1), c(2)),
            "but what the lineage has left"
        );
    }
    w.accept(&pay(&free, c(15))).await; // the account has 2 left
    let short = w.short(&pay(&free, c(3))).await;
    assert_eq!((short.blocked_by, short.limit, short.remaining), (BlockedBy::Account, None, c(2)));
    assert_eq!(w.short(&pay(&rich, c(3))).await.blocked_by, BlockedBy::Account);

    for (key, spent, held) in
        [(&leaf, 2, 1), (&mid, 12, 1), (&root, 12, 1), (&free, 15, 0), (&rich, 0, 0)]
    {
        assert_eq!(w.balance(key).await, (c(spent), c(held)), "key {}", key.id);
    }
    assert_eq!(w.account_balance(&root).await, (c(27), c(1)));
    assert_eq!(w.ledger(&root.account).await.len(), 3, "no entry of what was refused");
}

/// A refused posting can be sent again under the same id, and is decided again.
pub async fn refusals_are_not_remembered<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    let (payment, held) = (pay(&key, c(15)), hold(&key, c(15), MINUTE));
    w.short(&payment).await;
    w.short(&held).await;
    w.update(&key, KeyPatch::new().budget(Budget::lifetime(c(30)))).await.expect("a top-up");
    w.accept(&payment).await;
    w.accept(&held).await;
    assert_eq!(w.balance(&key).await, (c(15), c(15)));
}

/// A hold, payment or refund below zero is refused. A settle below zero costs nothing.
pub async fn negative_amounts_are_refused<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    let entry = w.paid(&key, 5).await;
    for amount in [Amount::micros(-1), Amount::micros(i64::MIN)] {
        assert_eq!(w.refuse(&pay(&key, amount)).await, Refusal::NegativeAmount);
        assert_eq!(w.refuse(&hold(&key, amount, MINUTE)).await, Refusal::NegativeAmount);
        assert_eq!(w.refuse(&refund(&key, entry, amount)).await, Refusal::NegativeAmount);
        assert_eq!(
            w.accept(&settle(&key, &[], amount)).await.outcome,
            Outcome::Settled { entry: None }
        );
    }
    assert_eq!(w.balance(&key).await, (c(5), NOTHING));
    assert_eq!(w.ledger(&key.account).await.len(), 1);
}

/// New work is refused for a key that does not exist, or is of another account.
pub async fn keys_outside_the_account_are_refused<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (key, theirs) = (w.key(10).await, w.create(NewKey::new(account("other"))).await);
    let held = hold(&key, c(1), MINUTE);
    w.accept(&held).await;
    let outside = [
        Key { id: KeyId::new(987_654), ..key.clone() },
        Key { account: theirs.account.clone(), ..key.clone() },
        Key { account: account("unknown"), ..key.clone() },
    ];
    for key in &outside {
        for ask in [open(key), hold(key, c(1), MINUTE), pay(key, c(1))] {
            assert_eq!(w.refuse(&ask).await, Refusal::InvalidKey);
        }
        let refusal = w.refuse(&renew(key, &[&held], MINUTE, DAY)).await;
        assert!(matches!(refusal, Refusal::InvalidKey), "{refusal:?}");
    }
    assert_eq!(w.balance(&key).await, (NOTHING, c(1)));
    assert_eq!(w.account_balance(&theirs).await, (NOTHING, NOTHING));
    assert_eq!(
        w.store.account(&account("unknown")).await.unwrap(),
        None,
        "a refusal makes no account"
    );
}

/// A revoked or expired key, or a descendant, begins no new work. Work that it began is settled and
/// refunded.
pub async fn keys_not_in_force_are_refused_new_work_only<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    for (case, refusal) in [("revoked", Refusal::RevokedKey), ("expired", Refusal::ExpiredKey)] {
        let new = NewKey::new(account(case)).budget(Budget::lifetime(c(100)));
        let root = w.create(new.expires_at(w.clock.now() + secs(MINUTE))).await;
        let leaf = w.child(&root, 50).await;
        let (payment, held) = (w.paid(&leaf, 10).await, hold(&leaf, c(20), DAY));
        w.accept(&held).await;
        match case {
            "revoked" => drop(w.revoke(&root).await),
            _ => w.clock.advance(secs(MINUTE)),
        }
        for key in [&root, &leaf] {
            let renewal = renew(key, &[&held], DAY, DAY);
            for ask in
                [open(key), hold(key, c(1), MINUTE), pay(key, c(1)), pay(key, NOTHING), renewal]
            {
                assert_eq!(w.refuse(&ask).await, refusal, "{ask:?}");
            }
        }
        assert_eq!(w.balance(&root).await, (c(10), c(20)));
        w.accept(&settle(&leaf, &[&held], c(15))).await;
        w.accept(&refund(&leaf, payment, c(4))).await;
        assert_eq!(w.balance(&leaf).await, (c(21), NOTHING));
        assert_eq!(w.balance(&root).await, (c(21), NOTHING));
    }
}

/// Paid work begins only if every member has at least a micro-unit left.
pub async fn opening_needs_something_left<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.key(10).await;
    let leaf = w.child(&root, 5).await;
    let posted = w.accept(&open(&leaf)).await;
    assert_eq!((posted.outcome, posted.remaining), (Outcome::Opened, Some(c(5))));
    w.accept(&pay(&root, Amount::micros(99_999))).await;
    assert_eq!(w.accept(&open(&leaf)).await.remaining, Some(Amount::micros(1)));
    w.accept(&hold(&root, Amount::micros(1), MINUTE)).await;
    assert_eq!(w.short(&open(&leaf)).await.blocked_by, BlockedBy::Ancestor);
    let free_only = w.create(acme().budget(Budget::lifetime(NOTHING))).await;
    assert_eq!(w.short(&open(&free_only)).await.blocked_by, BlockedBy::Key);
    assert_eq!(w.accept(&open(&w.create(acme()).await)).await.remaining, None);
}

/// A repeated payment returns the first answer and charges nothing, even if it would be refused by
/// now.
pub async fn a_payment_takes_effect_once<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    let payment = pay(&key, c(6));
    let first = w.accept(&payment).await;
    w.clock.advance(secs(MINUTE));
    assert_eq!(w.accept(&payment).await.outcome, first.outcome, "though 6 more would not fit");
    w.revoke(&key).await;
    assert_eq!(w.accept(&payment).await.outcome, first.outcome, "though the key was revoked");
    assert_eq!(w.balance(&key).await, (c(6), NOTHING));
    assert_eq!(w.ledger(&key.account).await, [("pay", c(6))]);
}

/// A repeated settle returns the first answer, and posts nothing.
pub async fn a_settlement_takes_effect_once<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let (held, payment) = (hold(&key, c(10), MINUTE), pay(&key, c(5)));
    w.accept(&held).await;
    w.accept(&payment).await;
    let end = settle_with(&key, &[&held], &[&payment], c(7), None);
    let first = w.accept(&end).await;
    assert_eq!(first.outcome, Outcome::Settled { entry: Some(end.id.into()) });
    w.accept(&hold(&key, c(1), DAY)).await;
    w.clock.advance(secs(2 * MINUTE));
    assert_eq!(w.accept(&end).await.outcome, first.outcome);
    assert_eq!(w.balance(&key).await, (c(7), c(1)));
    assert_eq!(w.ledger(&key.account).await, [("pay", c(5)), ("refund", c(-5)), ("settle", c(7))]);
}

/// Incurred cost is posted on every member whatever the limits. Then new work is refused.
pub async fn cost_is_posted_past_the_limit<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    w.ensure(&account("acme"), Budget::lifetime(c(100))).await;
    let root = w.key(50).await;
    let leaf = w.child(&root, 10).await;
    let held = hold(&leaf, c(10), MINUTE);
    w.accept(&held).await;
    let posted = w.accept(&settle(&leaf, &[&held], c(70))).await;
    assert_eq!(posted.remaining, Some(NOTHING), "never shown below zero");
    for key in [&leaf, &root] {
        assert_eq!(w.balance(key).await, (c(70), NOTHING));
        assert_eq!(w.short(&open(key)).await.remaining, NOTHING);
        w.short(&pay(key, NOTHING)).await;
    }
    assert_eq!(w.account_balance(&root).await, (c(70), NOTHING));
    let cousin = w.key(100).await;
    assert_eq!(
        w.accept(&pay(&cousin, c(30))).await.remaining,
        Some(NOTHING),
        "the account had 30 left"
    );
}

/// A settle without cost ends holds and makes no entry.
pub async fn a_settlement_that_cost_nothing_writes_nothing<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let held = hold(&key, c(10), MINUTE);
    w.accept(&held).await;
    let end = settle(&key, &[&held], NOTHING);
    for _ in 0..2 {
        assert_eq!(w.accept(&end).await.outcome, Outcome::Settled { entry: None });
    }
    assert_eq!(w.balance(&key).await, (NOTHING, NOTHING));
    assert_eq!(w.ledger(&key.account).await, []);
}

/// Cost is never lost. If the key's record was deleted before its work ended, its account is
/// charged. The other postings of the batch are not affected.
pub async fn a_settlement_outlives_its_key<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let gone = Key { id: KeyId::new(987_654), ..key.clone() };
    let batch = [pay(&key, c(1)), settle(&gone, &[], c(5)), pay(&key, c(2))];
    let posted = w.post_all(&batch).await;
    assert!(posted.iter().all(Result::is_ok), "{posted:?}");
    assert_eq!(w.balance(&key).await, (c(3), NOTHING));
    assert_eq!(w.account_balance(&key).await, (c(8), NOTHING));
    assert_eq!(w.ledger(&key.account).await, [("pay", c(1)), ("settle", c(5)), ("pay", c(2))]);
}

/// A settle takes a payment in doubt back, as far as it was not refunded, once.
pub async fn a_voided_payment_is_taken_back_once<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.key(100).await;
    let key = w.child(&root, 100).await;
    let (payment, never) = (pay(&key, c(10)), pay(&key, c(20)));
    w.accept(&payment).await;
    w.accept(&refund(&key, payment.id.into(), c(4))).await;
    w.clock.advance(secs(MINUTE));
    w.accept(&settle_with(&key, &[], &[&payment, &never], c(3), None)).await;
    w.accept(&settle_with(&key, &[], &[&payment], c(2), None)).await;
    for key in [&key, &root] {
        assert_eq!(w.balance(key).await, (c(5), NOTHING));
    }
    let entries = w.entries(EntryQuery::for_account(account("acme"))).await;
    let amounts: Vec<_> = entries.iter().map(|entry| entry.amount).collect();
    assert_eq!(amounts, [c(10), c(-4), c(-6), c(3), c(2)]);
    let back = &entries[2];
    assert_eq!((back.kind, back.refunds), (EntryKind::Refund, Some(payment.id.into())));
    assert_eq!(
        (back.at, back.counts_at),
        (w.clock.now(), entries[0].at),
        "it counts where the payment did"
    );
    let left = w.refuse(&refund(&key, payment.id.into(), c(1))).await;
    assert_eq!(left, Refusal::RefundTooLarge { left: NOTHING });

    // A payment of another account is not taken back.
    let theirs = w.create(NewKey::new(account("other"))).await;
    let payment = pay(&theirs, c(9));
    w.accept(&payment).await;
    w.accept(&settle_with(&key, &[], &[&payment], NOTHING, None)).await;
    assert_eq!(w.balance(&theirs).await, (c(9), NOTHING));
    assert_eq!(w.account_balance(&theirs).await, (c(9), NOTHING));
    assert_eq!(w.ledger(&theirs.account).await, [("pay", c(9))]);
}

/// Figures saturate at the largest amount. Charges beyond it are refused or capped, and never wrap.
pub async fn figures_saturate_and_never_wrap<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.create(acme()).await;
    let key = w.create(NewKey::child_of(root.id)).await;
    let held = hold(&key, Amount::MAX, MINUTE);
    w.accept(&held).await;
    let short = w.short(&hold(&key, Amount::micros(1), MINUTE)).await;
    assert_eq!((short.limit, short.held, short.blocked_by), (None, Amount::MAX, BlockedBy::Key));
    w.short(&pay(&key, Amount::MAX)).await;
    w.accept(&settle(&key, &[&held], Amount::MAX)).await;
    w.accept(&settle(&key, &[], Amount::MAX)).await;
    for key in [&key, &root] {
        assert_eq!(w.balance(key).await, (Amount::MAX, NOTHING));
        w.short(&pay(key, Amount::micros(1))).await;
        w.accept(&pay(key, NOTHING)).await;
    }
    assert_eq!(w.account_balance(&key).await, (Amount::MAX, NOTHING));

    let full = w.create(NewKey::new(account("full")).budget(Budget::daily(Amount::MAX))).await;
    assert_eq!(w.accept(&pay(&full, Amount::MAX)).await.remaining, Some(NOTHING));
    w.short(&pay(&full, Amount::micros(1))).await;
    w.clock.advance(secs(DAY));
    assert_eq!(w.account_balance(&full).await, (Amount::MAX, NOTHING));
    w.short(&pay(&full, Amount::micros(1))).await; // the account's lifetime has no room, though the day has
}

/// Postings are decided in order, each after those before it, also with the same id.
pub async fn a_batch_is_answered_in_order<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    assert!(w.post_all(&[]).await.is_empty());
    let (payment, held) = (pay(&key, c(4)), hold(&key, c(6), MINUTE));
    let back = refund(&key, payment.id.into(), c(4));
    let end = settle(&key, &[&held], c(5));
    let batch = [
        payment.clone(),
        payment.clone(),
        held.clone(),
        held.clone(),
        back.clone(),
        end.clone(),
        end,
        back,
        held,
    ];
    let outcomes: Vec<_> =
        w.post_all(&batch).await.into_iter().map(|posted| posted.map(|it| it.outcome)).collect();
    let entry = EntryId::from(payment.id);
    let until = w.clock.now() + secs(MINUTE);
    assert_eq!(outcomes[0], Ok(Outcome::Paid { entry }));
    assert_eq!(outcomes[1], Ok(Outcome::Paid { entry }));
    assert_eq!(outcomes[2], Ok(Outcome::Held { until }));
    assert_eq!(outcomes[3], Ok(Outcome::Held { until }));
    assert_eq!(outcomes[4], Ok(Outcome::Refunded { entry: batch[4].id.into() }));
    assert_eq!(outcomes[5], Ok(Outcome::Settled { entry: Some(batch[5].id.into()) }));
    assert_eq!(outcomes[6], outcomes[5]);
    assert_eq!(outcomes[7], outcomes[4]);
    assert_eq!(outcomes[8], Err(Refusal::HoldExpired));
    assert_eq!(w.balance(&key).await, (c(5), NOTHING));
    assert_eq!(w.ledger(&key.account).await, [("pay", c(4)), ("refund", c(-4)), ("settle", c(5))]);
}

/// Refused postings in the middle of a batch do not change the others.
pub async fn a_refused_posting_does_not_affect_its_batch<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    let stranger = Key { id: KeyId::new(987_654), ..key.clone() };
    let missing = Key { account: account("unknown"), ..key.clone() };
    let lost = EntryId::from(PostingId::new());
    let never = hold(&key, c(1), MINUTE);
    let batch = [
        pay(&key, c(4)),
        pay(&key, c(7)),
        pay(&stranger, c(1)),
        pay(&missing, c(1)),
        settle(&missing, &[], c(1)),
        pay(&key, Amount::micros(-1)),
        refund(&key, lost, c(1)),
        renew(&key, &[&never], MINUTE, DAY),
        hold(&key, Amount::MAX, MINUTE),
        pay(&key, c(6)),
    ];
    let accepted: Vec<_> = w.post_all(&batch).await.iter().map(Result::is_ok).collect();
    assert_eq!(accepted, [true, false, false, false, false, false, false, false, false, true]);
    assert_eq!(w.balance(&key).await, (c(10), NOTHING));
    assert_eq!(w.ledger(&key.account).await, [("pay", c(4)), ("pay", c(6))]);
    assert_eq!(w.store.account(&account("unknown")).await.unwrap(), None);
}

/// One batch may have postings of several accounts, in any order.
pub async fn a_batch_may_touch_many_accounts<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let mut keys = Vec::new();
    for name in ["z", "a", "m", "ä", "Z'\"%"] {
        keys.push(w.create(NewKey::new(account(name)).budget(Budget::lifetime(c(5)))).await);
    }
    let batch: Vec<_> = keys.iter().chain(keys.iter().rev()).map(|key| pay(key, c(2))).collect();
    assert!(w.post_all(&batch).await.iter().all(Result::is_ok));
    let more: Vec<_> = keys.iter().map(|key| pay(key, c(2))).collect();
    assert!(w.post_all(&more).await.iter().all(Result::is_err));
    for key in &keys {
        assert_eq!(w.balance(key).await, (c(4), NOTHING));
        assert_eq!(w.account_balance(key).await, (c(4), NOTHING));
        assert_eq!(w.ledger(&key.account).await.len(), 2);
    }
}

/// A batch of a thousand postings is decided as a short one is.
pub async fn a_long_batch_is_one_batch<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.key(900).await;
    let mut keys = Vec::new();
    for _ in 0..20 {
        keys.push(w.child(&root, 900).await);
    }
    let batch: Vec<_> = keys.iter().cycle().take(1_000).map(|key| pay(key, c(1))).collect();
    let posted = w.post_all(&batch).await;
    assert!(posted[..900].iter().all(Result::is_ok));
    assert!(posted[900..].iter().all(Result::is_err));
    assert_eq!(w.balance(&root).await, (c(900), NOTHING));
    for key in &keys {
        assert_eq!(w.balance(key).await, (c(45), NOTHING));
    }
    let ids: Vec<_> = w
        .entries(EntryQuery::for_account(account("acme")).limit(1_000))
        .await
        .iter()
        .map(|it| it.id)
        .collect();
    let expected: Vec<_> = batch[..900].iter().map(|posting| EntryId::from(posting.id)).collect();
    assert_eq!(ids, expected, "entries are in the order of their postings");
}

/// Labels, reference and instant are read as they were written, whatever characters they have.
pub async fn a_note_is_kept<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    w.clock.advance(Duration::from_micros(1));
    let key = w.key(100).await;
    let mut labels = Labels::new();
    for (name, value) in [
        ("model", "small-1"),
        ("a.b", "dot"),
        ("quote\"'`", "\"'`\\"),
        ("$.x[0]", ""),
        ("größe", "\u{1F916}  two"),
        (" ", "{\"a\":1}"),
    ] {
        labels.insert(name, value).unwrap();
    }
    let note = Note::new(labels, Some("order 'nr' \u{10FFFF}".to_owned()));
    let payment = posting(&key, Action::Pay { amount: c(1), note: note.clone(), claim: None });
    let end = Action::Settle {
        holds: Vec::new(),
        void: Vec::new(),
        cost: c(1),
        note: note.clone(),
        claim: None,
    };
    let end = posting(&key, end);
    w.accept(&payment).await;
    w.accept(&end).await;
    w.accept(&refund(&key, payment.id.into(), c(1))).await;
    let entries = w.entries(EntryQuery::for_account(account("acme"))).await;
    assert_eq!(entries.len(), 3);
    for entry in &entries {
        assert_eq!(entry.note, note, "{:?}", entry.kind);
        assert_eq!(entry.at, at("2026-01-31T12:00:00.000001Z"));
    }
    w.accept(&pay(&key, c(1))).await;
    let plain = w.entries(EntryQuery::for_account(account("acme"))).await.pop().unwrap();
    assert_eq!(plain.note, Note::default());
}
