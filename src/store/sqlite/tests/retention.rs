//! Pruning of a file that another process prunes too, and of rows that the application's SQL has broken.

use super::*;
use crate::model::{EntryKind, ManualClock};

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Prunes what is older than 40 days, by small steps. Returns how many entries went.
async fn prune(store: &SqliteStore, clock: &ManualClock) -> u64 {
    let before = clock.now() - 40 * DAY;
    let table = crate::store::PruneTable::Entries;
    let mut step = PruneStep { table, before, after: None, limit: 7, left_out: Vec::new() };
    let mut rows = 0;
    loop {
        let done = store.prune(&step).await.unwrap();
        rows += done.rows;
        let Some(next) = done.next else { return rows };
        step.after = Some(next);
    }
}

async fn post(store: &SqliteStore, action: Action) -> EntryId {
    let posting = Posting::new(account("acme"), KeyId::new(1), action);
    let id = posting.id.into();
    store.post(&[posting]).await.unwrap().pop().unwrap().unwrap();
    id
}

async fn pay(store: &SqliteStore, cents: i32) -> EntryId {
    let action = Action::Pay { amount: Amount::cents(cents), note: Note::default(), claim: None };
    post(store, action).await
}

async fn open(path: &Path, clock: &ManualClock) -> SqliteStore {
    SqliteStore::open(SqliteOptions::new(path).clock(clock)).await.unwrap()
}

#[tokio::test]
async fn what_another_process_has_pruned_is_not_indexed() {
    let (directory, clock) = (directory(), ManualClock::at(at("2026-01-01T00:00:00Z")));
    let path = directory.path().join("keys.db");
    let store = open(&path, &clock).await;
    create(&store, 0, draft("acme", None, Budget::unlimited())).await;
    for _ in 0..20 {
        pay(&store, 1).await;
    }
    clock.advance(60 * DAY);
    let other = open(&path, &clock).await;
    assert_eq!(prune(&other, &clock).await, 20);

    for _ in 0..200 {
        pay(&store, 1).await;
    }
    quiet(&store).await;
    for index in ["agentkey_entries_of_key", "agentkey_entries_of_account"] {
        let count = |of: &str| -> i64 {
            let sql = format!("SELECT count(*) FROM {index} {of}");
            let connection = Connection::open(&path).unwrap();
            connection.query_row(&sql, [], |row| row.get(0)).unwrap()
        };
        assert!(count("") > 0, "{index}");
        assert_eq!(
            count("WHERE number NOT IN (SELECT number FROM agentkey_entries)"),
            0,
            "{index}"
        );
    }
}

#[tokio::test]
async fn a_charge_with_an_invalid_entry_stays_with_all_its_refunds_and_others_go() {
    let (directory, clock) = (directory(), ManualClock::at(at("2026-01-01T00:00:00Z")));
    let path = directory.path().join("keys.db");
    let store = open(&path, &clock).await;
    create(&store, 0, draft("acme", None, Budget::unlimited())).await;
    let charges = [pay(&store, 10).await, pay(&store, 20).await, pay(&store, 30).await];
    for entry in [charges[0], charges[0], charges[1], charges[2]] {
        post(&store, Action::Refund { entry, amount: Amount::cents(1) }).await;
    }
    clock.advance(60 * DAY);

    // One of the two refunds of the first charge, and the second charge itself.
    let first = "SELECT min(number) FROM agentkey_entries WHERE kind = 'refund'";
    let broken = format!("number = ({first}) OR amount = 200000");
    raw(&path, &format!("UPDATE agentkey_entries SET kind = '?' || kind WHERE {broken}"));
    assert_eq!(prune(&store, &clock).await, 2);
    raw(&path, "UPDATE agentkey_entries SET kind = ltrim(kind, '?')");
    let page = store.entries(&EntryQuery::for_account(account("acme"))).await.unwrap();
    let refunds = page.iter().filter(|(_, entry)| entry.kind == EntryKind::Refund).count();
    assert_eq!((page.len(), refunds), (5, 3));
    assert_eq!(prune(&store, &clock).await, 5);
}
