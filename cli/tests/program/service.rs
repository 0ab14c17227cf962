//! The program beside a service that runs on the same database.

use agentkey::{AgentKeyLayer, Charge, Rejection, RequireScope};
use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{World, on_both_databases};

on_both_databases! {
    a_change_is_in_force_from_the_next_request_on
}

async fn answer(charge: Charge) -> Result<&'static str, Rejection> {
    charge.pay(agentkey::Amount::units(1)).await?;
    Ok("done")
}

async fn status(address: std::net::SocketAddr, token: &str) -> u16 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /work HTTP/1.1\r\nhost: service\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response.split(' ').nth(1).unwrap().parse().unwrap()
}

async fn a_change_is_in_force_from_the_next_request_on(world: &World) {
    let keys = world.service().await;
    let app = Router::new()
        .route("/work", get(answer).layer(RequireScope::one("work").unwrap()))
        .layer(AgentKeyLayer::new(&keys));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    let (id, token) = world.create(&["--scopes", "work", "--spend-limit", "2"]);
    assert_eq!(status(address, &token).await, 200);
    world.ok(&["key", "disable", &id]);
    assert_eq!(status(address, &token).await, 401);
    world.ok(&["key", "enable", &id]);
    assert_eq!(status(address, &token).await, 200);
    assert_eq!(status(address, &token).await, 402, "two units are spent");
    world.ok(&["adjust", "--key", &id, "--top-up", "1", "--reason", "goodwill"]);
    assert_eq!(status(address, &token).await, 200);
    world.ok(&["key", "update", &id, "--spend-limit", "10"]);
    assert_eq!(status(address, &token).await, 200);
    world.ok(&["account", "set", "default", "--spend-limit", "0"]);
    assert_eq!(status(address, &token).await, 402, "the ceiling of the account");
    world.ok(&["account", "set", "default", "--no-limit"]);
    world.ok(&["key", "update", &id, "--scopes", "other"]);
    assert_eq!(status(address, &token).await, 403);
    world.ok(&["key", "update", &id, "--scopes", "work"]);
    let rotated = world.ok(&["key", "rotate", &id]);
    assert_eq!(status(address, &token).await, 401, "without a grace");
    assert_eq!(status(address, rotated.trim()).await, 200);
    world.ok(&["key", "revoke", &id]);
    assert_eq!(status(address, rotated.trim()).await, 401);

    // What the running service charged shows beside it.
    let usage = world.json(&["usage", "--key", &id]);
    assert_eq!(usage["usage"][0]["amount_cents"], 500, "{usage}");
    server.abort();
    keys.shutdown().await;
}
