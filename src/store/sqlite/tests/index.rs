//! The deferred indexes of the ledger.

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

/// Posts `count` payments to keys in no order. Returns the payments in the order of the postings.
async fn pay(store: &SqliteStore, count: usize) -> Vec<(KeyId, EntryId)> {
    let mut paid = Vec::new();
    for n in 0..count {
        let key = KeyId::new((n * 7 % KEYS as usize) as i64 + 1);
        let owner = if key.get() % 4 == 1 { "acme" } else { "beta" };
        let action = Action::Pay { amount: Amount::micros(1), note: Note::default(), claim: None };
        let posting = Posting::new(account(owner), key, action);
        let posted =
            store.post(std::slice::from_ref(&posting)).await.unwrap().pop().unwrap().unwrap();
        drop(posted);
        paid.push((key, posting.id.into()));
    }
    paid
}

async fn listed(store: &SqliteStore, query: EntryQuery) -> Vec<EntryId> {
    // The pages end anywhere.
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

async fn assert_listed(store: &SqliteStore, paid: &[(KeyId, EntryId)]) {
    let ids = |of: &dyn Fn(i64) -> bool| -> Vec<EntryId> {
        paid.iter().filter(|(key, _)| of(key.get())).map(|(_, id)| *id).collect()
    };
    for (owner, remainder) in [("acme", true), ("beta", false)] {
        let of_account = ids(&|key| (key % 4 == 1) == remainder);
        assert_eq!(
            listed(store, EntryQuery::for_account(account(owner))).await,
            of_account,
            "{owner}"
        );
        let usage =
            store.usage(&UsageQuery::for_account(account(owner), UsageBy::Month)).await.unwrap();
        let charges: u64 = usage.iter().map(|usage| usage.charges).sum();
        assert_eq!(charges, of_account.len() as u64, "{owner}");
    }
    for key in 1..=i64::from(KEYS) {
        let owner = if key % 4 == 1 { "acme" } else { "beta" };
        let of_key = ids(&|id| id == key);
        assert_eq!(
            listed(store, EntryQuery::for_account(account(owner)).key(KeyId::new(key))).await,
            of_key,
            "key {key}"
        );
        let usage = UsageQuery::for_account(account(owner), UsageBy::Key).key(KeyId::new(key));
        let charges: u64 =
            store.usage(&usage).await.unwrap().iter().map(|usage| usage.charges).sum();
        assert_eq!(charges, of_key.len() as u64, "key {key}");
    }
}

fn count(path: &Path, sql: &str) -> i64 {
    Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

/// Asserts that the indexes have every entry up to the last indexed number of its part, and no other. Index rows of
/// deleted entries remain.
fn assert_indexed(path: &Path) {
    for (index, column, part) in [
        ("agentkey_entries_of_account", "account_id", "16 + (e.account_part & 15)"),
        ("agentkey_entries_of_key", "key_id", "e.key_id & 15"),
    ] {
        let joined = format!(
            "SELECT e.{column}, e.seq, e.number FROM {index} i JOIN agentkey_entries e USING (number)"
        );
        let index_rows = format!(
            "SELECT {column}, seq, number FROM {index} WHERE number IN (SELECT number FROM agentkey_entries)"
        );
        let expected = format!(
            "SELECT e.{column}, e.seq, e.number FROM agentkey_entries e JOIN agentkey_index_parts p \
             ON p.part = {part} WHERE e.number <= p.last"
        );
        for (one, other) in
            [(&expected, &index_rows), (&index_rows, &expected), (&joined, &index_rows)]
        {
            assert_eq!(
                count(path, &format!("SELECT count(*) FROM ({one} EXCEPT {other})")),
                0,
                "{index}: {one}"
            );
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
        assert_listed(&store, &paid).await;
    }
    // Some entries are indexed, and some are not yet.
    store.close().await;
    let indexed = count(&path, "SELECT count(*) FROM agentkey_entries_of_key");
    assert!(indexed > 0 && indexed < paid.len() as i64, "{indexed} of {}", paid.len());
    assert_indexed(&path);
    let store = SqliteStore::connect(&path).await.unwrap();
    assert_listed(&store, &paid).await;
}

#[tokio::test]
async fn entries_that_this_process_did_not_post_are_indexed_with_its_own() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let (store, other) = (store_with_keys(&path).await, SqliteStore::connect(&path).await.unwrap());
    let mut paid = Vec::new();
    for turn in 0..8 {
        // This process posts alone for a while, so that it remembers its entries. Then the other one posts in between.
        paid.extend(pay(&store, 40).await);
        paid.extend(pay(&other, 1 + turn % 3).await);
        paid.extend(pay(&store, 3).await);
        assert_listed(&store, &paid).await;
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
    let mut indexed_count = 0;
    for _ in 0..300 {
        store.post(&[pay()]).await.unwrap().pop().unwrap().unwrap();
        store.write_with(|_, _, _| Ok(())).await.unwrap(); // after the deferred indexing
        let before = indexed_count;
        indexed_count = count(&path, "SELECT count(*) FROM agentkey_entries_of_key");
        assert!(indexed_count - before <= 16, "{}", indexed_count - before);
    }
    store.close().await;
    assert_indexed(&path);
    assert!(indexed_count > 150, "{indexed_count}");
}

#[tokio::test]
async fn holds_that_a_policy_change_ends_are_indexed_with_the_postings() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let clock = crate::model::ManualClock::at(at("2026-01-31T12:00:00Z"));
    let store = SqliteStore::open(SqliteOptions::new(&path).clock(&clock)).await.unwrap();
    let key = create(&store, 0, draft("acme", None, Budget::unlimited())).await;
    for _ in 0..30 {
        let ttl = Duration::from_secs(1);
        let hold = |on_expiry| Action::Hold {
            amount: Amount::micros(1),
            ttl,
            on_expiry,
            note: Note::default(),
            claim: None,
        };
        let pay = Action::Pay { amount: Amount::micros(1), note: Note::default(), claim: None };
        for action in [pay.clone(), hold(crate::ledger::OnExpiry::Charge), pay] {
            let posting = Posting::new(account("acme"), key.id, action);
            store.post(&[posting]).await.unwrap().pop().unwrap().unwrap();
        }
        clock.advance(Duration::from_secs(2));
        let rename =
            KeyChange::Update { key: key.id, patch: crate::model::KeyPatch::new().name("another") };
        store.change_key(&rename, &Rules::default()).await.unwrap().unwrap();
    }
    store.close().await;
    assert_eq!(count(&path, "SELECT count(*) FROM agentkey_entries WHERE kind = 'expiry'"), 30);
    assert_indexed(&path);
}

#[tokio::test]
async fn batches_larger_than_those_of_the_commit_queue_are_indexed_too() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = store_with_keys(&path).await;
    for _ in 0..20 {
        let pay = |n: i64| {
            let action =
                Action::Pay { amount: Amount::micros(1), note: Note::default(), claim: None };
            Posting::new(
                account(if n % 4 == 0 { "acme" } else { "beta" }),
                KeyId::new(n + 1),
                action,
            )
        };
        let postings: Vec<_> = (0..100).map(|n| pay(n % i64::from(KEYS))).collect();
        store.post(&postings).await.unwrap().into_iter().for_each(|posted| drop(posted.unwrap()));
    }
    store.close().await;
    assert_indexed(&path);
    let lag = count(&path, "SELECT 2000 - min(last) FROM agentkey_index_parts");
    assert!(lag <= 64 + 100, "{lag} entries are not indexed");
}
