//! What charges take on the disk before and after they are pruned, and what a run costs the requests beside it:
//! `cargo bench -p agentkey-benches --features postgres --bench retention`.
//!
//! A year of use by SQL: a million charges, of a thousand keys in ten accounts, over sixty days, with hold, route, model and
//! request id, every tenth with an idempotency key, every hundredth refunded. Then charges of now for a few seconds, alone
//! and beside a run that prunes what is older than 32 days. Usage is compared before and after.
//!
//! `CHARGES` and `SECONDS` override the sizes; `-- sqlite` and `-- postgres` choose one.

mod fill;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agentkey::store::{Usage, UsageBy};
use agentkey::{AgentKeys, Amount, KeyQuery, NewKey, Prune, UsageQuery};
use tokio::task::JoinSet;

use fill::{ACCOUNTS, Database};
use support::{Result, argument, setting};

const KEPT: Duration = Duration::from_secs(32 * 24 * 3_600);

#[tokio::main]
async fn main() -> Result<()> {
    tokio::spawn(all()).await?
}

async fn all() -> Result<()> {
    let wanted = argument().unwrap_or_default();
    let charges = setting("CHARGES", 1_000_000) as i64;
    if "sqlite".contains(&wanted) {
        let database = Database::sqlite()?;
        measure("SQLite", &database, charges).await?;
    }
    #[cfg(feature = "postgres")]
    if "postgres".contains(&wanted)
        && let Some(database) = Database::postgres().await
    {
        measure("PostgreSQL", &database, charges).await?;
    }
    Ok(())
}

async fn measure(name: &str, database: &Database, charges: i64) -> Result<()> {
    let seconds = Duration::from_secs(setting("SECONDS", 5) as u64);
    let keys = database.open().await?;
    for _ in 0..fill::KEYS / ACCOUNTS {
        for account in 0..ACCOUNTS {
            keys.create(NewKey::new(format!("acme-{account}").parse()?)).await?;
        }
    }
    let empty = database.sizes().await?;
    database.fill(charges).await?;
    let full = database.sizes().await?;
    let before = usage(&keys).await?;

    let alone = charge_for(&keys, seconds).await?;
    let prune = Prune::older_than(KEPT);
    let old = keys.prunable(&prune).await?;
    // A second of it at first: how far beyond its bound does it go?
    let bound = Duration::from_secs(1);
    let (began, mut worst) = (Instant::now(), Duration::ZERO);
    let bounded =
        keys.prune_reporting(&prune.clone().time_bound(bound), |_| worst = began.elapsed()).await?;
    assert!(!bounded.is_complete, "a run of a second has more to do");
    let began = Instant::now();
    let run = tokio::spawn({
        let (keys, prune) = (keys.clone(), prune.clone());
        async move { (keys.prune(&prune).await, began.elapsed()) }
    });
    let beside = charge_for(&keys, seconds).await?;
    let (pruned, took) = run.await?;
    let pruned = pruned?;
    assert!(pruned.is_complete && pruned.left.entries == 0, "{pruned:?}");
    assert!(usage(&keys).await? == before, "usage is the same");
    keys.shutdown().await;
    database.compact().await?;
    let after = database.sizes().await?;

    println!("\n{name}: {charges} charges");
    println!("{:<34} {:>10} {:>10} {:>10}", "MB", "empty", "charged", "pruned");
    for ((table, empty), ((_, full), (_, after))) in empty.iter().zip(full.iter().zip(&after)) {
        println!("{table:<34} {empty:>10.1} {full:>10.1} {after:>10.1}");
    }
    let sum = |sizes: &[(String, f64)]| sizes.iter().map(|(_, size)| size).sum::<f64>();
    println!("{:<34} {:>10.1} {:>10.1} {:>10.1}", "all", sum(&empty), sum(&full), sum(&after));
    println!(
        "pruned {} entries, {} holds and {} idempotency keys; old before: {old:?}",
        bounded.entries + pruned.entries,
        bounded.holds + pruned.holds,
        bounded.idempotency_keys + pruned.idempotency_keys
    );
    println!("a bound of {bound:?} ended its last step after {worst:?}; the rest took {took:?}");
    println!(
        "charges a second: {alone:.0} alone, {beside:.0} beside a run ({:.2})",
        beside / alone
    );
    Ok(())
}

/// Charges with 64 tasks, and returns how many charges a second.
async fn charge_for(keys: &AgentKeys, time: Duration) -> Result<f64> {
    let (until, charged) = (Instant::now() + time, Arc::new(AtomicU64::new(0)));
    let mut contexts = Vec::new();
    for account in 0..ACCOUNTS {
        let query = KeyQuery::for_account(format!("acme-{account}").parse()?).limit(7);
        for key in keys.keys(&query).await?.items {
            contexts.push(keys.authorize_by_id(key.id).await?);
        }
    }
    let mut load = JoinSet::new();
    for context in contexts.into_iter().take(64) {
        let (keys, charged) = (keys.clone(), charged.clone());
        load.spawn(async move {
            while Instant::now() < until {
                let charge = keys.charge(&context).await?;
                charge.pay(Amount::micros(1)).await?;
                charge.settle().await?;
                charged.fetch_add(1, Ordering::Relaxed);
            }
            Result::Ok(())
        });
    }
    while let Some(done) = load.join_next().await {
        done??;
    }
    Ok(charged.load(Ordering::Relaxed) as f64 / time.as_secs_f64())
}

/// What was charged up to two days ago, by day and model.
async fn usage(keys: &AgentKeys) -> Result<Vec<Vec<Usage>>> {
    let mut all = Vec::new();
    for account in 0..ACCOUNTS {
        let query = UsageQuery::for_account(format!("acme-{account}").parse()?, UsageBy::Day);
        let query = query.then_by(UsageBy::Label("model".to_owned())).until(fill::two_days_ago());
        all.push(keys.usage(&query).await?);
    }
    Ok(all)
}
