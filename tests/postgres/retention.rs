//! Pruning beside what may be in a database: tables that are so large that a statement about all their rows takes longer
//! than a statement may, rows that the application's SQL has broken, and rows that others keep locked.

use agentkey::store::{EntryQuery, UsageBy, UsageQuery};
use agentkey::{AgentKeys, Prune};

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

    let keys = AgentKeys::new(open(Clock::from(&world.clock)).await).unwrap();
    let prunable = keys.prunable(&Prune::older_than(90 * DAY)).await.unwrap();
    assert_eq!((prunable.entries, prunable.holds), (0, 1));
}

fn prune() -> Prune {
    Prune::older_than(90 * DAY)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_charge_with_an_invalid_entry_stays_with_all_its_refunds_and_others_go() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    let keys = AgentKeys::new(PostgresStore::clone(&world.store)).unwrap();
    let mut charges = Vec::new();
    for cents in [10, 20, 30] {
        let charge = pay(&key, cents);
        world.post(&charge).await.unwrap();
        charges.push(agentkey::EntryId::from(charge.id));
    }
    for charge in [charges[0], charges[0], charges[1], charges[2]] {
        keys.refund(&key.account, charge, Amount::cents(1)).await.unwrap();
    }
    let usage = async || {
        let query = UsageQuery::for_account(key.account.clone(), UsageBy::Key);
        keys.usage(&query).await.unwrap()
    };
    let before = usage().await;
    world.clock.advance(100 * DAY);

    // One of the two refunds of the first charge, and the second charge itself.
    let first = "SELECT id FROM agentkey_entries WHERE kind = 'refund' ORDER BY seq LIMIT 1";
    let broken = format!("id = ({first}) OR amount = 200000");
    execute(&pool, format!("UPDATE agentkey_entries SET kind = '?' || kind WHERE {broken}")).await;
    let pruned = keys.prune(&prune()).await.unwrap();
    assert_eq!((pruned.entries, pruned.left.entries, pruned.is_complete), (2, 5, true));
    execute(&pool, "UPDATE agentkey_entries SET kind = ltrim(kind, '?')").await;
    assert_eq!(usage().await, before);
    let query = EntryQuery::for_account(key.account.clone());
    assert_eq!(keys.entries(&query).await.unwrap().items.len(), 5);
    keys.refund(&key.account, charges[1], Amount::cents(20)).await.unwrap_err();
    assert_eq!(keys.prune(&prune()).await.unwrap().entries, 5);
    assert_eq!(usage().await, before);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_run_is_not_complete_while_others_keep_entries_locked() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    world.post(&pay(&key, 1)).await.unwrap();
    world.clock.advance(100 * DAY);
    let keys = AgentKeys::new(PostgresStore::clone(&world.store)).unwrap();
    let mut other = pool.begin().await.unwrap();
    sqlx::query("SELECT FROM agentkey_entries FOR UPDATE").execute(&mut *other).await.unwrap();
    let pruned = keys.prune(&prune()).await.unwrap();
    assert_eq!((pruned.entries, pruned.left.entries, pruned.is_complete), (0, 1, false));
    other.rollback().await.unwrap();
    let pruned = keys.prune(&prune()).await.unwrap();
    assert_eq!((pruned.entries, pruned.left.entries, pruned.is_complete), (1, 0, true));
}
