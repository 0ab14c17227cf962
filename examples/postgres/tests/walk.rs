//! The example does what it says: it asserts every step of its walk. Without a server it says what to start.
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

#[test]
fn says_what_to_start() {
    let output = on("postgres://agent:secret@127.0.0.1:1/keys").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(said.contains("127.0.0.1:1") && said.contains("docker compose up --wait"), "{said}");
    assert!(!said.contains("secret"), "{said}");
}
