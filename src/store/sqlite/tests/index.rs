//! The indexes of the ledger, which lag behind it.

use super::*;

const KEYS: u32 = 20;

async fn store_with_keys(path: &Path) -> SqliteStore {
    let store = SqliteStore::connect(path).await.unwrap();
    for n in 0..KEYS {
        let owner = if n % 4 == 0 { "acme" } else { "beta" };
        create(&store, n, draft(owner, None, Budget::unlimited())).await;
    }
    store
}

/// So many postings to keys that follow no order; what was paid, in the order of the postings.
async fn pay(store: &SqliteStore, count: usize) -> Vec<(KeyId, EntryId)> {
    let mut paid = Vec::new();
    for n in 0..count {
        let key = KeyId::new((n * 7 % KEYS as usize) as i64 + 1);
        let owner = if key.get() % 4 == 1 { "acme" } else { "beta" };
        let action = Action::Pay { amount: Amount::micros(1), note: Note::default(), claim: None };
        let posting = Posting::new(account(owner), key, action);
        let posted = store.post(std::slice::from_ref(&posting)).await.unwrap().pop().unwrap().unwrap();
        drop(posted);
        paid.push((key, posting.id.into()));
    }
    paid
}

async fn listed(store: &SqliteStore, query: EntryQuery) -> Vec<EntryId> {
    // In pages that end anywhere.
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let query = query.clone().limit(7);
        let query = match after {
            Some(after) => query.after(after),
            None => query,
        };
        let page = store.entries(&query).await.unwrap();
        let Some((last, _)) = page.last() else { return listed };
        after = Some(*last);
        listed.extend(page.into_iter().map(|(_, entry)| entry.id));
    }
}

async fn assert_told(store: &SqliteStore, paid: &[(KeyId, EntryId)]) {
    let ids = |of: &dyn Fn(i64) -> bool| -> Vec<EntryId> {
        paid.iter().filter(|(key, _)| of(key.get())).map(|(_, id)| *id).collect()
    };
    for (owner, remainder) in [("acme", true), ("beta", false)] {
        let of_account = ids(&|key| (key % 4 == 1) == remainder);
        assert_eq!(listed(store, EntryQuery::of(account(owner))).await, of_account, "{owner}");
        let usage = store.usage(&UsageQuery::of(account(owner), UsageBy::Month)).await.unwrap();
        let charges: u64 = usage.iter().map(|usage| usage.charges).sum();
        assert_eq!(charges, of_account.len() as u64, "{owner}");
    }
    for key in 1..=i64::from(KEYS) {
        let owner = if key % 4 == 1 { "acme" } else { "beta" };
        let of_key = ids(&|id| id == key);
        assert_eq!(listed(store, EntryQuery::of(account(owner)).key(KeyId::new(key))).await, of_key, "key {key}");
        let usage = UsageQuery::of(account(owner), UsageBy::Key).key(KeyId::new(key));
        let charges: u64 = store.usage(&usage).await.unwrap().iter().map(|usage| usage.charges).sum();
        assert_eq!(charges, of_key.len() as u64, "key {key}");
    }
}

fn count(path: &Path, sql: &str) -> i64 {
    Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

/// The indexes know every entry up to the mark of its part, and nothing else. (Those of deleted entries are left.)
fn assert_indexed(path: &Path) {
    for (index, column, part) in [
        ("agentkey_entries_of_account", "account_id", "16 + (e.account_part & 15)"),
        ("agentkey_entries_of_key", "key_id", "e.key_id & 15"),
    ] {
        let told = format!("SELECT e.{column}, e.seq, e.number FROM {index} i JOIN agentkey_entries e USING (number)");
        let known =
            format!("SELECT {column}, seq, number FROM {index} WHERE number IN (SELECT number FROM agentkey_entries)");
        let marked = format!(
            "SELECT e.{column}, e.seq, e.number FROM agentkey_entries e JOIN agentkey_index_parts p \
             ON p.part = {part} WHERE e.number <= p.last"
        );
        for (one, other) in [(&marked, &known), (&known, &marked), (&told, &known)] {
            assert_eq!(count(path, &format!("SELECT count(*) FROM ({one} EXCEPT {other})")), 0, "{index}: {one}");
        }
    }
}

#[tokio::test]
async fn lists_and_sums_miss_nothing_on_either_side_of_the_indexes() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = store_with_keys(&path).await;
    let mut paid = Vec::new();
    for _ in 0..12 {
        paid.extend(pay(&store, 13).await);
        assert_told(&store, &paid).await;
    }
    // Some are indexed, and some are not yet.
    store.close().await;
    let indexed = count(&path, "SELECT count(*) FROM agentkey_entries_of_key");
    assert!(indexed > 0 && indexed < paid.len() as i64, "{indexed} of {}", paid.len());
    assert_indexed(&path);
    let store = SqliteStore::connect(&path).await.unwrap();
    assert_told(&store, &paid).await;
}

#[tokio::test]
async fn what_others_wrote_or_deleted_is_indexed_in_the_end() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = store_with_keys(&path).await;
    let mut paid = pay(&store, 100).await;
    // The host removes the last entries, and brings many at once.
    let gone = count(&path, "SELECT count(*) FROM agentkey_entries") / 2;
    let last = "(SELECT number FROM agentkey_entries ORDER BY number DESC LIMIT";
    raw(&path, &format!("DELETE FROM agentkey_entries WHERE number IN {last} {gone})"));
    paid.truncate(paid.len() - gone as usize);
    paid.extend(pay(&store, 1).await);
    assert_told(&store, &paid).await;
    raw(
        &path,
        "INSERT INTO agentkey_entries (id, seq, account_id, key_id, kind, amount, at, counts_at, labels) \
         WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2000) \
         SELECT randomblob(16), -n, 'other', 99, 'pay', 1, 0, 0, '{}' FROM n",
    );
    paid.extend(pay(&store, 500).await);
    assert_told(&store, &paid).await;
    store.close().await;
    assert_eq!(count(&path, "SELECT count(*) FROM agentkey_entries_of_key WHERE key_id = 99"), 2_000);
    assert_indexed(&path);
}

#[tokio::test]
async fn entries_that_this_process_did_not_post_are_indexed_with_its_own() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let (store, other) = (store_with_keys(&path).await, SqliteStore::connect(&path).await.unwrap());
    let mut paid = Vec::new();
    for turn in 0..8 {
        // For a while alone, so that what this process posted is known to it; then the other comes in between.
        paid.extend(pay(&store, 40).await);
        paid.extend(pay(&other, 1 + turn % 3).await);
        paid.extend(pay(&store, 3).await);
        assert_told(&store, &paid).await;
    }
    store.close().await;
    other.close().await;
    assert_indexed(&path);
}

#[tokio::test]
async fn entries_of_one_key_only_are_indexed_little_by_little() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = store_with_keys(&path).await;
    let pay = || {
        Posting::new(account("acme"), KeyId::new(1), {
            Action::Pay { amount: Amount::micros(1), note: Note::default(), claim: None }
        })
    };
    let mut most = 0;
    for _ in 0..300 {
        store.post(&[pay()]).await.unwrap().pop().unwrap().unwrap();
        store.writing(|_, _, _| Ok(())).await.unwrap(); // behind the turn
        let before = most;
        most = count(&path, "SELECT count(*) FROM agentkey_entries_of_key");
        assert!(most - before <= 16, "{}", most - before);
    }
    store.close().await;
    assert_indexed(&path);
    assert!(most > 150, "{most}");
}

#[tokio::test]
async fn holds_that_a_change_of_policy_ends_are_indexed_with_what_is_posted() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let clock = crate::ManualClock::at(at("2026-01-31T12:00:00Z"));
    let store = SqliteStore::open(SqliteOptions::new(&path).clock(&clock)).await.unwrap();
    let key = create(&store, 0, draft("acme", None, Budget::unlimited())).await;
    for _ in 0..30 {
        let ttl = Duration::from_secs(1);
        let hold =
            |on_expiry| Action::Hold { amount: Amount::micros(1), ttl, on_expiry, note: Note::default(), claim: None };
        let pay = Action::Pay { amount: Amount::micros(1), note: Note::default(), claim: None };
        for action in [pay.clone(), hold(crate::OnExpiry::Charge), pay] {
            let posting = Posting::new(account("acme"), key.id, action);
            store.post(&[posting]).await.unwrap().pop().unwrap().unwrap();
        }
        clock.advance(Duration::from_secs(2));
        let rename = KeyChange::Update { key: key.id, patch: crate::KeyPatch::new().name("another") };
        store.change_key(&rename, &Rules::default()).await.unwrap().unwrap();
    }
    store.close().await;
    assert_eq!(count(&path, "SELECT count(*) FROM agentkey_entries WHERE kind = 'expiry'"), 30);
    assert_indexed(&path);
}

#[tokio::test]
async fn entries_that_an_earlier_version_had_not_indexed_are_told_once() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = store_with_keys(&path).await;
    let mut paid = pay(&store, 60).await;
    store.close().await;
    // As version 6 left it: eight parts of keys, each with a mark of its own in both indexes.
    raw(
        &path,
        "CREATE TABLE agentkey_indexed (part INTEGER PRIMARY KEY, last INTEGER NOT NULL, due INTEGER NOT NULL) STRICT;
         INSERT INTO agentkey_indexed SELECT part, 20 + 3 * part, 60 + part FROM agentkey_index_parts WHERE part < 8;
         DELETE FROM agentkey_entries_of_account; DELETE FROM agentkey_entries_of_key;
         INSERT INTO agentkey_entries_of_account SELECT account_id, seq, number FROM agentkey_entries
             WHERE number <= 20 + 3 * (key_id & 7);
         INSERT INTO agentkey_entries_of_key SELECT key_id, seq, number FROM agentkey_entries
             WHERE number <= 20 + 3 * (key_id & 7);
         DROP TABLE agentkey_index_parts; ALTER TABLE agentkey_entries DROP COLUMN account_part;
         ALTER TABLE agentkey_ledger RENAME COLUMN state TO version;
         DELETE FROM agentkey_migrations WHERE version = 7",
    );
    // What version 6 reads first, in whatever it does.
    let earlier = Connection::open(&path).unwrap();
    let mut first = earlier.prepare("SELECT version FROM agentkey_ledger").unwrap();
    first.query_row([], |row| row.get::<_, i64>(0)).unwrap();
    let store = SqliteStore::connect(&path).await.unwrap();
    assert!(first.query_row([], |row| row.get::<_, i64>(0)).is_err(), "an earlier process goes on");
    assert_told(&store, &paid).await;
    paid.extend(pay(&store, 100).await);
    assert_told(&store, &paid).await;
    store.close().await;
    assert_indexed(&path);
}

#[tokio::test]
async fn entries_are_told_whatever_part_a_hand_gives_them() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = store_with_keys(&path).await;
    raw(
        &path,
        "INSERT INTO agentkey_entries (id, seq, account_id, key_id, kind, amount, at, counts_at, labels, account_part) \
         SELECT randomblob(16), value, 'other', 99, 'pay', 1, 0, 0, '{}', value \
         FROM json_each('[-9223372036854775808, -5, 16, 99, 9223372036854775807]')",
    );
    for _ in 0..20 {
        assert_eq!(listed(&store, EntryQuery::of(account("other"))).await.len(), 5);
        pay(&store, 10).await;
    }
    store.close().await;
    assert_eq!(count(&path, "SELECT count(*) FROM agentkey_entries_of_account WHERE account_id = 'other'"), 5);
    assert_indexed(&path);
}

#[tokio::test]
async fn batches_larger_than_those_of_the_lanes_are_indexed_too() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = store_with_keys(&path).await;
    for _ in 0..20 {
        let pay = |n: i64| {
            let action = Action::Pay { amount: Amount::micros(1), note: Note::default(), claim: None };
            Posting::new(account(if n % 4 == 0 { "acme" } else { "beta" }), KeyId::new(n + 1), action)
        };
        let postings: Vec<_> = (0..100).map(|n| pay(n % i64::from(KEYS))).collect();
        store.post(&postings).await.unwrap().into_iter().for_each(|posted| drop(posted.unwrap()));
    }
    store.close().await;
    assert_indexed(&path);
    let behind = count(&path, "SELECT 2000 - min(last) FROM agentkey_index_parts");
    assert!(behind <= 64 + 100, "{behind} entries are behind");
}
