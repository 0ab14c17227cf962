//! The example does what it says: it asserts every step of its walk.

use std::process::Command;

#[path = "../../../tests/support/example.rs"]
mod example;

#[test]
fn walks() {
    example::walk(Command::new(env!("CARGO_BIN_EXE_example-marketplace")));
}
