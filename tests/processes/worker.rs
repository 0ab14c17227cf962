//! A process that serves charged routes, and a client for it.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex};

use agentkey::identity::{Subject, Verified, Verifier, VerifyError, VerifyFuture};
use agentkey::model::{Clock, ManualClock};
use agentkey::{
    AgentKeyLayer, AgentKeys, Amount, Budget, Charge, KeyContext, NewKey, Prune, Rejection,
};
use axum::extract::{Query, State};
use axum::{Router, routing::post};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Notify;

pub const DATABASE: &str = "AGENTKEY_TEST_WORKER_DATABASE";

/// Says that rate limits are shared, and at which instant the clock is stopped, if at one.
const LIMITED: &str = "AGENTKEY_TEST_WORKER_LIMITED";

#[derive(serde::Deserialize)]
struct Ask {
    reference: Option<String>,
}

/// Handlers of this process that did their work.
static WORKED: AtomicUsize = AtomicUsize::new(0);

/// How often this process was asked which key a subject gets.
static ASKED: AtomicUsize = AtomicUsize::new(0);

/// How many credentials of another issuer this process has verified.
static VERIFIED: AtomicUsize = AtomicUsize::new(0);

/// Lets the hook go on for a subject that is slow.
static GO: Notify = Notify::const_new();

/// What another issuer made: `ext.` and the id of its subject.
#[derive(Debug)]
struct External;

impl Verifier for External {
    fn accepts(&self, credential: &str) -> bool {
        credential.starts_with("ext.")
    }

    fn verify<'a>(&'a self, credential: &'a str) -> VerifyFuture<'a> {
        VERIFIED.fetch_add(1, Ordering::SeqCst);
        let id = credential.trim_start_matches("ext.");
        let subject = Subject::new("https://issuer.example", id);
        let verified = subject.map(Verified::new);
        Box::pin(async { verified.map_err(|error| VerifyError::Invalid(error.to_string())) })
    }
}

fn layer(keys: &agentkey::AgentKeys) -> AgentKeyLayer {
    AgentKeyLayer::new(keys).verifier(External).on_first_seen(async |verified| {
        ASKED.fetch_add(1, Ordering::SeqCst);
        if verified.subject.id().starts_with("slow.") {
            GO.notified().await;
        }
        let new = NewKey::new(crate::fixture::ACCOUNT.parse().expect("an account"));
        Ok(new.name(verified.subject.id()).budget(Budget::lifetime(Amount::cents(100))))
    })
}

/// Counts, and writes a line to the test, before the answer.
fn worked() {
    WORKED.fetch_add(1, Ordering::SeqCst);
    let mut out = std::io::stdout().lock();
    out.write_all(b"WORKED\n").and_then(|()| out.flush()).expect("the test reads on");
}

async fn hold(charge: Charge, Query(ask): Query<Ask>) -> Result<&'static str, Rejection> {
    charge.reference(ask.reference.as_deref().unwrap_or("none"))?;
    charge.hold(Amount::cents(1)).await?;
    worked();
    charge.add(Amount::cents(1));
    Ok("worked")
}

async fn pay(charge: Charge, Query(ask): Query<Ask>) -> Result<&'static str, Rejection> {
    charge.reference(ask.reference.as_deref().unwrap_or("none"))?;
    charge.pay(Amount::cents(1)).await?;
    worked();
    Ok("worked")
}

/// Works for as long as the client waits, and longer.
async fn never(charge: Charge) -> Result<&'static str, Rejection> {
    charge.hold(Amount::cents(5)).await?;
    charge.add(Amount::cents(1));
    worked();
    std::future::pending().await
}

/// Prunes what is older than forty days. Writes a line to the test after each step.
async fn prune(State(keys): State<AgentKeys>) -> Result<String, Rejection> {
    let prune = Prune::older_than(crate::retention::KEPT);
    let pruned = keys.prune_reporting(&prune, |_| worked()).await?;
    Ok(pruned.entries.to_string())
}

/// Serves until the test that started the process is gone.
pub fn serve(database: &str) {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let limited = std::env::var(LIMITED).ok();
        let at = limited.as_ref().filter(|at| !at.is_empty());
        let clock = at.map(|at| Clock::from(&ManualClock::at(at.parse().unwrap())));
        let builder = AgentKeys::builder().shared_rate_limits(limited.is_some());
        let keys = crate::fixture::build(database, clock.unwrap_or_default(), builder).await;
        let app = Router::new()
            .route("/hold", post(hold))
            .route("/pay", post(pay))
            .route("/never", post(never))
            .route("/free", post(async |_: KeyContext| "free"));
        let app = app.layer(layer(&keys));
        let app = app.route("/prune", post(prune).with_state(keys.clone()));
        let app = app.route("/asked", post(async || ASKED.load(Ordering::SeqCst).to_string()));
        let app =
            app.route("/verified", post(async || VERIFIED.load(Ordering::SeqCst).to_string()));
        let app = app.route("/go", post(async || GO.notify_one()));
        let app = app.route("/worked", post(async || WORKED.load(Ordering::SeqCst).to_string()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("\nADDR {}", listener.local_addr().unwrap());
        axum::serve(listener, app).await.unwrap();
    });
}

/// A worker process; it ends with the test.
pub struct Worker {
    process: Child,
    _stdin: ChildStdin,
    addr: String,
    worked: Arc<Worked>,
}

#[derive(Default)]
struct Worked {
    count: Mutex<usize>,
    changed: Condvar,
}

/// The library that lies about the time to a program that is started with it. `None` where it is not installed: one line
/// on stderr has then said so. Where all must be there, that is a panic.
pub fn faketime() -> Option<&'static str> {
    static LIBRARY: LazyLock<Option<String>> = LazyLock::new(|| {
        let told = Command::new("faketime")
            .args(["-m", "-f", "+0s", "printenv", "LD_PRELOAD"])
            .output()
            .ok();
        let library = told
            .and_then(|told| String::from_utf8(told.stdout).ok())
            .filter(|told| !told.is_empty());
        if library.is_none() {
            let why =
                "tests that need faketime, which is not installed; ./scripts/test installs it";
            let is_required = cfg!(target_os = "linux")
                && std::env::var_os("AGENTKEY_TEST_POSTGRES").is_some_and(|all| all == "required");
            assert!(!is_required, "there are {why}");
            let _ = writeln!(std::io::stderr(), "left out: {why}");
        }
        library.map(|library| library.trim().to_owned())
    });
    LIBRARY.as_deref()
}

impl Worker {
    /// With its clock so far from that of this machine.
    pub fn start(database: &str, offset: Option<&str>, limited: Option<&str>) -> Self {
        let mut program = Command::new(std::env::current_exe().unwrap());
        if let Some((offset, library)) = offset.and_then(|offset| Some((offset, faketime()?))) {
            // How much time passes is true.
            program
                .env("LD_PRELOAD", library)
                .env("FAKETIME", offset)
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let mut process = program
            .args(["a_worker_process", "--exact", "--nocapture"])
            .env(DATABASE, database)
            .envs(limited.map(|at| (LIMITED, at)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take().unwrap();
        let mut lines =
            BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let addr = lines
            .find_map(|line| line.strip_prefix("ADDR ").map(str::to_owned))
            .expect("the worker serves");
        let worked = Arc::new(Worked::default());
        let counts = worked.clone();
        std::thread::spawn(move || {
            for _ in lines.filter(|line| line == "WORKED") {
                *counts.count.lock().unwrap() += 1;
                counts.changed.notify_all();
            }
        });
        Self { process, _stdin: stdin, addr, worked }
    }

    pub fn client(&self) -> Client {
        let pool = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .build(HttpConnector::new());
        Client { addr: self.addr.clone(), pool }
    }

    pub async fn handlers_that_worked(&self) -> usize {
        self.count("/worked").await
    }

    /// How often it was asked which key a subject gets.
    pub async fn hooks_that_were_asked(&self) -> usize {
        self.count("/asked").await
    }

    pub async fn credentials_that_were_verified(&self) -> usize {
        self.count("/verified").await
    }

    async fn count(&self, path: &str) -> usize {
        self.client().post(path, "").await.unwrap().1.parse().unwrap()
    }

    /// `kill -9`, as soon as so many handlers have worked.
    pub fn kill_after_handlers(&mut self, handlers: usize) {
        let count = self.worked.count.lock().unwrap();
        let enough = |count: &mut usize| *count < handlers;
        let waited = self.worked.changed.wait_timeout_while(count, super::HANG, enough).unwrap();
        assert!(!waited.1.timed_out(), "no load");
        drop(waited);
        self.kill();
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[derive(Clone)]
pub struct Client {
    addr: String,
    pool: hyper_util::client::legacy::Client<HttpConnector, Empty<Bytes>>,
}

impl Client {
    /// The status and the whole body; an error where the process is gone.
    pub async fn post(&self, path: &str, token: &str) -> Answer {
        self.send(self.request(path, token)).await
    }

    /// The same, with an `Idempotency-Key`.
    pub async fn post_once(&self, path: &str, token: &str, idempotency_key: &str) -> Answer {
        self.send(
            self.request(path, token).header("idempotency-key", format!("\"{idempotency_key}\"")),
        )
        .await
    }

    fn request(&self, path: &str, token: &str) -> http::request::Builder {
        Request::post(format!("http://{}{path}", self.addr))
            .header("authorization", format!("Bearer {token}"))
    }

    async fn send(&self, request: http::request::Builder) -> Answer {
        let response = self.pool.request(request.body(Empty::new())?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

type Answer = Result<(StatusCode, String), Box<dyn std::error::Error + Send + Sync>>;
