//! Whether a request costs the same with a million keys and ten million entries as with a thousand and ten thousand:
//! `cargo bench -p agentkey-benches --features postgres --bench scale`.
//!
//! Two databases side by side, a small one and a large one; every step is taken once on each in each turn of one loop.
//! Half of all keys and entries belong to one account, the rest to a thousand. Keys are taken at random, so that in the
//! large database a key has mostly never been seen by this process. One request at a time; commits wait for the disk.
//!
//! `KEYS`, `ENTRIES` and `TURNS` override the sizes; `-- sqlite` and `-- postgres` choose one. The large databases take some 3 GB of disk each and minutes to fill.

mod fill;
mod steps;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Instant;

use agentkey::store::Store;
use agentkey::{AgentKeys, SqliteStore};

use fill::Size;
use steps::{STEPS, Step};
use support::{Result, argument, quantile, setting};

const SMALL: Size = Size { keys: 1_000, entries: 10_000 };

#[tokio::main]
async fn main() -> Result<()> {
    // On a worker, as a server's requests are.
    tokio::spawn(all()).await?
}

async fn all() -> Result<()> {
    let large = Size {
        keys: setting("KEYS", 1_000_000) as i64,
        entries: setting("ENTRIES", 10_000_000) as i64,
    };
    let wanted = argument().unwrap_or_default();
    if "postgres".contains(&wanted) {
        postgres(large).await?;
    }
    if "sqlite".contains(&wanted) {
        sqlite(large).await?;
    }
    Ok(())
}

async fn sqlite(large: Size) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut stores: Vec<(Size, Arc<dyn Store>)> = Vec::new();
    for size in [SMALL, large] {
        let file = dir.path().join(format!("{}.db", size.keys));
        let keys = AgentKeys::new(SqliteStore::connect(&file).await?)?;
        fill::sqlite(&keys, &file, size).await?;
        keys.shutdown().await;
        stores.push((size, Arc::new(SqliteStore::connect(&file).await?)));
    }
    measure("SQLite", &stores).await
}

#[cfg(feature = "postgres")]
async fn postgres(large: Size) -> Result<()> {
    use agentkey::PostgresStore;

    let mut databases = Vec::new();
    let mut stores: Vec<(Size, Arc<dyn Store>)> = Vec::new();
    for size in [SMALL, large] {
        let Some(database) = support::database::Database::start().await else {
            println!("left out: PostgreSQL, which is not installed\n");
            return Ok(());
        };
        let keys = AgentKeys::new(PostgresStore::connect(database.url()).await?)?;
        fill::postgres(&keys, database.url(), size).await?;
        keys.shutdown().await;
        stores.push((size, Arc::new(PostgresStore::connect(database.url()).await?)));
        databases.push(database);
    }
    measure(&databases[0].describe().await?, &stores).await
}

#[cfg(not(feature = "postgres"))]
async fn postgres(_: Size) -> Result<()> {
    println!("left out: PostgreSQL, without the feature `postgres`\n");
    Ok(())
}

async fn measure(on: &str, stores: &[(Size, Arc<dyn Store>)]) -> Result<()> {
    let turns = setting("TURNS", 2_000).max(1);
    let mut times = vec![vec![Vec::with_capacity(turns); stores.len()]; STEPS.len()];
    for turn in 0..turns {
        for (step, times) in STEPS.iter().zip(&mut times) {
            for ((size, store), times) in stores.iter().zip(times) {
                let start = Instant::now();
                step.take(store.as_ref(), *size, turn as i64).await?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
        }
    }
    for (_, store) in stores {
        store.close().await;
    }
    print(on, stores, &times);
    Ok(())
}

fn print(on: &str, stores: &[(Size, Arc<dyn Store>)], times: &[Vec<Vec<f64>>]) {
    let sizes: Vec<_> = stores
        .iter()
        .map(|(size, _)| format!("{} keys, {} entries", size.keys, size.entries))
        .collect();
    println!(
        "| {on}: p50 (p99), µs | {} | {} | ratio of p50 |\n|---|---|---|---|",
        sizes[0], sizes[1]
    );
    for (Step { name, .. }, times) in STEPS.iter().zip(times) {
        let [small, large] =
            [&times[0], &times[1]].map(|times| (quantile(times, 0.5), quantile(times, 0.99)));
        let ratio = large.0 / small.0;
        println!(
            "| {name} | {:.0} ({:.0}) | {:.0} ({:.0}) | {ratio:.2} |",
            small.0, small.1, large.0, large.1
        );
    }
    println!();
}
