//! The example does what it says, by the lines that it prints.
#![cfg(unix)]

use std::path::Path;
use std::process::Command;

use serde_json::json;

#[path = "../../../tests/support/example.rs"]
mod example;

use example::Served;

fn quickstart(database: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_example-quickstart"));
    command.env("DATABASE", database);
    command
}

#[test]
fn checks_charges_logs_and_remembers() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("keys.db");
    let service = Served::start(quickstart(&database), true);
    let token = service.token.clone();
    let token = token.as_deref();

    let greeting =
        |remaining: u32| json!({ "hello": "demo", "remaining_cents": remaining }).to_string();
    assert_eq!(service.ask("GET", "/read", token), (200, greeting(10)));
    for _ in 0..3 {
        assert_eq!(
            service.ask("POST", "/answer", token),
            (200, json!({ "answer": 42 }).to_string())
        );
    }
    service.is_refused("POST", "/answer", token, 402, "budget_exceeded");
    service.is_refused("GET", "/admin", token, 403, "insufficient_scope");
    service.is_refused("GET", "/read", None, 401, "missing_key");
    service.is_refused("GET", "/read", Some("ak_wrong"), 401, "invalid_key");
    // In this order, whatever features of serde_json a program has.
    let (_, document) = service.ask("GET", "/read", None);
    assert!(
        document.starts_with(r#"{"title":"Unauthorized","status":401,"error":"missing_key","#),
        "{document}"
    );
    let shown = service.interrupt();
    for logged in [
        "uri=/answer",
        "agentkey.key_id=1",
        "agentkey.account=\"demo\"",
        "status=200",
        "status=402",
        "status=403",
        "status=401",
    ] {
        assert!(shown.contains(logged), "no {logged}: {shown}");
    }
    assert!(
        !shown.contains("ak_wrong") && !shown.contains(token.unwrap()),
        "a token was logged: {shown}"
    );

    // The key and what it spent are in the file.
    let service = Served::start(quickstart(&database), false);
    assert_eq!(service.ask("GET", "/read", token), (200, greeting(1)));
    service.is_refused("POST", "/answer", token, 402, "budget_exceeded");
    assert!(service.token.is_none(), "the token was shown again");
    service.interrupt();
}
