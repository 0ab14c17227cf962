//! The example does what it says: it checks every answer itself, and prints it.
#![cfg(unix)]

use std::process::Command;

#[path = "../../../tests/support/example.rs"]
mod example;

#[test]
fn it_walks_from_sign_up_to_revocation() {
    let shown = example::walk(Command::new(env!("CARGO_BIN_EXE_example-self-serve")));
    for part in [
        "/v1/signup' -H 'Content-Type: application/json' -d '{\"email\":\"agent@example.com\"",
        "201 Created",
        "\"error\": \"beyond_caller\"",
        "402 Payment Required",
        "\"session_id\": \"ses_",
        "\"spend_cap_usd\": 0.03",
        "\"amount_cents\": 3",
        "\"revoked_reason\": \"done\"",
        "\"error\": \"revoked_key\"",
    ] {
        assert!(shown.contains(part), "no {part}: {shown}");
    }
}
