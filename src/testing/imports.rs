//! Imports: keys whose tokens another program made, with what they have spent.

use super::world::*;
use crate::model::{
    Amount, Budget, ChangeError, Cidrs, Clock, EntryKind, Imported, KeyId, KeyImport, KeyPatch,
    Lineage, NewKey, Opening, Period, RateLimit, Refusal, ScopeSet, TokenHash,
};
use crate::store::{EntryQuery, Store};

fn hash(n: usize) -> TokenHash {
    TokenHash::digest(&format!("sk-imported-{n}"))
}

fn import(n: usize, key: NewKey) -> KeyImport {
    KeyImport::new(key, hash(n)).start(format!("sk-{n}"))
}

fn monthly(n: usize) -> KeyImport {
    import(n, acme().budget(Budget::monthly(c(100))))
}

fn spent(cents: i32) -> Opening {
    Opening::spent(c(cents))
}

async fn imported<S: Store>(w: &World<S>, import: KeyImport) -> KeyId {
    match w.import(vec![import]).await.remove(0) {
        Ok(Imported::New(key)) => key,
        other => panic!("answered as {other:?}, though the key is new"),
    }
}

async fn found<S: Store>(w: &World<S>, n: usize) -> Lineage {
    w.find(hash(n)).await.expect("an imported key is found by its hash").lineage
}

/// A key is found by the hash that it was imported with, and has what the import says.
pub async fn an_imported_key_is_what_the_import_says<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (ends, scopes) = (w.clock.now() + secs(DAY), ScopeSet::parse(["read"]).expect("scopes"));
    let limit = RateLimit::per_minute(100).burst(20).in_flight(4);
    let ranges = Cidrs::parse(["192.0.2.0/24", "2001:db8::/48"]).expect("ranges");
    let new = NewKey::new(account("acme"))
        .name("crawler")
        .rate_limit(limit)
        .allowed_cidrs(ranges.clone())
        .scopes(scopes.clone())
        .budget(Budget::monthly(c(100)).and_daily(c(10)))
        .expires_at(ends)
        .delegated_by("user_456")
        .metadata(r#"{"team":"search"}"#.parse().expect("metadata"));
    let budget = new.budget;
    let id = imported(&w, import(1, new).disabled(true)).await;
    let lineage = found(&w, 1).await;
    let key = lineage.key();
    assert_eq!((key.id, key.parent, key.name.as_str()), (id, None, "crawler"));
    assert_eq!((key.prefix.as_str(), key.start.as_str()), ("", "sk-1"));
    assert_eq!((&key.scopes, key.budget), (&scopes, budget));
    assert_eq!((key.created_at, key.expires_at), (w.clock.now(), Some(ends)));
    assert_eq!(key.delegated_by.as_deref(), Some("user_456"));
    assert_eq!(key.metadata.to_string(), r#"{"team":"search"}"#);
    assert_eq!((key.rate_limit, key.allowed_cidrs.as_ref()), (Some(limit), Some(&ranges)));
    assert_eq!((key.disabled_at, key.revoked_at), (Some(w.clock.now()), None));
    assert_eq!(lineage.check_active(), Err(Refusal::DisabledKey));
    assert_eq!(w.ledger(&account("acme")).await, []);
    w.change_key(crate::ledger::KeyChange::Update {
        key: id,
        patch: KeyPatch::new().disabled(false),
    })
    .await
    .expect("it may be enabled");
    w.accept(&pay(found(&w, 1).await.key(), c(10))).await;
}

/// What a key has spent is an entry, and counts for the key, its ancestors and its account.
pub async fn an_opening_counts_along_the_lineage<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.create(acme().budget(Budget::monthly(c(1_000)))).await;
    w.paid(&root, 7).await;
    let child = NewKey::child_of(root.id).budget(Budget::monthly(c(100)));
    let id = imported(&w, import(1, child).opening(spent(30))).await;
    let lineage = found(&w, 1).await;
    assert_eq!(lineage.key().balance.spent(), c(30));
    assert_eq!(lineage.remaining(), Some(c(70)));
    assert_eq!(
        (w.balance(&root).await, w.account_balance(&root).await),
        ((c(37), NOTHING), (c(37), NOTHING))
    );
    let entries = w.entries(EntryQuery::for_account(account("acme")).key(id)).await;
    assert_eq!(entries.len(), 1);
    let entry = &entries[0];
    assert_eq!((entry.kind, entry.amount, entry.key), (EntryKind::Opening, c(30), Some(id)));
    assert_eq!((entry.at, entry.counts_at), (w.clock.now(), w.clock.now()));
    w.short(&pay(lineage.key(), c(71))).await;
    w.accept(&pay(lineage.key(), c(70))).await;
}

/// The end of the window is kept, and later windows are counted from it. What was spent in a window
/// that is over is forgotten, unless it is a lifetime.
pub async fn an_opening_ends_with_its_window<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let ends = at("2026-02-10T09:00:00Z");
    imported(&w, monthly(1).opening(spent(30).resets_at(ends))).await;
    let over = Opening::spent(c(30)).resets_at(at("2026-01-10T09:00:00Z"));
    imported(&w, monthly(2).opening(over)).await;
    let lifetime = import(3, acme().budget(Budget::lifetime(c(100))));
    imported(&w, lifetime.opening(over)).await;
    imported(&w, monthly(4).opening(spent(30))).await;
    let state = async |n: usize| {
        let lineage = found(&w, n).await;
        (lineage.key().balance.spent(), lineage.key().resets_at(w.clock.now()))
    };
    assert_eq!(state(1).await, (c(30), Some(ends)));
    assert_eq!(state(2).await, (NOTHING, Some(ends)));
    assert_eq!(state(3).await, (c(30), None));
    assert_eq!(state(4).await, (c(30), Some(at("2026-02-28T12:00:00Z"))));
    let key = found(&w, 1).await.key().clone();
    w.short(&pay(&key, c(71))).await;
    w.clock.set(ends);
    assert_eq!(state(1).await, (NOTHING, Some(at("2026-03-10T09:00:00Z"))));
    w.accept(&pay(&key, c(71))).await;
    assert_eq!(state(1).await, (c(71), Some(at("2026-03-10T09:00:00Z"))));
    assert_eq!(state(3).await, (c(30), None));
}

/// What was spent counts against each limit. Another limit counts it in its own window.
pub async fn an_opening_counts_against_every_limit<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let budget = Budget::daily(c(50)).and_lifetime(c(100));
    let id = imported(&w, import(1, acme().budget(budget)).opening(spent(30))).await;
    let balance = async || found(&w, 1).await.key().balance;
    let of = async |period| balance().await.spent_in(period);
    assert_eq!((of(Period::Day).await, of(Period::Lifetime).await), (Some(c(30)), Some(c(30))));
    w.clock.advance(secs(DAY));
    assert_eq!((of(Period::Day).await, of(Period::Lifetime).await), (Some(NOTHING), Some(c(30))));
    let patch = KeyPatch::new().budget(Budget::monthly(c(200)).and_lifetime(c(100)));
    let change = crate::ledger::KeyChange::Update { key: id, patch };
    w.change_key(change).await.expect("it may be changed");
    assert_eq!((of(Period::Month).await, of(Period::Lifetime).await), (Some(c(30)), Some(c(30))));
}

/// A hash that a key has, or had before a rotation, changes nothing.
pub async fn a_hash_is_imported_once<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let twice = vec![monthly(1).opening(spent(30)), monthly(1).opening(spent(5))];
    let answers = w.import(twice).await;
    let Ok(Imported::New(id)) = answers[0] else { panic!("{answers:?}") };
    assert_eq!(answers[1], Ok(Imported::Known(id)));
    let again = import(1, NewKey::new(account("globex"))).opening(spent(9));
    assert_eq!(w.import(vec![again]).await, [Ok(Imported::Known(id))]);
    assert!(
        w.store
            .account(&account("globex"))
            .await
            .unwrap()
            .is_none_or(|it| it.balance.spent() == NOTHING)
    );
    let key = found(&w, 1).await.key().clone();
    assert_eq!((key.account.clone(), key.balance.spent()), (account("acme"), c(30)));
    let (_, new_hash) = w.rotate(&key, MINUTE).await;
    let again = KeyImport::new(acme(), new_hash);
    let answers = w.import(vec![monthly(1), again]).await;
    assert_eq!(answers, [Ok(Imported::Known(id)), Ok(Imported::Known(id))]);
    assert_eq!(w.ledger(&account("acme")).await, [("opening", c(30))]);
}

/// An import that is refused says why, and the others of its batch are made.
pub async fn a_refused_import_does_not_hinder_the_others<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let ranges = |list: [&'static str; 1]| Cidrs::parse(list).expect("ranges");
    let parent = acme()
        .scopes(ScopeSet::parse(["read"]).expect("scopes"))
        .allowed_cidrs(ranges(["192.0.2.0/24"]));
    let parent = w.create(parent).await;
    let child = |scopes| NewKey::child_of(parent.id).scopes(scopes);
    let answers = w
        .import(vec![
            monthly(0).opening(spent(1)),
            monthly(1).opening(spent(-1)),
            monthly(2).start("sk-imported-2"),
            monthly(3).start("x".repeat(65)),
            import(4, acme().budget(Budget::monthly(c(-1)))),
            import(5, acme().name("x".repeat(256))),
            import(6, child(ScopeSet::unrestricted())),
            import(7, acme().rate_limit(RateLimit::per_minute(1_000_001))),
            import(8, child(ScopeSet::none()).allowed_cidrs(ranges(["192.0.0.0/16"]))),
            import(9, NewKey::new(account("globex"))).opening(spent(2)),
        ])
        .await;
    let refused = |n: usize| match &answers[n] {
        Err(ChangeError::Invalid { field, .. }) => *field,
        other => panic!("answered as {other:?}"),
    };
    let fields: Vec<_> = (1..=8).map(refused).collect();
    assert_eq!(
        fields,
        ["spent", "start", "start", "budgets", "name", "scopes", "rate_limit", "allowed_cidrs"]
    );
    assert!(answers[0].is_ok() && answers[9].is_ok(), "{answers:?}");
    for n in 1..=8 {
        assert!(w.find(hash(n)).await.is_none(), "{n}");
    }
    assert_eq!(w.ledger(&account("acme")).await, [("opening", c(1))]);
    assert_eq!(w.ledger(&account("globex")).await, [("opening", c(2))]);
}

/// A key that has expired is imported, so that its client is told so.
pub async fn an_imported_key_may_have_expired<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    imported(&w, import(1, acme().expires_at(w.clock.now()))).await;
    assert_eq!(found(&w, 1).await.check_active(), Err(Refusal::ExpiredKey));
}

/// A batch of many keys in many accounts is imported whole, and keys with one account share it.
pub async fn many_keys_are_imported_at_once<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let of = |n: usize| account(&format!("account-{}", n % 7));
    let all = |opening: i32| {
        (0..300).map(move |n| import(n, NewKey::new(of(n))).opening(spent(opening))).collect()
    };
    let answers: Vec<_> = w.import(all(2)).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Imported::New(_)))), "{answers:?}");
    let again: Vec<_> = w.import(all(3)).await;
    let known: Vec<_> =
        answers.iter().map(|answer| answer.clone().map(|it| Imported::Known(it.key()))).collect();
    assert_eq!(again, known);
    for n in [0, 1, 150, 299] {
        let lineage = found(&w, n).await;
        assert_eq!(Ok(Imported::New(lineage.id())), answers[n]);
        assert_eq!((lineage.account_id(), lineage.key().balance.spent()), (&of(n), c(2)));
    }
    let total = w.store.account(&of(0)).await.unwrap().expect("its account").balance.spent();
    assert_eq!(total, Amount::cents(2 * 43));
}
