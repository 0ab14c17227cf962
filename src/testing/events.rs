//! The audit trail: each change has one event, and refusals are folded.

use serde_json::json;

use super::world::*;
use crate::ledger::{AccountChange, KeyChange, KeyDraft, NewToken};
use crate::model::{
    AccountId, Actor, Budget, Clock, Event, EventKind, Key, KeyId, KeyImport, KeyPatch, NewKey,
    Opening, Origin, TokenHash,
};
use crate::store::{EventQuery, Store};

async fn events<S: Store>(w: &World<S>, query: EventQuery) -> Vec<Event> {
    let page = w.store.events(&query.limit(1_000)).await.unwrap();
    assert!(page.is_sorted_by(|(one, _), (other, _)| one < other), "events come in order");
    page.into_iter().map(|(_, event)| event).collect()
}

async fn of_acme<S: Store>(w: &World<S>) -> Vec<Event> {
    events(w, EventQuery::for_account(account("acme"))).await
}

fn kinds(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}

/// Every change of a key has one event, with what changed, who acted, and the chain of delegation. A
/// change that changes nothing has none.
pub async fn a_change_has_one_event<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let mut w = World::new(make).await;
    w.rules.origin = Origin::by(Actor::principal("ops")).request_id("req-7").route("/admin");
    let root = w.create(acme().name("root").delegated_by("user_7")).await;
    let key = w.create(NewKey::child_of(root.id).name("agent")).await;
    let child = w.create(NewKey::child_of(key.id)).await;
    w.create(NewKey::child_of(child.id)).await;
    w.revoke(&w.create(NewKey::child_of(key.id)).await).await;
    let before = of_acme(&w).await.len();

    w.clock.advance(secs(MINUTE));
    let renamed = KeyPatch::new().name("crawler").budget(Budget::daily(c(5)));
    w.update(&key, renamed.clone()).await.unwrap();
    w.update(&key, renamed).await.unwrap();
    w.update(&key, KeyPatch::new().disabled(true)).await.unwrap();
    w.update(&key, KeyPatch::new().disabled(false)).await.unwrap();
    w.rotate(&key, 60).await;
    let revoke = KeyChange::Revoke { key: key.id, reason: Some("leaked".to_owned()) };
    w.change_key(revoke.clone()).await.unwrap();
    w.change_key(revoke).await.unwrap();

    let all = of_acme(&w).await;
    let (made, done) = all.split_at(before);
    assert_eq!(kinds(made)[..2], ["key.created", "key.created"]);
    assert_eq!(made[1].detail["parent"], json!(root.id));
    assert_eq!(
        kinds(done),
        ["key.updated", "key.disabled", "key.enabled", "key.rotated", "key.revoked"]
    );
    for event in done.iter().chain(&made[1..2]) {
        assert_eq!((event.key, &event.account), (Some(key.id), &key.account), "{event:?}");
        assert_eq!(event.lineage, [key.id, root.id], "{event:?}");
        assert_eq!(event.delegated_by.as_deref(), Some("user_7"), "{event:?}");
        assert_eq!((&event.origin, event.count), (&w.rules.origin, 1), "{event:?}");
    }
    assert!(done.iter().all(|event| event.at == w.clock.now()));
    assert_eq!(made[1].key_name.as_deref(), Some("agent"));
    assert_eq!(done[4].key_name.as_deref(), Some("crawler"), "a revoked key keeps its name");
    let changed = &done[0].detail["changed"];
    assert_eq!(changed["name"], json!({"from": "agent", "to": "crawler"}));
    assert_eq!(changed["budgets"]["to"], json!(Budget::daily(c(5))));
    assert_eq!(changed.as_object().unwrap().len(), 2, "{changed}");
    assert_eq!(done[4].detail, json!({"reason": "leaked", "descendants": 2}));
    let text = serde_json::to_string(&all).unwrap();
    assert!(!text.contains(&TokenHash::digest("token 1").to_string()), "no hash of a token");
}

/// The end of a grace has an event if a token was in its grace, and none if none was.
pub async fn the_end_of_no_grace_has_no_event<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (key, other) = (w.create(acme()).await, w.create(acme()).await);
    let end = async || w.change_key(KeyChange::EndGrace { key: key.id }).await.expect("it may");
    let ended = async || {
        let query = EventQuery::for_account(account("acme")).kind(EventKind::KeyGraceEnded);
        events(&w, query).await.len()
    };
    w.rotate(&other, MINUTE).await;
    end().await;
    assert_eq!(ended().await, 0, "no token of the key was rotated away");
    w.rotate(&key, MINUTE).await;
    end().await;
    assert_eq!(ended().await, 1);
    end().await;
    assert_eq!(ended().await, 1, "the grace was over");
    w.rotate(&key, MINUTE).await;
    w.clock.advance(secs(MINUTE));
    end().await;
    assert_eq!(ended().await, 1, "the grace had ended by itself");
}

/// A change that is refused has no event.
pub async fn a_refused_change_has_no_event<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.key(10).await;
    w.try_create(NewKey::child_of(key.id).budget(Budget::lifetime(c(11)))).await.unwrap_err();
    w.update(&key, KeyPatch::new().name("a\nb")).await.unwrap_err();
    w.refuse(&pay(&key, c(11))).await;
    assert_eq!(kinds(&of_acme(&w).await), ["key.created"]);
}

/// A session has events of its own, and its end says why.
pub async fn a_session_opens_and_ends<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.create(acme()).await;
    let draft = KeyDraft::new(root.account.clone(), Some(root.id), NewKey::child_of(root.id));
    let prefix = Key::SESSION_PREFIX.to_owned();
    let token = NewToken { hash: TokenHash::digest("session"), prefix, start: String::new() };
    let session = w.change_key(KeyChange::Create { draft, token }).await.unwrap();
    let end = KeyChange::Revoke { key: session.id, reason: Some("done".to_owned()) };
    w.change_key(end).await.unwrap();
    let of_session = events(&w, EventQuery::for_account(account("acme")).key(session.id)).await;
    assert_eq!(kinds(&of_session), ["session.opened", "session.ended"]);
    assert_eq!(of_session[1].detail["reason"], "done");
}

/// An account's ceiling and an import have their events.
pub async fn accounts_and_imports_have_events<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let acme = account("acme");
    w.ensure(&acme, Budget::monthly(c(100))).await;
    w.ensure(&acme, Budget::monthly(c(200))).await;
    w.ceiling(&acme, Budget::monthly(c(300))).await;
    w.ceiling(&acme, Budget::monthly(c(300))).await;
    let origin = Origin::by(Actor::principal("ops"));
    let lift = AccountChange::SetBudget(Budget::unlimited());
    w.store.change_account(&acme, lift, &origin).await.unwrap().unwrap();
    let import = KeyImport::new(super::world::acme().name("old"), TokenHash::digest("x"));
    let imported = w.import(vec![import.opening(Opening::spent(c(5)))]).await;
    assert!(imported[0].is_ok());

    let all = of_acme(&w).await;
    let (created, updated) = ("account.created", "account.updated");
    assert_eq!(kinds(&all), [created, updated, updated, "key.imported"]);
    assert!(all[..3].iter().all(|event| event.key.is_none() && event.lineage.is_empty()));
    let changed = &all[1].detail["changed"]["budgets"];
    assert_eq!(changed["from"], json!(Budget::monthly(c(100))));
    assert_eq!(changed["to"], json!(Budget::monthly(c(300))));
    assert_eq!((&all[2].origin, &all[1].origin), (&origin, &Origin::new()));
    assert_eq!((&all[3].detail["spent_cents"], all[3].lineage.len()), (&json!(c(5)), 1));
}

/// An adjustment has one event, also when its posting is sent again.
pub async fn an_adjustment_has_one_event<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme().delegated_by("user_7")).await;
    let origin = Origin::by(Actor::principal("ops")).request_id("req-9");
    let adjust = super::adjustments::adjust_by(&key, -6, &origin);
    w.accept(&adjust).await;
    w.accept(&adjust).await;
    w.accept(&crate::ledger::Posting {
        key: None,
        ..super::adjustments::adjust_by(&key, 2, &origin)
    })
    .await;
    let all = events(&w, EventQuery::for_account(account("acme")).kind(EventKind::Adjusted)).await;
    assert_eq!(all.len(), 2);
    let wanted = json!({
        "entry": adjust.id, "amount_cents": c(-6), "reason": "a test", "reference": "ticket 17",
    });
    assert_eq!((&all[0].detail, &all[0].origin), (&wanted, &origin));
    assert_eq!((all[0].key, all[0].delegated_by.as_deref()), (Some(key.id), Some("user_7")));
    assert_eq!((all[1].key, all[1].lineage.as_slice()), (None, &[][..]));
}

/// A hold that is charged when it expires has an event, and one that is released has none.
pub async fn a_charged_hold_has_its_event<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.create(acme()).await;
    let key = w.create(NewKey::child_of(root.id).name("agent")).await;
    let charged = hold_or_charge(&key, c(5), MINUTE);
    w.accept(&charged).await;
    w.accept(&hold(&key, c(3), MINUTE)).await;
    w.clock.advance(secs(2 * MINUTE));
    w.store.sweep().await.unwrap();
    w.paid(&key, 1).await;
    let all =
        events(&w, EventQuery::for_account(account("acme")).kind(EventKind::HoldCharged)).await;
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].detail, json!({"entry": charged.id, "amount_cents": c(5)}));
    assert_eq!((all[0].at, &all[0].origin.actor), (w.clock.now(), &Actor::Ledger));
    assert_eq!(
        (all[0].key_name.as_deref(), &*all[0].lineage),
        (Some("agent"), &[key.id, root.id][..])
    );
}

fn refusal(key: &Key, minute: u64, reason: &str, route: Option<&str>, count: u64) -> Event {
    let (at, detail) =
        (at("2026-01-31T12:00:00Z") + secs(minute * MINUTE), json!({"reason": reason}));
    let mut event = Event::new(at, key.account.clone(), EventKind::Refused, detail);
    (event.key, event.lineage, event.count) = (Some(key.id), vec![key.id], count);
    event.origin.actor = Actor::Key { id: key.id };
    event.origin.route = route.map(str::to_owned);
    event
}

/// Refusals of one key, minute, reason and route are one event, whichever process writes them.
pub async fn refusals_are_folded<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (key, other) = (w.create(acme()).await, w.create(acme()).await);
    let first = [
        refusal(&key, 0, "revoked_key", Some("/a"), 40_000),
        refusal(&key, 0, "revoked_key", None, 3),
        refusal(&key, 0, "budget_exceeded", Some("/a"), 2),
        refusal(&other, 0, "revoked_key", Some("/a"), 1),
    ];
    w.store.record_refusals(&first).await.unwrap();
    w.store.record_refusals(&[]).await.unwrap();
    let second = [
        refusal(&key, 0, "revoked_key", Some("/a"), 60_000),
        refusal(&key, 0, "revoked_key", None, 4),
        refusal(&key, 1, "revoked_key", Some("/a"), 5),
    ];
    w.store.record_refusals(&second).await.unwrap();
    let refused = || EventQuery::for_account(account("acme")).kind(EventKind::Refused);
    let mut counts: Vec<_> = events(&w, refused()).await.iter().map(|event| event.count).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 2, 5, 7, 100_000]);
    let of_key = events(&w, refused().key(key.id).until(w.clock.now() + secs(1))).await;
    assert_eq!(of_key.len(), 3);
    let folded = of_key.iter().find(|event| event.count == 100_000).expect("the folded event");
    assert_eq!(*folded, Event { count: 100_000, ..first[0].clone() });
    assert_eq!(folded.reason(), Some("revoked_key"));
}

/// Refusals that several processes write at once are all counted, in one event.
pub async fn refusals_are_counted_at_once<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let key = w.create(acme()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let store = w.store.clone();
        let refused = [
            refusal(&key, 0, "revoked_key", Some("/a"), 10 + n),
            refusal(&key, 0, "expired_key", Some("/a"), 1),
        ];
        tasks.spawn(async move { store.record_refusals(&refused).await.unwrap() });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let refused = EventQuery::for_account(account("acme")).kind(EventKind::Refused);
    let mut counts: Vec<_> = events(&w, refused).await.iter().map(|event| event.count).collect();
    counts.sort_unstable();
    assert_eq!(counts, [8, 108]);
}

/// Events come in pages, and are narrowed by account, key, subtree, kind and time.
pub async fn events_come_in_pages<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let root = w.create(acme().name("0")).await;
    let child = w.create(NewKey::child_of(root.id).name("0")).await;
    let theirs = w.create(NewKey::new(account("other"))).await;
    let start = w.clock.now();
    for n in 1..=4 {
        w.clock.advance(secs(MINUTE));
        w.update(&root, KeyPatch::new().name(format!("root {n}"))).await.unwrap();
        w.update(&child, KeyPatch::new().name(format!("child {n}"))).await.unwrap();
        w.update(&theirs, KeyPatch::new().name(format!("theirs {n}"))).await.unwrap();
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let query = EventQuery::for_account(account("acme")).limit(3);
        let query = if let Some(after) = after { query.after(after) } else { query };
        let page = w.store.events(&query).await.unwrap();
        let Some((last, _)) = page.last() else { break };
        assert!(page.len() <= 3 && page.iter().all(|(place, _)| Some(*place) > after));
        after = Some(*last);
        seen.extend(page.into_iter().map(|(_, event)| event));
    }
    assert_eq!(seen, of_acme(&w).await);
    assert_eq!(seen.len(), 10);
    let names = async |query: EventQuery| -> Vec<String> {
        events(&w, query).await.into_iter().filter_map(|event| event.key_name).collect()
    };
    let updated = |of: AccountId| EventQuery::for_account(of).kind(EventKind::KeyUpdated);
    let acme = || updated(account("acme"));
    let minute = |n| start + secs(n * MINUTE);
    let some = |key: KeyId| acme().key(key).since(minute(2)).until(minute(4));
    assert_eq!(names(some(child.id)).await, ["child 2", "child 3"]);
    assert_eq!(names(some(root.id)).await, ["root 2", "root 3"]);
    let subtree = acme().subtree(root.id).since(minute(4));
    assert_eq!(names(subtree.kind(EventKind::KeyRevoked)).await, ["root 4", "child 4"]);
    assert!(names(acme().key(theirs.id)).await.is_empty(), "it is of another account");
    assert_eq!(names(updated(account("other")).until(minute(2))).await, ["theirs 1"]);
}
