mod cache;
mod external_writes;
mod index;
mod migrations;
mod model;
mod policy;
mod read_only;
mod reconcile;
mod retention;
mod threads;
mod version_reader;

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;

use super::*;
use crate::ledger::{AccountChange, Action, KeyDraft, NewToken};
use crate::model::{Amount, Budget, NewKey, Note, ScopeSet};
use crate::store::{KeysOf, UsageBy};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn account(name: &str) -> AccountId {
    name.parse().unwrap()
}

fn token(n: u32) -> NewToken {
    NewToken {
        hash: TokenHash::digest(&format!("token {n}")),
        prefix: "ak".into(),
        start: format!("{n:08}"),
    }
}

fn draft(owner: &str, parent: Option<KeyId>, budget: Budget) -> KeyDraft {
    let key = NewKey::new(account(owner));
    KeyDraft {
        account: account(owner),
        parent,
        name: "a key".into(),
        scopes: ScopeSet::parse(["read", "proxy.*"]).unwrap(),
        budget,
        delegated_by: key.delegated_by,
        metadata: key.metadata,
        rate_limit: None,
        allowed_cidrs: None,
        expiry: key.expiry,
        left_out: Default::default(),
    }
}

async fn create(store: &dyn Store, n: u32, draft: KeyDraft) -> Key {
    let change = KeyChange::Create { draft, token: token(n) };
    store.change_key(&change, &Rules::default()).await.unwrap().unwrap()
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Indexes until no part is due. A deferred run changes the ledger number, whenever it comes.
async fn quiet(store: &SqliteStore) {
    let turns = |open: &mut Open, cache: &Cache, _: &Clock| {
        while crate::store::sqlite::index::due(&open.connection)?.is_some() {
            post::index_part(open, cache)?;
        }
        Ok(())
    };
    store.write_with(turns).await.unwrap();
}

/// Returns the policy version in the file.
async fn policy_version(store: &SqliteStore) -> Option<i64> {
    store.connections.reader().run(|open| read::policy_version(&open.connection)).await.unwrap()
}

/// Runs the application's own SQL.
fn raw(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_may_be_opened_by_many_at_once() {
    let directory = directory();
    for round in 0..5 {
        let path = directory.path().join(format!("{round}.db"));
        let opened = (0..8).map(|n| {
            let path = path.clone();
            tokio::spawn(async move {
                let store = SqliteStore::connect(&path).await?;
                create(&store, n, draft("acme", None, Budget::unlimited())).await;
                store.close().await;
                Ok::<_, StoreError>(())
            })
        });
        for opened in opened.collect::<Vec<_>>() {
            opened.await.unwrap().unwrap();
        }
        let store = SqliteStore::connect(&path).await.unwrap();
        let keys = store.keys(&KeyQuery::for_account(account("acme"))).await.unwrap();
        assert_eq!(keys.len(), 8);
    }
}

#[tokio::test]
async fn tables_of_a_newer_version_are_refused() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    SqliteStore::connect(&path).await.unwrap().close().await;
    raw(&path, "INSERT INTO agentkey_migrations VALUES (99, 0)");
    let error = SqliteStore::connect(&path).await.unwrap_err();
    assert!(!error.is_transient());
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("keys.db: ") && source.contains("upgrade agentkey"), "{source}");
}

#[tokio::test]
async fn a_long_lock_is_unavailable_until_it_ends() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let options = SqliteOptions::new(&path).busy_timeout(Duration::from_millis(20));
    let store = SqliteStore::open(options.clone()).await.unwrap();
    let key = create(&store, 0, draft("acme", None, Budget::unlimited())).await;
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let pay = Action::Pay { amount: Amount::cents(1), note: Note::default(), claim: None };
    let postings = [Posting::new(account("acme"), key.id, pay)];
    assert!(store.post(&postings).await.unwrap_err().is_transient());
    assert!(store.check_writable().await.unwrap_err().is_transient());
    SqliteStore::open(options).await.unwrap();
    assert!(store.find(&[token(0).hash]).await.unwrap()[0].is_some(), "a reader does not wait");
    other.execute_batch("ROLLBACK").unwrap();
    assert!(store.post(&postings).await.unwrap()[0].is_ok());

    let state = || -> i64 {
        other.query_row("SELECT state FROM agentkey_ledger", [], |row| row.get(0)).unwrap()
    };
    quiet(&store).await;
    let before = state();
    store.check_writable().await.unwrap();
    assert_eq!(state(), before, "no cache is emptied by it");
    store.close().await;
    assert!(store.check_writable().await.is_err());
}

#[tokio::test]
async fn the_wait_for_a_turn_shortens_the_wait_for_the_lock() {
    let (directory, second) = (directory(), Duration::from_secs(1));
    let path = directory.path().join("keys.db");
    let store = SqliteStore::open(SqliteOptions::new(&path).busy_timeout(second)).await.unwrap();
    let key = create(&store, 0, draft("acme", None, Budget::unlimited())).await;
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let post_after = async |pause: Duration| {
        tokio::time::sleep(pause).await;
        let (begun, pay) = (
            std::time::Instant::now(),
            Action::Pay { amount: Amount::ZERO, note: Note::default(), claim: None },
        );
        let posted = store.post(&[Posting::new(account("acme"), key.id, pay)]).await;
        assert!(posted.unwrap_err().is_transient());
        begun.elapsed()
    };
    let (first, second_one) = tokio::join!(post_after(Duration::ZERO), post_after(second / 2));
    assert!(first >= second && first < second * 5 / 4, "{first:?}");
    assert!(second_one >= second * 3 / 4 && second_one < second * 5 / 4, "{second_one:?}");
    other.execute_batch("ROLLBACK").unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_deleted_file_is_an_outage_until_it_is_back() {
    let directory = directory();
    let (path, moved) = (directory.path().join("keys.db"), directory.path().join("moved.db"));
    let store = SqliteStore::connect(&path).await.unwrap();
    let key = create(&store, 0, draft("acme", None, Budget::unlimited())).await;
    store.close().await;
    let store = SqliteStore::connect(&path).await.unwrap();
    std::fs::copy(&path, &moved).unwrap();
    std::fs::remove_file(&path).unwrap();
    let pay = Action::Pay { amount: Amount::cents(1), note: Note::default(), claim: None };
    let postings = [Posting::new(account("acme"), key.id, pay)];
    assert!(store.post(&postings).await.unwrap_err().is_transient());
    assert!(store.find(&[token(0).hash]).await.unwrap_err().is_transient());
    std::fs::rename(&moved, &path).unwrap();
    assert!(store.post(&postings).await.unwrap()[0].is_ok());
    assert!(store.find(&[token(0).hash]).await.unwrap()[0].is_some());
}

#[tokio::test]
async fn sums_beyond_the_range_of_amounts_saturate() {
    let store = SqliteStore::in_memory().await.unwrap();
    let key = create(&store, 0, draft("acme", None, Budget::unlimited())).await;
    for _ in 0..3 {
        let settle = Action::Settle {
            holds: vec![],
            void: vec![],
            cost: Amount::MAX,
            note: Note::default(),
            claim: None,
        };
        store.post(&[Posting::new(account("acme"), key.id, settle)]).await.unwrap()[0]
            .as_ref()
            .unwrap();
    }
    let usage =
        store.usage(&UsageQuery::for_account(account("acme"), UsageBy::Month)).await.unwrap();
    assert_eq!((usage[0].amount, usage[0].charges), (Amount::MAX, 3));
    let account = store
        .change_account(
            &account("acme"),
            AccountChange::SetBudget(Budget::monthly(Amount::cents(1))),
            &crate::model::Origin::new(),
        )
        .await
        .unwrap()
        .unwrap();
    assert_eq!(account.balance.spent(), Amount::MAX);
}

#[tokio::test]
async fn rows_are_looked_up_through_indexes() {
    let store = SqliteStore::in_memory().await.unwrap();
    let keys =
        |owner| include_str!("../sql/keys.sql").replace("{owner}", owner).replace("{kind}", "true");
    let plans = move |open: &mut Open| {
        for sql in [
            include_str!("../sql/expired_holds.sql"),
            include_str!("../sql/hold.sql"),
            include_str!("../sql/claim.sql"),
            usage::ENTRY,
            include_str!("../sql/key_of_token.sql"),
            &keys("k.account_id = ?1"),
            &keys("k.parent_id = ?1"),
            &usage::page_sql(usage::EntriesOf::Account),
            &usage::page_sql(usage::EntriesOf::Key),
            usage::SPENT_BY_KEY,
            &usage::spent_by_account_sql(),
            include_str!("../sql/overdue_accounts.sql"),
        ] {
            let mut plan = open.connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            let parameters =
                rusqlite::params_from_iter(vec![rusqlite::types::Null; plan.parameter_count()]);
            let steps: Vec<String> =
                plan.query_map(parameters, |row| row.get(3))?.collect::<Result<_, _>>()?;
            let is_made_here = |name: &str| {
                ["CONSTANT ROW", "f", "family"].contains(&name)
                    || steps.contains(&format!("CO-ROUTINE {name}"))
            };
            let scanned = steps.iter().filter_map(|step| step.strip_prefix("SCAN "));
            assert!(scanned.clone().all(is_made_here), "{sql}: {steps:?}");
        }
        Ok(())
    };
    store.connections.writer().run(plans).await.unwrap();
}

/// The application's own SQL on the table of keys takes effect at once, also if it changes the window.
#[tokio::test]
async fn a_period_changed_by_the_application_counts_the_entries_of_its_window() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let clock = crate::model::ManualClock::at(at("2026-01-10T00:00:00Z"));
    let store = SqliteStore::open(SqliteOptions::new(&path).clock(&clock)).await.unwrap();
    let parent = create(&store, 1, draft("acme", None, Budget::lifetime(Amount::cents(100)))).await;
    let child = create(&store, 2, draft("acme", Some(parent.id), Budget::unlimited())).await;
    let pay = async |cents| {
        let action =
            Action::Pay { amount: Amount::cents(cents), note: Note::default(), claim: None };
        store.post(&[Posting::new(account("acme"), child.id, action)]).await.unwrap().pop().unwrap()
    };
    let spent = async || store.lineage(parent.id).await.unwrap().unwrap().key().balance.spent();
    pay(30).await.unwrap();
    clock.set(at("2026-02-15T00:00:00Z"));
    pay(50).await.unwrap();

    raw(&path, "UPDATE agent_keys SET period = 'month' WHERE id = 1");
    let found = store.find(&[TokenHash::digest("token 2")]).await.unwrap().pop().unwrap().unwrap();
    assert_eq!(found.lineage.remaining(), Some(Amount::cents(50)), "50 were spent in the month");
    assert!(matches!(pay(51).await, Err(Refusal::BudgetExceeded(_))));

    raw(&path, "UPDATE agent_keys SET period = 'lifetime' WHERE id = 1");
    assert!(
        matches!(pay(21).await, Err(Refusal::BudgetExceeded(_))),
        "80 were spent in the lifetime"
    );
    assert_eq!(pay(20).await.unwrap().remaining, Some(Amount::ZERO));
    assert_eq!(spent().await, Amount::cents(100));
}
