//! Requests per second of keyed routes, as a share of a bare axum route:
//! `cargo bench -p agentkey-benches --features postgres --bench http`.
//!
//! The client is a process of its own; it, the server and PostgreSQL share the cores. In each round every case runs once,
//! directly before or after a run of the bare route with the same requests, and its share is of that run. Odd rounds go
//! backwards. The table shows medians over the rounds. Commits wait for the disk, on SQLite and on PostgreSQL.
//!
//! With the feature `metrics`, all metrics are recorded, as an application that serves them to Prometheus does it.
//!
//! `ROUNDS`, `SECONDS` and `CONNECTIONS` override the defaults. `-- hold` runs the cases with that in their name, in
//! whatever case. `-- instances` measures several handles on one database instead; see [`instances`].

mod cases;
mod client;
mod instances;
mod load;
#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use cases::{CASES, Case, Services};
use load::Load;
use support::{Result, argument, median, quantile, service, setting};

/// How it is measured.
struct Plan {
    rounds: usize,
    time: Duration,
    connections: usize,
}

/// A rate, and that of the bare route at about the same time.
#[derive(Clone, Copy)]
struct Measured {
    rate: f64,
    bare: f64,
}

fn main() -> Result<()> {
    match argument().as_deref() {
        Some(load::ARGUMENT) => load::client(),
        argument => measure(argument),
    }
}

#[tokio::main]
async fn measure(argument: Option<&str>) -> Result<()> {
    let plan = Plan {
        rounds: setting("ROUNDS", 5).max(1),
        time: Duration::from_secs(setting("SECONDS", 3).max(1) as u64),
        connections: setting("CONNECTIONS", 64).max(1),
    };
    #[cfg(feature = "metrics")]
    record_metrics()?;
    match argument {
        Some("instances") => instances::run(&plan).await,
        filter => shares(&plan, &filter.unwrap_or_default().to_lowercase()).await,
    }
}

/// Installs a recorder, for the handles that are built from now on.
#[cfg(feature = "metrics")]
fn record_metrics() -> Result<()> {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder()?;
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            recorder.run_upkeep();
        }
    });
    Ok(())
}

async fn shares(plan: &Plan, filter: &str) -> Result<()> {
    let wanted: Vec<_> =
        CASES.iter().filter(|case| case.name().to_lowercase().contains(filter)).collect();
    let services = Services::start(&wanted).await?;
    let (cases, left_out): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|case| services.has(case.on));
    let bare = service::serve(service::bare()).await?;

    let mut measured = vec![Vec::new(); cases.len()];
    for round in 0..plan.rounds {
        let mut order: Vec<_> = (0..cases.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for &case in &order {
            let (addr, tokens) = services.of(cases[case]);
            let keyed = async || plan.load(&[addr], cases[case].path, tokens).await;
            let unkeyed = async || plan.load(&[bare], "/bare", tokens).await;
            let (rate, bare) = if round % 2 == 0 {
                let rate = keyed().await?;
                (rate, unkeyed().await?)
            } else {
                let bare = unkeyed().await?;
                (keyed().await?, bare)
            };
            eprintln!("round {round}: {:<68} {rate:>8.0}/s of {bare:>8.0}/s", cases[case].name());
            measured[case].push(Measured { rate, bare });
        }
    }

    plan.head();
    println!("{}\n", services.description());
    print(&cases, &measured);
    for case in left_out {
        println!("\nleft out, as it needs PostgreSQL and the feature `postgres`: {}", case.name());
    }
    services.stop().await;
    Ok(())
}

fn print(cases: &[&Case], measured: &[Vec<Measured>]) {
    println!("| | requests/s | share of bare axum | lowest–highest | bar |\n|---|---|---|---|---|");
    let bare: Vec<_> = measured.iter().flatten().map(|measured| measured.bare).collect();
    if !bare.is_empty() {
        println!("| bare axum | {:.0} | 1 | | |", median(&bare));
    }
    for (case, measured) in cases.iter().zip(measured) {
        let (rate, share) = medians(measured);
        let shares: Vec<_> = measured.iter().map(Measured::share).collect();
        let (lowest, highest) = (quantile(&shares, 0.0), quantile(&shares, 1.0));
        let bar = match case.bar {
            Some(bar) if share < bar => format!("≥ {bar:.2}, **missed**"),
            Some(bar) => format!("≥ {bar:.2}"),
            None => "–".to_owned(),
        };
        println!("| {} | {rate:.0} | {share:.3} | {lowest:.3}–{highest:.3} | {bar} |", case.name());
    }
}

/// Of rates, and of shares.
fn medians(measured: &[Measured]) -> (f64, f64) {
    let rates: Vec<_> = measured.iter().map(|measured| measured.rate).collect();
    let shares: Vec<_> = measured.iter().map(Measured::share).collect();
    (median(&rates), median(&shares))
}

impl Measured {
    fn share(&self) -> f64 {
        self.rate / self.bare
    }
}

impl Plan {
    async fn load(&self, addrs: &[SocketAddr], path: &str, tokens: &[String]) -> Result<f64> {
        Ok(Load { addrs, path, tokens, connections: self.connections, time: self.time }
            .run()
            .await?)
    }

    fn head(&self) {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let (connections, rounds, seconds) = (self.connections, self.rounds, self.time.as_secs());
        println!(
            "\n{connections} connections, {rounds} rounds of {seconds} s, medians; {cores} cores for everything; {} metrics",
            if cfg!(feature = "metrics") { "with" } else { "without" }
        );
    }
}
