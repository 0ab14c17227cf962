//! What is told without a look into the database is what the database says, whoever writes to it.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc;

use super::known::{SPENT, Warm, add_a_cent, pay};
use super::*;

/// Only a hang gets here.
const HANG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_is_known_is_at_hand_until_anybody_writes() {
    let warm = Warm::new().await;
    assert_eq!(warm.spent_at_hand(1), Some(SPENT));
    assert_eq!(warm.store.find_at_hand(&token(9).hash), None, "it has to be asked whether there is such a token");
    // What this store writes is at hand with the answer.
    warm.pay(1).await.unwrap();
    assert_eq!(warm.spent_at_hand(1), Some(SPENT + 1));
    // What others write has to be read first.
    let other = warm.another().await;
    assert!(other.post(&[pay(1)]).await.unwrap()[0].is_ok());
    assert_eq!(warm.spent_at_hand(1), None);
    assert_eq!(warm.spent(1).await, SPENT + 2);
    assert_eq!(warm.spent_at_hand(1), Some(SPENT + 2));
    for sql in ["UPDATE agentkey_balances SET spent = spent + 10000", "CREATE TABLE orders (id)"] {
        raw(&warm.path, sql);
        assert_eq!(warm.spent_at_hand(1), None, "{sql}");
        warm.spent(1).await;
    }
    assert_eq!(warm.spent_at_hand(1), Some(SPENT + 3));
    // A transaction that was taken back changes nothing.
    raw(&warm.path, "BEGIN IMMEDIATE; UPDATE agentkey_balances SET spent = 0; ROLLBACK");
    assert_eq!(warm.spent_at_hand(1), Some(SPENT + 3));
    raw(&warm.path, "UPDATE agent_keys SET revoked_at = 1 WHERE id = 2");
    assert_eq!(warm.spent_at_hand(1), None);
    warm.spent(1).await;
    assert!(warm.store.find_at_hand(&token(1).hash).unwrap().lineage.standing().is_err());
    warm.store.close().await;
    assert_eq!(warm.spent_at_hand(1), None, "a store that is closed says nothing");
}

#[tokio::test]
async fn a_correction_right_behind_a_charge_of_ours_is_seen_by_the_next_look_up() {
    let warm = Warm::new().await;
    warm.pay(1).await.unwrap();
    raw(&warm.path, "UPDATE agentkey_balances SET spent = 990000");
    assert_eq!(warm.spent_at_hand(1), None);
    assert_eq!(warm.spent(1).await, 99);
}

#[tokio::test]
async fn a_database_in_memory_is_at_hand() {
    let store = SqliteStore::in_memory().await.unwrap();
    create(&store, 0, draft("acme", None, Budget::unlimited())).await;
    let find = async || store.find(&[token(0).hash]).await.unwrap().pop().unwrap();
    let asked = find().await.unwrap();
    let at_hand = store.find_at_hand(&token(0).hash).unwrap();
    assert_eq!(at_hand.lineage.key(), asked.lineage.key());
    store.change_key(&KeyChange::Revoke { key: KeyId::new(1) }, &Rules::default()).await.unwrap().unwrap();
    assert!(store.find_at_hand(&token(0).hash).is_none_or(|found| found.lineage.standing().is_err()));
    assert!(find().await.unwrap().lineage.standing().is_err());
}

/// There nothing tells that somebody has written: nobody else can.
#[tokio::test]
async fn a_writer_in_memory_that_panics_behind_its_commit_forgets() {
    let store = SqliteStore::in_memory().await.unwrap();
    create(&store, 0, draft("acme", None, Budget::unlimited())).await;
    let spent = async || {
        let found = store.find(&[token(0).hash]).await.unwrap().pop().unwrap().unwrap();
        found.lineage.account().balance.spent
    };
    assert_eq!(spent().await, Amount::ZERO);
    let panicked = store.connections.writer().run(|open| -> error::Result<()> {
        open.connection.execute_batch("UPDATE agentkey_accounts SET spent = 10000")?;
        panic!("on purpose")
    });
    assert!(panicked.await.is_err());
    assert_eq!(spent().await, Amount::cents(1));
}

#[tokio::test]
async fn a_file_that_was_replaced_is_not_at_hand() {
    let warm = Warm::with_backup().await;
    warm.pay(30).await.unwrap();
    assert_eq!(warm.spent(1).await, SPENT + 30);
    assert_eq!(warm.spent_at_hand(1), Some(SPENT + 30));
    warm.put_backup_back();
    let noticed = async {
        while warm.spent_at_hand(1).is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(HANG, noticed).await.unwrap();
    assert_eq!(warm.spent(1).await, SPENT);
    assert_eq!(warm.spent_at_hand(1), None, "no commit was seen in this file yet");
    warm.pay(1).await.unwrap();
    assert_eq!(warm.spent(1).await, SPENT + 1);
    assert_eq!(warm.spent_at_hand(1), Some(SPENT + 1));
}

/// SQLite begins the WAL anew in the middle of a commit, once all of it is in the file: others see another header then,
/// and nothing else.
#[tokio::test]
async fn a_wal_that_begins_anew_makes_nothing_forgotten() {
    let warm = Warm::new().await;
    warm.spent(0).await;
    let known = warm.store.known.clone();
    let (begun, begins) = mpsc::channel();
    let (go_on, waits) = mpsc::channel::<()>();
    let commit = move |open: &mut Open| {
        let connection = &open.connection;
        connection.execute_batch("PRAGMA wal_checkpoint(PASSIVE); PRAGMA cache_size = 10; BEGIN IMMEDIATE")?;
        let before = open.watch.look();
        let from = known.enter(connection, before.as_ref())?;
        add_a_cent(connection, &known, from)?;
        // More than the cache holds, so that it goes to the WAL before the commit.
        connection.execute_batch(
            "CREATE TABLE large (bytes); INSERT INTO large SELECT randomblob(10000) FROM \
             (WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 100) SELECT n FROM n)",
        )?;
        let anew = open.watch.look();
        begun.send(anew.is_some() && anew != before).unwrap();
        waits.recv().unwrap();
        connection.execute_batch("COMMIT")?;
        known.sent(true, before, open.watch.look());
        Ok(())
    };
    let spent = |found: Found| found.lineage.account().balance.spent;
    let look = async {
        let has_begun = tokio::task::spawn_blocking(move || begins.recv().unwrap()).await.unwrap();
        assert!(has_begun, "the WAL was begun anew");
        assert_eq!(warm.spent(1).await, SPENT);
        assert_eq!(warm.spent_at_hand(0), Some(SPENT), "what was not asked for is still known");
        assert_eq!(warm.store.find_at_hand(&token(1).hash).map(spent), Some(Amount::cents(SPENT)));
        go_on.send(()).unwrap();
    };
    let (committed, ()) = tokio::join!(warm.store.connections.writer().run(commit), look);
    committed.unwrap();
    assert_eq!(warm.store.find_at_hand(&token(1).hash).map(spent), Some(Amount::cents(SPENT + 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_looks_after_an_answer_sees_what_it_was_about() {
    const CHARGES: i32 = 300;
    let warm = Warm::new().await;
    raw(&warm.path, "CREATE TABLE orders (id); UPDATE agent_keys SET limit_micros = NULL");
    let (charged, at_hand) = (AtomicI32::new(0), AtomicI32::new(0));
    let charge = async {
        for n in 1..=CHARGES {
            warm.pay(1).await.unwrap();
            charged.store(n, Ordering::SeqCst);
            if n % 10 == 0 {
                // Somebody else writes too.
                tokio::task::block_in_place(|| raw(&warm.path, "INSERT INTO orders VALUES (1)"));
            }
        }
    };
    let look = async || {
        while charged.load(Ordering::SeqCst) < CHARGES {
            let before = charged.load(Ordering::SeqCst);
            let spent = match warm.spent_at_hand(1) {
                Some(spent) => {
                    at_hand.fetch_add(1, Ordering::SeqCst);
                    spent
                }
                None => warm.spent(1).await,
            };
            assert!(spent >= SPENT + before, "{spent} of at least {before}");
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(charge, look(), look());
    assert_eq!(warm.spent(1).await, SPENT + CHARGES);
    assert!(at_hand.into_inner() > 0);
}

/// A process that closes a file loses its locks on it, also those that another connection relies on.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_store_that_is_closed_leaves_others_their_locks_and_no_descriptor() {
    use std::os::unix::fs::MetadataExt;

    let warm = Warm::new().await;
    let index = warm.path.with_file_name("keys.db-shm");
    let lock = format!(":{} ", std::fs::metadata(&index).unwrap().ino());
    let is_locked = || std::fs::read_to_string("/proc/locks").unwrap().lines().any(|line| line.contains(&lock));
    assert!(is_locked());
    let other = warm.another().await;
    other.find(&[token(1).hash]).await.unwrap();
    other.close().await;
    drop(other);
    assert!(is_locked());
    warm.store.close().await;
    for _ in 0..3 {
        let store = warm.another().await;
        store.post(&[pay(1)]).await.unwrap()[0].as_ref().unwrap();
        store.close().await;
    }
    let descriptors =
        std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| entry.ok()?.path().read_link().ok());
    let of_index = descriptors.filter(|path| path.to_string_lossy().starts_with(&*index.to_string_lossy())).count();
    assert!(of_index <= 1, "{of_index} are open");
}
