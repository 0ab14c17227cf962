//! Requests per second of keyed routes, as a share of the bare axum route: `cargo bench --bench http`.
//!
//! Server and client share this process and its cores. Each round runs every route once, so that a share compares
//! runs that are seconds apart; the table shows medians over the rounds. SQLite is on a file, with every commit
//! synced. `ROUNDS`, `SECONDS` and `CONNECTIONS` override the defaults; `-- scope` runs the cases with that in their name.

mod client;

use std::net::SocketAddr;

use agentkey::{
    AgentKeyLayer, AgentKeys, Amount, Budget, Charge, ChargeError, KeyContext, MemoryStore, NewKey, RequireScope,
    ScopeSet, SqliteStore,
};
use axum::{Router, routing::get};

const KEYS: usize = 1_000;

struct Case {
    name: &'static str,
    path: &'static str,
    keys: usize,
    /// Behind which handle.
    service: usize,
}

const PLAIN: usize = 0;
const CACHED: usize = 1;
const IN_MEMORY: usize = 2;

const CASES: [Case; 9] = [
    Case { name: "bare axum", path: "/bare", keys: 0, service: PLAIN },
    Case { name: "authenticate + scope, 1,000 keys", path: "/read", keys: KEYS, service: PLAIN },
    Case { name: "authenticate + scope, one hot key", path: "/read", keys: 1, service: PLAIN },
    Case { name: "cached authenticate + scope, 1,000 keys", path: "/read", keys: KEYS, service: CACHED },
    Case { name: "cached authenticate + scope, one hot key", path: "/read", keys: 1, service: CACHED },
    Case { name: "cached, MemoryStore: authenticate + scope", path: "/read", keys: KEYS, service: IN_MEMORY },
    Case { name: "authenticate + one posting, 1,000 keys", path: "/charge", keys: KEYS, service: PLAIN },
    Case { name: "authenticate + one posting, one hot key", path: "/charge", keys: 1, service: PLAIN },
    Case { name: "authenticate + hold + settle, 1,000 keys", path: "/hold", keys: KEYS, service: PLAIN },
];

async fn read(key: KeyContext) -> &'static str {
    std::hint::black_box(key.id());
    "ok"
}

async fn charge(charge: Charge) -> &'static str {
    charge.add(Amount::micros(1));
    "ok"
}

async fn hold(charge: Charge) -> Result<&'static str, ChargeError> {
    charge.hold(Amount::micros(2)).await?;
    charge.add(Amount::micros(1));
    Ok("ok")
}

fn app(keys: &AgentKeys) -> Router {
    Router::new()
        .route("/read", get(read))
        .route("/charge", get(charge))
        .route("/hold", get(hold))
        .layer(RequireScope::one("read").expect("a scope"))
        .layer(AgentKeyLayer::new(keys))
        .route("/bare", get(async || "ok"))
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

async fn serve(keys: &AgentKeys) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let app = app(keys);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(addr)
}

async fn make_keys(keys: &AgentKeys) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let mut tokens = Vec::with_capacity(KEYS);
    for _ in 0..KEYS {
        let new = NewKey::new("acme".parse()?)
            .scopes(ScopeSet::parse(["read"])?)
            .budget(Budget::monthly(Amount::units(1_000)));
        tokens.push(keys.create(new).await?.token.expose().to_owned());
    }
    Ok(tokens)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let cases: Vec<_> = CASES.iter().filter(|case| case.keys == 0 || case.name.contains(&filter)).collect();
    let (rounds, seconds) = (setting("ROUNDS", 5), setting("SECONDS", 3));
    let connections = usize::try_from(setting("CONNECTIONS", 64))?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("keys.db");
    let stale = std::time::Duration::from_secs(5);
    let cached = AgentKeys::builder().cache(stale).build(SqliteStore::connect(&file).await?);
    let handles = [
        AgentKeys::sqlite(file.to_str().ok_or("a path in UTF-8")?).await?,
        cached,
        AgentKeys::builder().cache(stale).build(MemoryStore::new()),
    ];
    // The keys on the file are those of two handles.
    let on_file = make_keys(&handles[PLAIN]).await?;
    let tokens = [on_file.clone(), on_file, make_keys(&handles[IN_MEMORY]).await?];
    let mut addrs = Vec::new();
    for keys in &handles {
        addrs.push(serve(keys).await?);
    }

    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    for round in 0..rounds {
        for (case, rates) in cases.iter().zip(&mut rates) {
            let requests = client::requests(case.path, &tokens[case.service][..case.keys]);
            let addr = addrs[case.service];
            let rate = client::load(addr, &requests, connections, std::time::Duration::from_secs(seconds)).await?;
            eprintln!("round {round}: {:<44} {rate:>9.0}/s", case.name);
            rates.push(rate);
        }
    }

    println!("\n{connections} connections, {rounds} rounds of {seconds} s, medians\n");
    println!("| SQLite | requests/s | share of bare axum |\n|---|---|---|");
    let bare = rates[0].clone();
    for (case, rates) in cases.iter().zip(rates) {
        let shares = rates.iter().zip(&bare).map(|(rate, bare)| rate / bare).collect();
        println!("| {} | {:.0} | {:.2} |", case.name, median(rates), median(shares));
    }
    for keys in &handles {
        keys.shutdown().await;
    }
    Ok(())
}
