//! Keys that the host moves to another account while money of theirs is set aside, and perhaps moves back.

use super::model::Dice;
use super::*;
use crate::ledger::OnExpiry;
use crate::store::sqlite::migrate::{MIGRATIONS, migrate_with};
use crate::{ManualClock, PostingId};

/// A parent, key 1, with a child, key 2, in the account "home"; key 3 in the account "away".
struct Moving {
    store: SqliteStore,
    path: std::path::PathBuf,
    clock: ManualClock,
    _directory: tempfile::TempDir,
}

/// Keys whose figures are not the sums of their account's entries and live holds, and accounts of which that is so.
const WRONG: &str = "WITH RECURSIVE up (id, member) AS (SELECT id, id FROM agent_keys UNION ALL \
    SELECT u.id, k.parent_id FROM up u JOIN agent_keys k ON k.id = u.member WHERE k.parent_id IS NOT NULL), \
    figures (id, spent, held, entries, holds) AS (SELECT k.id, coalesce(b.spent, 0), coalesce(b.held, 0), \
    (SELECT coalesce(sum(e.amount), 0) FROM agentkey_entries e JOIN up u ON u.id = e.key_id \
    WHERE u.member = k.id AND e.account_id = k.account_id), \
    (SELECT coalesce(sum(h.amount), 0) FROM agentkey_holds h, json_each(h.path) p \
    WHERE p.value = k.id AND h.account_id = k.account_id AND h.state = 'live') \
    FROM agent_keys k LEFT JOIN agentkey_balances b ON b.key_id = k.id \
    UNION ALL SELECT a.id, a.spent, a.held, \
    (SELECT coalesce(sum(amount), 0) FROM agentkey_entries WHERE account_id = a.id), \
    (SELECT coalesce(sum(amount), 0) FROM agentkey_holds WHERE account_id = a.id AND state = 'live') \
    FROM agentkey_accounts a) \
    SELECT id || ' has spent ' || spent || ' and holds ' || held || ': ' || entries || ' and ' || holds || ' by the rows' \
    FROM figures WHERE spent <> entries OR held <> holds";

impl Moving {
    async fn new() -> Self {
        let directory = directory();
        let path = directory.path().join("keys.db");
        let clock = ManualClock::at(at("2026-01-31T12:00:00Z"));
        let store = SqliteStore::open(SqliteOptions::new(&path).clock(&clock)).await.unwrap();
        let parent = create(&store, 1, draft("home", None, Budget::lifetime(Amount::cents(100)))).await;
        create(&store, 2, draft("home", Some(parent.id), Budget::unlimited())).await;
        create(&store, 3, draft("away", None, Budget::unlimited())).await;
        Self { store, path, clock, _directory: directory }
    }

    async fn accepted(&self, owner: &str, key: i64, action: Action) -> PostingId {
        let posting = Posting::new(account(owner), KeyId::new(key), action);
        self.store.post(std::slice::from_ref(&posting)).await.unwrap().pop().unwrap().unwrap();
        posting.id
    }

    /// Moves keys 1 and 2.
    fn go(&self, to: &str) {
        raw(&self.path, &format!("UPDATE agent_keys SET account_id = '{to}' WHERE id IN (1, 2)"));
    }

    /// Spent and held, in cents.
    async fn figures(&self, key: i64) -> (i64, i64) {
        let balance = self.store.lineage(KeyId::new(key)).await.unwrap().unwrap().key().balance;
        (balance.spent.as_micros() / 10_000, balance.held.as_micros() / 10_000)
    }

    async fn check(&self) {
        for owner in ["home", "away"] {
            // Looked at, so that what is to be counted anew is.
            self.store.keys(&KeyQuery::new(KeysOf::Account(account(owner)), None, 100)).await.unwrap();
        }
        let file = Connection::open(&self.path).unwrap();
        let mut wrong = file.prepare(WRONG).unwrap();
        let wrong: Vec<String> = wrong.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

fn hold(cents: i32, on_expiry: OnExpiry) -> Action {
    Action::Hold {
        amount: Amount::cents(cents),
        ttl: Duration::from_secs(60),
        on_expiry,
        note: Note::default(),
        claim: None,
    }
}

fn settle(holds: Vec<PostingId>, cents: i32) -> Action {
    Action::Settle { holds, void: Vec::new(), cost: Amount::cents(cents), note: Note::default(), claim: None }
}

fn pay(cents: i32) -> Action {
    Action::Pay { amount: Amount::cents(cents), note: Note::default(), claim: None }
}

#[tokio::test]
async fn a_hold_that_ends_where_its_key_was_is_not_held_where_it_is() {
    for (on_expiry, cost, spent) in [
        (OnExpiry::Release, Some(0), 0),
        (OnExpiry::Release, Some(10), 10),
        (OnExpiry::Release, None, 0),
        (OnExpiry::Charge, None, 60),
    ] {
        let it = Moving::new().await;
        it.accepted("home", 2, pay(5)).await;
        let held = it.accepted("home", 2, hold(60, on_expiry)).await;
        assert_eq!(it.figures(1).await, (5, 60));
        it.go("away");
        it.accepted("away", 2, pay(7)).await;
        match cost {
            Some(cents) => drop(it.accepted("home", 2, settle(vec![held], cents)).await),
            None => {
                it.clock.advance(Duration::from_secs(60));
                assert_eq!(it.store.sweep().await.unwrap(), 1);
            }
        }
        for key in [1, 2] {
            assert_eq!(it.figures(key).await, (7, 0), "away, key {key}");
        }
        it.check().await;
        it.go("home");
        let found = it.store.find(&[token(2).hash]).await.unwrap().pop().unwrap().unwrap();
        assert_eq!(found.lineage.remaining(), Some(Amount::cents(95 - spent)));
        for key in [1, 2] {
            assert_eq!(it.figures(key).await, (5 + i64::from(spent), 0), "home, key {key}");
        }
        it.check().await;
    }
}

/// A hold that lives on is held again when its key is back, and the first that asks may be a posting.
#[tokio::test]
async fn a_hold_that_lives_is_held_where_it_was_taken() {
    let it = Moving::new().await;
    let held = it.accepted("home", 2, hold(60, OnExpiry::Release)).await;
    it.go("away");
    // Of 100 nothing is spent here.
    let more = it.accepted("away", 2, hold(100, OnExpiry::Release)).await;
    it.go("home");
    let refused = Posting::new(account("home"), KeyId::new(2), pay(41));
    assert!(matches!(it.store.post(&[refused]).await.unwrap()[0], Err(Refusal::BudgetExceeded(_))));
    it.accepted("home", 2, pay(40)).await;
    it.accepted("away", 2, settle(vec![more], 1)).await;
    it.accepted("home", 2, settle(vec![held], 60)).await;
    assert_eq!(it.figures(1).await, (100, 0));
    it.check().await;
}

/// What a handler only adds, for a key that had no balance yet.
#[tokio::test]
async fn the_first_cost_of_a_key_that_is_away_counts_when_it_is_back() {
    let it = Moving::new().await;
    it.go("away");
    it.accepted("home", 2, settle(Vec::new(), 3)).await;
    assert_eq!(it.figures(1).await, (0, 0));
    it.go("home");
    assert_eq!(it.figures(1).await, (3, 0));
    it.check().await;
}

/// Other ways in which a hand may take a key away and put it back.
#[tokio::test]
async fn a_key_that_was_gone_or_replaced_is_counted_anew() {
    const PUT: &str = "INSERT OR REPLACE INTO agent_keys SELECT * FROM kept; DROP TABLE kept";
    for gone in [
        "CREATE TABLE kept AS SELECT * FROM agent_keys WHERE id = 2; DELETE FROM agent_keys WHERE id = 2",
        "CREATE TABLE kept AS SELECT * FROM agent_keys WHERE id = 2; INSERT OR REPLACE INTO agent_keys \
         SELECT id, 'away', NULL, name, prefix, start, key_hash, scopes, limit_micros, period, created_at, expires_at, \
         revoked_at FROM kept",
        "CREATE TABLE kept AS SELECT * FROM agent_keys WHERE id = 2; UPDATE agent_keys SET id = 9 WHERE id = 2; \
         UPDATE agent_keys SET id = 2 WHERE id = 9; UPDATE agent_keys SET account_id = 'away' WHERE id = 2",
    ] {
        let it = Moving::new().await;
        let held = it.accepted("home", 2, hold(60, OnExpiry::Release)).await;
        raw(&it.path, gone);
        it.accepted("home", 2, settle(vec![held], 4)).await;
        raw(&it.path, PUT);
        assert_eq!(it.figures(2).await, (4, 0), "{gone}");
    }
}

/// A row that makes no sense when its key comes back has its money counted all the same.
#[tokio::test]
async fn a_key_that_comes_back_without_sense_is_counted_anew() {
    let it = Moving::new().await;
    let held = it.accepted("home", 2, hold(60, OnExpiry::Release)).await;
    it.go("away");
    it.accepted("home", 2, settle(vec![held], 4)).await;
    raw(&it.path, "UPDATE agent_keys SET scopes = 'x' WHERE id = 2");
    it.go("home");
    it.accepted("home", 2, settle(Vec::new(), 1)).await;
    raw(&it.path, "UPDATE agent_keys SET scopes = NULL WHERE id = 2");
    assert_eq!(it.figures(2).await, (5, 0));
    it.check().await;
}

#[tokio::test]
async fn whatever_is_moved_figures_are_those_of_the_account() {
    for seed in 0..4 {
        let it = Moving::new().await;
        let mut dice = Dice(seed);
        let mut owners = ["home", "home", "away"];
        let (mut holds, mut charges) = (vec![], vec![]);
        for round in 0..150 {
            let key = dice.below(3);
            let (id, owner) = (key as i64 + 1, owners[key]);
            match dice.below(8) {
                0 => {
                    let to = dice.of(&["home", "away"]);
                    for key in dice.of(&[vec![key], vec![0, 1], vec![0, 1, 2]]) {
                        owners[key] = to;
                        raw(&it.path, &format!("UPDATE agent_keys SET account_id = '{to}' WHERE id = {}", key + 1));
                    }
                }
                1 | 2 => {
                    let on_expiry = dice.of(&[OnExpiry::Release, OnExpiry::Charge]);
                    let posting = Posting::new(account(owner), KeyId::new(id), hold(dice.below(9) as i32, on_expiry));
                    // Refused where parent and child are apart, or nothing is left.
                    if it.store.post(std::slice::from_ref(&posting)).await.unwrap()[0].is_ok() {
                        holds.push((posting.id, owner, id));
                    }
                }
                3 | 4 if !holds.is_empty() => {
                    let (hold, owner, key) = dice.of(&holds);
                    charges.push((it.accepted(owner, key, settle(vec![hold], dice.below(9) as i32)).await, owner, key));
                }
                5 if !charges.is_empty() => {
                    let (charge, owner, key) = dice.of(&charges);
                    let refund = Action::Refund { entry: charge.into(), amount: Amount::cents(1) };
                    let _ = it.store.post(&[Posting::new(account(owner), KeyId::new(key), refund)]).await.unwrap();
                }
                6 => {
                    it.clock.advance(Duration::from_secs(dice.of(&[1, 30])));
                    it.store.sweep().await.unwrap();
                }
                _ => {
                    let posting = Posting::new(account(owner), KeyId::new(id), pay(dice.below(4) as i32));
                    let _ = it.store.post(&[posting]).await.unwrap();
                    it.store.find(&[token(1).hash, token(2).hash, token(3).hash]).await.unwrap();
                }
            }
            if round % 10 == 9 {
                it.check().await;
            }
        }
    }
}

#[tokio::test]
async fn balances_that_an_older_version_left_wrong_are_counted_anew() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let mut old = Connection::open(&path).unwrap();
    migrate_with(&mut old, &MIGRATIONS[..5]).unwrap();
    // Key 1 was moved and has its hold still; what key 2 spent elsewhere came with it, and with its parent, key 3. Key 4
    // is right, and has a correction of its own.
    old.execute_batch(
        "INSERT INTO agent_keys (id, account_id, parent_id, key_hash, created_at) VALUES (1, 'acme', NULL, 'one', 0), \
         (2, 'acme', 3, 'two', 0), (3, 'acme', NULL, 'three', 0), (4, 'acme', NULL, 'four', 0);
         INSERT INTO agentkey_accounts (id, version, changed_at, period, created_at, spent, held, since) \
         VALUES ('acme', 1, 0, 'lifetime', 0, 0, 5, 0);
         INSERT INTO agentkey_balances VALUES (1, 'lifetime', 0, 60, 0), (2, 'lifetime', 9, 0, 0), \
         (3, 'lifetime', 9, 0, 0), (4, 'lifetime', 7, 5, 0);
         INSERT INTO agentkey_entries (number, id, seq, account_id, key_id, kind, amount, at, counts_at, labels) VALUES \
         (1, randomblob(16), 256, 'acme', 1, 'settle', 4, 1, 1, '{}'), \
         (2, randomblob(16), 256, 'gone', 2, 'pay', 9, 1, 1, '{}');
         INSERT INTO agentkey_holds VALUES (randomblob(16), 'acme', 4, '[4]', 5, 0, 4000000000000000, 'release', '{}', NULL, \
         'live'), (randomblob(16), 'gone', 5, '[', 5, 0, 4000000000000000, 'release', '{}', NULL, 'live')",
    )
    .unwrap();
    drop(old);
    let store = SqliteStore::connect(&path).await.unwrap();
    for (key, spent, held) in [(1, 4, 0), (2, 0, 0), (3, 0, 0), (4, 7, 5)] {
        let balance = store.lineage(KeyId::new(key)).await.unwrap().unwrap().key().balance;
        let figures = (balance.spent.as_micros(), balance.held.as_micros());
        assert_eq!(figures, (spent, held), "key {key}");
    }
}

#[tokio::test]
async fn a_key_is_counted_anew_beside_a_hold_that_makes_no_sense() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = SqliteStore::connect(&path).await.unwrap();
    let bad = create(&store, 1, draft("home", None, Budget::unlimited())).await;
    let good = create(&store, 2, draft("home", None, Budget::lifetime(Amount::cents(100)))).await;
    create(&store, 3, draft("away", None, Budget::unlimited())).await;
    let (ttl, note) = (Duration::from_secs(60), Note::default());
    let hold = Action::Hold {
        amount: Amount::cents(1),
        ttl,
        on_expiry: crate::OnExpiry::Release,
        note: note.clone(),
        claim: None,
    };
    store.post(&[Posting::new(account("home"), bad.id, hold)]).await.unwrap().pop().unwrap().unwrap();
    raw(&path, "UPDATE agentkey_holds SET path = '[1,'");
    let pay = || {
        let action = Action::Pay { amount: Amount::cents(10), note: note.clone(), claim: None };
        Posting::new(account("home"), good.id, action)
    };
    store.post(&[pay()]).await.unwrap().pop().unwrap().unwrap();
    for moved in ["account_id = 'away'", "account_id = 'home'", "period = 'day'"] {
        raw(&path, &format!("UPDATE agent_keys SET {moved} WHERE id = 2"));
    }
    store.post(&[pay()]).await.unwrap().pop().unwrap().unwrap();
    let balance = store.lineage(good.id).await.unwrap().unwrap().key().balance;
    assert_eq!((balance.spent, balance.held), (Amount::cents(20), Amount::ZERO));
}

#[tokio::test]
async fn a_key_without_an_account_waits_for_nobody() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = SqliteStore::connect(&path).await.unwrap();
    create(&store, 1, draft("home", None, Budget::unlimited())).await;
    raw(&path, "UPDATE agent_keys SET account_id = 'nowhere' WHERE id = 1");
    // Nobody can write, and the look-up need not.
    let file = Connection::open(&path).unwrap();
    file.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(store.find(&[token(1).hash]).await.unwrap()[0].is_none());
    file.execute_batch("ROLLBACK").unwrap();
}
