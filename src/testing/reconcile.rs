//! Reconciliation of a healthy store: every balance agrees, also beside charges that go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

use super::world::*;
use crate::ledger::{Action, Posting};
use crate::model::{
    Amount, Budget, Clock, Holder, Imported, Key, KeyId, KeyImport, KeyPatch, NewKey, Opening,
    Origin, Reconciled, Refusal, TokenHash,
};
use crate::store::{EntryQuery, EventQuery, Store};

async fn reconcile<S: Store>(w: &World<S>, holder: &Holder) -> Option<Reconciled> {
    w.store.reconcile(holder).await.expect("a store that works compares")
}

/// Compares the balances of an account and of keys, and returns how many there are.
async fn assert_agree<S: Store>(store: &S, keys: &[KeyId], when: &str) -> usize {
    let account = Holder::Account(account("acme"));
    let holders = keys.iter().copied().map(Holder::Key).chain([account]);
    let mut compared = 0;
    for holder in holders {
        let found = store.reconcile(&holder).await.expect("a store that works compares");
        let found = found.unwrap_or_else(|| panic!("{holder:?} is there, {when}"));
        assert_eq!(found.differences, [], "of {holder:?}, {when}");
        assert_eq!(found.holder(), holder);
        compared += 1;
    }
    compared
}

fn adjust(key: &Key, amount: Amount) -> Posting {
    let (note, origin) = (note("reason", "a test", "x"), Box::default());
    posting(key, Action::Adjust { amount, note, origin })
}

/// Every balance agrees with its entries and holds, through all that a ledger does: holds that have expired and were not
/// ended, refunds, adjustments, imports, limits that come and go, and windows that turn.
pub async fn a_healthy_balance_agrees<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.create(acme().budget(Budget::daily(c(500)).and_monthly(c(5_000)))).await;
    let child = w.create(NewKey::child_of(root.id).budget(Budget::monthly(c(900)))).await;
    let leaf = w.create(NewKey::child_of(child.id)).await;
    let beside = w.create(acme()).await;
    let mut keys = vec![root.id, child.id, leaf.id, beside.id];
    w.ceiling(&root.account, Budget::weekly(c(9_000)).and_lifetime(c(90_000))).await;
    let agree = async |keys: &[KeyId], when| assert_agree(&*w.store, keys, when).await;
    agree(&keys, "before anything was charged").await;

    let first = w.paid(&leaf, 40).await;
    let (released, charged) = (hold(&leaf, c(30), MINUTE), hold_or_charge(&child, c(20), MINUTE));
    for posting in [&released, &charged, &hold(&root, c(7), 40 * DAY)] {
        w.accept(posting).await;
    }
    agree(&keys, "while money is held").await;
    w.clock.advance(secs(2 * MINUTE));
    agree(&keys, "when holds have expired and were not ended").await;
    w.accept(&settle(&child, &[&charged], c(25))).await;
    agree(&keys, "when a charged hold was taken back").await;
    w.accept(&adjust(&child, c(-9))).await;
    w.accept(&Posting { key: None, ..adjust(&root, c(3)) }).await;
    agree(&keys, "after adjustments").await;

    let opening = KeyImport::new(
        NewKey::child_of(child.id).budget(Budget::monthly(c(100))),
        TokenHash::digest("sk-imported"),
    );
    match w.import(vec![opening.opening(Opening::spent(c(33)))]).await.remove(0) {
        Ok(Imported::New(key)) => keys.push(key),
        other => panic!("answered as {other:?}, though the key is new"),
    }
    agree(&keys, "after an import").await;

    w.clock.advance(secs(DAY));
    agree(&keys, "when a day has ended, and no posting has come since").await;
    w.paid(&leaf, 5).await;
    agree(&keys, "when a posting has rolled the windows").await;
    w.accept(&refund(&leaf, first, c(15))).await;
    agree(&keys, "after a refund of an entry that counts in the month alone").await;
    for budget in [
        Budget::daily(c(500)).and_weekly(c(800)).and_monthly(c(5_000)).and_lifetime(c(9_000)),
        Budget::lifetime(c(9_000)),
        Budget::daily(c(500)).calendar(),
    ] {
        w.update(&root, KeyPatch::new().budget(budget)).await.expect("it may have these limits");
        w.ceiling(&root.account, budget).await;
        agree(&keys, "after limits came or went").await;
        w.paid(&leaf, 2).await;
        agree(&keys, "after a charge against these limits").await;
    }
    w.clock.advance(secs(40 * DAY));
    agree(&keys, "when every window has ended").await;
    let lifetime = Budget::monthly(c(900)).and_lifetime(c(9_000));
    w.update(&child, KeyPatch::new().budget(lifetime)).await.expect("it may");
    w.paid(&leaf, 3).await;
    assert!(w.prune_entries(32).await > 0);
    agree(&keys, "when old entries are rolled up").await;
    w.revoke(&child).await;
    w.accept(&settle(&leaf, &[&released], c(11))).await;
    let gone = Key { id: KeyId::new(987_654), ..root.clone() };
    w.accept(&settle(&gone, &[], c(6))).await;
    agree(&keys, "after late settles").await;
}

/// Balances at the largest and the smallest amount agree: no entry records more than they could absorb.
pub async fn a_saturated_balance_agrees<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.create(acme().budget(Budget::lifetime(Amount::MAX))).await;
    let child = w.create(NewKey::child_of(root.id).budget(Budget::daily(c(5)))).await;
    let keys = [root.id, child.id];
    for (key, micros) in [
        (&child, i64::MAX - 3),
        (&root, 9),
        (&child, i64::MAX),
        (&root, -7),
        (&child, i64::MIN),
        (&root, i64::MIN),
        (&child, -1),
        (&root, 5),
        (&child, i64::MAX),
    ] {
        w.accept(&adjust(key, Amount::micros(micros))).await;
        assert_agree(&*w.store, &keys, "at the bounds").await;
        w.clock.advance(secs(DAY / 2));
    }
    w.accept(&settle(&child, &[], Amount::MAX)).await;
    assert_agree(&*w.store, &keys, "beyond the largest amount").await;
    w.accept(&adjust(&root, Amount::micros(i64::MIN))).await;
    w.accept(&adjust(&root, Amount::micros(i64::MIN))).await;
    let charged = settle(&root, &[], Amount::micros(9));
    for posting in [
        &charged,
        &adjust(&root, Amount::micros(-9)),
        &refund(&root, charged.id.into(), Amount::micros(4)),
        &adjust(&root, Amount::micros(7)),
        &refund(&root, charged.id.into(), Amount::micros(5)),
    ] {
        w.accept(posting).await;
        assert_agree(&*w.store, &keys, "at the smallest amount").await;
    }
    let budget = Budget::lifetime(Amount::MAX).and_monthly(Amount::MAX);
    w.update(&root, KeyPatch::new().budget(budget)).await.expect("it may");
    assert_agree(&*w.store, &keys, "where a sum has to be counted again").await;
}

/// A holder that is not there is not found, and a key of another account does not count.
pub async fn unknown_holders_are_not_compared<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    let theirs = w.create(NewKey::new(account("other"))).await;
    w.paid(&key, 4).await;
    w.accept(&pay(&theirs, c(9))).await;
    for holder in [Holder::Key(KeyId::new(987_654)), Holder::Account(account("nobody"))] {
        assert_eq!(reconcile(&w, &holder).await, None);
        let mended = w.store.mend(&holder, &Origin::new()).await.expect("an answer");
        assert!(mended.is_none_or(|mended| mended.agrees()), "{holder:?}");
    }
    for holder in [Holder::Key(theirs.id), Holder::Account(account("other"))] {
        let found = reconcile(&w, &holder).await.expect("it is there");
        assert_eq!((found.account, found.differences), (account("other"), vec![]));
    }
}

/// Mending a balance that agrees writes no entry and no event, and leaves what is held and spent.
pub async fn a_balance_that_agrees_is_not_mended<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.key(100).await;
    let child = w.child(&root, 50).await;
    w.paid(&child, 12).await;
    for posting in [hold(&child, c(8), MINUTE), hold(&child, c(5), DAY)] {
        w.accept(&posting).await;
    }
    w.clock.advance(secs(2 * MINUTE));
    for holder in [child.id.into(), root.id.into(), Holder::Account(root.account.clone())] {
        let mended = w.store.mend(&holder, &Origin::new()).await.expect("an answer");
        assert_eq!(mended.expect("it is there").differences, [], "{holder:?}");
    }
    for key in [&child, &root] {
        assert_eq!(w.balance(key).await, (c(12), c(5)));
    }
    assert_eq!(w.account_balance(&root).await, (c(12), c(5)));
    assert_eq!(w.entries(EntryQuery::for_account(account("acme"))).await.len(), 1);
    let events = w.store.events(&EventQuery::for_account(account("acme"))).await.expect("events");
    assert_eq!(events.len(), 2, "of the two keys: {events:?}");
    w.accept(&pay(&child, c(33))).await;
    w.short(&pay(&child, c(1))).await;
}

/// Balances that are compared while they are charged agree at every moment.
pub async fn balances_agree_while_they_are_charged<S: Store>(make: impl AsyncFn(Clock) -> S) {
    const ROUNDS: u32 = 40;
    let w = Arc::new(World::new(make).await);
    let root = w.create(acme().budget(Budget::daily(c(100_000)))).await;
    let mut keys = vec![root.clone()];
    for _ in 0..3 {
        keys.push(w.create(NewKey::child_of(root.id).budget(Budget::daily(c(50_000)))).await);
    }
    w.ceiling(&root.account, Budget::daily(c(500_000)).and_weekly(c(900_000))).await;
    let ids: Vec<_> = keys.iter().map(|key| key.id).collect();
    let is_over = Arc::new(AtomicBool::new(false));

    let mut reading = JoinSet::new();
    for _ in 0..2 {
        let (w, ids, is_over) = (w.clone(), ids.clone(), is_over.clone());
        reading.spawn(async move {
            let mut compared = 0;
            while !is_over.load(Ordering::SeqCst) {
                compared += assert_agree(&*w.store, &ids, "while it is charged").await;
                tokio::task::yield_now().await;
            }
            compared
        });
    }
    let mut charging = JoinSet::new();
    for (n, key) in keys.iter().cloned().enumerate() {
        let w = w.clone();
        charging.spawn(async move {
            for round in 0..ROUNDS {
                charge_once(&w, &key).await;
                // Time goes on by a third of a day now and then, so that windows turn while others charge.
                if n == 0 && round % 5 == 4 {
                    w.clock.advance(secs(DAY / 3));
                    w.store.sweep().await.expect("a sweep");
                }
            }
        });
    }
    let changing = async {
        for n in 0..ROUNDS {
            let more = Budget::daily(c(100_000)).and_monthly(c(900_000)).and_lifetime(Amount::MAX);
            let budget = if n % 2 == 0 { more } else { Budget::daily(c(100_000)) };
            w.update(&root, KeyPatch::new().budget(budget)).await.expect("it may");
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(charging.join_all(), changing);
    is_over.store(true, Ordering::SeqCst);
    let compared: usize = reading.join_all().await.into_iter().sum();
    assert!(compared > 0, "something was compared beside the charges");
    assert_agree(&*w.store, &ids, "when all is charged").await;
}

/// Holds, settles, pays, refunds and adjusts.
async fn charge_once<S: Store>(w: &World<S>, key: &Key) {
    let (held, left, paid) = (hold(key, c(7), MINUTE), hold(key, c(3), MINUTE), pay(key, c(2)));
    accept_all(w, vec![held.clone(), left, paid.clone()]).await;
    let given_back = refund(key, paid.id.into(), c(1));
    accept_all(w, vec![settle(key, &[&held], c(5)), given_back, adjust(key, c(-1))]).await;
}

/// Posts, and sends again what found its account locked for too long.
async fn accept_all<S: Store>(w: &World<S>, mut postings: Vec<Posting>) {
    while !postings.is_empty() {
        let posted = w.post_all(&postings).await;
        let mut answers = posted.into_iter();
        postings.retain(|posting| match answers.next() {
            Some(Err(Refusal::Unavailable { .. })) => true,
            Some(Ok(_)) => false,
            other => panic!("answered as {other:?}, though it is to be accepted: {posting:?}"),
        });
    }
}
