//! When keys were last used.

use agentkey::NewKey;
use axum::Router;
use axum::routing::get;
use jiff::Timestamp;

use super::support::{Client, NOON, Version, World, acme, clock, serve};

#[tokio::test]
async fn keys_that_were_let_through_are_noted_once() {
    let clock = clock();
    let world = World::at(&clock).await;
    let addr = serve(Router::new().route("/", get(async || "")).layer(world.layer())).await;
    let (used, token) = world.key().await;
    let (revoked, refused) = world.create(NewKey::new(acme())).await;
    world.keys.revoke(revoked, None).await.unwrap();
    let client = Client::new(Version::Http1, addr, &token);
    for _ in 0..3 {
        client.get("/").await;
    }
    assert_eq!(Client::new(Version::Http1, addr, &refused).get("/").await.refused().0, 401);
    assert_eq!(world.spy.uses(), [], "no request writes");

    world.keys.shutdown().await;
    assert_eq!(world.spy.uses(), [(used, NOON.parse::<Timestamp>().unwrap())]);
}
