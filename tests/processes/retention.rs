//! Pruning beside load, and after `kill -9`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use agentkey::store::{Usage, UsageBy};
use agentkey::{AgentKeys, Amount, Budget, EntryQuery, KeyId, Prune, UsageQuery};
use http::StatusCode;
use tokio::task::JoinSet;

use crate::fixture::{ACCOUNT, Fixture};

const DAY: Duration = Duration::from_secs(24 * 3_600);
/// Younger entries are kept.
pub const KEPT: Duration = Duration::from_secs(40 * 24 * 3_600);
/// How long before now the first old charge was written, and how far they are apart together.
const OLDEST: Duration = Duration::from_secs(60 * 24 * 3_600);
const SPAN: Duration = Duration::from_secs(15 * 24 * 3_600);

/// How many old charges there are. `AGENTKEY_TEST_OLD_CHARGES=1000000` makes it a million.
fn old_charges() -> u32 {
    let number = std::env::var("AGENTKEY_TEST_OLD_CHARGES").ok();
    number.map_or(40_000, |number| number.parse().expect("AGENTKEY_TEST_OLD_CHARGES is a number"))
}

/// A process prunes while others charge, and is killed. The next run goes on. What was charged is the same at every step,
/// and no charge of the load is lost.
pub async fn a_prune_goes_on_beside_load_where_kill_9_stopped_it(
    fixture: &Fixture,
    processes: usize,
) {
    let (old_key, _) = fixture.key(Budget::unlimited()).await;
    let (key, token) = fixture.key(Budget::unlimited()).await;
    fixture.add_old_charges(old_key, old_charges()).await;
    let prune = Prune::older_than(KEPT);
    let old = fixture.keys.prunable(&prune).await.unwrap().entries;
    assert!(old > u64::from(old_charges()), "charges and refunds");
    let before = old_usage(&fixture.keys).await;
    assert_eq!(before[0].len(), 16, "days with charges");

    let workers = fixture.workers(processes);
    let (is_over, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = JoinSet::new();
    for slot in 0..8 {
        let client = workers[slot % workers.len()].client();
        let (token, is_over, acknowledged) = (token.clone(), is_over.clone(), acknowledged.clone());
        load.spawn(async move {
            while !is_over.load(Ordering::SeqCst) {
                let (status, body) = client.post("/pay", &token).await.unwrap();
                assert_eq!(status, StatusCode::OK, "{body}");
                acknowledged.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let charged = || acknowledged.load(Ordering::SeqCst);

    let mut pruner = fixture.workers(1).pop().unwrap();
    let client = pruner.client();
    let pruning = tokio::spawn(async move { client.post("/prune", "").await });
    pruner.kill_after_handlers(5);
    assert!(pruning.await.unwrap().is_err(), "the process is gone");
    assert_eq!(old_usage(&fixture.keys).await, before);

    let stopped = fixture.keys.prune(&prune.clone().time_bound(Duration::ZERO)).await.unwrap();
    assert!(!stopped.is_complete && stopped.entries == 0, "no step begins after the bound");
    assert!(stopped.left.entries < old, "the killed process had come this far");
    assert!(stopped.left.entries > 0, "and no farther");
    // Two processes at once.
    let mut other = fixture.workers(1).pop().unwrap();
    let client = other.client();
    let others = tokio::spawn(async move { client.post("/prune", "").await });
    let seen = charged();
    let mut steps = 0;
    let rest = fixture.keys.prune_reporting(&prune, |_| steps += 1).await.unwrap();
    assert!(rest.is_complete && steps > 1);
    let (_, others) = others.await.unwrap().unwrap();
    assert_eq!(rest.entries + others.parse::<u64>().unwrap(), stopped.left.entries);
    assert!(charged() > seen, "charges went on");
    other.kill_after_handlers(0);

    is_over.store(true, Ordering::SeqCst);
    load.join_all().await;
    assert_eq!(old_usage(&fixture.keys).await, before);
    let left = fixture.keys.prunable(&prune).await.unwrap();
    assert_eq!(left.entries, 0);
    let mut query = EntryQuery::for_account(ACCOUNT.parse().unwrap()).key(key).limit(1_000);
    let mut entries = 0;
    loop {
        let page = fixture.keys.entries(&query).await.unwrap();
        entries += page.items.len();
        let Some(next) = page.next else { break };
        query = query.after(next);
    }
    assert_eq!(entries, charged());
    let cents = i32::try_from(charged()).unwrap();
    assert_eq!(fixture.spent_and_held(key).await, (Amount::cents(cents), Amount::ZERO));
}

/// What was charged before what is kept, by day, month and label, each with the key.
async fn old_usage(keys: &AgentKeys) -> Vec<Vec<Usage>> {
    let mut all = Vec::new();
    for by in [UsageBy::Day, UsageBy::Month, UsageBy::Label("model".to_owned())] {
        let query = UsageQuery::for_account(ACCOUNT.parse().unwrap(), by).then_by(UsageBy::Key);
        let until = jiff::Timestamp::now() - DAY;
        all.push(keys.usage(&query.until(until)).await.unwrap());
    }
    all
}

/// The first instant in microseconds, and how far charges are apart.
fn times(charges: u32) -> (i64, i64) {
    let first = jiff::Timestamp::now() - OLDEST;
    let step = i64::try_from(SPAN.as_micros()).unwrap() / i64::from(charges);
    (first.as_microsecond(), step)
}

#[cfg(feature = "sqlite")]
pub fn add_to_sqlite(path: &str, key: KeyId, charges: u32) {
    const CHARGES: &str = "INSERT INTO agentkey_entries \
        (id, seq, account_id, key_id, kind, amount, at, counts_at, labels, account_part) \
        WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1) \
        SELECT randomblob(16), (?2 + n * ?3) * 256, 'acme', ?4, 'pay', n % 100, ?2 + n * ?3, ?2 + n * ?3, \
        json_object('model', 'm' || (n % 3), 'request_id', 'r' || n), 1 FROM n";
    const REFUNDS: &str = "INSERT INTO agentkey_entries \
        (id, seq, account_id, key_id, kind, amount, at, counts_at, refunds, labels, account_part) \
        SELECT randomblob(16), seq + 1, account_id, key_id, 'refund', -amount / (1 + number % 2), at, counts_at, id, labels, 1 \
        FROM agentkey_entries WHERE number % 10 = 3";
    let connection = rusqlite::Connection::open(path).unwrap();
    let (first, step) = times(charges);
    connection.execute("BEGIN", ()).unwrap();
    connection.execute(CHARGES, (charges, first, step, key.get())).unwrap();
    connection.execute(REFUNDS, ()).unwrap();
    connection.execute("COMMIT", ()).unwrap();
}

#[cfg(feature = "postgres")]
pub async fn add_to_postgres(url: &str, key: KeyId, charges: u32) {
    use sqlx::Connection;

    const CHARGES: &str = "INSERT INTO agentkey_entries (id, seq, account_id, key_id, kind, amount, at, counts_at, labels) \
        SELECT gen_random_uuid(), us * 256, 'acme', $4, 'pay', n % 100, at, at, \
        jsonb_build_object('model', 'm' || (n % 3), 'request_id', 'r' || n) \
        FROM generate_series(1, $1::int8) n CROSS JOIN LATERAL (SELECT $2::int8 + n * $3::int8 AS us) t \
        CROSS JOIN LATERAL (SELECT 'epoch'::timestamptz + us * interval '1 microsecond' AS at) i";
    const REFUNDS: &str = "INSERT INTO agentkey_entries (id, seq, account_id, key_id, kind, amount, at, counts_at, refunds, labels) \
        SELECT gen_random_uuid(), seq + 1, account_id, key_id, 'refund', -amount / (1 + amount % 2), at, counts_at, id, labels \
        FROM agentkey_entries WHERE amount % 10 = 3";
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    let (first, step) = times(charges);
    let charges =
        sqlx::query(CHARGES).bind(i64::from(charges)).bind(first).bind(step).bind(key.get());
    charges.execute(&mut connection).await.unwrap();
    sqlx::query(REFUNDS).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
