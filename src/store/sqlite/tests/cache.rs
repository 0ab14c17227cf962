//! Cached data equals the file, whichever process writes to it.

use super::*;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::ledger::{Book, OnExpiry, WriteSet};
use crate::store::cache::{CacheDelta, PendingWrite, Write};
use crate::store::sqlite::validator::ByFileVersion;
use crate::store::sqlite::version::FileVersion;

/// A store with a key, `token 0`, and its child, `token 1`, both looked up and charged before.
struct Warm {
    store: SqliteStore,
    path: std::path::PathBuf,
    clock: crate::model::ManualClock,
    _directory: tempfile::TempDir,
}

const SPENT: i32 = 2;

impl Warm {
    async fn new() -> Self {
        let directory = directory();
        let path = directory.path().join("keys.db");
        let clock = crate::model::ManualClock::at(at("2026-01-31T12:00:00Z"));
        let store = SqliteStore::open(SqliteOptions::new(&path).clock(&clock)).await.unwrap();
        let parent = create(&store, 0, draft("acme", None, Budget::daily(Amount::units(1)))).await;
        create(&store, 1, draft("acme", Some(parent.id), Budget::unlimited())).await;
        let warm = Self { store, path, clock, _directory: directory };
        warm.pay(2).await.unwrap();
        quiet(&warm.store).await;
        assert_eq!(warm.spent(1).await, SPENT);
        warm
    }

    /// Opens the same, with a copy of its file as it is now.
    async fn with_backup() -> Self {
        let warm = Self::new().await;
        warm.store.close().await;
        std::fs::copy(&warm.path, warm.path.with_extension("backup")).unwrap();
        warm.again().await
    }

    /// Puts the copy in the place of the file, while the store is open.
    fn put_backup_back(&self) {
        for file in ["keys.db-wal", "keys.db-shm"] {
            std::fs::remove_file(self.path.with_file_name(file)).unwrap();
        }
        std::fs::rename(self.path.with_extension("backup"), &self.path).unwrap();
    }

    /// Opens the store again.
    async fn again(self) -> Self {
        Self { store: self.another().await, ..self }
    }

    async fn another(&self) -> SqliteStore {
        SqliteStore::open(SqliteOptions::new(&self.path).clock(&self.clock)).await.unwrap()
    }

    async fn found(&self, n: u32) -> Option<Found> {
        self.store.find(&[token(n).hash]).await.unwrap().pop().unwrap()
    }

    /// Returns the cents that the root of a key's lineage has spent.
    async fn spent(&self, n: u32) -> i32 {
        spent_of_root(&self.found(n).await.unwrap())
    }

    /// Returns which of these tokens are cached and valid.
    async fn cached(&self, tokens: &[u32]) -> Vec<bool> {
        let cache = self.store.cache.clone();
        let hashes: Vec<_> = tokens.iter().map(|n| token(*n).hash).collect();
        let look = move |open: &mut Open| {
            let revalidation = cache.revalidate(&[], |_| false);
            let version = FileVersion::read(&open.connection)?;
            let found = cache.lookup(&hashes, &revalidation, &version, Timestamp::MAX);
            Ok(found.iter().map(Option::is_some).collect())
        };
        self.store.connections.reader().run(look).await.unwrap()
    }

    async fn pay(&self, cents: i32) -> Result<Posted, Refusal> {
        self.post(&pay(cents)).await
    }

    async fn spent_by_account(&self) -> Amount {
        self.found(1).await.unwrap().lineage.account().balance.spent()
    }

    /// Commits one more cent of the account's spending, and leaves the write pending in the cache.
    fn commit_of_one_cent(&self) -> PendingWrite<'_, ByFileVersion> {
        let (cache, acme) = (&self.store.cache, account("acme"));
        let connection = Connection::open(&self.path).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        let version = FileVersion::read(&connection).unwrap().unwrap();
        let before = cache
            .fill_book(&mut Book::new(), version, &acme, &[&pay(1)], Timestamp::MIN)
            .unwrap()
            .row;
        let mut after = before.clone();
        for spent in after.account.balance.windows_mut() {
            spent.amount = spent.amount.saturating_add(Amount::cents(1));
        }
        connection.execute_batch("UPDATE agentkey_accounts SET spent = spent + 10000").unwrap();
        let deltas = vec![CacheDelta::new(before.version, after, &WriteSet::default())];
        let next = FileVersion::next(&connection).unwrap();
        let pending =
            cache.begin_write(Write { epoch: Some(version), next, deltas, policy: Vec::new() });
        connection.execute_batch("COMMIT").unwrap();
        pending
    }

    async fn post(&self, posting: &Posting) -> Result<Posted, Refusal> {
        self.store.post(std::slice::from_ref(posting)).await.unwrap().pop().unwrap()
    }
}

fn spent_of_root(found: &Found) -> i32 {
    let root = found.lineage.ancestors().last().unwrap_or(found.lineage.key());
    i32::try_from(root.balance.spent().as_micros() / 10_000).unwrap()
}

fn posting(action: Action) -> Posting {
    Posting::new(account("acme"), KeyId::new(2), action)
}

fn pay(cents: i32) -> Posting {
    posting(Action::Pay { amount: Amount::cents(cents), note: Note::default(), claim: None })
}

fn hold(cents: i32, seconds: u64, on_expiry: OnExpiry) -> Posting {
    let ttl = Duration::from_secs(seconds);
    posting(Action::Hold {
        amount: Amount::cents(cents),
        ttl,
        on_expiry,
        note: Note::default(),
        claim: None,
    })
}

fn settle(holds: Vec<crate::model::PostingId>, cents: i32) -> Posting {
    posting(Action::Settle {
        holds,
        void: vec![],
        cost: Amount::cents(cents),
        note: Note::default(),
        claim: None,
    })
}

#[tokio::test]
async fn what_is_cached_is_not_read_again() {
    let warm = Warm::new().await;
    assert_eq!(
        warm.cached(&[0, 1, 9]).await,
        [false, true, false],
        "the parent's token was not looked up"
    );
    warm.found(0).await.unwrap();
    warm.pay(1).await.unwrap();
    assert_eq!(
        warm.cached(&[0, 1, 9]).await,
        [true, true, false],
        "a charge of our own leaves them cached"
    );
    let other = warm.another().await;
    assert!(other.post(&[pay(1)]).await.unwrap()[0].is_ok());
    assert_eq!(warm.cached(&[0, 1, 9]).await, [false; 3]);
}

#[tokio::test]
async fn commits_of_another_store_are_seen_at_the_next_request() {
    let warm = Warm::new().await;
    let other = warm.another().await;
    for n in 1..20 {
        // By turns, so that each store reads what the other has written.
        assert!(other.post(&[pay(1)]).await.unwrap()[0].is_ok());
        assert_eq!(warm.spent(1).await, SPENT + 2 * n - 1);
        let left = warm.pay(1).await.unwrap().remaining;
        assert_eq!(left, Some(Amount::cents(100 - SPENT - 2 * n)));
        let found = other.find(&[token(0).hash]).await.unwrap().pop().unwrap().unwrap();
        assert_eq!(found.lineage.key().balance.spent(), Amount::cents(SPENT + 2 * n));
    }
    assert!(matches!(other.post(&[pay(61)]).await.unwrap()[0], Err(Refusal::BudgetExceeded(_))));
    other
        .change_key(&KeyChange::Revoke { key: KeyId::new(1), reason: None }, &Rules::default())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(warm.pay(1).await, Err(Refusal::RevokedKey));
    assert!(warm.found(1).await.unwrap().lineage.check_active().is_err());
}

#[tokio::test]
async fn application_sql_takes_effect_at_once_on_cached_keys() {
    for (sql, paid, spent) in [
        ("UPDATE agent_keys SET revoked_at = 1 WHERE id = 1", Err("revoked"), Some(SPENT)),
        ("UPDATE agent_keys SET expires_at = 1 WHERE id = 2", Err("expired"), Some(SPENT)),
        ("UPDATE agent_keys SET limit_micros = 20000 WHERE id = 1", Err("budget"), Some(SPENT)),
        ("UPDATE agentkey_accounts SET limit_micros = 20000", Err("budget"), Some(SPENT)),
        ("UPDATE agent_keys SET period = 'month' WHERE id = 1", Ok(()), Some(SPENT)),
    ] {
        for look_up_first in [true, false] {
            let warm = Warm::new().await;
            raw(&warm.path, sql);
            if look_up_first {
                let found = warm.found(1).await.is_some();
                assert_eq!(found, spent.is_some(), "{sql}");
            }
            let answer = match warm.pay(2).await {
                Ok(_) => Ok(()),
                Err(Refusal::RevokedKey) => Err("revoked"),
                Err(Refusal::ExpiredKey) => Err("expired"),
                Err(Refusal::InvalidKey) => Err("invalid"),
                Err(Refusal::BudgetExceeded(_)) => Err("budget"),
                Err(other) => panic!("{sql}: {other:?}"),
            };
            assert_eq!(answer, paid, "{sql}");
            if let Some(spent) = spent {
                assert_eq!(warm.spent(1).await, spent + if paid.is_ok() { 2 } else { 0 }, "{sql}");
                assert_eq!(warm.pay(1).await.is_ok(), paid.is_ok(), "{sql}");
            }
        }
    }
}

#[tokio::test]
async fn repeated_ids_get_the_first_answer() {
    let warm = Warm::new().await;
    let (held, paid) = (hold(5, 60, OnExpiry::Release), pay(3));
    let settled = settle(vec![held.id], 4);
    for posting in [&held, &paid, &settled] {
        warm.post(posting).await.unwrap();
    }
    for _ in 0..2 {
        // Among new ones, cached and not cached.
        let batch = [pay(1), paid.clone(), settled.clone(), held.clone(), pay(1)];
        let again = warm.store.post(&batch).await.unwrap();
        assert!(matches!(again[3], Err(Refusal::HoldExpired)), "{again:?}");
        assert!([0, 1, 2, 4].iter().all(|index| again[*index].is_ok()), "{again:?}");
    }
    assert_eq!(warm.spent(1).await, SPENT + 3 + 4 + 4);
    // A posting that did not fit may fit later. A posting that was accepted is not refused when the budget is used up.
    let large = pay(80);
    assert!(matches!(warm.post(&large).await, Err(Refusal::BudgetExceeded(_)) | Ok(_)));
    warm.pay(100 - warm.spent(1).await).await.unwrap();
    assert!(warm.post(&paid).await.is_ok());
    assert!(warm.pay(1).await.is_err());
}

#[tokio::test]
async fn expired_holds_and_clocks_that_go_back_work_with_the_cache() {
    let warm = Warm::new().await;
    let (released, charged) = (hold(50, 60, OnExpiry::Release), hold(30, 120, OnExpiry::Charge));
    warm.post(&released).await.unwrap();
    warm.post(&charged).await.unwrap();
    assert!(matches!(warm.pay(30).await, Err(Refusal::BudgetExceeded(_))));
    warm.clock.advance(Duration::from_secs(60));
    warm.pay(30).await.unwrap();
    warm.clock.advance(Duration::from_secs(60));
    assert!(matches!(warm.pay(40).await, Err(Refusal::BudgetExceeded(_))), "it was charged");
    assert_eq!(warm.spent(1).await, SPENT + 30 + 30);
    warm.post(&settle(vec![charged.id], 10)).await.unwrap();
    assert_eq!(warm.spent(1).await, SPENT + 30 + 10);

    // The account's time does not advance until the clock has caught up, also for cached data.
    let before = warm.found(1).await.unwrap().lineage.at();
    warm.clock.set(at("2026-01-01T00:00:00Z"));
    assert_eq!(warm.found(1).await.unwrap().lineage.at(), before);
    warm.pay(1).await.unwrap();
    let last = warm
        .store
        .entries(&EntryQuery::for_account(account("acme")).limit(1_000))
        .await
        .unwrap()
        .pop()
        .unwrap()
        .1;
    assert_eq!(last.at, before);
    // A day later another window has begun.
    warm.clock.set(at("2026-02-01T12:00:00Z"));
    assert_eq!(warm.pay(1).await.unwrap().remaining, Some(Amount::cents(99)));
}

#[tokio::test]
async fn a_token_that_was_rotated_away_ends_with_its_grace() {
    let warm = Warm::new().await;
    let rotate =
        KeyChange::Rotate { key: KeyId::new(2), token: token(5), grace: Duration::from_secs(60) };
    warm.store.change_key(&rotate, &Rules::default()).await.unwrap().unwrap();
    for _ in 0..2 {
        assert_eq!(warm.found(5).await.unwrap().retires_at, None);
        assert_eq!(warm.found(1).await.unwrap().retires_at, Some(at("2026-01-31T12:01:00Z")));
    }
    warm.clock.advance(Duration::from_secs(60));
    assert_eq!(warm.found(1).await, None);
    assert!(warm.found(5).await.is_some());
}

#[tokio::test]
async fn a_replaced_file_invalidates_the_cache() {
    let warm = Warm::with_backup().await;
    warm.pay(30).await.unwrap();
    assert_eq!(warm.spent(1).await, SPENT + 30);
    warm.store.close().await;
    let warm = warm.again().await;
    assert_eq!(warm.spent(1).await, SPENT + 30);
    warm.pay(1).await.unwrap();
    warm.put_backup_back();
    assert_eq!(warm.spent(1).await, SPENT);
    assert_eq!(warm.pay(1).await.unwrap().remaining, Some(Amount::cents(100 - SPENT - 1)));
}

/// As after a restore through SQLite: the file is the same, and has an earlier version again.
#[tokio::test]
async fn an_earlier_version_of_the_file_invalidates_the_cache() {
    for look_up_first in [true, false] {
        let warm = Warm::new().await;
        let numbers = "SELECT format('UPDATE agentkey_policy SET version = %d; UPDATE agentkey_ledger SET state = %d;', \
                       version, state) FROM agentkey_policy CROSS JOIN agentkey_ledger";
        let restore: String =
            Connection::open(&warm.path).unwrap().query_row(numbers, [], |row| row.get(0)).unwrap();
        warm.pay(1).await.unwrap();
        raw(
            &warm.path,
            &format!("BEGIN IMMEDIATE; UPDATE agent_keys SET revoked_at = 1; {restore} COMMIT"),
        );
        if look_up_first {
            assert!(warm.found(1).await.unwrap().lineage.check_active().is_err());
        }
        assert_eq!(warm.pay(1).await, Err(Refusal::RevokedKey));
    }
}

/// A reader may see a commit of this process before the writer has its answer.
#[tokio::test]
async fn a_commit_that_is_seen_early_is_applied_once() {
    let warm = Warm::new().await;
    warm.found(0).await.unwrap();
    let pending = warm.commit_of_one_cent();
    assert_eq!(warm.cached(&[0, 1]).await, [true, true]);
    assert_eq!(warm.spent_by_account().await, Amount::cents(SPENT + 1));
    pending.on_commit();
    assert_eq!(warm.cached(&[0, 1]).await, [true, true]);
    assert_eq!(warm.spent_by_account().await, Amount::cents(SPENT + 1));
    warm.pay(1).await.unwrap();
    assert_eq!(warm.spent_by_account().await, Amount::cents(SPENT + 2));
}

/// Another process may have written after that commit.
#[tokio::test]
async fn a_later_commit_of_another_process_is_not_taken_for_ours() {
    for look_up_first in [true, false] {
        let warm = Warm::new().await;
        let other = warm.another().await;
        let pending = warm.commit_of_one_cent();
        assert!(other.post(&[pay(7)]).await.unwrap()[0].is_ok());
        if look_up_first {
            assert_eq!(warm.spent_by_account().await, Amount::cents(SPENT + 8));
        }
        pending.on_commit();
        assert_eq!(warm.spent_by_account().await, Amount::cents(SPENT + 8));
        warm.pay(1).await.unwrap();
        assert_eq!(warm.spent_by_account().await, Amount::cents(SPENT + 9));
    }
}

/// The writer may panic between its commit and its answer.
#[tokio::test]
async fn a_commit_whose_outcome_is_unknown_is_read_from_the_file() {
    let warm = Warm::new().await;
    drop(warm.commit_of_one_cent());
    assert_eq!(warm.cached(&[1]).await, [false]);
    assert_eq!(warm.spent_by_account().await, Amount::cents(SPENT + 1));
}

/// No version of the file shows that commit.
#[tokio::test]
async fn a_writer_in_memory_that_panics_after_its_commit_clears_the_cache() {
    let store = SqliteStore::in_memory().await.unwrap();
    create(&store, 0, draft("acme", None, Budget::unlimited())).await;
    let spent = async || {
        let found = store.find(&[token(0).hash]).await.unwrap().pop().unwrap().unwrap();
        found.lineage.account().balance.spent()
    };
    assert_eq!(spent().await, Amount::ZERO);
    let panicked = store.connections.writer().run(|open| -> error::Result<()> {
        open.connection.execute_batch("UPDATE agentkey_accounts SET spent = 10000")?;
        panic!("on purpose")
    });
    assert!(panicked.await.is_err());
    assert_eq!(spent().await, Amount::cents(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_look_up_after_an_answer_sees_its_posting() {
    const CHARGES: i32 = 300;
    let warm = Warm::new().await;
    raw(&warm.path, "CREATE TABLE orders (id); UPDATE agent_keys SET limit_micros = NULL");
    let other = warm.another().await;
    let charged = AtomicI32::new(0);
    let charge = async {
        for n in 1..=CHARGES {
            // Another process writes too.
            let store = if n % 10 == 0 { &other } else { &warm.store };
            assert!(store.post(&[pay(1)]).await.unwrap()[0].is_ok());
            charged.store(n, Ordering::SeqCst);
        }
    };
    let look = async || {
        while charged.load(Ordering::SeqCst) < CHARGES {
            let before = charged.load(Ordering::SeqCst);
            let spent = warm.spent(1).await;
            assert!(spent >= SPENT + before, "{spent} of at least {before}");
        }
    };
    tokio::join!(charge, look(), look());
    assert_eq!(warm.spent(1).await, SPENT + CHARGES);
}

/// With [`Builder::cache`](crate::Builder::cache): the policy is the one that was polled, and figures may be old.
#[tokio::test]
async fn a_stale_look_up_ends_with_the_next_poll_after_a_revocation() {
    const LONG: Duration = Duration::from_secs(3_600);
    let warm = Warm::new().await;
    let stale = |bound| warm.store.cache.try_find_cached(&token(1).hash, bound, warm.clock.now());
    let cached = || stale(LONG);
    assert_eq!(cached(), None, "no policy was polled");
    warm.store.poll_policy_version().await.unwrap();
    assert_eq!(cached(), None, "it was read before");
    warm.found(1).await.unwrap();
    assert_eq!(cached().as_ref().map(spent_of_root), Some(SPENT));
    assert_eq!(stale(Duration::ZERO), None);

    // Another process pays. Cached data is then no longer valid, but may be used as stale.
    let other = warm.another().await;
    assert!(other.post(&[pay(1)]).await.unwrap()[0].is_ok());
    assert_eq!(warm.found(9).await, None);
    warm.store.poll_policy_version().await.unwrap();
    assert_eq!(cached().as_ref().map(spent_of_root), Some(SPENT));
    // The figures include a posting of this process, and what it has read.
    warm.pay(1).await.unwrap();
    assert_eq!(cached().as_ref().map(spent_of_root), Some(SPENT + 2));

    // Another process revokes the key.
    other
        .change_key(&KeyChange::Revoke { key: KeyId::new(1), reason: None }, &Rules::default())
        .await
        .unwrap()
        .unwrap();
    warm.store.poll_policy_version().await.unwrap();
    assert_eq!(cached(), None);
    assert!(warm.found(1).await.unwrap().lineage.check_active().is_err());
    assert_eq!(cached(), None, "a refusal is never cached");
}

/// On the thread of a request: the look-up validates and never waits.
#[tokio::test]
async fn a_look_up_without_a_wait_sees_other_commits() {
    let warm = Warm::with_backup().await;
    let at_once = |n| warm.store.try_find_cached(&token(n).hash, None);
    assert_eq!(at_once(1), None, "nothing is cached");
    warm.found(1).await.unwrap();
    assert_eq!(at_once(1).as_ref().map(spent_of_root), Some(SPENT));
    assert!(warm.store.post(&[pay(1)]).await.unwrap()[0].is_ok());
    assert_eq!(at_once(1).as_ref().map(spent_of_root), Some(SPENT + 1));

    // A writer in progress blocks no reader, and is not seen before its commit.
    let writer = Connection::open(&warm.path).unwrap();
    writer
        .execute_batch("BEGIN IMMEDIATE; UPDATE agent_keys SET revoked_at = 1 WHERE id = 1")
        .unwrap();
    assert!(at_once(1).is_some());
    writer.execute_batch("COMMIT").unwrap();
    assert_eq!(at_once(1), None);
    assert!(warm.found(1).await.unwrap().lineage.check_active().is_err());
    assert_eq!(at_once(1), None, "it never refuses");
    writer.execute_batch("UPDATE agent_keys SET revoked_at = NULL").unwrap();
    drop(writer);

    warm.found(1).await.unwrap();
    assert!(at_once(1).is_some());
    warm.put_backup_back();
    while at_once(1).is_some() {
        std::hint::spin_loop(); // it is another file, which is noticed within 10 ms
    }
    assert_eq!(warm.spent(1).await, SPENT);
    assert_eq!(at_once(1).as_ref().map(spent_of_root), Some(SPENT));
    warm.store.close().await;
    assert_eq!(at_once(1), None);
}

/// A writer that has the replaced file commits to it. That says nothing of the file in its place, to which another
/// process commits at the same time.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_commit_to_a_replaced_file_gives_the_file_in_its_place_no_version() {
    let warm = Warm::with_backup().await;
    let (path, backup) = (warm.path.clone(), warm.path.with_extension("backup"));
    let commit = move |open: &mut Open| {
        for file in ["keys.db-wal", "keys.db-shm"] {
            std::fs::remove_file(path.with_file_name(file)).unwrap();
        }
        std::fs::rename(backup, &path).unwrap();
        while open.versions.read().is_none() {
            open.versions.open_missing(); // look-ups have the other file already
        }
        let before = open.versions.header(open.file);
        raw(&path, "UPDATE agentkey_ledger SET state = 1");
        let next = FileVersion::next(&open.connection)?;
        open.versions.on_commit(before, next);
        Ok((open.versions.read(), next))
    };
    let (read, next) = warm.store.connections.writer().run(commit).await.unwrap();
    assert!(read.is_some());
    assert_ne!(read, next);
}

/// A process that closes a file loses its locks on it, also those of its other connections.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_closed_store_leaves_other_locks_and_no_descriptor() {
    use std::os::unix::fs::MetadataExt;

    let warm = Warm::new().await;
    warm.found(1).await.unwrap();
    let index = warm.path.with_file_name("keys.db-shm");
    let lock = format!(":{} ", std::fs::metadata(&index).unwrap().ino());
    let is_locked =
        || std::fs::read_to_string("/proc/locks").unwrap().lines().any(|line| line.contains(&lock));
    assert!(is_locked());
    let other = warm.another().await;
    other.find(&[token(1).hash]).await.unwrap();
    assert!(other.try_find_cached(&token(1).hash, None).is_some());
    other.close().await;
    drop(other);
    assert!(is_locked());
    warm.store.close().await;
    for _ in 0..3 {
        let store = warm.another().await;
        store.find(&[token(1).hash]).await.unwrap();
        assert!(store.try_find_cached(&token(1).hash, None).is_some());
        store.close().await;
    }
    let descriptors = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| entry.ok()?.path().read_link().ok());
    let of_index = descriptors
        .filter(|path| path.to_string_lossy().starts_with(&*index.to_string_lossy()))
        .count();
    assert!(of_index <= 1, "{of_index} are open");
}
