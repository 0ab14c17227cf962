//! The example does what it says: it asserts every step of its walk.
#![cfg(unix)]

use std::process::Command;

#[path = "../../../tests/support/example.rs"]
mod example;
#[path = "../../../tests/support/postgres.rs"]
mod postgres;

fn on(url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_example-postgres"));
    command.env("DATABASE_URL", url);
    command
}

#[tokio::test]
async fn walks() {
    let Some(server) = postgres::Server::shared() else { return };
    let database = server.database().await;
    example::walk(on(database.url()));
}
