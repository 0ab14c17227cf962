//! Files made by older versions of the tables.

use super::*;
use crate::store::sqlite::migrate::{MIGRATIONS, migrate_with};

/// Entries of two accounts, of which one has many at one instant and a clock that went back; holds that live and that
/// do not.
const BEFORE: &str = "
INSERT INTO agent_keys (id, account_id, parent_id, key_hash, created_at) VALUES
    (1, 'acme', NULL, 'one', 0), (2, 'acme', 1, 'two', 0), (3, 'beta', NULL, 'three', 0);
INSERT INTO agentkey_accounts VALUES
    ('acme', 7, 2000000, NULL, 'lifetime', 0, 0, 0, 0), ('beta', 1, 5, NULL, 'lifetime', 0, 0, 0, 0),
    ('idle', 1, 5, NULL, 'lifetime', 0, 0, 0, 0);
WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 600)
INSERT INTO agentkey_entries (id, account_id, key_id, kind, amount, at, counts_at, refunds, labels, reference)
SELECT randomblob(16), iif(n % 3, 'acme', 'beta'), iif(n % 3, 1 + n % 2, 3), 'pay', n,
    CASE WHEN n <= 500 THEN 1000000 WHEN n = 501 THEN 3000000 ELSE 2000000 + n END, 1000000, NULL, '{}', n FROM n;
INSERT INTO agentkey_entries (id, account_id, key_id, kind, amount, at, counts_at, refunds, labels, reference)
SELECT randomblob(16), account_id, key_id, 'refund', -1, 4000000, counts_at, id, labels, 'refund'
FROM agentkey_entries WHERE reference IN (1, 3);
INSERT INTO agentkey_holds VALUES
    (randomblob(16), 'acme', 1, '[1]', 5, 0, 9000000, 'release', '{}', NULL, 'live'),
    (randomblob(16), 'acme', 1, '[1]', 5, 0, 8000000, 'release', '{}', NULL, 'live'),
    (randomblob(16), 'acme', 1, '[1]', 5, 0, 1000000, 'release', '{}', NULL, 'over');
";

#[tokio::test]
async fn entries_keep_their_order_and_their_sums() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let mut old = Connection::open(&path).unwrap();
    migrate_with(&mut old, &MIGRATIONS[..3]).unwrap();
    old.execute_batch(BEFORE).unwrap();
    let references = |owner: &str| -> Vec<String> {
        let sql = "SELECT reference FROM agentkey_entries WHERE account_id = ?1 ORDER BY seq";
        old.prepare(sql).unwrap().query_map([owner], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let before = ["acme", "beta"].map(references);
    drop(old);

    let clock = crate::ManualClock::at(at("1970-01-01T00:00:05Z"));
    let store = SqliteStore::open(SqliteOptions::new(&path).clock(&clock)).await.unwrap();
    for (owner, before, sum) in [("acme", &before[0], 119_999), ("beta", &before[1], 60_299)] {
        let all = store.entries(&EntryQuery::of(account(owner)).limit(1_000)).await.unwrap();
        assert!(all.is_sorted_by(|(place, _), (next, _)| place < next));
        assert_eq!(all.iter().filter_map(|(_, entry)| entry.note.reference.clone()).collect::<Vec<_>>(), *before);
        for (place, entry) in &all {
            assert!(place.get() >= entry.at.as_microsecond() * 256);
        }
        // Pages are the same list, whatever their bounds.
        let (middle, _) = &all[before.len() / 2];
        let rest = store.entries(&EntryQuery::of(account(owner)).after(*middle).limit(1_000)).await.unwrap();
        assert_eq!(rest, all[before.len() / 2 + 1..]);
        let since = EntryQuery::of(account(owner)).since(at("1970-01-01T00:00:02Z")).limit(1_000);
        let late: Vec<_> = all.iter().filter(|(_, entry)| entry.at.as_second() >= 2).cloned().collect();
        assert_eq!(store.entries(&since).await.unwrap(), late);
        let usage = store.usage(&UsageQuery::of(account(owner), UsageBy::Month)).await.unwrap();
        assert_eq!((usage[0].amount, usage[0].charges), (Amount::micros(sum), before.len() as u64 - 1));
    }
    let of_key = store.usage(&UsageQuery::of(account("acme"), UsageBy::Key).key(KeyId::new(2))).await.unwrap();
    assert_eq!((of_key.len(), of_key[0].charges), (1, 200));

    // What comes next stands behind them, and holds run out when they did.
    let pay = Action::Pay { amount: Amount::micros(1), note: Note::default(), claim: None };
    for (owner, key) in [("acme", 2), ("beta", 3)] {
        let last = store.entries(&EntryQuery::of(account(owner)).limit(1_000)).await.unwrap().pop().unwrap().0;
        let posting = Posting::new(account(owner), KeyId::new(key), pay.clone());
        store.post(&[posting]).await.unwrap().pop().unwrap().unwrap();
        let behind = store.entries(&EntryQuery::of(account(owner)).after(last)).await.unwrap();
        assert_eq!(behind.len(), 1);
    }
    clock.set(at("1970-01-01T00:00:08Z"));
    assert_eq!(store.sweep().await.unwrap(), 1);
    clock.set(at("1970-01-01T00:00:09Z"));
    assert_eq!(store.sweep().await.unwrap(), 1);

    // The triggers are those of the tables that are still there.
    let before = store.mark().await.unwrap().unwrap().version;
    raw(&path, "UPDATE agent_keys SET revoked_at = 1 WHERE id = 1");
    assert_ne!(store.mark().await.unwrap().unwrap().version, before);
}
