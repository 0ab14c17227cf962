//! Exports.

use agentkey::Key;
use agentkey::model::{Account, Entry};
use serde::de::DeserializeOwned;

use crate::world::{World, is_there, on_both_databases};

on_both_databases! {
    json_lines_are_the_records
    csv_has_a_header_and_units
    a_file_is_not_written_over
}

fn lines<T: DeserializeOwned>(text: &str) -> Vec<T> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn json_lines_are_the_records(world: &World) {
    let (a, _) = world.create(&["--account", "acme", "--name", "one"]);
    world.create(&["--account", "zeta"]);
    let entry = world.charge(&a, 5).await;
    let keys: Vec<Key> = lines(&world.ok(&["export", "keys"]));
    assert_eq!((keys.len(), keys[0].name.as_str()), (2, "one"));
    let keys: Vec<Key> = lines(&world.ok(&["export", "keys", "--account", "zeta"]));
    assert_eq!(keys.len(), 1);
    let accounts: Vec<Account> = lines(&world.ok(&["export", "accounts"]));
    assert_eq!(accounts.len(), 2);
    let entries: Vec<Entry> = lines(&world.ok(&["export", "entries"]));
    assert_eq!(entries[0].id, entry);
    assert!(world.ok(&["export", "entries", "--until", "1h"]).is_empty());
    world.fails(&["export", "keys", "--since", "1d"], 2, &["for entries"]);
    let none = world.path("none.jsonl");
    for what in ["keys", "accounts", "entries"] {
        let export = ["export", what, "--account", "acem", "--output", none.to_str().unwrap()];
        world.fails(&export, 3, &["no account acem"]);
    }
    assert!(!is_there(&none));
    assert_eq!(world.run(&["export", "keys", "--json"]).code, 2);
}

async fn csv_has_a_header_and_units(world: &World) {
    let (a, _) =
        world.create(&["--account", "acme", "--name", "one, \"two\"", "--spend-limit", "5/day"]);
    world.charge(&a, 125).await;
    let rows = |what: &str| -> Vec<Vec<String>> {
        let text = world.ok(&["export", what, "--format", "csv"]);
        let reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
        let rows =
            reader.into_records().map(|row| row.unwrap().iter().map(str::to_owned).collect());
        rows.collect()
    };
    let keys = rows("keys");
    assert_eq!((keys[0][0].as_str(), keys[1][3].as_str()), ("id", "one, \"two\""));
    assert_eq!((keys[1][6].as_str(), keys[1][7].as_str()), ("5.00/day", "1.25"));
    let entries = rows("entries");
    assert_eq!((entries[0][5].as_str(), entries[1][5].as_str()), ("amount", "1.25"));
    assert_eq!(entries[1][9], r#"{"model":"small"}"#);
    assert_eq!(rows("accounts").len(), 2);
}

async fn a_file_is_not_written_over(world: &World) {
    world.create(&[]);
    let path = world.path("keys.jsonl");
    let output = path.to_str().unwrap();
    assert_eq!(world.json(&["export", "keys", "--output", output])["records"], 1);
    let first = std::fs::read_to_string(&path).unwrap();
    assert_eq!(lines::<Key>(&first).len(), 1);
    world.fails(&["export", "keys", "--output", output], 1, &[output, "not there yet"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
    assert!(!is_there(world.path("no")));
}
