//! The example does what it says, by the line that it prints.
#![cfg(unix)]

use std::process::Command;

#[path = "../../../tests/support/example.rs"]
mod example;

use example::Served;

#[test]
fn charges_without_axum() {
    let service = Served::start(Command::new(env!("CARGO_BIN_EXE_example-hyper")), true);
    let token = service.token.as_deref();
    for _ in 0..3 {
        assert_eq!(service.ask("GET", "/", token), (200, "42, says demo\n".to_owned()));
    }
    service.is_refused("GET", "/", token, 402, "budget_exceeded");
    service.is_refused("GET", "/", None, 401, "missing_key");
    service.interrupt();
}
