//! Holds: set aside, settled, renewed, expired.

use std::time::Duration;

use jiff::Timestamp;

use super::world::*;
use crate::ledger::{Action, OnExpiry, Outcome};
use crate::model::{Amount, Budget, Clock, EntryKind, KeyPatch, NewKey, Refusal};
use crate::store::{EntryQuery, Store};

/// Held money cannot be spent by another key of the lineage until the hold is settled.
pub async fn a_hold_sets_money_aside_on_the_whole_lineage<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    let root = w.key(100).await;
    let (one, two) = (w.child(&root, 80).await, w.child(&root, 80).await);
    let posted = w.accept(&hold(&one, c(70), MINUTE)).await;
    assert_eq!(posted.outcome, Outcome::Held { until: w.clock.now() + secs(MINUTE) });
    assert_eq!(posted.remaining, Some(c(10)));
    for (key, held) in [(&one, 70), (&root, 70), (&two, 0)] {
        assert_eq!(w.balance(key).await, (NOTHING, c(held)));
    }
    assert_eq!(w.account_balance(&root).await, (NOTHING, c(70)));
    assert_eq!(w.short(&hold(&two, c(31), MINUTE)).await.remaining, c(30));
    assert_eq!(w.accept(&hold(&two, c(30), MINUTE)).await.remaining, Some(NOTHING));
    assert_eq!(w.ledger(&root.account).await, [], "a hold is no entry");
}

/// A settle replaces its hold. A lower cost frees the rest, and a higher cost is posted too.
pub async fn a_settled_hold_makes_room_for_its_cost<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.key(100).await;
    let key = w.child(&root, 100).await;
    for (cost, spent) in [(3, 3), (10, 13), (25, 38), (0, 38)] {
        let held = hold(&key, c(10), MINUTE);
        w.accept(&held).await;
        let posted = w.accept(&settle(&key, &[&held], c(cost))).await;
        assert_eq!(posted.remaining, Some(c(100 - spent)));
        for key in [&key, &root] {
            assert_eq!(w.balance(key).await, (c(spent), NOTHING));
        }
        assert_eq!(w.account_balance(&root).await, (c(spent), NOTHING));
    }
}

/// A settle ends the holds that it names, if they are live and of its account, and no others.
pub async fn only_the_named_holds_are_settled<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let theirs = w.create(NewKey::new(account("other"))).await;
    let holds = [hold(&key, c(1), MINUTE), hold(&key, c(2), MINUTE), hold(&key, c(4), MINUTE)];
    let (foreign, never) = (hold(&theirs, c(8), MINUTE), hold(&key, c(16), MINUTE));
    w.post_all(&[&holds[..], std::slice::from_ref(&foreign)].concat()).await;
    w.accept(&settle(&key, &[&holds[0], &foreign, &never, &holds[2], &holds[0]], c(3))).await;
    assert_eq!(w.balance(&key).await, (c(3), c(2)));
    assert_eq!(w.balance(&theirs).await, (NOTHING, c(8)));
    w.accept(&settle(&key, &[&holds[0], &holds[1]], c(3))).await;
    assert_eq!(w.balance(&key).await, (c(6), NOTHING));
}

/// A repeated hold returns its expiry and sets nothing more aside, even if it would be refused by
/// now.
pub async fn a_hold_takes_effect_once<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    let held = hold(&key, c(6), MINUTE);
    let first = w.accept(&held).await;
    w.clock.advance(secs(10));
    assert_eq!(w.accept(&held).await.outcome, first.outcome, "though 6 more would not fit");
    w.revoke(&key).await;
    assert_eq!(w.accept(&held).await.outcome, first.outcome, "though the key was revoked");
    assert_eq!(w.balance(&key).await, (NOTHING, c(6)));
}

/// The id of a hold that was settled, released or charged stays known. It is never held again.
pub async fn a_hold_that_is_over_is_never_held_again<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let (settled, released) = (hold(&key, c(1), MINUTE), hold(&key, c(2), MINUTE));
    let charged = hold_or_charge(&key, c(4), MINUTE);
    for held in [&settled, &released, &charged] {
        w.accept(held).await;
    }
    w.accept(&settle(&key, &[&settled], c(8))).await;
    w.clock.advance(secs(MINUTE));
    for round in ["at its end", "after a sweep", "a month later"] {
        for held in [&settled, &released, &charged] {
            assert_eq!(w.refuse(held).await, Refusal::HoldExpired, "{round}");
        }
        assert_eq!(w.balance(&key).await, (c(12), NOTHING), "{round}");
        w.store.sweep().await.unwrap();
        if round == "after a sweep" {
            w.clock.advance(secs(31 * DAY));
        }
    }
}

/// A hold ends at its expiry, swept or not, and its money can be spent again.
pub async fn a_hold_that_runs_out_is_released<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.key(10).await;
    let key = w.child(&root, 10).await;
    w.accept(&hold(&key, c(10), MINUTE)).await;
    w.clock.advance(secs(MINUTE) - Duration::from_micros(1));
    w.short(&pay(&key, c(1))).await;
    assert_eq!(w.balance(&key).await, (NOTHING, c(10)));
    w.clock.advance(Duration::from_micros(1));
    w.accept(&pay(&key, c(10))).await;
    for key in [&key, &root] {
        assert_eq!(w.balance(key).await, (c(10), NOTHING));
    }

    // A read shows the same.
    let other = w.create(NewKey::new(account("other"))).await;
    w.accept(&hold(&other, c(10), MINUTE)).await;
    w.clock.advance(secs(MINUTE));
    assert_eq!(w.balance(&other).await, (NOTHING, NOTHING));
    assert_eq!(w.account_balance(&other).await, (NOTHING, NOTHING));
    assert_eq!(w.ledger(&root.account).await, [("pay", c(10))], "what is released makes no entry");
}

/// A hold with `OnExpiry::Charge` is charged whole when it expires, under its own id and with its
/// own note.
pub async fn a_hold_that_runs_out_is_charged_where_asked<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.key(100).await;
    let key = w.child(&root, 100).await;
    let held = note("route", "/video", "job 7");
    let action = Action::Hold {
        amount: c(10),
        ttl: secs(MINUTE),
        on_expiry: OnExpiry::Charge,
        note: held.clone(),
        claim: None,
    };
    let held_posting = posting(&key, action);
    w.accept(&held_posting).await;
    w.revoke(&key).await;
    w.clock.advance(secs(2 * MINUTE));
    assert_eq!(w.store.sweep().await.unwrap(), 1);
    for key in [&key, &root] {
        assert_eq!(w.balance(key).await, (c(10), NOTHING));
    }
    assert_eq!(w.account_balance(&root).await, (c(10), NOTHING));
    let entries = w.entries(EntryQuery::for_account(account("acme"))).await;
    assert_eq!(entries.len(), 1);
    let entry = &entries[0];
    assert_eq!(
        (entry.id, entry.kind, entry.amount),
        (held_posting.id.into(), EntryKind::Expiry, c(10))
    );
    assert_eq!((&entry.note, entry.key, entry.at), (&held, Some(key.id), w.clock.now()));
    w.clock.advance(secs(DAY));
    assert_eq!(w.store.sweep().await.unwrap(), 0);
    assert_eq!(w.ledger(&root.account).await.len(), 1, "it is charged once");
}

/// A settle after a charged expiry takes the charge back, once, and posts the whole cost.
pub async fn a_settlement_takes_a_charged_expiry_back<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.key(100).await;
    let key = w.child(&root, 100).await;
    let held = hold_or_charge(&key, c(10), MINUTE);
    w.accept(&held).await;
    w.clock.advance(secs(2 * MINUTE));
    let end = settle(&key, &[&held], c(3));
    assert_eq!(w.accept(&end).await.remaining, Some(c(97)));
    w.accept(&end).await;
    w.accept(&settle(&key, &[&held], NOTHING)).await;
    for key in [&key, &root] {
        assert_eq!(w.balance(key).await, (c(3), NOTHING));
    }
    assert_eq!(
        w.ledger(&root.account).await,
        [("expiry", c(10)), ("refund", c(-10)), ("settle", c(3))]
    );

    // What was refunded of the charge is not taken back twice. Without cost, nothing is left of it.
    let held = hold_or_charge(&key, c(10), MINUTE);
    w.accept(&held).await;
    w.clock.advance(secs(2 * MINUTE));
    w.accept(&refund(&key, held.id.into(), c(4))).await;
    assert_eq!(w.balance(&root).await, (c(9), NOTHING));
    w.accept(&settle(&key, &[&held], NOTHING)).await;
    assert_eq!(w.balance(&root).await, (c(3), NOTHING));

    // In a later window the charge is past, and the cost counts now.
    let daily = w.create(NewKey::new(account("daily")).budget(Budget::daily(c(100)))).await;
    let held = hold_or_charge(&daily, c(10), MINUTE);
    w.accept(&held).await;
    w.clock.advance(secs(2 * MINUTE));
    w.store.sweep().await.unwrap();
    w.clock.advance(secs(DAY));
    w.accept(&settle(&daily, &[&held], c(3))).await;
    assert_eq!(w.balance(&daily).await, (c(3), NOTHING));
    assert_eq!(w.account_balance(&daily).await, (c(3), NOTHING));
}

/// A settle after the release of its hold still posts its whole cost.
pub async fn a_late_settlement_posts_its_whole_cost<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    let held = hold(&key, c(10), MINUTE);
    w.accept(&held).await;
    w.clock.advance(secs(2 * MINUTE));
    w.accept(&pay(&key, c(10))).await;
    w.accept(&settle(&key, &[&held], c(7))).await;
    assert_eq!(w.balance(&key).await, (c(17), NOTHING), "debt");
}

/// A renewal gives every hold that it names more time, never less, and returns the first expiry.
pub async fn a_renewed_hold_lives_longer<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    let (short, long) = (hold(&key, c(4), MINUTE), hold(&key, c(5), 5 * MINUTE));
    w.accept(&short).await;
    w.accept(&long).await;
    let born = w.clock.now();
    w.clock.advance(secs(30));
    let renewal = renew(&key, &[&long, &short], 2 * MINUTE, DAY);
    let posted = w.accept(&renewal).await;
    assert_eq!(posted.outcome, Outcome::Renewed { until: Some(born + secs(150)), over: vec![] });
    assert_eq!(posted.remaining, Some(c(1)));
    assert_eq!(
        w.accept(&short).await.outcome,
        Outcome::Held { until: born + secs(150) },
        "its end moved"
    );
    assert_eq!(
        w.accept(&long).await.outcome,
        Outcome::Held { until: born + secs(300) },
        "never less time"
    );
    w.clock.set(born + secs(149));
    assert_eq!(w.balance(&key).await, (NOTHING, c(9)));
    w.clock.set(born + secs(150));
    assert_eq!(w.balance(&key).await, (NOTHING, c(5)));
    w.clock.set(born + secs(300));
    assert_eq!(w.balance(&key).await, (NOTHING, NOTHING));
}

/// Renewals do not extend a hold beyond the maximum age that they name.
pub async fn a_hold_gets_no_older_than_the_maximum<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    let held = hold(&key, c(4), MINUTE);
    w.accept(&held).await;
    let born = w.clock.now();
    for (age, until) in [(30, 90), (80, 100), (99, 100)] {
        w.clock.set(born + secs(age));
        let posted = w.accept(&renew(&key, &[&held], MINUTE, 100)).await;
        assert_eq!(
            posted.outcome,
            Outcome::Renewed { until: Some(born + secs(until)), over: vec![] },
            "at {age} s"
        );
    }
    w.clock.set(born + secs(100));
    assert_eq!(w.refuse(&renew(&key, &[&held], MINUTE, 100)).await, Refusal::HoldExpired);
    assert_eq!(w.balance(&key).await, (NOTHING, NOTHING));
}

/// A hold that was settled, has expired, is unknown, or is of another account gets no more time.
/// The others do.
pub async fn what_is_over_is_not_renewed<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let theirs = w.create(NewKey::new(account("other"))).await;
    let (settled, ran_out, never) =
        (hold(&key, c(1), MINUTE), hold(&key, c(2), MINUTE), hold(&key, c(4), MINUTE));
    let (foreign, lives) = (hold(&theirs, c(8), 2 * MINUTE), hold(&key, c(16), 2 * MINUTE));
    for held in [&settled, &ran_out, &foreign, &lives] {
        w.accept(held).await;
    }
    w.accept(&settle(&key, &[&settled], NOTHING)).await;
    w.clock.advance(secs(MINUTE));
    for held in [&settled, &ran_out, &never, &foreign] {
        assert_eq!(w.refuse(&renew(&key, &[held], DAY, DAY)).await, Refusal::HoldExpired);
    }
    assert_eq!(w.refuse(&renew(&key, &[], DAY, DAY)).await, Refusal::HoldExpired);
    let all = [&settled, &ran_out, &never, &foreign, &lives];
    let until = Some(w.clock.now() + secs(10 * MINUTE));
    let over = [&settled, &ran_out, &never, &foreign].map(|held| held.id).to_vec();
    assert_eq!(
        w.accept(&renew(&key, &all, 10 * MINUTE, DAY)).await.outcome,
        Outcome::Renewed { until, over }
    );
    w.clock.advance(secs(2 * MINUTE));
    assert_eq!(w.balance(&key).await, (NOTHING, c(16)));
    assert_eq!(w.balance(&theirs).await, (NOTHING, NOTHING));
}

/// A new window starts with nothing spent, but with what is still held.
pub async fn holds_live_through_the_end_of_a_window<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme().budget(Budget::daily(c(10)))).await;
    w.paid(&key, 4).await;
    let held = hold(&key, c(6), 2 * DAY);
    w.accept(&held).await;
    w.clock.advance(secs(DAY));
    assert_eq!(w.balance(&key).await, (NOTHING, c(6)));
    w.short(&pay(&key, c(5))).await;
    w.accept(&pay(&key, c(4))).await;
    w.accept(&settle(&key, &[&held], c(5))).await;
    assert_eq!(w.balance(&key).await, (c(9), NOTHING), "the cost counts when it is posted");
}

/// A sweep ends expired holds of all accounts and returns their number. Repeated sweeps end all of
/// them.
pub async fn a_sweep_ends_what_ran_out<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    assert_eq!(w.store.sweep().await.unwrap(), 0);
    let mut keys = Vec::new();
    for n in 0..5 {
        let key = w
            .create(
                NewKey::new(account(&format!("account {n}"))).budget(Budget::lifetime(c(1_000))),
            )
            .await;
        let batch: Vec<_> = (0..30)
            .flat_map(|_| {
                [
                    hold(&key, c(1), MINUTE),
                    hold_or_charge(&key, c(1), MINUTE),
                    hold(&key, c(1), DAY),
                ]
            })
            .collect();
        assert!(w.post_all(&batch).await.iter().all(Result::is_ok));
        keys.push(key);
    }
    assert_eq!(w.store.sweep().await.unwrap(), 0, "none has run out yet");
    w.clock.advance(secs(MINUTE));
    let mut ended = 0;
    loop {
        match w.store.sweep().await.unwrap() {
            0 => break,
            some => ended += some,
        }
        assert!(ended <= 300, "a hold is ended once");
    }
    assert_eq!(ended, 300);
    for key in &keys {
        assert_eq!(w.balance(key).await, (c(30), c(30)));
        assert_eq!(w.account_balance(key).await, (c(30), c(30)));
        assert_eq!(w.ledger(&key.account).await.len(), 30);
    }
}

/// The longest possible hold is accepted, and so is its renewal, or a patch beside it.
pub async fn a_hold_may_last_to_the_end_of_time<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    let action = Action::Hold {
        amount: Amount::micros(1),
        ttl: Duration::MAX,
        on_expiry: OnExpiry::Charge,
        note: crate::model::Note::default(),
        claim: None,
    };
    let held = posting(&key, action);
    let Outcome::Held { until } = w.accept(&held).await.outcome else { panic!("a hold is held") };
    assert!(until > at("9999-12-01T00:00:00Z") && until <= Timestamp::MAX, "{until}");
    let holds = vec![held.id];
    let action = Action::Renew { holds, ttl: Duration::MAX, max_age: Duration::MAX, claim: None };
    assert_eq!(
        w.accept(&posting(&key, action)).await.outcome,
        Outcome::Renewed { until: Some(until), over: vec![] }
    );
    w.clock.advance(secs(365 * DAY));
    w.update(&key, KeyPatch::new().name("renamed")).await.expect("a patch beside it");
    assert_eq!(w.balance(&key).await, (NOTHING, Amount::micros(1)));
    w.accept(&settle(&key, &[&held], c(1))).await;
    assert_eq!(w.balance(&key).await, (c(1), NOTHING));
}
