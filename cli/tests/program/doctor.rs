//! `doctor`: what it finds, and what it says to do.

use std::time::Duration;

use agentkey::jiff::{SignedDuration, Timestamp};
use agentkey::model::ManualClock;
use agentkey::{AgentKeys, Amount, Hold, NewKey};
use serde_json::Value;

use crate::postgres;
use crate::world::{World, on_both_databases};

on_both_databases! {
    a_healthy_database_passes
    holds_that_no_process_looks_after_are_found
}

fn check<'d>(document: &'d Value, name: &str) -> &'d Value {
    let checks = document["checks"].as_array().unwrap();
    checks
        .iter()
        .find(|check| check["name"] == name)
        .unwrap_or_else(|| panic!("{name}: {document}"))
}

async fn a_healthy_database_passes(world: &World) {
    let document = world.json(&["doctor"]);
    assert_eq!(document["is_healthy"], true, "{document}");
    for name in ["tables", "service", "holds", "rights", "clock", "WAL"] {
        let status = check(&document, name)["status"].as_str().unwrap();
        assert!(["ok", "info"].contains(&status), "{name}: {document}");
    }
    let table = world.ok(&["doctor"]);
    assert!(table.contains("up to date"), "{table}");
}

/// Holds of a process that was killed, in an account without requests.
async fn holds_that_no_process_looks_after_are_found(world: &World) {
    // The clock of the process that dies is an hour behind, so its hold is over long since.
    let then = Timestamp::now() - SignedDuration::from_hours(1);
    let day = Duration::from_secs(86_400);
    let options = AgentKeys::builder().max_hold_age(day);
    let keys = world.build(options, &ManualClock::at(then)).await;
    let key = keys.create(NewKey::new("acme".parse().unwrap())).await.unwrap().key;
    let key = keys.authorize_by_id(key.id).await.unwrap();
    let charge = keys.charge(&key).await.unwrap();
    charge.hold(Amount::cents(5)).await.unwrap();
    let document = world.json(&["doctor"]);
    let found = check(&document, "expired holds");
    assert_eq!(found["status"], "warning", "{document}");
    assert!(found["mend"].as_str().unwrap().contains("sweep"), "{document}");
    assert!(found["found"].as_str().unwrap().starts_with("1 of 0.05"), "{document}");
    assert_eq!(document["is_healthy"], true, "a warning is no failure");
    // Another one was made at the same time, and may last for a day.
    let long = Hold::new(Amount::cents(7)).ttl(day);
    charge.hold(long).await.unwrap();
    let document = world.json(&["doctor"]);
    assert!(check(&document, "expired holds")["found"].as_str().unwrap().starts_with("1 of 0.05"));
    let old = check(&document, "old holds");
    let found = old["found"].as_str().unwrap();
    assert!(found.starts_with("1 of 0.07 in all for more than 15 minutes"), "{document}");
    assert!(old["mend"].as_str().unwrap().contains("keeps its charge"), "{document}");
    let shown = world.ok(&["key", "show", &key.id().to_string()]);
    assert!(shown.contains("0.07 held"), "the other keeps no money from being spent: {shown}");
    charge.settle().await.unwrap();
    keys.shutdown().await;
    assert_eq!(check(&world.json(&["doctor"]), "holds")["status"], "ok");
}

/// As a program that left a transaction open.
#[test]
fn a_file_that_takes_no_postings_fails() {
    let world = World::sqlite();
    let other = rusqlite::Connection::open(world.database()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let run = world.run(&["doctor", "--json"]);
    let found = run.document();
    let service = check(&found, "service");
    assert_eq!((run.code, &service["status"]), (1, &"failed".into()), "{run:?}");
    assert!(service["found"].as_str().unwrap().contains("takes no postings"), "{run:?}");
    assert!(service["mend"].as_str().unwrap().contains("keeps the lock"), "{run:?}");
    assert!(run.stderr.contains("agentkey is not ready"), "the log says why: {run:?}");
    other.execute_batch("ROLLBACK").unwrap();
    world.ok(&["doctor"]);
}

#[test]
fn a_missing_file_and_missing_tables_fail_with_the_mend() {
    let world = World::without_tables();
    let run = world.run(&["doctor", "--json"]);
    assert_eq!(run.code, 1, "{run:?}");
    let document = run.document();
    let found = check(&document, "file");
    assert_eq!((&found["status"], &document["is_healthy"]), (&"failed".into(), &false.into()));
    assert!(found["mend"].as_str().unwrap().contains("`agentkey migrate`"));
    std::fs::write(world.database(), "").unwrap();
    let run = world.run(&["doctor", "--json"]);
    assert_eq!(check(&run.document(), "tables")["status"], "failed", "{run:?}");
    assert_eq!(std::fs::read(world.database()).unwrap(), b"", "it changes nothing");
    std::fs::write(
        world.database(),
        "some text that is longer than the header of a database has to be, by far",
    )
    .unwrap();
    let run = world.run(&["doctor", "--json"]);
    assert_eq!(check(&run.document(), "settings")["status"], "failed", "{run:?}");
}

#[test]
fn a_file_is_found_by_the_url_that_made_it() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::at(&format!("sqlite:{}/a%20b.db", folder.path().display()));
    world.ok(&["migrate"]);
    let table = world.ok(&["doctor"]);
    assert!(table.contains("a b.db"), "{table}");
}

#[test]
fn no_command_shows_the_password_of_a_database() {
    for database in [
        "mysql://app:s3cret@db/app",
        "Postgres://app:s3cret@db/app",
        "host=db user=app password=s3cret",
        "postgres://app:s3cret@127.0.0.1:1/app?passwrod=s3cret",
    ] {
        for command in [&["doctor"][..], &["key", "list"], &["migrate"]] {
            let run = World::at(database).run(command);
            assert_ne!(run.code, 0, "{run:?}");
            assert!(!format!("{run:?}").contains("s3cret"), "{database}: {run:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_standby_and_a_server_that_is_away_are_named() {
    let Some(primary) = postgres::Server::start(&[]) else { return };
    let database = primary.database().await;
    World::at(database.url()).ok(&["migrate"]);
    let replica = primary.replica(false).await;
    let standby = World::at(&replica.url(database.name()));
    let run = standby.run(&["doctor", "--json"]);
    let found = run.document();
    assert_eq!((run.code, &check(&found, "role of the server")["status"]), (1, &"failed".into()));
    assert!(run.stdout.contains("name the primary"), "{run:?}");
    let document = World::at(database.url()).json(&["doctor"]);
    assert_eq!(check(&document, "standbys")["status"], "warning", "it is not synchronous");

    let run = World::at("postgres://app:s3cret@127.0.0.1:1/app").run(&["doctor"]);
    assert_eq!(run.code, 1);
    assert!(
        run.stdout.contains("refused the connection") && !run.stdout.contains("s3cret"),
        "{run:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn tables_that_are_missing_fail() {
    let Some(world) = World::empty_postgres().await else { return };
    let run = world.run(&["doctor", "--json"]);
    assert_eq!(run.code, 1);
    let document = run.document();
    assert_eq!(check(&document, "tables")["status"], "failed");
    assert_eq!(check(&document, "server")["status"], "ok");
    // The tests' shared server does not wait for the disk.
    assert_eq!(check(&document, "writes to disk")["status"], "warning");
}
