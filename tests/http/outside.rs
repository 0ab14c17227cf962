//! Charges outside of a request: of workers, webhooks, and services without the layers.

use std::time::Duration;

use agentkey::http::OnInterrupt;
use agentkey::model::{Scope, ScopeSet};
use agentkey::{
    AgentKeys, Amount, Budget, Charge, EntryQuery, KeyContext, KeyId, KeyPatch, MemoryStore,
    NewKey, Refusal, Rejection, Token,
};
use axum::Router;
use axum::routing::post;

use super::support::{
    Client, Fault, Faults, Ledger, Version, World, acme, clock, dollar, is_settle, serve, soon,
};

fn code<T>(result: Result<T, Rejection>) -> &'static str {
    result.map_or_else(|rejection| rejection.refusal().code(), |_| "accepted")
}

fn scope(text: &str) -> Scope {
    text.parse().unwrap()
}

/// What a worker does for a job: holds 10 cents, and adds 3.
async fn work(world: &World, key: &KeyContext) -> Result<Charge, Rejection> {
    let charge = world.keys.charge(key).await?;
    charge.hold(Amount::cents(10)).await?;
    charge.add(Amount::cents(3));
    Ok(charge)
}

#[tokio::test]
async fn a_job_is_settled_and_committed_when_it_says_so() {
    let world = World::new().await;
    let (id, token) = world.key().await;
    let key = world.keys.authorize(&token).await.unwrap();
    assert_eq!((key.id(), key.remaining()), (id, Some(Amount::units(1))));
    assert!(key.allows(&scope("anything")));
    let charge = work(&world, &key).await.unwrap();
    charge.label("job", "transcribe").unwrap();
    charge.reference("job 17").unwrap();
    assert_eq!(world.ledger().await, Ledger::of(&[]).holding(10));
    let entry = charge.settle().await.unwrap().unwrap();
    // Committed: no waiting is needed.
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3)]));
    let entries = world.keys.entries(&EntryQuery::for_account(acme())).await.unwrap().items;
    assert_eq!((entries[0].id, entries[0].note.labels.get("job")), (entry, Some("transcribe")));
    assert_eq!(entries[0].note.reference.as_deref(), Some("job 17"));

    // A payment, and nothing added: no entry of the settle.
    let charge = world.keys.charge(&key).await.unwrap();
    let receipt = charge.pay(Amount::cents(5)).await.unwrap();
    charge.refund(&receipt, Amount::cents(1)).await.unwrap();
    assert_eq!(charge.settle().await.unwrap(), None);
    let wanted = Ledger::of(&[("settle", 3), ("pay", 5), ("refund", -1)]);
    assert_eq!(world.ledger().await, wanted);
    // The use of the key is recorded, as that of a request.
    world.keys.shutdown().await;
    assert_eq!(world.spy.uses().iter().map(|(key, _)| *key).collect::<Vec<_>>(), [id]);
}

#[tokio::test]
async fn a_charge_that_is_dropped_is_settled() {
    let world = World::new().await;
    let (id, _) = world.key().await;
    // A queue has the id of the key, and not its token.
    let key = world.keys.authorize_by_id(id).await.unwrap();
    drop(work(&world, &key).await.unwrap());
    world.until(&Ledger::of(&[("settle", 3)])).await;
    // A task that is aborted, one that panics, and one that panics in work that cannot be metered.
    let charge = work(&world, &key).await.unwrap();
    let task = tokio::spawn(async move {
        let _charge = charge;
        std::future::pending::<()>().await;
    });
    task.abort();
    assert!(task.await.is_err());
    world.until(&Ledger::of(&[("settle", 3), ("settle", 3)])).await;
    for (policy, charged) in [(OnInterrupt::Added, 3), (OnInterrupt::WholeHold, 10)] {
        let before = world.ledger().await.spent;
        let charge = work(&world, &key).await.unwrap();
        charge.on_interrupt(policy);
        let task = tokio::spawn(async move {
            let _charge = charge;
            panic!("a bug in the worker");
        });
        assert!(task.await.is_err());
        let charged = before.saturating_add(Amount::cents(charged));
        while world.ledger().await.spent != charged {
            tokio::task::yield_now().await;
        }
    }
    // As in a request, the last handle counts.
    let charge = work(&world, &key).await.unwrap();
    let other = charge.clone();
    let first = charge.settle().await.unwrap();
    assert!(first.is_some());
    other.add(Amount::cents(2));
    assert_ne!(other.settle().await.unwrap(), first);
    let spent = world.ledger().await.spent;
    assert_eq!(spent, Amount::cents(3 + 3 + 3 + 10 + 3 + 2));
    assert_eq!(world.ledger().await.held, Amount::ZERO);
}

#[tokio::test]
async fn what_is_refused_in_a_request_is_refused_here() {
    let world = World::new().await;
    let noise = Token::generate(&"ak".parse().unwrap()).unwrap();
    assert_eq!(code(world.keys.authorize(&noise).await), "invalid_key");
    assert_eq!(code(world.keys.authorize_by_id(KeyId::new(99)).await), "unknown_key");

    // A context may be old: what has changed since counts.
    let (id, token) = world.create(NewKey::new(acme()).budget(dollar())).await;
    let child = NewKey::child_of(id).budget(Budget::lifetime(Amount::cents(5)));
    let (_, child) = world.create(child).await;
    let (key, child) =
        (world.keys.authorize(&token).await.unwrap(), world.keys.authorize(&child).await.unwrap());
    let charge = world.keys.charge(&child).await.unwrap();
    assert_eq!(code(charge.hold(Amount::cents(6)).await), "budget_exceeded");
    charge.pay(Amount::cents(5)).await.unwrap();
    assert_eq!(code(world.keys.charge(&child).await), "budget_exceeded");
    drop(charge);
    world.keys.update(id, KeyPatch::new().disabled(true)).await.unwrap();
    assert_eq!(code(world.keys.charge(&key).await), "disabled_key");
    assert_eq!(code(world.keys.authorize(&token).await), "disabled_key");
    world.keys.revoke(id, None).await.unwrap();
    assert_eq!(code(world.keys.charge(&key).await), "revoked_key");
    assert_eq!(code(world.keys.authorize(&token).await), "revoked_key");
    assert_eq!(code(world.keys.authorize_by_id(id).await), "revoked_key");

    world.spy.set(Faults { finds: Fault::Down, posts: Fault::Down, ..Faults::default() });
    let (_, other) = world.key().await;
    assert_eq!(code(world.keys.authorize(&other).await), "unavailable");
}

/// One context serves many jobs at once; each is a charge of its own, and their number is bounded.
#[tokio::test]
async fn jobs_of_one_context_are_charges_of_their_own() {
    let world = World::with(AgentKeys::builder().max_open_charges_per_account(8)).await;
    let (_, token) = world.key().await;
    let key = world.keys.authorize(&token).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(work(&world, &key).await.unwrap());
    }
    assert_eq!(code(world.keys.charge(&key).await), "unavailable");
    for charge in open {
        charge.settle().await.unwrap();
    }
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3); 8]));
    assert_eq!(world.spy.count(is_settle), 8);
    world.keys.charge(&key).await.unwrap();
}

/// A handler begins work that goes on after its response, as a charge of its own.
#[tokio::test]
async fn a_handler_may_begin_a_charge_beside_its_own() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let keys = world.keys.clone();
    let (done, ended) = tokio::sync::oneshot::channel();
    let done = std::sync::Arc::new(std::sync::Mutex::new(Some(done)));
    let handler = async move |key: KeyContext, charge: Charge| -> Result<&str, Rejection> {
        charge.add(Amount::cents(1));
        // Committed before the handler goes on.
        assert!(charge.clone().settle().await?.is_some());
        charge.add(Amount::cents(2));
        let job = keys.charge(&key).await?;
        job.hold(Amount::cents(10)).await?;
        let done = done.lock().unwrap().take();
        tokio::spawn(async move {
            job.add(Amount::cents(4));
            let entry = job.settle().await.unwrap();
            done.map(|done| done.send(entry))
        });
        Ok("begun")
    };
    let app = Router::new().route("/", post(handler)).layer(world.layer());
    let client = Client::new(Version::Http1, serve(app).await, &token);
    assert_eq!(client.post("/", "k").await.data, "begun");
    assert!(soon(ended).await.unwrap().is_some());
    let mut amounts: Vec<_> = world.ledger().await.entries.into_iter().map(|it| it.1).collect();
    amounts.sort_unstable();
    assert_eq!(amounts, [1, 2, 4].map(Amount::cents));
    assert_eq!(client.post("/", "k").await.refused(), (409, "already_charged".into()));
}

#[tokio::test]
async fn a_charge_that_cannot_be_committed_is_an_error() {
    let builder = AgentKeys::builder().settle_timeout(Duration::ZERO);
    let world = World::with(builder).await;
    let (_, token) = world.key().await;
    let key = world.keys.authorize(&token).await.unwrap();
    let charge = work(&world, &key).await.unwrap();
    world.spy.set(Faults::posts(Fault::Down));
    let refused = soon(charge.settle()).await.unwrap_err();
    assert!(matches!(refused.refusal(), Refusal::Unavailable { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_long_job_keeps_its_hold_and_is_cut_off_by_shutdown() {
    let clock = clock();
    let world = World::on(AgentKeys::builder(), Box::new(MemoryStore::with_clock(&clock)));
    let (_, token) = world.key().await;
    let key = world.keys.authorize(&token).await.unwrap();
    let charge = work(&world, &key).await.unwrap();
    for _ in 0..24 {
        clock.advance(Duration::from_secs(5));
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(world.ledger().await, Ledger::of(&[]).holding(10));
    world.keys.shutdown_within(Duration::from_secs(20)).await;
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 3)]));
    assert_eq!(code(charge.hold(Amount::cents(1)).await), "unavailable");
    assert_eq!(code(world.keys.charge(&key).await), "unavailable");
    assert!(charge.settle().await.unwrap().is_some(), "the entry that shutdown has made");
}

/// The sequence of the npm package's README: create, validate, track usage, look at what is left.
#[tokio::test]
async fn validate_and_track_usage_are_authorize_and_charge() {
    let world = World::new().await;
    let new = NewKey::new(acme())
        .scopes(ScopeSet::parse(["proxy.*"]).unwrap())
        .budget(Budget::monthly(Amount::cents(5_000)));
    let (_, token) = world.create(new).await;
    let key = world.keys.authorize(&token).await.unwrap();
    assert!(key.allows(&scope("proxy.chat")));
    let charge = world.keys.charge(&key).await.unwrap();
    charge.add(Amount::cents(1_200));
    charge.settle().await.unwrap();
    let key = world.keys.authorize(&token).await.unwrap();
    assert_eq!(key.remaining(), Some(Amount::cents(3_800)));
}

/// A context that is kept begins each charge anew, also by `Charge::begin`: nothing of an earlier one is left in it.
#[tokio::test]
async fn a_kept_context_takes_nothing_from_one_charge_into_the_next() {
    let world = World::new().await;
    let (id, token) = world.key().await;
    let key = world.keys.authorize(&token).await.unwrap();
    let first = Charge::begin(&key).await.unwrap();
    first.reference("job 1").unwrap();
    first.add(Amount::cents(3));
    first.settle().await.unwrap();
    let second = Charge::begin(&key).await.unwrap();
    second.add(Amount::cents(2));
    second.settle().await.unwrap();
    let entries = world.keys.entries(&EntryQuery::for_account(acme())).await.unwrap().items;
    let references: Vec<_> = entries.iter().map(|entry| entry.note.reference.as_deref()).collect();
    assert_eq!(references, [Some("job 1"), None]);
    world.keys.disable(id).await.unwrap();
    assert_eq!(code(Charge::begin(&key).await), "disabled_key");
}
