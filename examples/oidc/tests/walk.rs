//! The example does what it says: it checks every answer itself, and prints it.
#![cfg(unix)]

use std::process::Command;

#[path = "../../../tests/support/example.rs"]
mod example;

#[test]
fn it_walks_from_the_first_token_to_the_revocation() {
    let shown = example::walk(Command::new(env!("CARGO_BIN_EXE_example-oidc")));
    for part in [
        "/token?grant_type=client_credentials&client_id=machine-1",
        "\"answer\": 42",
        "spent 0.03",
        "\"error\": \"insufficient_scope\"",
        "\"error\": \"invalid_key\"",
        "\"error\": \"expired_key\"",
        "key-2 is accepted",
        "\"error\": \"revoked_key\"",
    ] {
        assert!(shown.contains(part), "no {part}: {shown}");
    }
}
