//! On SQLite: all processes are killed at once, others end by themselves, and the application has the file open, too.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentkey::model::ManualClock;
use agentkey::store::{SqliteOptions, Store};
use agentkey::{AgentKeys, SqliteStore};
use rusqlite::Connection;

use crate::journal::Journals;
use crate::load::Load;
use crate::{application, invariants, sqlite_audit};

#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_the_books_are_right() {
    let mut directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("keys.db").to_str().unwrap().to_owned();
    let keys = open(&database).await;
    let mut load = Load::start(&database, &keys, directory.path()).await;
    // While this process has the file open, its WAL needs no recovery whoever is killed.
    keys.shutdown().await;
    // What the application did, by the word that it says.
    let said = Arc::<Mutex<BTreeMap<String, usize>>>::default();
    let mut application = application::start(&database, load.random.next(), &said);
    let (mut crashes, mut replaced) = (0, 0);
    // Each once, and then as it comes.
    let mut first = [0, 4, 5, 6, 8].into_iter();
    while load.goes_on().await || first.len() > 0 {
        match first.next().unwrap_or_else(|| load.random.below(10)) {
            0..4 => load.kill_one(),
            4 => {
                application.kill();
                application = application::start(&database, load.random.next(), &said);
                load.kills += 1;
            }
            5 => {
                application.kill();
                load.kill_all();
                load.start_workers();
                application = application::start(&database, load.random.next(), &said);
                load.kills += 1;
                crashes += 1;
            }
            6..8 => {
                load.replace_one().await;
                replaced += 1;
            }
            _ => {
                let keys = open(&database).await;
                load.change(&keys).await;
                keys.shutdown().await;
            }
        }
    }
    let journals = load.finish().await;
    tokio::task::spawn_blocking(move || application.finish()).await.unwrap();

    // What fails the audit stays where it is.
    directory.disable_cleanup(true);
    check(&database, &journals);
    // What the killed processes held runs out.
    let later = ManualClock::at(jiff::Timestamp::now() + Duration::from_secs(120));
    let store = SqliteStore::open(SqliteOptions::new(&database).clock(&later)).await.unwrap();
    store.sweep().await.unwrap();
    crate::agree(store).await;
    let held: i64 = Connection::open(&database)
        .unwrap()
        .query_one(
            "SELECT (SELECT sum(held) FROM agentkey_accounts) + (SELECT coalesce(sum(held), 0) FROM agentkey_balances)",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(held, 0, "what the dead held is free");
    check(&database, &journals);
    directory.disable_cleanup(false);
    let said = said.lock().unwrap();
    let done =
        format!("{crashes} times all of them, {replaced} replaced, the application: {said:?}");
    load.report("SQLite", &journals, &done);
}

async fn open(database: &str) -> AgentKeys {
    // The application may hold the lock for longer than a worker waits for it, and be followed by a checkpoint.
    let options = SqliteOptions::new(database).busy_timeout(crate::HANG);
    AgentKeys::new(SqliteStore::open(options).await.unwrap()).unwrap()
}

fn check(database: &str, journals: &Journals) {
    eprintln!("the file that is checked: {database}");
    let connection = Connection::open(database).unwrap();
    sqlite_audit::integrity(&connection);
    sqlite_audit::figures(&connection);
    let charges = sqlite_audit::charges(&connection);
    invariants::charged(&charges, &journals.acknowledged);
    sqlite_audit::entries(&connection, &journals.entries);
    invariants::not_charged(&charges, &journals.refused);
}
