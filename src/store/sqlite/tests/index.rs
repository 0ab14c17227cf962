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
    assert_eq!(indexed, count(&path, "SELECT count(*) FROM agentkey_entries_of_account"));
    assert!(indexed > 0 && indexed < paid.len() as i64, "{indexed} of {}", paid.len());
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
    paid.extend(pay(&store, 200).await);
    assert_told(&store, &paid).await;
    store.close().await;
    assert_eq!(count(&path, "SELECT count(*) FROM agentkey_entries_of_key WHERE key_id = 99"), 2_000);
}
