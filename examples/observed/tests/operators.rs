//! The example does what it says, by the lines that it prints.
#![cfg(unix)]

use std::fs;
use std::process::Command;

#[path = "../../../tests/support/example.rs"]
mod example;

use example::Served;

#[test]
fn operators_see_requests_and_an_outage_of_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let (database, away) = (directory.path().join("keys.db"), directory.path().join("away.db"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_example-observed"));
    command.env("DATABASE", &database).env("ADMIN_ADDR", "127.0.0.1:0");
    let service = Served::start(command, true);
    let operators = service.also_at("for operators on http://");
    let token = service.token.as_deref();

    let (status, health) = operators.ask("GET", "/healthz", None);
    assert_eq!(status, 200, "{health}");
    assert!(health.starts_with(r#"{"ready":true,"can_read":true,"can_write":true,"#), "{health}");
    for _ in 0..3 {
        assert_eq!(service.ask("POST", "/answer", token), (200, "42\n".to_owned()));
    }
    service.is_refused("POST", "/answer", token, 402, "budget_exceeded");
    let (_, metrics) = operators.ask("GET", "/metrics", None);
    for line in [
        r#"agentkey_requests_total{decision="accepted"} 3"#,
        r#"agentkey_requests_total{decision="budget_exceeded"} 1"#,
        r#"agentkey_posted_micros_total{posting="settle"} 90000"#,
        "agentkey_settle_backlog 0",
    ] {
        assert!(metrics.lines().any(|it| it == line), "no {line}: {metrics}");
    }
    assert!(!metrics.contains(token.unwrap()) && !health.contains(token.unwrap()));
    assert_eq!(service.ask("GET", "/metrics", token).0, 404, "not for clients");

    // Without its file, the store answers nothing: not ready, but alive.
    fs::rename(&database, &away).unwrap();
    let (status, health) = operators.ask("GET", "/healthz", None);
    assert_eq!(status, 503, "{health}");
    assert!(
        health.starts_with(r#"{"ready":false,"can_read":false,"can_write":false,"#),
        "{health}"
    );
    assert_eq!(operators.ask("GET", "/livez", None), (200, "alive\n".to_owned()));
    fs::rename(&away, &database).unwrap();
    assert_eq!(operators.ask("GET", "/healthz", None).0, 200);
    service.interrupt();
}
