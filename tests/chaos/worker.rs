//! A process that serves, and is its own clients.
#![allow(dead_code)] // Each binary uses its part.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agentkey::{AgentKeyLayer, AgentKeys, Amount, Charge, Rejection, StoreError};
use axum::Router;
use axum::body::Body;
use axum::extract;
use axum::routing::post;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;

use crate::journal::{Charged, Journal};
use crate::process::{self, Process};
use crate::random::Random;

const DATABASE: &str = "AGENTKEY_CHAOS_WORKER_DATABASE";
const DIRECTORY: &str = "AGENTKEY_CHAOS_WORKER_DIRECTORY";
const NUMBER: &str = "AGENTKEY_CHAOS_WORKER_NUMBER";
const SEED: &str = "AGENTKEY_CHAOS_WORKER_SEED";

/// The line that a process writes for each answer that acknowledges.
const ACKNOWLEDGED: &str = "ACKNOWLEDGED";

/// Requests at once in a process.
const CLIENTS: usize = 12;

/// The application holds SQLite's lock for longer than this now and then.
#[cfg(feature = "sqlite")]
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

type Asked = extract::Path<(String, i32, i32)>;

/// Pays the first figure.
async fn pay(
    charge: Charge,
    extract::Path((reference, cents, _)): Asked,
) -> Result<String, Rejection> {
    charge.reference(reference)?;
    Ok(charge.pay(Amount::cents(cents)).await?.entry.to_string())
}

/// Pays the first figure and gives the second back.
async fn refund(
    charge: Charge,
    extract::Path((reference, cents, back)): Asked,
) -> Result<String, Rejection> {
    charge.reference(reference)?;
    let receipt = charge.pay(Amount::cents(cents)).await?;
    charge.refund(&receipt, Amount::cents(back)).await?;
    Ok(receipt.entry.to_string())
}

/// Holds the first figure, in two steps, and adds the second.
async fn hold(
    charge: Charge,
    extract::Path((reference, cents, cost)): Asked,
) -> Result<String, Rejection> {
    charge.reference(reference)?;
    charge.hold(Amount::cents(cents - 1)).await?;
    tokio::task::yield_now().await;
    charge.hold(Amount::cents(1)).await?;
    charge.add(Amount::cents(cost));
    Ok("-".to_owned())
}

/// What a client asks, and what it costs when it is answered well.
struct Ask {
    path: String,
    reference: String,
    idempotency_key: Option<String>,
    cost: i32,
    /// Whether a refusal says that nothing was charged.
    all_or_nothing: bool,
}

impl Ask {
    fn random(random: &mut Random, unique: &str, token: &str) -> Self {
        let cents = 2 + i32::try_from(random.below(9)).unwrap();
        let part = i32::try_from(random.below(u64::try_from(cents).unwrap())).unwrap();
        let ask = |route: &str, reference: String, second: i32, cost: i32| Self {
            path: format!("/{route}/{reference}/{cents}/{second}"),
            reference,
            idempotency_key: None,
            cost,
            all_or_nothing: true,
        };
        match random.below(8) {
            0..3 => ask("pay", unique.to_owned(), 0, cents),
            3..6 => ask("hold", unique.to_owned(), part, part),
            // Paid, and then its refund was refused: the payment stands.
            6 => Self {
                all_or_nothing: false,
                ..ask("refund", unique.to_owned(), part, cents - part)
            },
            // The same request, now and then, from all processes: a refusal is not the last word.
            _ => {
                let order = random.below(400);
                let cost = 1 + i32::try_from(order % 7).unwrap();
                let reference = format!("order-{order}-{}", &token[token.len() - 6..]);
                let path = format!("/pay/{reference}/{cost}/0");
                Self {
                    path,
                    idempotency_key: Some(reference.clone()),
                    reference,
                    cost,
                    all_or_nothing: false,
                }
            }
        }
    }
}

/// A file, or a database by its URL.
async fn open(database: &str) -> Result<AgentKeys, StoreError> {
    // However long an outage is: what a payment without an answer cost is taken back behind it.
    let builder = AgentKeys::builder().settle_timeout(crate::HANG);
    #[cfg(feature = "postgres")]
    if database.starts_with("postgres") {
        return Ok(builder.build(agentkey::PostgresStore::connect(database).await?).unwrap());
    }
    #[cfg(feature = "sqlite")]
    return Ok(builder
        .build(
            agentkey::SqliteStore::open(
                agentkey::store::SqliteOptions::new(database).busy_timeout(BUSY_TIMEOUT),
            )
            .await?,
        )
        .unwrap());
    #[cfg(not(feature = "sqlite"))]
    panic!("no feature for {database}");
}

/// Serves and asks until the test that started the process is gone, or says that it is enough.
pub(crate) fn serve() {
    let Ok(database) = std::env::var(DATABASE) else { return };
    let directory = std::env::var(DIRECTORY).unwrap();
    let directory = Path::new(&directory);
    let of = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let number = usize::try_from(of(NUMBER)).unwrap();
    let enough = process::enough();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        // The server may just be down, or the file locked.
        let keys = loop {
            match open(&database).await {
                Ok(keys) => break keys,
                Err(error) if error.is_transient() => {
                    tokio::time::sleep(Duration::from_millis(50)).await
                }
                Err(error) => panic!("{error}"),
            }
        };
        let routes = Router::new()
            .route("/pay/{reference}/{cents}/{more}", post(pay))
            .route("/refund/{reference}/{cents}/{more}", post(refund))
            .route("/hold/{reference}/{cents}/{more}", post(hold));
        let service = routes.layer(AgentKeyLayer::new(&keys));
        let journal = Arc::new(Journal::new(directory, number));
        let tokens = std::fs::read_to_string(directory.join("tokens")).unwrap();
        let tokens: Arc<Vec<String>> = Arc::new(tokens.lines().map(str::to_owned).collect());
        let mut clients = tokio::task::JoinSet::new();
        let mut random = Random::new(of(SEED));
        for client in 0..CLIENTS {
            let (service, journal, tokens, enough) =
                (service.clone(), journal.clone(), tokens.clone(), enough.clone());
            let mut random = Random::new(random.next());
            clients.spawn(async move {
                for request in 0.. {
                    if enough.load(Ordering::SeqCst) {
                        break;
                    }
                    let token =
                        &tokens[usize::try_from(random.below(tokens.len() as u64)).unwrap()];
                    let ask =
                        Ask::random(&mut random, &format!("{number}-{client}-{request}"), token);
                    ask_and_write_down(&service, &journal, token, ask).await;
                }
            });
        }
        clients.join_all().await;
        keys.shutdown().await;
        journal.end();
    });
    std::process::exit(0);
}

async fn ask_and_write_down(service: &Router, journal: &Journal, token: &str, ask: Ask) {
    let mut request = Request::post(&ask.path).header("x-api-key", token);
    if let Some(key) = &ask.idempotency_key {
        request = request.header("idempotency-key", key);
    }
    let response = service.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.map(|body| body.to_bytes());
    let body =
        body.map_or_else(|_| String::new(), |body| String::from_utf8_lossy(&body).into_owned());
    let cost = i64::from(ask.cost) * 10_000;
    let charged = match status {
        StatusCode::OK if ask.cost == 0 => Charged::No,
        StatusCode::OK if !body.is_empty() => Charged::Yes(cost),
        StatusCode::CONFLICT if body.contains("already_charged") => Charged::Yes(cost),
        StatusCode::OK | StatusCode::CONFLICT => Charged::Perhaps,
        _ if ask.all_or_nothing => Charged::No,
        _ => Charged::Perhaps,
    };
    let entry = if status == StatusCode::OK { body.as_str() } else { "-" };
    journal.write(status.as_u16(), &ask.reference, charged, entry);
    if status == StatusCode::OK {
        process::say(ACKNOWLEDGED);
    }
}

/// Starts a worker process; what it acknowledges is counted.
pub(crate) fn start(
    database: &str,
    directory: &Path,
    number: usize,
    seed: u64,
    acknowledged: &Arc<AtomicUsize>,
) -> Process {
    run(Process::program(), database, directory, number, seed, acknowledged)
}

/// Starts one through a program that becomes this test binary, such as `ip netns exec`.
pub(crate) fn run(
    mut program: Command,
    database: &str,
    directory: &Path,
    number: usize,
    seed: u64,
    acknowledged: &Arc<AtomicUsize>,
) -> Process {
    program
        .env(DATABASE, database)
        .env(DIRECTORY, directory)
        .env(NUMBER, number.to_string())
        .env(SEED, seed.to_string());
    let acknowledged = acknowledged.clone();
    Process::start(program, "a_worker_process", move |line| {
        if line == ACKNOWLEDGED {
            acknowledged.fetch_add(1, Ordering::SeqCst);
        }
    })
}
