//! The examples do what they say: `quickstart` by its printed lines, the others by the walk each of them asserts.

#![cfg(all(feature = "axum", feature = "sqlite"))]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// Only a hang gets here.
const HANG: Duration = Duration::from_secs(60);

/// `cargo test` builds the examples beside the tests.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let examples: PathBuf = test.ancestors().nth(2).unwrap().join("examples");
    let path = examples.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(path.exists(), "{} is not built: run `cargo build --examples` with the same features", path.display());
    let mut command = Command::new(path);
    command.kill_on_drop(true).env("ADDR", "127.0.0.1:0");
    command
}

async fn walks(name: &str) {
    walks_with(name, example(name)).await;
}

async fn walks_with(name: &str, mut example: Command) {
    let output = timeout(HANG, example.output()).await.unwrap().unwrap();
    let (shown, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {}\n{shown}{errors}", output.status);
    assert!(!shown.is_empty());
}

#[tokio::test]
async fn marketplace() {
    walks("marketplace").await;
}

#[tokio::test]
async fn llm_proxy() {
    walks("llm_proxy").await;
}

#[tokio::test]
async fn tonic() {
    walks("tonic").await;
}

#[cfg(feature = "postgres")]
#[path = "support/postgres.rs"]
mod postgres_server;

#[cfg(feature = "postgres")]
#[tokio::test]
async fn postgres() {
    let Some(server) = postgres_server::Server::shared() else { return };
    let database = server.database().await;
    let mut example = example("postgres");
    example.env("DATABASE_URL", database.url());
    walks_with("postgres", example).await;
}

/// A service that was started as an example, and what it printed about itself.
struct Served {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    base: String,
    token: Option<String>,
}

impl Served {
    /// Starts it, and reads what it prints up to its address and, where `shows_token`, the curl line with the token.
    async fn start(mut command: Command, shows_token: bool) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut base, mut token) = (None, None);
        while base.is_none() || (shows_token && token.is_none()) {
            let line = timeout(HANG, lines.next_line()).await.unwrap().unwrap().expect("it ended early");
            if let Some(rest) = line.split("Listening on ").nth(1) {
                base = Some(rest.split([',', ' ']).next().unwrap().to_owned());
            }
            if let Some(rest) = line.split("Bearer ").nth(1) {
                token = Some(rest.split('\'').next().unwrap().to_owned());
            }
        }
        Self { child, lines, base: base.unwrap(), token }
    }

    async fn ask(&self, method: Method, path: &str, token: Option<&str>) -> (u16, String) {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let client = Client::builder(TokioExecutor::new()).build_http();
        let asked = client.request(request.body(Body::empty()).unwrap());
        let response = timeout(HANG, asked).await.unwrap().unwrap();
        let status = response.status().as_u16();
        let body = timeout(HANG, response.into_body().collect()).await.unwrap().unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn refused(&self, method: Method, path: &str, token: Option<&str>) -> (u16, Value) {
        let (status, body) = self.ask(method, path, token).await;
        let problem: Value = serde_json::from_str(&body).unwrap();
        (status, problem["error"].clone())
    }

    /// Ends it as Ctrl-C does, and expects it to end well.
    #[cfg(unix)]
    async fn interrupt(mut self) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
        // Read to the end, so that it never writes to a closed pipe.
        while timeout(HANG, self.lines.next_line()).await.unwrap().unwrap().is_some() {}
        assert!(timeout(HANG, self.child.wait()).await.unwrap().unwrap().success());
    }
}

fn quickstart(database: &Path) -> Command {
    let mut command = example("quickstart");
    command.env("DATABASE", database);
    command
}

#[cfg(unix)]
#[tokio::test]
async fn quickstart_checks_charges_and_remembers() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("keys.db");
    let service = Served::start(quickstart(&database), true).await;
    let token = service.token.clone();
    let token = token.as_deref();

    let (status, body) = service.ask(Method::GET, "/read", token).await;
    assert_eq!((status, body), (200, json!({ "hello": "demo", "remaining_cents": 12 }).to_string()));
    for _ in 0..3 {
        assert_eq!(service.ask(Method::POST, "/answer", token).await, (200, json!({ "answer": 42 }).to_string()));
    }
    assert_eq!(service.refused(Method::POST, "/answer", token).await, (402, json!("budget_exceeded")));
    assert_eq!(service.refused(Method::GET, "/admin", token).await, (403, json!("insufficient_scope")));
    assert_eq!(service.refused(Method::GET, "/read", None).await, (401, json!("missing_key")));
    assert_eq!(service.refused(Method::GET, "/read", Some("ak_wrong")).await, (401, json!("invalid_key")));
    service.interrupt().await;

    // The key and what it spent are in the file.
    let service = Served::start(quickstart(&database), false).await;
    let (status, body) = service.ask(Method::GET, "/read", token).await;
    assert_eq!((status, body), (200, json!({ "hello": "demo", "remaining_cents": 3 }).to_string()));
    assert_eq!(service.refused(Method::POST, "/answer", token).await, (402, json!("budget_exceeded")));
    assert!(service.token.is_none(), "the token was shown again");
    service.interrupt().await;
}

#[cfg(unix)]
#[tokio::test]
async fn hyper_charges_without_axum() {
    let service = Served::start(example("hyper"), true).await;
    let token = service.token.clone();
    for _ in 0..3 {
        assert_eq!(service.ask(Method::GET, "/", token.as_deref()).await, (200, "42, says demo\n".to_owned()));
    }
    assert_eq!(service.refused(Method::GET, "/", token.as_deref()).await, (402, json!("budget_exceeded")));
    assert_eq!(service.refused(Method::GET, "/", None).await, (401, json!("missing_key")));
    service.interrupt().await;
}
