//! Policy changes: keys created, changed, rotated and revoked; ceilings of accounts.

use super::world::*;
use crate::ledger::{AccountChange, KeyChange};
use crate::model::{
    Amount, Budget, ChangeError, Clock, KeyId, KeyPatch, NewKey, Period, Refusal, ScopeSet,
};
use crate::store::Store;

fn scopes(list: &[&str]) -> ScopeSet {
    ScopeSet::parse(list).expect("scopes")
}

#[track_caller]
fn refused<T: std::fmt::Debug>(changed: Result<T, ChangeError>, wanted: &'static str) {
    match changed {
        Err(ChangeError::Invalid { field, .. }) if field == wanted => {}
        other => panic!("answered as {other:?}, though `{wanted}` is to be refused"),
    }
}

/// A child's scopes, limit and expiry are within those of all its ancestors.
pub async fn a_child_stays_inside_its_parent<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let ends = w.clock.now() + secs(DAY);
    let new = NewKey::new(account("acme"))
        .scopes(scopes(&["read", "proxy.*"]))
        .budget(Budget::daily(c(100)));
    let root = w.create(new.expires_at(ends)).await;
    let mid =
        w.create(NewKey::child_of(root.id).scopes(scopes(&["proxy.*"])).expires_at(ends)).await;

    for parent in [&root, &mid] {
        let new = || NewKey::child_of(parent.id);
        refused(w.try_create(new().scopes(ScopeSet::unrestricted())).await, "scopes");
        refused(w.try_create(new().scopes(scopes(&["write"]))).await, "scopes");
        refused(w.try_create(new().budget(Budget::daily(c(101)))).await, "budgets");
        refused(w.try_create(new().expires_at(ends + secs(1))).await, "expires_at");
    }
    refused(w.try_create(NewKey::child_of(mid.id).scopes(scopes(&["read"]))).await, "scopes");
    w.create(NewKey::child_of(root.id).scopes(scopes(&["read"]))).await;
    w.create(
        NewKey::child_of(mid.id).scopes(scopes(&["proxy.chat"])).budget(Budget::daily(c(100))),
    )
    .await;
    w.create(NewKey::child_of(mid.id).budget(Budget::monthly(c(1_000)))).await;
    w.create(NewKey::child_of(mid.id).expires_at(ends)).await;
    w.create(NewKey::child_of(mid.id)).await;
}

/// A lineage has at most as many keys as the rules say.
pub async fn a_lineage_has_a_greatest_depth<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let mut w = World::new(make).await;
    w.rules.max_depth = 3;
    let mut key = w.create(acme()).await;
    for _ in 1..3 {
        key = w.create(NewKey::child_of(key.id)).await;
    }
    refused(w.try_create(NewKey::child_of(key.id)).await, "parent");
    w.rules.max_depth = 4;
    let leaf = w.create(NewKey::child_of(key.id)).await;
    w.paid(&leaf, 1).await;
    assert_eq!(w.account_balance(&leaf).await, (c(1), NOTHING));
}

/// No key is minted from a key that is revoked or expired, itself or by an ancestor.
pub async fn a_child_needs_a_parent_in_force<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let ends = w.clock.now() + secs(MINUTE);
    let expiring = w.create(acme().expires_at(ends)).await;
    let revoked = w.create(acme()).await;
    let below = [
        w.create(NewKey::child_of(expiring.id)).await,
        w.create(NewKey::child_of(revoked.id)).await,
    ];
    w.revoke(&revoked).await;
    w.clock.set(ends);
    for (parent, by, refusal) in [
        (&expiring, &expiring, Refusal::ExpiredKey),
        (&below[0], &expiring, Refusal::ExpiredKey),
        (&revoked, &revoked, Refusal::RevokedKey),
        (&below[1], &revoked, Refusal::RevokedKey),
    ] {
        let made = w.try_create(NewKey::child_of(parent.id)).await;
        let (key, by) = (parent.id, by.id);
        assert_eq!(made.err(), Some(ChangeError::NotInForce { key, by, refusal }));
    }
}

/// A parent that does not exist, or is of another account, is unknown.
pub async fn a_parent_must_exist_in_the_account<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let theirs = w.create(NewKey::new(account("other"))).await;
    for parent in [theirs.id, KeyId::new(987_654)] {
        let made = w.create_in(account("acme"), Some(parent), acme()).await;
        assert_eq!(made.err(), Some(ChangeError::UnknownKey(parent)));
    }
}

/// A refused change creates no key, no account and no token.
pub async fn a_refused_change_leaves_nothing<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    refused(w.try_create(acme().budget(Budget::daily(c(-1)))).await, "budgets");
    refused(w.try_create(acme().name("a\nb")).await, "name");
    refused(w.try_create(acme().name("x".repeat(256))).await, "name");
    refused(w.try_create(acme().expires_at(w.clock.now())).await, "expires_at");
    let budget = Budget::daily(Amount::micros(-1));
    let ensured = w.change_account(&account("acme"), AccountChange::Ensure(budget)).await;
    refused(ensured, "budgets");
    assert_eq!(w.store.account(&account("acme")).await.unwrap(), None, "no account");
    assert_eq!(w.find(crate::model::TokenHash::digest("token 0")).await, None, "no token");
    let (key, token) = w.create_with_token(acme().name("x".repeat(255))).await;
    refused(w.update(&key, KeyPatch::new().name("b").budget(budget)).await, "budgets");
    assert_eq!(w.find(token).await.map(|found| found.lineage.key().clone()), Some(key));
}

/// An account is created by its first key or its first ceiling, and then stays.
pub async fn an_account_is_made_once<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let first = w.ensure(&account("a"), Budget::monthly(c(100))).await;
    assert_eq!((first.created_at, first.budget), (w.clock.now(), Budget::monthly(c(100))));
    assert_eq!((first.balance.spent(), first.balance.held), (NOTHING, NOTHING));
    let key = w.create(NewKey::new(account("b"))).await;
    let unlimited = w.store.account(&key.account).await.unwrap().expect("made with its first key");
    assert_eq!((unlimited.budget, unlimited.created_at), (Budget::unlimited(), w.clock.now()));

    let made = w.clock.now();
    w.clock.advance(secs(MINUTE));
    w.paid(&key, 3).await;
    w.accept(&hold(&key, c(2), DAY)).await;
    for _ in 0..2 {
        let again = w.ceiling(&account("b"), Budget::lifetime(c(7))).await;
        assert_eq!((again.created_at, again.budget), (made, Budget::lifetime(c(7))));
        assert_eq!(
            (again.balance.spent(), again.balance.held),
            (c(3), c(2)),
            "what it spent and holds stays"
        );
        assert_eq!(w.store.account(&account("b")).await.unwrap(), Some(again));
    }
    let limit = w.short(&pay(&key, c(3))).await;
    assert_eq!(limit.remaining, c(2));
    w.ceiling(&account("b"), Budget::unlimited()).await;
    w.accept(&pay(&key, c(3))).await;
}

/// An account that exists is ensured without a change: neither its ceiling nor its time moves.
pub async fn an_account_that_exists_keeps_its_ceiling<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let made = w.ensure(&account("acme"), Budget::monthly(c(10))).await;
    let key = w.create(acme()).await;
    w.paid(&key, 3).await;
    w.clock.advance(secs(MINUTE));
    let spent = w.store.account(&account("acme")).await.unwrap().expect("it was made");
    assert_eq!(spent.balance.spent(), c(3));
    for budget in [Budget::unlimited(), Budget::daily(c(5)), Budget::monthly(c(10))] {
        let again = w.ensure(&account("acme"), budget).await;
        assert_eq!((again.budget, again.created_at), (made.budget, made.created_at));
        assert_eq!(again, spent, "{budget:?}");
        assert_eq!(w.store.account(&account("acme")).await.unwrap(), Some(again));
    }
    w.short(&pay(&key, c(8))).await;
    let of_key = w.create(NewKey::new(account("b"))).await.account;
    assert_eq!(w.ensure(&of_key, Budget::daily(c(5))).await.budget, Budget::unlimited());
}

/// The ceiling of an account that does not exist is not set, and no account is made.
pub async fn the_ceiling_of_an_unknown_account_is_not_set<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    let nobody = account("nobody");
    let set = w.change_account(&nobody, AccountChange::SetBudget(Budget::daily(c(5)))).await;
    assert_eq!(set.err(), Some(ChangeError::UnknownAccount(nobody.clone())));
    assert_eq!(w.store.account(&nobody).await.unwrap(), None);
}

/// Keys without a limit together spend no more than their account's ceiling.
pub async fn an_account_has_a_ceiling_over_its_keys<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (one, two) = (w.create(acme()).await, w.create(acme()).await);
    w.ceiling(&one.account, Budget::lifetime(c(10))).await;
    assert_eq!(w.accept(&pay(&one, c(6))).await.remaining, Some(c(4)));
    let short = w.short(&pay(&two, c(5))).await;
    assert_eq!((short.limit, short.spent, short.remaining), (None, NOTHING, c(4)));
    assert_eq!(w.accept(&pay(&two, c(4))).await.remaining, Some(NOTHING));
}

/// The fields of a patch are changed, and shown at once by token, by id and in the answer. Other
/// fields stay.
pub async fn an_update_changes_what_it_names<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (key, token) = w.create_with_token(acme().name("a").budget(Budget::daily(c(10)))).await;
    w.paid(&key, 4).await;
    let ends = w.clock.now() + secs(2 * DAY);
    let patches = [
        KeyPatch::new().name("ü'\""),
        KeyPatch::new().scopes(scopes(&["read"])),
        KeyPatch::new().budget(Budget::daily(c(3))),
        KeyPatch::new().budget(Budget::new(None, Period::Day)),
        KeyPatch::new().expires_at(ends),
        KeyPatch::new(),
    ];
    let mut wanted = w.store.lineage(key.id).await.unwrap().expect("it is there").key().clone();
    for (step, patch) in patches.into_iter().enumerate() {
        match step {
            0 => wanted.name = "ü'\"".into(),
            1 => wanted.scopes = scopes(&["read"]),
            2 => wanted.budget = Budget::daily(c(3)),
            3 => wanted.budget = Budget::new(None, Period::Day),
            4 => wanted.expires_at = Some(ends),
            _ => {}
        }
        assert_eq!(w.update(&key, patch).await, Ok(wanted.clone()), "step {step}");
        assert_eq!(w.find(token).await.expect("it is there").lineage.key(), &wanted);
        if step == 2 {
            w.short(&pay(&key, NOTHING)).await; // 4 spent, 3 allowed
        }
    }
    w.clock.set(ends);
    assert_eq!(w.refuse(&pay(&key, c(1))).await, Refusal::ExpiredKey);
    let revived = w
        .update(&key, KeyPatch::new().never_expires())
        .await
        .expect("an expired key may be changed");
    assert_eq!(revived.expires_at, None);
    w.accept(&pay(&key, c(1))).await;
}

/// A changed field of a child has to be within its parent. Fields that a narrowed parent leaves
/// outside may stay.
pub async fn an_update_stays_inside_the_parent<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let ends = w.clock.now() + secs(DAY);
    let root = w.create(acme().budget(Budget::daily(c(100))).expires_at(ends)).await;
    let new =
        NewKey::child_of(root.id).scopes(scopes(&["read", "write"])).budget(Budget::daily(c(50)));
    let (child, token) = w.create_with_token(new).await;
    w.update(&root, KeyPatch::new().scopes(scopes(&["read"])).budget(Budget::daily(c(40))))
        .await
        .expect("narrower");
    refused(w.update(&child, KeyPatch::new().scopes(scopes(&["write"]))).await, "scopes");
    refused(w.update(&child, KeyPatch::new().budget(Budget::daily(c(41)))).await, "budgets");
    refused(w.update(&child, KeyPatch::new().expires_at(ends + secs(1))).await, "expires_at");
    w.update(&child, KeyPatch::new().name("renamed").expires_at(ends)).await.expect("inside");
    let lineage = w.find(token).await.expect("it is there").lineage;
    assert_eq!(
        lineage.scopes(None),
        scopes(&["read"]),
        "narrowing a parent narrows its children at once"
    );
    assert_eq!(lineage.key().scopes, scopes(&["read", "write"]));
    w.short(&pay(&child, c(41))).await;
}

/// If the period changes, `spent` is the sum of the entries in the new window, of the key and its
/// descendants.
pub async fn another_period_is_counted_again<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.create(acme().budget(Budget::lifetime(c(1_000)))).await;
    let mid = w.create(NewKey::child_of(root.id)).await;
    let leaf = w.create(NewKey::child_of(mid.id)).await;
    let other = w.create(acme()).await;
    let old = w.paid(&leaf, 1).await;
    w.clock.advance(secs(DAY));
    w.paid(&leaf, 2).await;
    w.paid(&other, 64).await;
    w.accept(&settle(&mid, &[], c(4))).await;
    w.clock.advance(secs(10 * DAY + MINUTE));
    w.paid(&root, 8).await;
    w.accept(&refund(&leaf, old, c(1))).await;
    let expiring = hold_or_charge(&leaf, c(16), MINUTE);
    w.accept(&expiring).await;
    w.accept(&hold(&leaf, c(32), DAY)).await;
    w.clock.advance(secs(MINUTE));

    for (budget, spent) in [
        (Budget::daily(c(100)), 24),
        (Budget::weekly(c(100)), 24),
        (Budget::monthly(c(100)), 30),
        (Budget::monthly(c(100)).calendar(), 30),
        (Budget::lifetime(c(100)), 30),
        (Budget::daily(c(100)).calendar(), 24),
    ] {
        let key = w.update(&root, KeyPatch::new().budget(budget)).await.expect("another period");
        assert_eq!((key.balance.spent(), key.balance.held), (c(spent), c(32)), "{budget:?}");
        assert_eq!(w.balance(&root).await, (c(spent), c(32)), "{budget:?}");
    }
    assert_eq!(w.balance(&mid).await, (c(22), c(32)), "its own period did not change");
    // From here on it counts as a key of that period does: the calendar's day ends at midnight.
    w.clock.set(at("2026-02-12T00:00:00Z"));
    w.accept(&refund(&leaf, expiring.id.into(), c(6))).await;
    assert_eq!(w.balance(&root).await, (NOTHING, c(32)));
    w.paid(&leaf, 3).await;
    let key = w
        .update(&root, KeyPatch::new().budget(Budget::weekly(c(100))))
        .await
        .expect("another period");
    assert_eq!(key.balance.spent(), c(21));
}

/// Charges of another account do not count for the key, neither when they are posted nor in a
/// recount.
pub async fn another_period_counts_what_was_charged_in_the_account<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    let (key, theirs) = (w.create(acme()).await, w.create(NewKey::new(account("other"))).await);
    w.paid(&key, 1).await;
    // The application moved the key to another account while its request ran.
    let mut settle = settle(&key, &[], c(2));
    settle.account = theirs.account.clone();
    w.accept(&settle).await;
    assert_eq!(w.account_balance(&theirs).await, (c(2), NOTHING));
    for budget in [Budget::daily(c(10)), Budget::lifetime(c(10))] {
        assert_eq!(w.balance(&key).await, (c(1), NOTHING));
        let key = w.update(&key, KeyPatch::new().budget(budget)).await.expect("another period");
        assert_eq!(key.balance.spent(), c(1), "{budget:?}");
    }
}

/// If an account's period changes, all its entries in the new window are counted.
pub async fn another_period_of_the_account_is_counted_again<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    let (one, two) = (w.create(acme()).await, w.create(acme()).await);
    let child = w.create(NewKey::child_of(two.id)).await;
    let theirs = w.create(NewKey::new(account("other"))).await;
    w.paid(&one, 1).await;
    w.clock.advance(secs(DAY));
    for (key, cents) in [(&one, 2), (&child, 4), (&theirs, 8)] {
        w.paid(key, cents).await;
    }
    for (budget, spent) in
        [(Budget::daily(c(50)), 6), (Budget::lifetime(c(50)), 7), (Budget::daily(c(50)), 6)]
    {
        let account = w.ceiling(&one.account, budget).await;
        assert_eq!(account.balance.spent(), c(spent), "{budget:?}");
        assert_eq!(w.account_balance(&one).await, (c(spent), NOTHING));
    }
    w.clock.advance(secs(DAY));
    assert_eq!(w.account_balance(&one).await, (NOTHING, NOTHING));
}

/// A rotated key keeps its id, policy, balance and children; only its token changes.
pub async fn a_rotation_keeps_everything_but_the_token<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (key, old) = w.create_with_token(acme().name("a").budget(Budget::daily(c(10)))).await;
    let child = w.child(&key, 5).await;
    w.paid(&child, 3).await;
    let before = w.store.lineage(key.id).await.unwrap().expect("it is there").key().clone();
    let (rotated, new) = w.rotate(&key, 0).await;
    let mut wanted = before.clone();
    wanted.start.clone_from(&rotated.start);
    assert_eq!(rotated, wanted);
    assert_ne!(rotated.start, before.start);
    assert_eq!(w.find(old).await, None);
    let found = w.find(new).await.expect("the new token").lineage;
    assert_eq!(found.key(), &rotated);
    assert_eq!(w.store.lineage(child.id).await.unwrap().expect("there").ancestors(), [rotated]);
    w.accept(&pay(&child, c(1))).await;
}

/// A revocation is final. A second one changes nothing, not even the instant.
pub async fn revoking_again_changes_nothing<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    let revoked = w.revoke(&key).await;
    assert_eq!(revoked.revoked_at, Some(w.clock.now()));
    w.clock.advance(secs(DAY));
    assert_eq!(w.revoke(&key).await, revoked);
    assert_eq!(w.store.lineage(key.id).await.unwrap().map(|it| it.key().clone()), Some(revoked));
}

/// A key that is revoked, itself or by an ancestor, is neither changed nor rotated. It can be
/// revoked.
pub async fn revoked_keys_are_not_changed<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.create(acme()).await;
    let child = w.create(NewKey::child_of(root.id)).await;
    w.revoke(&root).await;
    for key in [&root, &child] {
        let (id, by) = (key.id, root.id);
        let refusal = Some(ChangeError::NotInForce { key: id, by, refusal: Refusal::RevokedKey });
        assert_eq!(w.update(key, KeyPatch::new().name("b")).await.err(), refusal);
        let token = w.token();
        let hash = token.hash;
        let rotated = w.change_key(KeyChange::Rotate { key: key.id, token, grace: secs(0) }).await;
        assert_eq!(rotated.err(), refusal);
        assert_eq!(w.find(hash).await, None);
    }
    assert_eq!(w.revoke(&child).await.revoked_at, Some(w.clock.now()));
}

/// A key that does not exist is unknown to every change.
pub async fn unknown_keys_are_not_changed<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = KeyId::new(987_654);
    for change in [
        KeyChange::Update { key, patch: KeyPatch::new().name("b") },
        KeyChange::Rotate { key, token: w.token(), grace: secs(0) },
        KeyChange::Revoke { key, reason: None },
    ] {
        assert_eq!(w.change_key(change).await.err(), Some(ChangeError::UnknownKey(key)));
    }
    assert_eq!(w.store.lineage(key).await.unwrap(), None);
}

/// The record that a change returns does not count expired holds, and counts what they were
/// charged.
pub async fn holds_that_ran_out_do_not_count_against_a_change<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    let root = w.key(100).await;
    let key = w.child(&root, 100).await;
    w.accept(&hold(&key, c(10), MINUTE)).await;
    w.accept(&hold_or_charge(&key, c(20), MINUTE)).await;
    w.clock.advance(secs(MINUTE));
    let updated = w.update(&key, KeyPatch::new().name("b")).await.expect("a patch");
    assert_eq!((updated.balance.spent(), updated.balance.held), (c(20), NOTHING));
    let account = w.ceiling(&key.account, Budget::lifetime(c(500))).await;
    assert_eq!((account.balance.spent(), account.balance.held), (c(20), NOTHING));
    let revoked = w.revoke(&root).await;
    assert_eq!((revoked.balance.spent(), revoked.balance.held), (c(20), NOTHING));
    assert_eq!(w.ledger(&key.account).await, [("expiry", c(20))]);
}
