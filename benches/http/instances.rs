//! Authenticate + one posting with 1, 2 and 4 instances on one PostgreSQL database: `-- instances`.
//!
//! An instance is a handle with a store and a port of its own, in this process. The connections are spread evenly, and
//! every key is used at every instance.

use crate::Plan;
use crate::support::Result;

#[cfg(not(feature = "postgres"))]
pub async fn run(_: &Plan) -> Result<()> {
    println!("left out: this needs the feature `postgres`");
    Ok(())
}

#[cfg(feature = "postgres")]
pub async fn run(plan: &Plan) -> Result<()> {
    use agentkey::{AgentKeys, PostgresStore};

    use crate::cases::KEYS;
    use crate::support::{database::Database, service};
    use crate::{Measured, medians};

    const COUNTS: [usize; 3] = [1, 2, 4];

    let Some(database) = Database::start().await else {
        println!("left out: this needs PostgreSQL");
        return Ok(());
    };
    let (mut instances, mut addrs) = (Vec::new(), Vec::new());
    for _ in 0..COUNTS[2] {
        let keys = AgentKeys::new(PostgresStore::connect(database.url()).await?)?;
        addrs.push(service::serve(service::keyed(&keys)).await?);
        instances.push(keys);
    }
    let bare = service::serve(service::bare()).await?;
    let spreads = [("1,000 keys in 1,000 accounts", KEYS), ("1,000 keys in one account", 1)];
    let mut tokens = Vec::new();
    for (_, accounts) in spreads {
        tokens.push(service::make_keys(&instances[0], KEYS, accounts).await?);
    }

    let mut measured = vec![vec![Vec::new(); COUNTS.len()]; spreads.len()];
    for round in 0..plan.rounds {
        for (spread, tokens) in tokens.iter().enumerate() {
            let bare = plan.load(&[bare], "/bare", tokens).await?;
            for (place, count) in COUNTS.into_iter().enumerate() {
                let rate = plan.load(&addrs[..count], "/add", tokens).await?;
                eprintln!(
                    "round {round}: {}, {count} instances {rate:>9.0}/s of {bare:>9.0}/s",
                    spreads[spread].0
                );
                measured[spread][place].push(Measured { rate, bare });
            }
        }
    }

    plan.head();
    println!("{}\n", database.describe().await?);
    println!(
        "| authenticate + one posting | instances | requests/s | share of bare axum | of one instance |"
    );
    println!("|---|---|---|---|---|");
    for ((name, _), measured) in spreads.iter().zip(&measured) {
        let one = medians(&measured[0]).0;
        for (count, measured) in COUNTS.iter().zip(measured) {
            let (rate, share) = medians(measured);
            println!("| {name} | {count} | {rate:.0} | {share:.3} | {:.2} |", rate / one);
        }
    }
    for keys in &instances {
        keys.shutdown().await;
    }
    Ok(())
}
