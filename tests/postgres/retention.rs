//! Pruning of tables that are so large that a statement about all their rows takes longer than a statement may.

use agentkey::Prune;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// A table that takes a second and a half to go through, however few rows it has.
const SLOW: &str = "ALTER TABLE agentkey_holds RENAME TO holds; \
    CREATE VIEW agentkey_holds AS SELECT * FROM holds WHERE pg_sleep(1.5) IS NOT NULL";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_large_table_is_counted_however_long_that_takes() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let open = async |clock| {
        let options = PostgresOptions::new(database.url()).clock(clock);
        PostgresStore::open(options.statement_timeout(Duration::from_secs(1))).await.unwrap()
    };
    let world = World::new(&open).await;
    let key = key(&world, "acme", 100).await;
    let ttl = 400 * DAY;
    let (on_expiry, note) = (OnExpiry::Release, Note::default());
    let action = Action::Hold { amount: Amount::cents(1), ttl, on_expiry, note, claim: None };
    let held = Posting::new(key.account.clone(), key.id, action);
    world.post(&held).await.unwrap();
    let pool = host(database.url()).await;
    execute(&pool, SLOW.to_owned()).await;
    world.clock.advance(100 * DAY);

    let keys = agentkey::AgentKeys::new(open(Clock::from(&world.clock)).await).unwrap();
    let prunable = keys.prunable(&Prune::older_than(90 * DAY)).await.unwrap();
    assert_eq!((prunable.entries, prunable.holds), (0, 1));
}
