//! The example does what it says: it checks every answer itself, and prints it.
#![cfg(unix)]

use std::process::Command;

#[path = "../../../tests/support/example.rs"]
mod example;

#[test]
fn it_walks_from_the_first_token_to_the_disabled_machine() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_example-clerk"));
    command.env_remove("CLERK_MACHINE_SECRET_KEY");
    let shown = example::walk(command);
    for part in [
        "Bearer mt_first'",
        "\"answer\": 42",
        "\"error\": \"budget_exceeded\"",
        "\"error\": \"invalid_key\"",
        "\"error\": \"expired_key\"",
        "\"error\": \"disabled_key\"",
    ] {
        assert!(shown.contains(part), "no {part}: {shown}");
    }
}
