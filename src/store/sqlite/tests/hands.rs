//! What hands do to the file beside the store: corrections, backups, tables of the host's own.

use super::*;
use crate::store::sqlite::known::Effect;
use crate::store::sqlite::migrate::{MIGRATIONS, migrate_with};
use crate::store::sqlite::read::Snapshot;

/// Of $1, 2 cents are spent.
async fn make(path: &Path) {
    let store = SqliteStore::connect(path).await.unwrap();
    create(&store, 0, draft("acme", None, Budget::lifetime(Amount::units(1)))).await;
    pay(&store, 2).await.unwrap();
    store.close().await;
}

async fn pay(store: &SqliteStore, cents: i32) -> Result<Posted, Refusal> {
    let action = Action::Pay { amount: Amount::cents(cents), note: Note::default(), claim: None };
    store.post(&[Posting::new(account("acme"), KeyId::new(1), action)]).await.unwrap().pop().unwrap()
}

/// A hand that does not say so leaves both numbers as they are.
const SPEND_99: &str = "UPDATE agentkey_balances SET spent = 990000";

#[tokio::test]
async fn a_correction_before_the_first_posting_counts() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    make(&path).await;
    let store = SqliteStore::connect(&path).await.unwrap();
    store.find(&[token(0).hash]).await.unwrap();
    raw(&path, SPEND_99);
    assert!(matches!(pay(&store, 2).await, Err(Refusal::BudgetExceeded(_))));
}

#[cfg(all(unix, not(target_os = "openbsd")))]
#[tokio::test]
async fn what_was_read_before_a_correction_is_not_learned_after_it() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    make(&path).await;
    let store = SqliteStore::connect(&path).await.unwrap();
    quiet(&store).await;
    store.known.forget_all();
    let known = store.known.clone();
    let (reading, read) = std::sync::mpsc::channel();
    let (corrected, go_on) = std::sync::mpsc::channel();
    // As `read::find` does it, with a pause before it learns.
    let slow = store.connections.reader().run(move |open: &mut Open| {
        let Open { connection, watch, .. } = open;
        in_snapshot(connection, |connection| {
            let (_, since) = known.found(connection, watch, &[token(0).hash], Timestamp::now())?;
            let mut snapshot = Snapshot::of(connection, &[KeyId::new(1)], Timestamp::now())?;
            snapshot.tokens.push((token(0).hash, KeyId::new(1)));
            reading.send(()).unwrap();
            go_on.recv().unwrap();
            known.learn(since, snapshot);
            Ok(())
        })
    });
    let fast = async {
        tokio::task::spawn_blocking(move || read.recv().unwrap()).await.unwrap();
        raw(&path, SPEND_99);
        // Writes nothing, and sees the hand.
        let look = |open: &mut Open, known: &Known, _: &Clock| {
            statement::in_writing(open, known, |_, since| Ok((since, Effect::default())))
        };
        assert!(store.writing(look).await.unwrap().is_some());
        corrected.send(()).unwrap();
    };
    let (slow, ()) = tokio::join!(slow, fast);
    slow.unwrap();
    assert!(matches!(pay(&store, 2).await, Err(Refusal::BudgetExceeded(_))));
}

#[tokio::test]
async fn an_account_that_takes_the_place_of_another_is_another_policy() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    make(&path).await;
    let store = SqliteStore::connect(&path).await.unwrap();
    quiet(&store).await;
    store.find(&[token(0).hash]).await.unwrap();
    let before = store.mark().await.unwrap();
    pay(&store, 0).await.unwrap();
    raw(
        &path,
        "INSERT OR REPLACE INTO agentkey_accounts SELECT id, version, changed_at, 0, period, created_at, spent, \
         held, since, next_expiry, last_entry FROM agentkey_accounts",
    );
    assert_ne!(store.mark().await.unwrap().map(|mark| mark.version), before.map(|mark| mark.version));
    let found = store.find(&[token(0).hash]).await.unwrap().pop().unwrap().unwrap();
    assert_eq!(found.lineage.account().budget.limit, Some(Amount::ZERO));
}

#[tokio::test]
async fn a_hold_that_a_hand_shortened_ends() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    make(&path).await;
    let store = SqliteStore::connect(&path).await.unwrap();
    let (amount, ttl, note) = (Amount::cents(98), Duration::from_secs(600), Note::default());
    let hold = Action::Hold { amount, ttl, on_expiry: crate::OnExpiry::Release, note, claim: None };
    let held = store.post(&[Posting::new(account("acme"), KeyId::new(1), hold)]).await.unwrap();
    assert!(held[0].is_ok());
    raw(&path, "UPDATE agentkey_holds SET expires_at = 1; UPDATE agentkey_accounts SET version = version + 1");
    assert_eq!(store.sweep().await.unwrap(), 1);
    pay(&store, 98).await.unwrap();
}

#[tokio::test]
async fn an_account_that_makes_no_sense_does_not_take_its_neighbours_along() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    make(&path).await;
    let store = SqliteStore::connect(&path).await.unwrap();
    create(&store, 1, draft("beta", None, Budget::unlimited())).await;
    raw(&path, "UPDATE agentkey_accounts SET period = 'x' WHERE id = 'beta'");
    let found = store.find(&[token(0).hash, token(1).hash]).await.unwrap();
    assert!(matches!(found[..], [Some(_), None]));
    raw(&path, "UPDATE agentkey_accounts SET period = 'day' WHERE id = 'beta'");
    assert!(store.find(&[token(1).hash]).await.unwrap()[0].is_some());
}

#[tokio::test]
async fn what_a_clock_ahead_wrote_is_mended_by_hand() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let clock = crate::ManualClock::at(at("2027-01-31T12:00:00Z"));
    let store = SqliteStore::open(SqliteOptions::new(&path).clock(&clock)).await.unwrap();
    create(&store, 0, draft("acme", None, Budget::unlimited())).await;
    pay(&store, 2).await.unwrap();
    clock.set(at("2026-01-31T12:00:00Z"));
    raw(
        &path,
        "UPDATE agentkey_accounts SET changed_at = 1769860800000000, last_entry = 1769860800000000 * 256, \
         version = version + 1",
    );
    pay(&store, 3).await.unwrap();
    let (since, until) = (at("2026-01-01T00:00:00Z"), at("2026-03-01T00:00:00Z"));
    let listed = store.entries(&EntryQuery::of(account("acme")).since(since).until(until)).await.unwrap();
    let months = UsageQuery::of(account("acme"), UsageBy::Month).since(since).until(until);
    assert_eq!((listed.len(), store.usage(&months).await.unwrap().len()), (1, 1));
}

#[tokio::test]
async fn rows_of_the_host_that_refer_to_entries_outlive_a_migration() {
    for how in ["ON DELETE CASCADE", "ON DELETE SET NULL", ""] {
        let directory = directory();
        let path = directory.path().join("keys.db");
        let mut old = Connection::open(&path).unwrap();
        migrate_with(&mut old, &MIGRATIONS[..3]).unwrap();
        old.execute_batch(&format!(
            "INSERT INTO agentkey_entries (id, account_id, key_id, kind, amount, at, counts_at, labels) \
             VALUES (zeroblob(16), 'acme', 1, 'pay', 1, 0, 0, '{{}}'); \
             CREATE TABLE invoice_lines (entry BLOB REFERENCES agentkey_entries (id) {how}); \
             INSERT INTO invoice_lines VALUES (zeroblob(16))"
        ))
        .unwrap();
        drop(old);
        SqliteStore::connect(&path).await.unwrap().close().await;
        let lines = "SELECT count(*) FROM invoice_lines l JOIN agentkey_entries e ON e.id = l.entry";
        let left: i64 = Connection::open(&path).unwrap().query_row(lines, [], |row| row.get(0)).unwrap();
        assert_eq!(left, 1, "{how}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn an_older_backup_is_brought_up_to_date_by_who_meets_it_first() {
    let directory = directory();
    let (path, aside) = (directory.path().join("keys.db"), directory.path().join("aside.db"));
    make(&path).await;
    let mut backup = Connection::open(&aside).unwrap();
    migrate_with(&mut backup, &MIGRATIONS[..3]).unwrap();
    let hash = token(0).hash;
    backup
        .execute_batch(&format!(
            "INSERT INTO agent_keys (id, account_id, key_hash, created_at) VALUES (1, 'acme', '{hash}', 0); \
             INSERT INTO agentkey_accounts VALUES ('acme', 1, 0, NULL, 'lifetime', 0, 0, 0, 0)"
        ))
        .unwrap();
    drop(backup);
    let store = SqliteStore::connect(&path).await.unwrap();
    assert!(store.find(&[hash]).await.unwrap()[0].is_some());
    for file in ["keys.db-wal", "keys.db-shm"] {
        std::fs::remove_file(path.with_file_name(file)).unwrap();
    }
    std::fs::rename(&aside, &path).unwrap();
    assert!(store.find(&[hash]).await.unwrap()[0].is_some());
}

/// Windows are counted from what the hand wrote, and are the same when the file is opened again.
#[tokio::test]
async fn a_key_made_at_the_end_of_time_has_windows_like_any_other() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = SqliteStore::connect(&path).await.unwrap();
    create(&store, 0, draft("acme", None, Budget::monthly(Amount::cents(3)))).await;
    pay(&store, 1).await.unwrap();
    store.close().await;
    let made = format!("UPDATE agent_keys SET created_at = {}", i64::MAX);
    raw(&path, &format!("{made}; UPDATE agentkey_balances SET since = 0"));
    let mut paid = 0;
    for _ in 0..3 {
        let store = SqliteStore::connect(&path).await.unwrap();
        paid += i32::from(pay(&store, 2).await.is_ok());
        store.close().await;
    }
    assert_eq!(paid, 1);
}
