//! Look-ups by token.

use super::world::*;
use crate::ledger::KeyChange;
use crate::model::{
    Amount, Balance, Budget, Clock, KeyId, Lineage, NewKey, Period, Refusal, ScopeSet, TokenHash,
};
use crate::store::{Found, Store};

fn id(found: &Option<Found>) -> Option<i64> {
    found.as_ref().map(|found| found.lineage.id().get())
}

/// Answers are in the order of the hashes or ids, also for repeated and unknown ones.
pub async fn answers_come_in_the_order_of_the_hashes<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (a, token_a) = w.create_with_token(acme()).await;
    let (b, token_b) = w.create_with_token(NewKey::new(account("other"))).await;
    let unknown = TokenHash::digest("an unknown token");

    let found =
        w.store.find(&[token_b, unknown, token_a, token_b, unknown, token_a]).await.unwrap();
    let child = w.create(NewKey::child_of(a.id)).await;
    let ids = [b.id, KeyId::new(987_654), child.id, a.id, child.id];
    let lineages = w.store.lineages(&ids).await.unwrap();
    let members = lineages.iter().map(|it| it.as_ref().map_or(0, Lineage::depth));
    assert_eq!(members.collect::<Vec<_>>(), [1, 0, 2, 1, 2]);
    assert_eq!(
        lineages.iter().flatten().map(Lineage::id).collect::<Vec<_>>(),
        [b.id, child.id, a.id, child.id]
    );
    let [a, b] = [a.id.get(), b.id.get()].map(Some);
    assert_eq!(found.iter().map(id).collect::<Vec<_>>(), [b, None, a, b, None, a]);
    assert_eq!(w.store.find(&[]).await.unwrap(), [], "no hashes, no answers");
}

/// Every field of a record, of its ancestors and of its account is read as it was written.
pub async fn a_record_is_found_as_it_was_made<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let made_at = w.clock.now();
    w.ensure(&account("acme"), Budget::new(Some(Amount::MAX), Period::CalendarWeek)).await;
    let name = "l'agent \"nächtlich\" %_\\ \u{1F916}; DROP TABLE keys";
    let root = w.create(acme().name(name).expires_at(at("2030-01-01T00:00:00.000001Z"))).await;
    assert_eq!((root.name.as_str(), root.created_at, root.parent), (name, made_at, None));
    assert_eq!((root.revoked_at, root.scopes.is_unrestricted()), (None, true));

    w.clock.advance(std::time::Duration::from_micros(1_234_567));
    let scopes = ScopeSet::parse(["read", "proxy.*", "a:b"]).unwrap();
    let mid = NewKey::child_of(root.id)
        .scopes(scopes.clone())
        .budget(Budget::monthly(Amount::micros(1)).calendar());
    let mid = w.create(mid.expires_in("3d".parse().unwrap())).await;
    let (leaf, token) =
        w.create_with_token(NewKey::child_of(mid.id).budget(Budget::daily(Amount::ZERO))).await;
    assert_eq!(
        (leaf.prefix.as_str(), leaf.start.as_str(), leaf.parent),
        ("ak_test", "00000002", Some(mid.id))
    );
    assert_eq!(
        (&mid.scopes, leaf.scopes.is_unrestricted(), leaf.scopes.iter().count()),
        (&scopes, false, 0)
    );

    let found = w.find(token).await.expect("the key is there");
    assert_eq!(found.retires_at, None);
    let lineage = found.lineage;
    assert_eq!(lineage.key(), &leaf);
    assert_eq!(lineage.ancestors(), [mid, root], "ancestors come parent first");
    assert_eq!(lineage.at(), w.clock.now());
    assert_eq!(lineage.account_id(), &account("acme"));
    assert_eq!(lineage.account().budget, Budget::new(Some(Amount::MAX), Period::CalendarWeek));
    assert_eq!(lineage.account().created_at, made_at);
    assert_eq!(w.store.lineage(leaf.id).await.unwrap(), Some(lineage), "by id as by token");
    assert_eq!(w.store.account(&account("unknown")).await.unwrap(), None);

    for period in
        ["lifetime", "day", "week", "month", "calendar_day", "calendar_week", "calendar_month"]
    {
        for limit in [None, Some(Amount::ZERO), Some(Amount::MAX)] {
            let budget = Budget::new(limit, period.parse().unwrap());
            let (key, token) = w.create_with_token(acme().budget(budget)).await;
            assert_eq!(key.budget, budget);
            assert_eq!(w.find(token).await.expect("it is there").lineage.key(), &key);
        }
    }
}

/// A retired token is found until its grace ends, with that end. The new token is found at once.
pub async fn a_retired_token_works_until_its_grace_ends<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (key, first) = w.create_with_token(acme()).await;
    // A store may cache what it found here. It must not serve that after the grace.
    assert_eq!(w.find(first).await.map(|found| found.retires_at), Some(None));
    let (_, second) = w.rotate(&key, MINUTE).await;
    let ends = w.clock.now() + secs(MINUTE);

    let old = w.find(first).await.expect("the old token is in its grace");
    assert_eq!((old.lineage.id(), old.retires_at), (key.id, Some(ends)));
    let new = w.find(second).await.expect("the new token works at once");
    assert_eq!((new.lineage.id(), new.retires_at), (key.id, None));

    // Another rotation does not give the first token more time.
    w.clock.advance(secs(10));
    let (_, third) = w.rotate(&key, 60 * MINUTE).await;
    assert_eq!(w.find(first).await.map(|found| found.retires_at), Some(Some(ends)));
    assert_eq!(w.find(third).await.map(|found| found.retires_at), Some(None));

    w.clock.set(ends - std::time::Duration::from_micros(1));
    assert!(w.find(first).await.is_some(), "a microsecond before its end");
    w.clock.set(ends);
    assert!(w.find(first).await.is_none(), "the grace ends at its instant");
    assert!(w.find(second).await.is_some() && w.find(third).await.is_some());

    // The grace can be ended at once. The current token stays, and so does the grace of other keys.
    let (other, of_other) = w.create_with_token(acme()).await;
    w.rotate(&other, 60 * MINUTE).await;
    w.change_key(KeyChange::EndGrace { key: key.id }).await.expect("the grace may be ended");
    assert!(w.find(second).await.is_none(), "the grace was ended");
    assert_eq!(w.find(third).await.map(|found| found.retires_at), Some(None));
    assert!(w.find(of_other).await.is_some(), "it was the grace of another key");
    w.change_key(KeyChange::EndGrace { key: key.id }).await.expect("a second time too");

    // Without grace, every older token ends at once, even if the clock goes back.
    let (_, fourth) = w.rotate(&key, 0).await;
    w.clock.set(ends - secs(MINUTE));
    for old in [first, second, third] {
        assert!(w.find(old).await.is_none());
    }
    assert!(w.find(fourth).await.is_some());
}

/// A key is still found after it or an ancestor was revoked, and its lineage says so.
pub async fn revocation_shows_at_once_on_the_whole_subtree<S: Store>(
    make: impl AsyncFn(Clock) -> S,
) {
    let w = World::new(make).await;
    let (root, root_token) = w.create_with_token(acme()).await;
    let (mid, mid_token) = w.create_with_token(NewKey::child_of(root.id)).await;
    let (_, leaf_token) = w.create_with_token(NewKey::child_of(mid.id)).await;
    let (_, sibling_token) = w.create_with_token(NewKey::child_of(root.id)).await;
    w.revoke(&mid).await;

    for (token, expected) in [
        (root_token, Ok(())),
        (mid_token, Err(Refusal::RevokedKey)),
        (leaf_token, Err(Refusal::RevokedKey)),
        (sibling_token, Ok(())),
    ] {
        assert_eq!(w.find(token).await.expect("still found").lineage.check_active(), expected);
    }
}

/// A key and its descendants are in force until the instant of its expiry.
pub async fn expiry_shows_at_its_instant<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let ends = w.clock.now() + secs(MINUTE);
    let (root, root_token) = w.create_with_token(acme().expires_at(ends)).await;
    let (_, leaf_token) = w.create_with_token(NewKey::child_of(root.id)).await;
    for (now, expected) in [
        (ends - std::time::Duration::from_micros(1), Ok(())),
        (ends, Err(Refusal::ExpiredKey)),
        (ends + secs(DAY), Err(Refusal::ExpiredKey)),
    ] {
        w.clock.set(now);
        for token in [root_token, leaf_token] {
            assert_eq!(
                w.find(token).await.expect("still found").lineage.check_active(),
                expected,
                "at {now}"
            );
        }
    }
}

/// A look-up does not count expired holds, also before anything ends them.
pub async fn holds_that_ran_out_do_not_show<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (root, root_token) = w.create_with_token(acme().budget(Budget::lifetime(c(100)))).await;
    let (leaf, token) =
        w.create_with_token(NewKey::child_of(root.id).budget(Budget::lifetime(c(90)))).await;
    w.paid(&leaf, 1).await;
    w.accept(&hold(&leaf, c(20), MINUTE)).await;
    w.accept(&hold_or_charge(&leaf, c(4), 2 * MINUTE)).await;
    w.accept(&hold(&root, c(10), DAY)).await;
    for (advance, of_root, of_leaf, remaining) in [
        (0, (1, 34), (1, 24), 65),
        (MINUTE, (1, 14), (1, 4), 85),
        (MINUTE, (5, 10), (5, 0), 85),
        (DAY, (5, 0), (5, 0), 85),
    ] {
        w.clock.advance(secs(advance));
        for round in 0..2 {
            let lineage = w.find(token).await.expect("it is there").lineage;
            let seen = |balance: Balance| (balance.spent(), balance.held);
            let wanted = |(spent, held)| (c(spent), c(held));
            assert_eq!(seen(lineage.key().balance), wanted(of_leaf), "{advance} {round}");
            assert_eq!(seen(lineage.ancestors()[0].balance), wanted(of_root));
            assert_eq!(seen(lineage.account().balance), wanted(of_root));
            assert_eq!(lineage.remaining(), Some(c(remaining)));
            let cached = w.store.try_find_cached(&token, Some(secs(DAY)));
            assert!(cached.is_none_or(|found| found.lineage == lineage));
            let root = w.find(root_token).await.expect("it is there").lineage;
            assert_eq!(seen(root.key().balance), wanted(of_root));
        }
    }
}

/// A look-up shows what was acknowledged before it, and windows as they are at its instant.
pub async fn what_was_charged_shows_at_once<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (root, _) = w.create_with_token(acme().budget(Budget::monthly(c(100)))).await;
    let (leaf, token) =
        w.create_with_token(NewKey::child_of(root.id).budget(Budget::daily(c(50)))).await;
    w.paid(&leaf, 7).await;
    w.accept(&hold(&leaf, c(3), 2 * DAY)).await;

    let lineage = w.find(token).await.expect("it is there").lineage;
    for balance in
        [lineage.key().balance, lineage.ancestors()[0].balance, lineage.account().balance]
    {
        assert_eq!((balance.spent(), balance.held), (c(7), c(3)));
    }
    assert_eq!(lineage.remaining(), Some(c(40)));

    w.clock.advance(secs(DAY));
    let lineage = w.find(token).await.expect("it is there").lineage;
    assert_eq!(
        (lineage.key().balance.spent(), lineage.key().balance.held),
        (NOTHING, c(3)),
        "the day is over"
    );
    assert_eq!(lineage.ancestors()[0].balance.spent(), c(7), "the month is not");
    assert_eq!(lineage.remaining(), Some(c(47)));
}
