//! Concurrency. On a runtime of one thread, these checks do not test a store that does not yield.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::world::*;
use crate::ledger::{AccountChange, Action, IdempotencyKey, Outcome, Posted, Posting};
use crate::model::{Budget, Clock, Key, KeyPatch, NewKey, Origin, Refusal};
use crate::store::Store;

/// Posts each batch from a task of its own, all at once.
async fn all_at_once<S: Store>(
    w: &World<S>,
    batches: Vec<Vec<Posting>>,
) -> Vec<Result<Posted, Refusal>> {
    let gate = Arc::new(tokio::sync::Barrier::new(batches.len()));
    let mut tasks = JoinSet::new();
    for batch in batches {
        let (store, gate) = (w.store.clone(), gate.clone());
        tasks.spawn(async move {
            gate.wait().await;
            store.post(&batch).await.expect("a store under load answers")
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

fn accepted(posted: &[Result<Posted, Refusal>]) -> usize {
    for refusal in posted.iter().filter_map(|posted| posted.as_ref().err()) {
        assert!(matches!(refusal, Refusal::BudgetExceeded(_)), "{refusal:?}");
    }
    posted.iter().filter(|posted| posted.is_ok()).count()
}

fn in_batches(postings: Vec<Posting>) -> Vec<Vec<Posting>> {
    // The batches have all lengths, from 1 up.
    let (mut batches, mut rest) = (Vec::new(), postings.as_slice());
    while let Some((batch, more)) = rest.split_at_checked((batches.len() % 7 + 1).min(rest.len())) {
        if batch.is_empty() {
            break;
        }
        batches.push(batch.to_vec());
        rest = more;
    }
    batches
}

/// A thousand payments pass no limit of a key and its account while limits come and go.
pub async fn no_limit_is_passed_while_others_come_and_go<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let two = Budget::daily(c(120)).and_monthly(c(150));
    let three = two.and_weekly(c(500));
    let key = w.create(acme().budget(two)).await;
    w.ceiling(&key.account, Budget::weekly(c(900)).and_lifetime(c(950))).await;
    let batches = in_batches((0..1_000).map(|_| pay(&key, c(1))).collect());
    let changes = async {
        for n in 0..40 {
            let budget = if n % 2 == 0 { three } else { two };
            w.update(&key, KeyPatch::new().budget(budget)).await.expect("it may");
        }
    };
    let (posted, ()) = tokio::join!(all_at_once(&w, batches), changes);
    assert_eq!(accepted(&posted), 120);
    let key = w.store.lineage(key.id).await.unwrap().expect("it is there").key().clone();
    assert!(key.balance.windows().all(|spent| spent.amount == c(120)), "{:?}", key.balance);
    let account = w.store.account(&key.account).await.unwrap().expect("it has a ceiling");
    assert!(account.balance.windows().all(|spent| spent.amount == c(120)), "{account:?}");
}

/// Of many concurrent payments of a cent, as many are accepted as there are cents.
pub async fn payments_never_pass_a_limit_together<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let asks = (0..150).map(|_| pay(&key, c(1))).collect();
    let posted = all_at_once(&w, in_batches(asks)).await;
    assert_eq!(accepted(&posted), 100);
    assert_eq!(w.balance(&key).await, (c(100), NOTHING));
    assert_eq!(w.ledger(&key.account).await.len(), 100);
}

/// Ten children, each with the limit of their parent, together spend no more than that limit.
pub async fn children_never_pass_their_parent_together<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let parent = w.key(100).await;
    let mut children = Vec::new();
    for _ in 0..10 {
        children.push(w.child(&parent, 100).await);
    }
    let asks = children.iter().cycle().take(150).map(|child| pay(child, c(1))).collect();
    let posted = all_at_once(&w, in_batches(asks)).await;
    assert_eq!(accepted(&posted), 100);
    assert_eq!(w.balance(&parent).await, (c(100), NOTHING));
    assert_eq!(w.account_balance(&parent).await, (c(100), NOTHING));
    let mut together = 0;
    for child in &children {
        together += w.balance(child).await.0.as_micros();
    }
    assert_eq!(together, c(100).as_micros());
}

/// Concurrent holds and payments together stay within the limit.
pub async fn holds_never_pass_a_limit_together<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let ask = |n| if n % 2 == 0 { hold(&key, c(2), MINUTE) } else { pay(&key, c(2)) };
    let posted = all_at_once(&w, in_batches((0..80).map(ask).collect())).await;
    assert_eq!(accepted(&posted), 50);
    let (spent, held) = w.balance(&key).await;
    assert_eq!(spent.checked_add(held), Some(c(100)));
}

/// One posting that many tasks send at once is accepted each time, and takes effect once.
pub async fn one_posting_sent_often_takes_effect_once<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let (payment, held, end) =
        (pay(&key, c(60)), hold(&key, c(30), MINUTE), settle(&key, &[], c(5)));
    let entry = w.paid(&key, 4).await;
    let back = refund(&key, entry, c(3));
    let batches =
        (0..10).map(|_| vec![payment.clone(), held.clone(), end.clone(), back.clone()]).collect();
    let posted = all_at_once(&w, batches).await;
    assert_eq!(accepted(&posted), 40);
    assert_eq!(w.balance(&key).await, (c(66), c(30)));
    assert_eq!(w.ledger(&key.account).await.len(), 4);
}

/// Of many concurrent requests with one claim, one opens it.
pub async fn one_claim_is_opened_by_one<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(100).await;
    let ask = || {
        posting(
            &key,
            Action::Open { claim: Some(IdempotencyKey::new("a", [0; 32])), ttl: secs(MINUTE) },
        )
    };
    let posted = all_at_once(&w, (0..20).map(|_| vec![ask()]).collect()).await;
    let opened = posted
        .iter()
        .filter(|it| it.as_ref().is_ok_and(|it| it.outcome == Outcome::Opened))
        .count();
    let in_flight = posted.iter().filter(|it| **it == Err(Refusal::InFlight)).count();
    assert_eq!((opened, in_flight), (1, 19));
}

/// Batches that name their accounts in opposite orders are all answered.
pub async fn accounts_in_opposite_order_do_not_deadlock<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let mut keys: Vec<Key> = Vec::new();
    for name in ["a", "b", "c"] {
        keys.push(w.create(NewKey::new(account(name)).budget(Budget::lifetime(c(30)))).await);
    }
    let batch = |n: usize| {
        let mut batch: Vec<_> = keys.iter().map(|key| pay(key, c(1))).collect();
        batch.rotate_left(n % 3);
        if n.is_multiple_of(2) {
            batch.reverse();
        }
        batch
    };
    let posted = all_at_once(&w, (0..40).map(batch).collect()).await;
    assert_eq!(accepted(&posted), 90);
    for key in &keys {
        assert_eq!(w.balance(key).await, (c(30), NOTHING));
    }
}

/// A posting after an acknowledged revocation is refused, while other keys still work.
pub async fn a_revocation_stops_what_starts_after_it<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.create(acme()).await;
    let (doomed, lives) =
        (w.create(NewKey::child_of(root.id)).await, w.create(NewKey::child_of(root.id)).await);
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (store, doomed, lives) = (w.store.clone(), doomed.clone(), lives.clone());
        tasks.spawn(async move {
            for _ in 0..10 {
                let posted =
                    store.post(&[pay(&doomed, c(1)), pay(&lives, c(1))]).await.expect("an answer");
                assert!(
                    posted[1].is_ok() && matches!(posted[0], Ok(_) | Err(Refusal::RevokedKey)),
                    "{posted:?}"
                );
                tokio::task::yield_now().await;
            }
        });
    }
    w.revoke(&doomed).await;
    assert_eq!(w.refuse(&pay(&doomed, c(1))).await, Refusal::RevokedKey);
    let spent = w.balance(&doomed).await.0;
    tasks.join_all().await;
    assert_eq!(w.balance(&doomed).await.0, spent, "not a cent after the revocation");
    assert_eq!(w.balance(&lives).await.0, c(40));
    assert_eq!(w.account_balance(&root).await.0, c(40).saturating_add(spent));
}

/// An account that many create at once, each with another ceiling, is created once.
pub async fn one_account_is_made_by_one<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let gate = Arc::new(tokio::sync::Barrier::new(16));
    let mut tasks = JoinSet::new();
    for cents in 1..=16 {
        let (store, gate) = (w.store.clone(), gate.clone());
        tasks.spawn(async move {
            gate.wait().await;
            let change = AccountChange::Ensure(Budget::daily(c(cents)));
            store
                .change_account(&account("acme"), change, &Origin::new())
                .await
                .expect("a store answers")
        });
    }
    let ensured = tasks.join_all().await;
    let made = w.store.account(&account("acme")).await.unwrap().expect("it was made");
    assert!(made.budget.limit.is_some());
    for account in ensured {
        assert_eq!(account, Ok(made.clone()));
    }
}
