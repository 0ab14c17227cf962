//! The keys of subjects: identities that another service issued.

use super::world::*;
use crate::ledger::{FirstSeenClaim, KeyChange, KeyDraft, NewSubject};
use crate::model::key::Owner;
use crate::model::{
    Amount, Budget, ChangeError, Clock, Key, KeyPatch, NewKey, PostingId, Refusal, ScopeSet,
    Subject,
};
use crate::store::{KeyQuery, Store};

const ISSUER: &str = "https://issuer.example";

fn subject(issuer: &str, id: &str) -> Subject {
    Subject::new(issuer, id).expect("a subject")
}

fn machine() -> Subject {
    subject(ISSUER, "machine-7")
}

async fn change<S: Store>(w: &World<S>, subject: &Subject, new: NewKey) -> KeyChange {
    let (account, parent) = match new.owner.clone() {
        Owner::Account(account) => (account, None),
        Owner::Parent(parent) => {
            let lineage = w.store.lineage(parent).await.unwrap().expect("a parent");
            (lineage.account_id().clone(), Some(parent))
        }
    };
    let draft = KeyDraft::new(account, parent, new);
    let subject = NewSubject { subject: subject.clone(), actors: Vec::new() };
    KeyChange::EnsureSubject { draft, subject }
}

async fn ensure<S: Store>(w: &World<S>, subject: &Subject, new: NewKey) -> Key {
    let change = change(w, subject, new).await;
    w.change_key(change).await.expect("a subject may be ensured")
}

async fn find<S: Store>(w: &World<S>, subject: &Subject) -> Option<Key> {
    let found = w.find(subject.digest()).await?;
    assert_eq!(found.retires_at, None);
    Some(found.lineage.key().clone())
}

/// A subject is found by its digest in the same batch as tokens, and its record says whose it is.
pub async fn a_subject_is_found_by_its_digest<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let (key, token) = w.create_with_token(acme()).await;
    assert_eq!(key.subject, None);
    // The texts of an issuer and its ids are data.
    for subject in [
        machine(),
        subject("l'émetteur \"nächtlich\"", "a|b \\ {keys} %_ -- \u{1F916}"),
        subject(&"i".repeat(255), &"s".repeat(255)),
    ] {
        let new = acme().name("robot").budget(Budget::daily(c(500))).delegated_by("ann");
        let made = ensure(&w, &subject, new).await;
        assert_eq!(made.subject.as_ref(), Some(&subject));
        assert_eq!((made.name.as_str(), made.start.as_str()), ("robot", ""));
        let unknown = Subject::new(ISSUER, "unknown").unwrap().digest();
        let found = w.store.find(&[token, subject.digest(), unknown]).await.unwrap();
        let found: Vec<_> =
            found.iter().map(|it| it.as_ref().map(|found| found.lineage.key())).collect();
        assert_eq!(found, [Some(&key), Some(&made), None]);
        assert_eq!(w.store.lineage(made.id).await.unwrap().unwrap().key(), &made);
    }
}

/// To ensure a subject again changes nothing of it: neither its policy nor its balance, nor that it is
/// out of force.
pub async fn a_subject_that_is_there_stays_as_it_is<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let made = ensure(&w, &machine(), acme().budget(Budget::lifetime(c(100)))).await;
    w.paid(&made, 40).await;
    let other = || NewKey::new(account("other")).budget(Budget::lifetime(c(9_999)));
    let again = ensure(&w, &machine(), other()).await;
    assert_eq!((again.id, &again.account, again.budget), (made.id, &made.account, made.budget));
    assert_eq!((again.balance.spent(), again.balance.held), (c(40), NOTHING));
    assert_eq!(w.store.account(&account("other")).await.unwrap(), None);

    let disabled = w.update(&made, KeyPatch::new().disabled(true)).await.unwrap();
    assert_eq!(ensure(&w, &machine(), other()).await.disabled_at, disabled.disabled_at);
    w.update(&made, KeyPatch::new().disabled(false).name("renamed")).await.unwrap();
    let revoked = w.revoke(&made).await;
    let again = ensure(&w, &machine(), other()).await;
    assert_eq!(
        (again.id, again.revoked_at, again.name.as_str()),
        (made.id, revoked.revoked_at, "renamed")
    );
    let found = w.find(machine().digest()).await.unwrap().lineage;
    assert_eq!(found.check_active(), Err(Refusal::RevokedKey));
    assert_eq!(w.refuse(&pay(&made, c(1))).await, Refusal::RevokedKey);
}

/// Of many that ensure a subject at once, in accounts of their own, one makes its key.
pub async fn a_subject_is_made_once<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16 {
        let (store, rules) = (w.store.clone(), w.rules.clone());
        let change = change(&w, &machine(), NewKey::new(account(&format!("a{}", n % 4)))).await;
        tasks.spawn(async move { store.change_key(&change, &rules).await.unwrap().unwrap() });
    }
    let made = tasks.join_all().await;
    assert!(
        made.iter().all(|key| (key.id, &key.account) == (made[0].id, &made[0].account)),
        "{made:?}"
    );
    assert_eq!(find(&w, &machine()).await.unwrap().id, made[0].id);
}

/// A subject is the issuer and the id together, byte by byte.
pub async fn other_issuers_and_ids_are_other_subjects<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let others = [
        machine(),
        subject("https://other.example", "machine-7"),
        subject("https://issuer.example/", "machine-7"),
        subject("HTTPS://issuer.example", "machine-7"),
        subject(ISSUER, "Machine-7"),
        subject(ISSUER, "machine-7 "),
        subject(ISSUER, "ann@example.com"),
        subject(&format!("{ISSUER} machine"), "-7"),
    ];
    let mut ids = std::collections::BTreeSet::new();
    for other in &others {
        assert_eq!(find(&w, other).await, None, "{other}");
        let made = ensure(&w, other, acme().budget(Budget::lifetime(c(10)))).await;
        ids.insert(made.id);
        w.paid(&made, 10).await;
    }
    assert_eq!(ids.len(), others.len(), "each has a budget of its own");
}

/// A subject has no token of ours: it is not rotated, and the hash of no token finds it.
pub async fn a_subject_has_no_token_to_rotate<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let made = ensure(&w, &machine(), acme()).await;
    let change = KeyChange::Rotate { key: made.id, token: w.token(), grace: secs(0) };
    match w.change_key(change).await {
        Err(ChangeError::Invalid { field: "key", .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(find(&w, &machine()).await, Some(made));
}

/// A subject may hang under a key, and keys may be minted from it: each counts on all above.
pub async fn a_subject_is_a_member_of_a_lineage<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let tenant = w.key(100).await;
    let scopes = || ScopeSet::parse(["read", "write"]).unwrap();
    let parent = w.create(NewKey::child_of(tenant.id).scopes(scopes())).await;
    let new = NewKey::child_of(parent.id).scopes(scopes()).budget(Budget::lifetime(c(60)));
    let made = ensure(&w, &machine(), new).await;
    let other = ensure(&w, &subject(ISSUER, "machine-8"), NewKey::child_of(parent.id)).await;
    let child = NewKey::child_of(made.id).scopes(ScopeSet::parse(["read"]).unwrap());
    let child = w.create(child).await;
    w.paid(&child, 50).await;
    assert_eq!(w.short(&pay(&made, c(11))).await.remaining, c(10));
    w.paid(&other, 45).await;
    assert_eq!(w.short(&pay(&made, c(6))).await.remaining, c(5), "the tenant's key has 5 left");
    assert_eq!(w.balance(&made).await, (c(50), NOTHING));
    assert_eq!(w.balance(&tenant).await, (c(95), NOTHING));
    let wider = NewKey::child_of(made.id).scopes(ScopeSet::unrestricted());
    assert!(w.try_create(wider).await.is_err());
    w.revoke(&parent).await;
    let found = w.find(machine().digest()).await.unwrap().lineage;
    assert_eq!(found.check_active(), Err(Refusal::RevokedKey));
}

/// The windows of a subject turn as those of a key.
pub async fn the_windows_of_a_subject_turn<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let day = ensure(&w, &machine(), acme().budget(Budget::daily(c(10)))).await;
    let monthly = acme().budget(Budget::monthly(c(10)));
    let month = ensure(&w, &subject(ISSUER, "monthly"), monthly).await;
    for (at_, day_left, month_left) in [
        ("2026-01-31T12:00:00Z", 10, 10),
        ("2026-02-01T11:59:59Z", 0, 0),
        ("2026-02-01T12:00:00Z", 10, 0),
        ("2026-02-28T11:59:59Z", 10, 0),
        ("2026-02-28T12:00:00Z", 10, 10),
        ("2026-03-31T12:00:00Z", 10, 10),
    ] {
        w.clock.set(at(at_));
        for (key, left) in [(&day, day_left), (&month, month_left)] {
            let digest = key.subject.as_ref().unwrap().digest();
            let found = w.find(digest).await.unwrap().lineage;
            assert_eq!(found.remaining(), Some(c(left)), "{at_}");
            if left > 0 {
                w.paid(key, left).await;
            }
            assert_eq!(w.short(&pay(key, Amount::micros(1))).await.remaining, NOTHING);
        }
    }
}

/// Subjects are listed beside the other keys of an account, and alone where that is asked.
pub async fn subjects_are_listed<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let mut subjects = Vec::new();
    for n in 0..3 {
        w.create(acme()).await;
        subjects.push(ensure(&w, &subject(ISSUER, &format!("m{n}")), acme()).await);
    }
    ensure(&w, &machine(), NewKey::new(account("other"))).await;
    let of_acme = KeyQuery::for_account(account("acme"));
    assert_eq!(w.store.keys(&of_acme).await.unwrap().len(), 6);
    assert_eq!(w.store.keys(&of_acme.clone().subjects()).await.unwrap(), subjects);
    let page = of_acme.subjects().after(subjects[0].id).limit(1);
    assert_eq!(w.store.keys(&page).await.unwrap(), subjects[1..2]);
}

/// A claim keeps others out until it is released or its lease has ended, and no longer.
pub async fn a_claim_of_first_sight_ends_with_its_lease<S: Store>(make: impl AsyncFn(Clock) -> S) {
    let w = World::new(make).await;
    let claim = |owner| FirstSeenClaim { subject: machine().digest(), owner, lease: secs(10) };
    let take = async |claim| w.store.claim_first_seen(claim).await.unwrap();
    let [one, two] = [PostingId::new(), PostingId::new()].map(claim);
    assert!(take(one).await && !take(two).await && take(one).await);
    let other = FirstSeenClaim { subject: subject(ISSUER, "other").digest(), ..two };
    assert!(take(other).await, "each subject has a claim of its own");

    w.clock.advance(secs(6));
    assert!(take(one).await, "it is renewed");
    w.clock.advance(secs(9));
    assert!(!take(two).await);
    w.clock.advance(secs(1));
    assert!(take(two).await && !take(one).await);
    // What another owner has is not released.
    w.store.release_first_seen(one).await.unwrap();
    assert!(!take(one).await);
    w.store.release_first_seen(two).await.unwrap();
    assert!(take(one).await);

    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let store = w.store.clone();
        let claim = FirstSeenClaim {
            subject: subject(ISSUER, "raced").digest(),
            ..claim(PostingId::new())
        };
        tasks.spawn(async move { store.claim_first_seen(claim).await.unwrap() });
    }
    let taken = tasks.join_all().await;
    assert_eq!(taken.iter().filter(|is_taken| **is_taken).count(), 1);
}
