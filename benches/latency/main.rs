//! How long one request takes on a quiet service:
//! `cargo bench -p agentkey-benches --features postgres --bench latency`.
//!
//! One request at a time. Every step is timed once in each turn of one loop, so that all of them see the same machine,
//! in another order each time, as what ran just before leaves caches warm or cold. `TURNS` overrides how many turns
//! there are. What agentkey does is compared with the least that a program could do
//! over rusqlite or sqlx on one connection: a prepared SELECT by primary key, and that with an UPDATE of one row, each committed by
//! itself. Commits wait for the disk.
//!
//! - *handle*: [`AgentKeys::find`](agentkey::AgentKeys::find), which looks a token up.
//! - *service*: a whole request, from [`tower::Service::call`] to the end of the response, through axum's router and
//!   agentkey's layers, but through no socket. It is what the bars are about.
//! - *HTTP*: the same over one keep-alive connection to a server in this process, and the bare route over another.

#[path = "../http/client.rs"]
mod client;
mod database;
mod steps;
#[path = "../support/mod.rs"]
mod support;

use std::time::Instant;

use agentkey::{AgentKeys, SqliteStore};

use database::Database;
use steps::{Step, Subject};
use support::{Result, quantile, setting};

const WARM_UP: usize = 200;

#[tokio::main]
async fn main() -> Result<()> {
    // On a worker, as a server's requests are: what runs in `main` itself is woken from another thread.
    tokio::spawn(all()).await?
}

async fn all() -> Result<()> {
    let turns = setting("TURNS", 3_000).max(1);
    println!("one request at a time, {turns} turns\n");
    postgres(turns).await?;

    let dir = tempfile::tempdir()?;
    let database = Database::sqlite(&dir.path().join("plain.db")).await?;
    let keys = AgentKeys::new(SqliteStore::connect(dir.path().join("keys.db")).await?)?;
    measure("SQLite on a file", None, database, keys, turns).await
}

#[cfg(feature = "postgres")]
async fn postgres(turns: usize) -> Result<()> {
    let Some(server) = support::database::Database::start().await else {
        println!("left out: PostgreSQL, which is not installed\n");
        return Ok(());
    };
    let database = Database::postgres(server.url()).await?;
    let keys = AgentKeys::new(agentkey::PostgresStore::connect(server.url()).await?)?;
    measure(&server.describe().await?, Some(2.2), database, keys, turns).await
}

#[cfg(not(feature = "postgres"))]
async fn postgres(_: usize) -> Result<()> {
    println!("left out: PostgreSQL, without the feature `postgres`\n");
    Ok(())
}

async fn measure(
    on: &str,
    bar: Option<f64>,
    database: Database,
    keys: AgentKeys,
    turns: usize,
) -> Result<()> {
    let mut subject = Subject::new(database, &keys).await?;
    let mut times = vec![Vec::with_capacity(turns); Step::ALL.len()];
    let mut order: Vec<_> = (0..Step::ALL.len()).collect();
    let mut random = 1;
    for turn in 0..WARM_UP + turns {
        shuffle(&mut order, &mut random);
        for &place in &order {
            let start = Instant::now();
            subject.take(Step::ALL[place]).await?;
            let time = start.elapsed();
            if turn >= WARM_UP {
                times[place].push(time.as_secs_f64() * 1e6);
            }
        }
    }
    keys.shutdown().await;
    print(on, bar, &times);
    Ok(())
}

/// The same orders in every run.
fn shuffle(order: &mut [usize], random: &mut u64) {
    for last in (1..order.len()).rev() {
        *random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(last, (*random >> 33) as usize % (last + 1));
    }
}

fn print(on: &str, bar: Option<f64>, times: &[Vec<f64>]) {
    let p50 = |step: Step| {
        let place =
            Step::ALL.into_iter().position(|other| other == step).expect("a step that is measured");
        quantile(&times[place], 0.5)
    };
    println!(
        "| {on} | p50, µs | p99, µs | p50 to that of the plain statements | bar |\n|---|---|---|---|---|"
    );
    for (step, times) in Step::ALL.into_iter().zip(times) {
        let (mine, p99) = (quantile(times, 0.5), quantile(times, 0.99));
        let ratio = step.plain().map(|plain| mine / p50(plain));
        let shown = ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
        let bar = match (bar.filter(|_| step.has_bar()), ratio) {
            (Some(bar), Some(ratio)) if ratio > bar => format!("≤ {bar}, **missed**"),
            (Some(bar), _) => format!("≤ {bar}"),
            _ => "–".to_owned(),
        };
        println!("| {} | {mine:.0} | {p99:.0} | {shown} | {bar} |", step.name());
    }
    let over_bare = |step| p50(step) - p50(Step::HttpBare);
    println!(
        "\nOver HTTP, more than the bare route: authenticate {:.0} µs, {:.2} × SELECT; with a posting {:.0} µs, \
         {:.2} × SELECT + UPDATE.\n",
        over_bare(Step::HttpRead),
        over_bare(Step::HttpRead) / p50(Step::Select),
        over_bare(Step::HttpPay),
        over_bare(Step::HttpPay) / p50(Step::SelectAndUpdate),
    );
}
