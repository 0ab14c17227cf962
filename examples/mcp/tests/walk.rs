//! The example does what it says, with the official SDK as client.

use std::process::Command;

#[path = "../../../tests/support/example.rs"]
mod example;

#[test]
fn a_client_finds_the_issuer_calls_tools_runs_out_and_is_cut_off() {
    let shown = example::walk(Command::new(env!("CARGO_BIN_EXE_example-mcp")));
    let mut rest = shown.as_str();
    for part in [
        "resource_metadata=\"http://",
        "search: Searches a text.",
        "search: result {",
        "translate: Bearer",
        "error=\"insufficient_scope\"",
        "scope=\"translate\"",
        "search: result {",
        "search: error {",
        "\"error\": \"budget_exceeded\"",
        "\"remaining_cents\": 1",
        "search: Bearer",
        "disabled",
        "\"amount_cents\":2",
        "\"tool\":\"search\"",
    ] {
        let at = rest
            .find(part)
            .unwrap_or_else(|| panic!("no {part} after the parts before it: {shown}"));
        rest = &rest[at + part.len()..];
    }
}
