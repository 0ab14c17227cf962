//! Keys that the host moves to another account while money of theirs is set aside, and perhaps moves back.

use agentkey::store::{KeyQuery, KeysOf};
use agentkey::{AccountId, KeyId, KeyPatch, PostingId, Refusal, Store};

use super::*;

/// A parent, key 1, with a child, key 2, in the account "home"; key 3 in the account "away".
struct Moving {
    world: World<PostgresStore>,
    pool: PgPool,
}

/// Keys whose figures are not the sums of their account's entries and live holds, and accounts of which that is so.
const WRONG: &str = "WITH RECURSIVE up (id, member) AS (SELECT id, id FROM agent_keys UNION ALL \
    SELECT u.id, k.parent_id FROM up u JOIN agent_keys k ON k.id = u.member WHERE k.parent_id IS NOT NULL), \
    figures (id, spent, held, entries, holds) AS (SELECT k.id::text, coalesce(b.spent, 0), coalesce(b.held, 0), \
    (SELECT coalesce(sum(e.amount), 0) FROM agentkey_entries e JOIN up u ON u.id = e.key_id \
    WHERE u.member = k.id AND e.account_id = k.account_id), \
    (SELECT coalesce(sum(h.amount), 0) FROM agentkey_holds h \
    WHERE k.id = ANY (h.path) AND h.account_id = k.account_id AND h.state = 'live') \
    FROM agent_keys k LEFT JOIN agentkey_balances b ON b.key_id = k.id AND b.account_id = k.account_id \
    UNION ALL SELECT a.id, a.spent, a.held, \
    (SELECT coalesce(sum(amount), 0) FROM agentkey_entries WHERE account_id = a.id), \
    (SELECT coalesce(sum(amount), 0) FROM agentkey_holds WHERE account_id = a.id AND state = 'live') \
    FROM agentkey_accounts a) \
    SELECT format('%s has spent %s and holds %s: %s and %s by the rows', id, spent, held, entries, holds) \
    FROM figures WHERE spent <> entries OR held <> holds";

impl Moving {
    async fn new(url: &str) -> Self {
        let (world, pool) = (world(url).await, host(url).await);
        let parent = key(&world, "home", 100).await;
        world.try_create(NewKey::child_of(parent.id)).await.unwrap();
        world.try_create(NewKey::new("away".parse().unwrap())).await.unwrap();
        Self { world, pool }
    }

    async fn accepted(&self, owner: &str, key: i64, action: Action) -> PostingId {
        let posting = posting(owner, key, action);
        self.world.post(&posting).await.unwrap();
        posting.id
    }

    /// Moves keys 1 and 2.
    async fn go(&self, to: &str) {
        execute(&self.pool, format!("UPDATE agent_keys SET account_id = '{to}' WHERE id IN (1, 2)")).await;
    }

    /// Spent and held, in cents.
    async fn figures(&self, key: i64) -> (i64, i64) {
        let balance = self.world.store.lineage(KeyId::new(key)).await.unwrap().unwrap().key().balance;
        (balance.spent.as_micros() / 10_000, balance.held.as_micros() / 10_000)
    }

    async fn check(&self) {
        for owner in ["home", "away"] {
            // Looked at, so that what is to be counted anew is.
            self.world.store.keys(&KeyQuery::new(KeysOf::Account(account(owner)), None, 100)).await.unwrap();
        }
        let wrong: Vec<String> = sqlx::query_scalar(WRONG).fetch_all(&self.pool).await.unwrap();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

fn account(name: &str) -> AccountId {
    name.parse().unwrap()
}

fn posting(owner: &str, key: i64, action: Action) -> Posting {
    Posting::new(account(owner), KeyId::new(key), action)
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

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_ends_while_its_key_is_away_is_not_held_when_it_is_back() {
    let Some(server) = Server::shared() else { return };
    for (on_expiry, cost, spent) in [
        (OnExpiry::Release, Some(0), 0),
        (OnExpiry::Release, Some(10), 10),
        (OnExpiry::Release, None, 0),
        (OnExpiry::Charge, None, 60),
    ] {
        let database = server.database().await;
        let it = Moving::new(database.url()).await;
        it.accepted("home", 2, pay(5)).await;
        let held = it.accepted("home", 2, hold(60, on_expiry)).await;
        it.go("away").await;
        it.accepted("away", 2, pay(7)).await;
        match cost {
            Some(cents) => drop(it.accepted("home", 2, settle(vec![held], cents)).await),
            None => {
                it.world.clock.advance(Duration::from_secs(60));
                assert_eq!(it.world.store.sweep().await.unwrap(), 1);
            }
        }
        for key in [1, 2] {
            assert_eq!(it.figures(key).await, (7, 0), "away, key {key}");
        }
        it.check().await;
        it.go("home").await;
        // The first that asks is a posting, of the last cent.
        let left = 95 - spent;
        let refused = it.world.post(&posting("home", 2, pay(left + 1))).await;
        assert!(matches!(refused, Err(Refusal::BudgetExceeded(_))), "{refused:?}");
        it.accepted("home", 2, pay(left)).await;
        for key in [1, 2] {
            assert_eq!(it.figures(key).await, (100, 0), "home, key {key}");
        }
        it.check().await;
    }
}

/// What a handler only adds, for a key that had no balance yet.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_cost_of_a_key_that_is_away_counts_when_it_is_back() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let it = Moving::new(database.url()).await;
    it.go("away").await;
    it.accepted("home", 2, settle(Vec::new(), 3)).await;
    it.go("home").await;
    assert_eq!(it.figures(2).await, (3, 0));
    it.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_gone_is_counted_anew() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let it = Moving::new(database.url()).await;
    let held = it.accepted("home", 2, hold(60, OnExpiry::Release)).await;
    let goes = "CREATE TABLE kept AS SELECT * FROM agent_keys WHERE id = 2; DELETE FROM agent_keys WHERE id = 2";
    execute(&it.pool, goes).await;
    it.accepted("home", 2, settle(vec![held], 4)).await;
    execute(&it.pool, "INSERT INTO agent_keys SELECT * FROM kept").await;
    assert_eq!(it.figures(2).await, (4, 0));
}

/// In a transaction of the host's, which moves the key back itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_refund_in_the_hosts_transaction_counts_though_its_key_is_away() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let it = Moving::new(database.url()).await;
    let paid = it.accepted("home", 2, pay(50)).await;
    it.go("away").await;
    let mut tx = it.pool.begin().await.unwrap();
    it.world.store.refund_in(&mut tx, &account("home"), paid.into(), Amount::cents(20)).await.unwrap();
    sqlx::raw_sql("UPDATE agent_keys SET account_id = 'home' WHERE id < 3").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let patched = agentkey::ledger::KeyChange::Update { key: KeyId::new(2), patch: KeyPatch::new().name("back") };
    assert_eq!(it.world.change_key(patched).await.unwrap().balance.spent, Amount::cents(30));
    it.check().await;
}

/// A row that makes no sense when its key comes back has its money counted all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_comes_back_without_sense_is_counted_anew() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let it = Moving::new(database.url()).await;
    let held = it.accepted("home", 2, hold(60, OnExpiry::Release)).await;
    it.go("away").await;
    it.accepted("home", 2, settle(vec![held], 4)).await;
    execute(&it.pool, "UPDATE agent_keys SET period = 'x' WHERE id = 2").await;
    it.go("home").await;
    it.accepted("home", 2, settle(Vec::new(), 1)).await;
    execute(&it.pool, "UPDATE agent_keys SET period = 'lifetime' WHERE id = 2").await;
    assert_eq!(it.figures(2).await, (5, 0));
    it.check().await;
}

/// Two stores, each with what it knows.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_moved_figures_are_those_of_the_account() {
    let Some(server) = Server::shared() else { return };
    for seed in 1..4_u64 {
        let database = server.database().await;
        let it = Moving::new(database.url()).await;
        let other = store(database.url(), (&it.world.clock).into()).await;
        let mut state = seed;
        let mut dice = |end: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from((state >> 33) % end as u64).unwrap()
        };
        let mut owners = ["home", "home", "away"];
        let (mut holds, mut charges) = (vec![], vec![]);
        for round in 0..120 {
            let key = dice(3);
            let (id, owner) = (key as i64 + 1, owners[key]);
            let cents = dice(9) as i32;
            // The keys that a settlement is of may be elsewhere by now.
            let next = match dice(8) {
                0 => {
                    let to = ["home", "away"][dice(2)];
                    let keys = [vec![key], vec![0, 1], vec![0, 1, 2]];
                    for key in &keys[dice(3)] {
                        owners[*key] = to;
                        let sql = format!("UPDATE agent_keys SET account_id = '{to}' WHERE id = {}", key + 1);
                        execute(&it.pool, sql).await;
                    }
                    continue;
                }
                1 | 2 => {
                    let on_expiry = [OnExpiry::Release, OnExpiry::Charge][dice(2)];
                    let held = posting(owner, id, hold(cents, on_expiry));
                    holds.push((held.id, owner, id));
                    held
                }
                3 | 4 if !holds.is_empty() => {
                    let (hold, owner, key) = holds[dice(holds.len())];
                    let settled = posting(owner, key, settle(vec![hold], cents));
                    charges.push((settled.id, owner, key));
                    settled
                }
                5 if !charges.is_empty() => {
                    let (charge, owner, key) = charges[dice(charges.len())];
                    posting(owner, key, Action::Refund { entry: charge.into(), amount: Amount::cents(1) })
                }
                6 => {
                    it.world.clock.advance(Duration::from_secs([1, 30][dice(2)]));
                    it.world.store.sweep().await.unwrap();
                    continue;
                }
                _ => posting(owner, id, pay(cents)),
            };
            // Refused where parent and child are apart, or nothing is left.
            let batch = [next, posting(owner, id, settle(Vec::new(), 1))];
            let _ = if dice(2) == 0 { it.world.store.post(&batch).await } else { other.post(&batch).await }.unwrap();
            if round % 10 == 9 {
                it.check().await;
            }
        }
        it.check().await;
    }
}

/// Versions before left balances as they were.
#[tokio::test(flavor = "multi_thread")]
async fn balances_that_were_left_wrong_are_counted_anew_after_the_migration() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let it = Moving::new(database.url()).await;
    it.accepted("home", 2, pay(5)).await;
    it.accepted("home", 1, hold(7, OnExpiry::Release)).await;
    it.accepted("away", 3, pay(1)).await;
    // Key 2 holds what it held before; key 3 was elsewhere, and more was spent than it knows of.
    execute(
        &it.pool,
        "UPDATE agentkey_balances SET held = held + 600000 WHERE key_id = 2; \
         INSERT INTO agentkey_balances SELECT key_id, 'home', period, 0, 0, since FROM agentkey_balances WHERE key_id = 3; \
         UPDATE agentkey_balances SET spent = 0 WHERE key_id = 3; \
         UPDATE agentkey_accounts SET version = version + 1; DELETE FROM agentkey_migrations WHERE version >= 5",
    )
    .await;
    // By heart, too.
    it.accepted("home", 2, pay(1)).await;
    assert_eq!(it.figures(2).await, (6, 60));
    let upgraded = store(database.url(), (&it.world.clock).into()).await;
    let untouched = "SELECT count(*) FROM agentkey_balances WHERE key_id = 1 AND period <> ''";
    assert_eq!(count(&it.pool, untouched).await, 1);
    it.accepted("home", 2, pay(1)).await;
    for (key, figures) in [(1, (7, 7)), (2, (7, 0)), (3, (1, 0))] {
        let balance = upgraded.lineage(KeyId::new(key)).await.unwrap().unwrap().key().balance;
        assert_eq!((balance.spent.as_micros() / 10_000, balance.held.as_micros() / 10_000), figures, "key {key}");
    }
    it.check().await;
}
