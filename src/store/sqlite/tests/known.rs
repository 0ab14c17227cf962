//! What is known of the file is what the file says, whoever writes to it.

use super::*;
use crate::ledger::{Book, Changes, OnExpiry};
use crate::store::sqlite::known::{Effect, Moment, State};

/// A store with a key, `token 0`, and its child, `token 1`, both looked up and charged before.
pub(super) struct Warm {
    pub(super) store: SqliteStore,
    pub(super) path: std::path::PathBuf,
    clock: crate::ManualClock,
    _directory: tempfile::TempDir,
}

pub(super) const SPENT: i32 = 2;

impl Warm {
    pub(super) async fn new() -> Self {
        let directory = directory();
        let path = directory.path().join("keys.db");
        let clock = crate::ManualClock::at(at("2026-01-31T12:00:00Z"));
        let store = SqliteStore::open(SqliteOptions::new(&path).clock(&clock)).await.unwrap();
        let parent = create(&store, 0, draft("acme", None, Budget::daily(Amount::units(1)))).await;
        create(&store, 1, draft("acme", Some(parent.id), Budget::unlimited())).await;
        let warm = Self { store, path, clock, _directory: directory };
        warm.pay(2).await.unwrap();
        quiet(&warm.store).await;
        assert_eq!(warm.spent(1).await, SPENT);
        warm
    }

    /// The same, with a copy of its file as it is now.
    pub(super) async fn with_backup() -> Self {
        let warm = Self::new().await;
        warm.store.close().await;
        std::fs::copy(&warm.path, warm.path.with_extension("backup")).unwrap();
        warm.again().await
    }

    /// Puts that copy in the place of the file, under the open store.
    pub(super) fn put_backup_back(&self) {
        for file in ["keys.db-wal", "keys.db-shm"] {
            std::fs::remove_file(self.path.with_file_name(file)).unwrap();
        }
        std::fs::rename(self.path.with_extension("backup"), &self.path).unwrap();
    }

    /// With a store that was opened later.
    pub(super) async fn again(self) -> Self {
        Self { store: self.another().await, ..self }
    }

    pub(super) async fn another(&self) -> SqliteStore {
        SqliteStore::open(SqliteOptions::new(&self.path).clock(&self.clock)).await.unwrap()
    }

    async fn found(&self, n: u32) -> Option<Found> {
        self.store.find(&[token(n).hash]).await.unwrap().pop().unwrap()
    }

    /// In cents, by the parent of that key or the key itself.
    pub(super) async fn spent(&self, n: u32) -> i32 {
        spent_of_root(&self.found(n).await.unwrap())
    }

    /// The same, where it can be told at once.
    pub(super) fn spent_at_hand(&self, n: u32) -> Option<i32> {
        self.store.find_at_hand(&token(n).hash).as_ref().map(spent_of_root)
    }

    pub(super) async fn pay(&self, cents: i32) -> Result<Posted, Refusal> {
        self.post(&pay(cents)).await
    }

    async fn spent_by_account(&self) -> Amount {
        self.found(1).await.unwrap().lineage.account().balance.spent
    }

    /// A commit of the writer that adds a cent to what the account has spent. What it gives is for the writer to do when
    /// it comes back from it.
    async fn commit_of_one_cent(&self) -> impl FnOnce() + use<> {
        let known = self.store.known.clone();
        let commit = move |open: &mut Open| {
            let connection = &open.connection;
            connection.execute_batch("BEGIN IMMEDIATE")?;
            let before = open.watch.look();
            let from = known.enter(connection, before.as_ref())?;
            add_a_cent(connection, &known, from)?;
            connection.execute_batch("COMMIT")?;
            Ok((before, open.watch.clone()))
        };
        let (before, watch) = self.store.connections.writer().run(commit).await.unwrap();
        let known = self.store.known.clone();
        move || known.sent(true, before, watch.look())
    }

    async fn post(&self, posting: &Posting) -> Result<Posted, Refusal> {
        self.store.post(std::slice::from_ref(posting)).await.unwrap().pop().unwrap()
    }
}

/// Up to the commit.
pub(super) fn add_a_cent(connection: &Connection, known: &Known, from: Option<Moment>) -> error::Result<()> {
    let mut row = known.fill(&mut Book::new(), from, &account("acme"), &[&pay(1)], Timestamp::MIN).unwrap();
    connection.execute_batch("UPDATE agentkey_accounts SET spent = spent + 10000")?;
    row.account.balance.spent = row.account.balance.spent.saturating_add(Amount::cents(1));
    let mut effect = Effect::default();
    effect.add(vec![row], Vec::new(), Changes::default());
    known.sending(from.map(|from| from.state), State::next(connection)?, effect);
    Ok(())
}

fn spent_of_root(found: &Found) -> i32 {
    let root = found.lineage.ancestors().last().unwrap_or(found.lineage.key());
    i32::try_from(root.balance.spent.as_micros() / 10_000).unwrap()
}

fn posting(action: Action) -> Posting {
    Posting::new(account("acme"), KeyId::new(2), action)
}

pub(super) fn pay(cents: i32) -> Posting {
    posting(Action::Pay { amount: Amount::cents(cents), note: Note::default(), claim: None })
}

fn hold(cents: i32, seconds: u64, on_expiry: OnExpiry) -> Posting {
    let ttl = Duration::from_secs(seconds);
    posting(Action::Hold { amount: Amount::cents(cents), ttl, on_expiry, note: Note::default(), claim: None })
}

fn settle(holds: Vec<crate::PostingId>, cents: i32) -> Posting {
    posting(Action::Settle { holds, void: vec![], cost: Amount::cents(cents), note: Note::default(), claim: None })
}

#[tokio::test]
async fn what_is_known_is_not_read_again() {
    let warm = Warm::new().await;
    // Nobody can take rows away unseen, so it is shown by what a connection finds under it that reads nothing else.
    let known = warm.store.known.clone();
    let found = move |open: &mut Open| {
        let hashes = [token(0).hash, token(1).hash, token(9).hash];
        let (found, _) =
            in_snapshot(&open.connection, |connection| known.found(connection, &open.watch, &hashes, Timestamp::MAX))?;
        Ok(found.iter().map(Option::is_some).collect::<Vec<_>>())
    };
    let reader = warm.store.connections.reader();
    assert_eq!(reader.run(found.clone()).await.unwrap(), [false, true, false], "the parent's token was not asked for");
    warm.found(0).await.unwrap();
    warm.pay(1).await.unwrap();
    assert_eq!(reader.run(found).await.unwrap(), [true, true, false], "a charge of our own leaves them known");
}

#[tokio::test]
async fn another_store_on_the_file_is_seen_at_the_next_request() {
    let warm = Warm::new().await;
    let other = warm.another().await;
    for n in 1..20 {
        // By turns, so that each knows a state that the other has left behind.
        assert!(other.post(&[pay(1)]).await.unwrap()[0].is_ok());
        assert_eq!(warm.spent(1).await, SPENT + 2 * n - 1);
        let left = warm.pay(1).await.unwrap().remaining;
        assert_eq!(left, Some(Amount::cents(100 - SPENT - 2 * n)));
        let found = other.find(&[token(0).hash]).await.unwrap().pop().unwrap().unwrap();
        assert_eq!(found.lineage.key().balance.spent, Amount::cents(SPENT + 2 * n));
    }
    assert!(matches!(other.post(&[pay(61)]).await.unwrap()[0], Err(Refusal::BudgetExceeded(_))));
    other.change_key(&KeyChange::Revoke { key: KeyId::new(1) }, &Rules::default()).await.unwrap().unwrap();
    assert_eq!(warm.pay(1).await, Err(Refusal::RevokedKey));
    assert!(warm.found(1).await.unwrap().lineage.standing().is_err());
}

#[tokio::test]
async fn sql_of_the_host_counts_at_once_on_warm_keys() {
    for (sql, paid, spent) in [
        ("UPDATE agent_keys SET revoked_at = 1 WHERE id = 1", Err("revoked"), Some(SPENT)),
        ("UPDATE agent_keys SET expires_at = 1 WHERE id = 2", Err("expired"), Some(SPENT)),
        ("UPDATE agent_keys SET limit_micros = 20000 WHERE id = 1", Err("budget"), Some(SPENT)),
        ("UPDATE agentkey_accounts SET limit_micros = 20000", Err("budget"), Some(SPENT)),
        ("UPDATE agent_keys SET period = 'month' WHERE id = 1", Ok(()), Some(SPENT)),
    ] {
        for looks_first in [true, false] {
            let warm = Warm::new().await;
            raw(&warm.path, sql);
            if looks_first {
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
                assert_eq!(warm.pay(1).await.is_ok(), paid.is_ok() || spent == 99, "{sql}");
            }
        }
    }
}

#[tokio::test]
async fn ids_that_were_taken_are_answered_as_the_first_time() {
    let warm = Warm::new().await;
    let (held, paid) = (hold(5, 60, OnExpiry::Release), pay(3));
    let settled = settle(vec![held.id], 4);
    for posting in [&held, &paid, &settled] {
        warm.post(posting).await.unwrap();
    }
    for _ in 0..2 {
        // Among new ones, known and unknown.
        let batch = [pay(1), paid.clone(), settled.clone(), held.clone(), pay(1)];
        let again = warm.store.post(&batch).await.unwrap();
        assert!(matches!(again[3], Err(Refusal::HoldOver)), "{again:?}");
        assert!([0, 1, 2, 4].iter().all(|place| again[*place].is_ok()), "{again:?}");
    }
    assert_eq!(warm.spent(1).await, SPENT + 3 + 4 + 4);
    // One that did not fit when it came fits later, and one that was accepted is no refusal when nothing is left.
    let dear = pay(80);
    assert!(matches!(warm.post(&dear).await, Err(Refusal::BudgetExceeded(_)) | Ok(_)));
    warm.pay(100 - warm.spent(1).await).await.unwrap();
    assert!(warm.post(&paid).await.is_ok());
    assert!(warm.pay(1).await.is_err());
}

#[tokio::test]
async fn holds_that_run_out_and_clocks_that_go_back_are_as_before() {
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

    // The account's time stands still until the clock has caught up, also for what is known.
    let before = warm.found(1).await.unwrap().lineage.at();
    warm.clock.set(at("2026-01-01T00:00:00Z"));
    assert_eq!(warm.found(1).await.unwrap().lineage.at(), before);
    warm.pay(1).await.unwrap();
    let last = warm.store.entries(&EntryQuery::of(account("acme")).limit(1_000)).await.unwrap().pop().unwrap().1;
    assert_eq!(last.at, before);
    // A day later another window has begun.
    warm.clock.set(at("2026-02-01T12:00:00Z"));
    assert_eq!(warm.pay(1).await.unwrap().remaining, Some(Amount::cents(99)));
}

#[tokio::test]
async fn a_token_that_was_rotated_away_ends_when_it_should() {
    let warm = Warm::new().await;
    let rotate = KeyChange::Rotate { key: KeyId::new(2), token: token(5), grace: Duration::from_secs(60) };
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
async fn a_file_that_was_replaced_is_another_state() {
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

/// A reader may see a commit of this process before the writer has taken it over.
#[tokio::test]
async fn a_commit_that_is_seen_early_is_taken_over() {
    let warm = Warm::new().await;
    warm.found(0).await.unwrap();
    let sent = warm.commit_of_one_cent().await;
    assert_eq!(warm.spent_by_account().await, Amount::cents(SPENT + 1));
    // From memory: what was not asked for is still known.
    assert!(warm.spent_at_hand(0).is_some());
    sent();
    assert!(warm.spent_at_hand(0).is_some());
    assert_eq!(warm.spent_by_account().await, Amount::cents(SPENT + 1));
    warm.pay(1).await.unwrap();
    assert_eq!(warm.spent_by_account().await, Amount::cents(SPENT + 2));
}
