//! Changes of policy hold from the very next request on.

use std::time::Duration;

use agentkey::{
    Amount, Budget, Charge, Grace, KeyContext, KeyPatch, NewKey, Rejection, RequireScope, ScopeSet,
};
use axum::Router;
use axum::routing::get;
use http::Method;
use http_body_util::BodyExt;
use tokio::sync::watch;

use super::support::{Client, Ledger, Version, World, acme, clock, dollar, serve};

fn app(world: &World) -> Router {
    Router::new()
        .route("/", get(async |key: KeyContext| key.key().name.clone()))
        .route("/read", get(async || "read").layer(RequireScope::one("read").unwrap()))
        .route("/write", get(async || "written").layer(RequireScope::one("write").unwrap()))
        .route(
            "/grace",
            get(async |key: KeyContext| {
                key.retires_at().map_or("current".into(), |at| at.to_string())
            }),
        )
        .route(
            "/paid",
            get(async |charge: Charge| -> Result<(), Rejection> {
                charge.hold(Amount::cents(10)).await?;
                charge.add(Amount::cents(10));
                Ok(())
            }),
        )
        .layer(world.layer())
}

fn all() -> ScopeSet {
    ScopeSet::parse(["read", "write"]).unwrap()
}

#[tokio::test]
async fn revoking_an_ancestor_refuses_its_children_at_once() {
    for version in Version::BOTH {
        let world = World::new().await;
        let addr = serve(app(&world)).await;
        let mut line = vec![world.create(NewKey::new(acme()).scopes(all()).budget(dollar())).await];
        for _ in 0..3 {
            line.push(world.create(NewKey::child_of(line.last().unwrap().0).scopes(all())).await);
        }
        let clients: Vec<_> =
            line.iter().map(|(_, token)| Client::new(version, addr, token)).collect();
        for client in &clients {
            assert_eq!(client.get("/read").await.data, "read");
        }
        world.keys.revoke(line[1].0, None).await.unwrap();
        assert_eq!(clients[0].get("/read").await.data, "read");
        for client in &clients[1..] {
            assert_eq!(client.get("/read").await.refused(), (401, "revoked_key".into()));
        }
    }
}

#[tokio::test]
async fn narrowing_a_parent_narrows_its_children_at_once_and_widening_gives_it_back() {
    let world = World::new().await;
    let addr = serve(app(&world)).await;
    let parent = world.create(NewKey::new(acme()).scopes(all())).await;
    let child = world.create(NewKey::child_of(parent.0).scopes(all())).await;
    let client = Client::new(Version::Http1, addr, &child.1);
    assert_eq!(client.get("/write").await.data, "written");
    world
        .keys
        .update(parent.0, KeyPatch::new().scopes(ScopeSet::parse(["read"]).unwrap()))
        .await
        .unwrap();
    let refused = client.get("/write").await;
    assert_eq!(refused.refused(), (403, "insufficient_scope".into()));
    assert_eq!(refused.json()["key_scopes"], serde_json::json!(["read"]));
    assert_eq!(client.get("/read").await.data, "read");
    world.keys.update(parent.0, KeyPatch::new().scopes(ScopeSet::none())).await.unwrap();
    let refused = client.get("/read").await;
    assert_eq!(refused.json()["key_scopes"], serde_json::json!([]));
    world.keys.update(parent.0, KeyPatch::new().scopes(all())).await.unwrap();
    assert_eq!(client.get("/write").await.data, "written");
}

#[tokio::test]
async fn a_smaller_budget_of_a_parent_or_the_account_counts_at_once() {
    let world = World::new().await;
    let addr = serve(app(&world)).await;
    let parent = world.key().await;
    let child = world.create(NewKey::child_of(parent.0)).await;
    let client = Client::new(Version::Http1, addr, &child.1);
    assert_eq!(client.get("/paid").await.header("agentkey-remaining-cents"), Some("90"));
    let small = |cents| Budget::lifetime(Amount::cents(cents));
    world.keys.update(parent.0, KeyPatch::new().budget(small(15))).await.unwrap();
    assert_eq!(client.get("/paid").await.json()["blocked_by"], "ancestor");
    world.keys.update(parent.0, KeyPatch::new().budget(dollar())).await.unwrap();
    world.keys.set_account_budget(&acme(), small(15)).await.unwrap();
    assert_eq!(client.get("/paid").await.json()["blocked_by"], "account");
    world.keys.set_account_budget(&acme(), small(20)).await.unwrap();
    assert_eq!(client.get("/paid").await.header("agentkey-remaining-cents"), Some("0"));
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 10), ("settle", 10)]));
}

#[tokio::test]
async fn a_rotated_token_works_for_its_grace_and_no_longer() {
    let clock = clock();
    let world = World::at(&clock).await;
    let addr = serve(app(&world)).await;
    let (id, first) = world.key().await;
    let old = Client::new(Version::Http1, addr, &first);
    let rotated = world.keys.rotate(id, Grace::lasting(Duration::from_secs(3_600))).await.unwrap();
    let new = Client::new(Version::Http1, addr, &rotated.token);
    assert_eq!(rotated.key.id, id);
    assert_eq!(new.get("/grace").await.data, "current");
    assert_eq!(old.get("/grace").await.data, "2026-01-31T13:00:00Z");
    // Both spend the same money.
    assert_eq!(old.get("/paid").await.header("agentkey-remaining-cents"), Some("90"));
    assert_eq!(new.get("/paid").await.header("agentkey-remaining-cents"), Some("80"));
    clock.advance(Duration::from_secs(3_600) - Duration::from_micros(1));
    assert_eq!(old.get("/").await.status, 200);
    clock.advance(Duration::from_micros(1));
    assert_eq!(old.get("/").await.refused(), (401, "invalid_key".into()));
    assert_eq!(new.get("/").await.status, 200);
    // Without grace: from the next request on.
    let newest = world.keys.rotate(id, Grace::NONE).await.unwrap();
    assert_eq!(new.get("/").await.refused(), (401, "invalid_key".into()));
    let newest = Client::new(Version::Http1, addr, &newest.token);
    assert_eq!(newest.get("/").await.status, 200);
    world.keys.revoke(id, None).await.unwrap();
    assert_eq!(newest.get("/").await.refused(), (401, "revoked_key".into()));
}

/// Rotated twice within one grace: both old tokens work to their ends.
#[tokio::test]
async fn a_grace_outlives_the_next_rotation_or_ends_with_it_but_never_lasts_longer() {
    let clock = clock();
    let world = World::at(&clock).await;
    let addr = serve(app(&world)).await;
    let (id, first) = world.key().await;
    let second =
        world.keys.rotate(id, Grace::lasting(Duration::from_secs(60))).await.unwrap().token;
    world.keys.rotate(id, Grace::lasting(Duration::from_secs(3_600))).await.unwrap();
    clock.advance(Duration::from_secs(60));
    assert_eq!(
        Client::new(Version::Http1, addr, &first).get("/").await.refused(),
        (401, "invalid_key".into())
    );
    assert_eq!(Client::new(Version::Http1, addr, &second).get("/").await.status, 200);
}

#[tokio::test]
async fn a_key_expires_to_the_microsecond() {
    let clock = clock();
    let world = World::at(&clock).await;
    let addr = serve(app(&world)).await;
    let parent =
        world.create(NewKey::new(acme()).name("parent").expires_in("1h".parse().unwrap())).await;
    let child = world
        .create(NewKey::child_of(parent.0).name("child").expires_in("30m".parse().unwrap()))
        .await;
    let (parent_id, parent) = (parent.0, Client::new(Version::Http1, addr, &parent.1));
    let child = Client::new(Version::Http1, addr, &child.1);
    clock.advance(Duration::from_secs(1_800) - Duration::from_micros(1));
    assert_eq!(child.get("/").await.data, "child");
    clock.advance(Duration::from_micros(1));
    assert_eq!(child.get("/").await.refused(), (401, "expired_key".into()));
    assert_eq!(parent.get("/").await.data, "parent");
    clock.advance(Duration::from_secs(1_800));
    assert_eq!(parent.get("/").await.refused(), (401, "expired_key".into()));
    world.keys.update(parent_id, KeyPatch::new().never_expires()).await.unwrap();
    assert_eq!(parent.get("/").await.data, "parent");
    assert_eq!(child.get("/").await.refused(), (401, "expired_key".into()));
}

/// Revoked in the middle of its work: no new money, but what was done is charged.
#[tokio::test]
async fn work_that_was_running_is_still_charged() {
    let world = World::new().await;
    let (id, token) = world.key().await;
    let gate = watch::Sender::new(false);
    let opened = gate.clone();
    let app = Router::new().route(
        "/",
        get(async move |charge: Charge| -> Result<axum::body::Body, Rejection> {
            charge.hold(Amount::cents(10)).await?;
            let chunks = futures_util::stream::unfold(
                (0, charge, opened),
                async |(number, charge, opened)| {
                    match number {
                        0 => charge.add(Amount::cents(3)),
                        1 => {
                            opened.subscribe().wait_for(|open| *open).await.unwrap();
                            assert!(charge.hold(Amount::cents(1)).await.is_err());
                            assert!(charge.pay(Amount::cents(1)).await.is_err());
                            charge.add(Amount::cents(4));
                        }
                        _ => return None,
                    }
                    Some((
                        Ok::<_, std::convert::Infallible>("chunk."),
                        (number + 1, charge, opened),
                    ))
                },
            );
            Ok(axum::body::Body::from_stream(chunks))
        }),
    );
    let client = Client::new(Version::Http1, serve(app.layer(world.layer())).await, &token);
    let mut body = client.head(client.request(Method::GET, "/")).await.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "chunk.");
    world.keys.revoke(id, None).await.unwrap();
    assert_eq!(client.get("/").await.refused(), (401, "revoked_key".into()));
    gate.send_replace(true);
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "chunk.");
    assert!(body.frame().await.is_none());
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 7)]));
}
