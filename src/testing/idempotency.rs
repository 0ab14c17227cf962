//! Claims: a client's `Idempotency-Key` that is bound to what was charged under it.

use super::world::*;
use crate::ledger::{Action, IdempotencyClaim, IdempotencyKey, Outcome, Posting};
use crate::model::{Budget, Clock, Entry, Key, NewKey, Refusal};
use crate::store::Store;

const HERE: [u8; 32] = [7; 32];
const ELSEWHERE: [u8; 32] = [8; 32];

fn open(key: &Key, name: &str, fingerprint: [u8; 32]) -> Posting {
    posting(
        key,
        Action::Open { claim: Some(IdempotencyKey::new(name, fingerprint)), ttl: secs(MINUTE) },
    )
}

fn by(name: &str, opened: &Posting) -> Option<IdempotencyClaim> {
    Some(IdempotencyClaim::new(name, opened.id))
}

async fn charged<S: Store>(w: &World<S>, ask: &Posting) -> Entry {
    match w.accept(ask).await.outcome {
        Outcome::Claimed { entry, .. } => *entry,
        other => panic!("answered as {other:?}, though the claim was charged: {ask:?}"),
    }
}

/// While the first request runs, another request with its claim is refused: as in flight, or as a
/// conflict if its content differs. The first request may repeat its own posting.
pub async fn a_claim_keeps_others_out_while_it_runs<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let first = open(&key, "a", HERE);
    for _ in 0..2 {
        assert_eq!(w.accept(&first).await.outcome, Outcome::Opened);
        assert_eq!(w.refuse(&open(&key, "a", HERE)).await, Refusal::InFlight);
        assert_eq!(w.refuse(&open(&key, "a", ELSEWHERE)).await, Refusal::Conflict);
    }
    w.accept(&pay_claimed(&key, c(5), by("a", &first))).await;
    assert_eq!(
        w.refuse(&open(&key, "a", HERE)).await,
        Refusal::InFlight,
        "paid, but not ended yet"
    );
    assert_eq!(w.refuse(&open(&key, "a", ELSEWHERE)).await, Refusal::Conflict);
    assert_eq!(
        w.accept(&open(&key, "b", ELSEWHERE)).await.outcome,
        Outcome::Opened,
        "another claim"
    );

    let batch = [open(&key, "c", HERE), open(&key, "c", HERE)];
    let posted = w.post_all(&batch).await;
    assert!(
        posted[0].is_ok() && posted[1] == Err(Refusal::InFlight),
        "also inside one batch: {posted:?}"
    );
}

/// Two keys may use the same text.
pub async fn a_claim_belongs_to_one_key<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.key(100).await;
    let (child, other) = (w.child(&root, 50).await, w.create(NewKey::new(account("other"))).await);
    for key in [&root, &child, &other] {
        let ask = open(key, "same", HERE);
        assert_eq!(w.accept(&ask).await.outcome, Outcome::Opened);
        w.accept(&settle_with(key, &[], &[], c(1), by("same", &ask))).await;
    }
    assert_eq!(charged(&w, &open(&child, "same", HERE)).await.key, Some(child.id));
    assert_eq!(charged(&w, &open(&other, "same", HERE)).await.key, Some(other.id));
}

/// A charged claim returns its entry for good, and the cost is not charged again. A payment
/// replaces a settle as that entry.
pub async fn a_charged_claim_answers_with_its_entry<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let (settled, paid) = (open(&key, "settled", HERE), open(&key, "paid", HERE));
    w.accept(&settled).await;
    w.accept(&paid).await;
    let action = Action::Settle {
        holds: Vec::new(),
        void: Vec::new(),
        cost: c(5),
        note: note("route", "/chat", "order 7"),
        claim: by("settled", &settled),
    };
    let end = posting(&key, action);
    w.accept(&end).await;
    w.accept(&end).await;
    let payment = pay_claimed(&key, c(3), by("paid", &paid));
    w.accept(&payment).await;
    w.accept(&pay_claimed(&key, c(2), by("paid", &paid))).await;
    w.accept(&settle_with(&key, &[], &[], c(1), by("paid", &paid))).await;

    for _ in 0..2 {
        let entry = charged(&w, &open(&key, "settled", HERE)).await;
        assert_eq!(Some(&entry), w.store.entry(end.id.into()).await.unwrap().as_ref());
        assert_eq!((entry.amount, entry.note), (c(5), note("route", "/chat", "order 7")));
        assert_eq!(
            charged(&w, &open(&key, "paid", HERE)).await.id,
            payment.id.into(),
            "the first payment"
        );
        assert_eq!(w.refuse(&open(&key, "settled", ELSEWHERE)).await, Refusal::Conflict);
        assert_eq!(w.refuse(&open(&key, "paid", ELSEWHERE)).await, Refusal::Conflict);
        w.clock.advance(secs(40 * DAY));
    }
    assert_eq!(w.balance(&key).await, (c(11), NOTHING));

    w.accept(&pay(&key, c(89))).await;
    assert_eq!(
        charged(&w, &open(&key, "paid", HERE)).await.id,
        payment.id.into(),
        "though nothing is left"
    );
    w.revoke(&key).await;
    assert_eq!(w.refuse(&open(&key, "paid", HERE)).await, Refusal::RevokedKey);
}

/// A payment that its own request refunded whole bought nothing, so its claim is free again. After
/// a refund in part, or beside another payment, the claim stays charged.
pub async fn a_payment_given_back_whole_frees_its_claim<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    for (name, refunded, also_paid) in
        [("whole", c(5), false), ("part", c(4), false), ("beside", c(5), true)]
    {
        let ask = open(&key, name, HERE);
        w.accept(&ask).await;
        let payments =
            [pay_claimed(&key, c(5), by(name, &ask)), pay_claimed(&key, c(2), by(name, &ask))];
        let payments = if also_paid { &payments[..] } else { &payments[..1] };
        for payment in payments {
            w.accept(payment).await;
        }
        w.accept(&refund(&key, payments[0].id.into(), refunded)).await;
        let mut claim = by(name, &ask).unwrap();
        claim.paid = payments.iter().map(|payment| payment.id).collect();
        w.accept(&settle_with(&key, &[], &[], NOTHING, Some(claim))).await;

        match w.accept(&open(&key, name, HERE)).await.outcome {
            Outcome::Opened => assert_eq!(name, "whole"),
            Outcome::Claimed { entry, refunded } if name == "part" => {
                assert_eq!((entry.id, refunded), (payments[0].id.into(), c(4)));
            }
            Outcome::Claimed { entry, .. } => {
                assert_eq!((name, entry.id), ("beside", payments[1].id.into()))
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(w.balance(&key).await, (c(1 + 2), NOTHING));
}

/// Work that cost nothing, such as failed work, may be tried again under its claim, with any
/// content.
pub async fn a_claim_that_cost_nothing_is_free_again<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let mut fingerprint = HERE;
    for _ in 0..3 {
        let ask = open(&key, "a", fingerprint);
        assert_eq!(w.accept(&ask).await.outcome, Outcome::Opened);
        w.accept(&settle_with(&key, &[], &[], NOTHING, by("a", &ask))).await;
        fingerprint = if fingerprint == HERE { ELSEWHERE } else { HERE };
    }
    // The claim is opened and ended in one batch.
    let ask = open(&key, "b", HERE);
    let end = settle_with(&key, &[], &[], NOTHING, by("b", &ask));
    assert!(w.post_all(&[ask, end]).await.iter().all(Result::is_ok));
    assert_eq!(w.accept(&open(&key, "b", ELSEWHERE)).await.outcome, Outcome::Opened);
}

/// A claim whose request died without a charge is free after its time. The dead request can neither
/// hold nor pay under it afterwards. Its cost is posted without the claim.
pub async fn a_dead_claim_is_taken_over<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let dead = open(&key, "a", HERE);
    w.accept(&dead).await;
    w.clock.advance(secs(MINUTE) - std::time::Duration::from_micros(1));
    assert_eq!(w.refuse(&open(&key, "a", HERE)).await, Refusal::InFlight);
    w.clock.advance(std::time::Duration::from_micros(1));
    let second = open(&key, "a", ELSEWHERE);
    assert_eq!(w.accept(&second).await.outcome, Outcome::Opened);

    assert_eq!(w.refuse(&open(&key, "a", HERE)).await, Refusal::Conflict);
    assert_eq!(w.refuse(&pay_claimed(&key, c(5), by("a", &dead))).await, Refusal::InFlight);
    assert_eq!(w.refuse(&hold_claimed(&key, c(5), by("a", &dead))).await, Refusal::InFlight);
    assert_eq!(
        w.refuse(&renew_claimed(&key, &[], DAY, DAY, by("a", &dead))).await,
        Refusal::HoldExpired
    );
    w.accept(&settle_with(&key, &[], &[], c(7), by("a", &dead))).await;
    assert_eq!(
        w.refuse(&open(&key, "a", ELSEWHERE)).await,
        Refusal::InFlight,
        "the second still runs"
    );
    let payment = pay_claimed(&key, c(3), by("a", &second));
    w.accept(&payment).await;
    let held = hold_claimed(&key, c(4), by("a", &second));
    w.accept(&held).await;
    w.accept(&settle_with(&key, &[&held], &[], NOTHING, by("a", &second))).await;
    assert_eq!(charged(&w, &open(&key, "a", ELSEWHERE)).await.id, payment.id.into());
    assert_eq!(w.balance(&key).await, (c(10), NOTHING));
}

/// A claim whose request died after a payment returns that payment after its time. It is not opened
/// again.
pub async fn a_dead_claim_that_paid_is_charged<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let dead = open(&key, "a", HERE);
    let payment = pay_claimed(&key, c(5), by("a", &dead));
    w.accept(&dead).await;
    w.accept(&payment).await;
    w.clock.advance(secs(MINUTE));
    assert_eq!(charged(&w, &open(&key, "a", HERE)).await.id, payment.id.into());
    assert_eq!(w.refuse(&open(&key, "a", ELSEWHERE)).await, Refusal::Conflict);
}

/// A request that is charged and continues keeps its claim. The claim is bound to that charge,
/// however the request ends.
pub async fn a_claim_kept_beyond_a_settle_is_bound_to_it<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    for (name, ends, paid) in
        [("dies", false, false), ("ends", true, false), ("gave back", true, true)]
    {
        let ask = open(&key, name, HERE);
        w.accept(&ask).await;
        let mut claim = by(name, &ask).unwrap();
        let payment = pay_claimed(&key, c(5), by(name, &ask));
        if paid {
            w.accept(&payment).await;
            claim.paid.push(payment.id);
        }
        let kept = IdempotencyClaim { is_kept: true, ..claim.clone() };
        w.accept(&settle_with(&key, &[], &[], NOTHING, Some(kept.clone()))).await;
        let first = settle_with(&key, &[], &[], c(3), Some(kept));
        w.accept(&first).await;
        assert_eq!(w.refuse(&open(&key, name, HERE)).await, Refusal::InFlight, "{name}");
        claim.paid.push(first.id);
        if paid {
            w.accept(&refund(&key, payment.id.into(), c(5))).await;
        }
        if ends {
            w.accept(&settle_with(&key, &[], &[], NOTHING, Some(claim))).await;
        } else {
            w.clock.advance(secs(MINUTE));
        }
        assert_eq!(charged(&w, &open(&key, name, HERE)).await.id, first.id.into(), "{name}");
    }
    assert_eq!(w.balance(&key).await, (c(9), NOTHING));

    // A payment still replaces a settle as the claim's entry.
    let ask = open(&key, "pays", HERE);
    w.accept(&ask).await;
    let mut claim = by("pays", &ask).unwrap();
    let first = settle_with(
        &key,
        &[],
        &[],
        c(3),
        Some(IdempotencyClaim { is_kept: true, ..claim.clone() }),
    );
    w.accept(&first).await;
    claim.paid.push(first.id);
    let payment = pay_claimed(&key, c(5), Some(claim.clone()));
    w.accept(&payment).await;
    claim.paid.push(payment.id);
    w.accept(&settle_with(&key, &[], &[], NOTHING, Some(claim))).await;
    assert_eq!(charged(&w, &open(&key, "pays", HERE)).await.id, payment.id.into());
}

/// A payment that is taken back frees its claim, unless a settle was charged under it.
pub async fn a_voided_payment_frees_its_claim<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    for price in [c(5), NOTHING] {
        let ask = open(&key, "a", HERE);
        let payment = pay_claimed(&key, price, by("a", &ask));
        assert_eq!(w.accept(&ask).await.outcome, Outcome::Opened, "free");
        w.accept(&payment).await;
        w.accept(&settle_with(&key, &[], &[&payment], NOTHING, by("a", &ask))).await;
        assert_eq!(w.balance(&key).await, (NOTHING, NOTHING));
    }

    let ask = open(&key, "a", ELSEWHERE);
    let payment = pay_claimed(&key, c(5), by("a", &ask));
    assert_eq!(w.accept(&ask).await.outcome, Outcome::Opened, "free again");
    w.accept(&payment).await;
    let end = settle_with(&key, &[], &[&payment], c(2), by("a", &ask));
    w.accept(&end).await;
    assert_eq!(charged(&w, &open(&key, "a", ELSEWHERE)).await.id, end.id.into());
    assert_eq!(w.balance(&key).await, (c(2), NOTHING));
}

/// A renewed claim refuses other requests for longer, with holds or without. A claim that has ended
/// is not renewed.
pub async fn a_renewed_claim_stays_in_flight<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let ask = open(&key, "a", HERE);
    let held = hold(&key, c(1), MINUTE);
    w.accept(&ask).await;
    w.accept(&held).await;
    w.clock.advance(secs(50));
    let posted = w.accept(&renew_claimed(&key, &[], MINUTE, DAY, by("a", &ask))).await;
    assert_eq!(posted.outcome, Outcome::Renewed { until: None, over: vec![] }, "no hold was named");
    w.clock.advance(secs(50)); // the hold has expired
    assert_eq!(w.refuse(&open(&key, "a", HERE)).await, Refusal::InFlight);
    let posted = w.accept(&renew_claimed(&key, &[&held], MINUTE, DAY, by("a", &ask))).await;
    let over = vec![held.id];
    assert_eq!(
        posted.outcome,
        Outcome::Renewed { until: None, over },
        "the claim lives, the hold does not"
    );
    w.clock.advance(secs(59));
    assert_eq!(w.refuse(&open(&key, "a", HERE)).await, Refusal::InFlight);
    w.accept(&settle_with(&key, &[], &[], c(1), by("a", &ask))).await;
    assert_eq!(
        w.refuse(&renew_claimed(&key, &[], MINUTE, DAY, by("a", &ask))).await,
        Refusal::HoldExpired
    );
    charged(&w, &open(&key, "a", HERE)).await;
}

/// A refused request does not open its claim.
pub async fn a_refused_claim_is_free<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(5).await;
    let payment = w.paid(&key, 5).await;
    w.short(&open(&key, "a", HERE)).await;
    w.accept(&refund(&key, payment, c(5))).await;
    let ask = open(&key, "a", ELSEWHERE);
    assert_eq!(w.accept(&ask).await.outcome, Outcome::Opened);
    // A refused payment is not the claim's entry either.
    w.short(&pay_claimed(&key, c(6), by("a", &ask))).await;
    w.accept(&settle_with(&key, &[], &[], NOTHING, by("a", &ask))).await;
    assert_eq!(w.accept(&open(&key, "a", HERE)).await.outcome, Outcome::Opened);
}

/// Claims are compared by their whole text, byte by byte.
pub async fn a_claim_may_be_any_text<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme().budget(Budget::lifetime(c(100)))).await;
    let long = "x".repeat(255);
    let names = ["a", "A", "a ", "'; --", "\"%_\\", "1", "01", "1e0", &long, &long[1..]];
    let asks: Vec<_> = names.iter().map(|name| open(&key, name, HERE)).collect();
    assert!(w.post_all(&asks).await.iter().all(Result::is_ok), "they are different");
    for (name, ask) in names.iter().zip(&asks) {
        assert_eq!(w.refuse(&open(&key, name, HERE)).await, Refusal::InFlight, "{name:?}");
        let end = settle_with(&key, &[], &[], c(1), by(name, ask));
        w.accept(&end).await;
        assert_eq!(charged(&w, &open(&key, name, HERE)).await.id, end.id.into(), "{name:?}");
    }
}
