//! The audit trail.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use agentkey::model::{Actor, Event, EventKind};

use crate::world::{World, on_both_databases};

on_both_databases! {
    what_the_program_does_is_in_the_trail
    new_events_are_followed
}

async fn what_the_program_does_is_in_the_trail(world: &World) {
    let (a, _) = world.create(&["--account", "acme", "--name", "crawler", "--unrestricted"]);
    let (b, _) = world.create(&["--parent", &a]);
    world.ok(&["key", "revoke", &b, "--reason", "leaked", "--actor", "ops@acme"]);
    let events = |arguments: &[&str]| -> Vec<Event> {
        let document = world.json(&[&["events"], arguments].concat());
        serde_json::from_value(document["events"].clone()).unwrap()
    };
    let kinds = |events: &[Event]| events.iter().map(|event| event.kind).collect::<Vec<_>>();
    use EventKind::{KeyCreated, KeyRevoked};
    let all = events(&["--account", "acme"]);
    assert_eq!(kinds(&all), [KeyCreated, KeyCreated, KeyRevoked]);
    let Actor::Principal { name: Some(name) } = &all[0].origin.actor else { panic!("{all:?}") };
    assert!(name.starts_with("cli"), "{name}");
    assert_eq!(all[2].origin.actor, Actor::principal("ops@acme"));
    assert_eq!(kinds(&events(&["--key", &a])), [KeyCreated]);
    assert_eq!(events(&["--key", &a, "--subtree"]).len(), 3);
    assert_eq!(kinds(&events(&["--account", "acme", "--kind", "key.revoked"])), [KeyRevoked]);
    assert_eq!(events(&["--account", "acme", "--limit", "2"]).len(), 2);
    assert!(events(&["--account", "acme", "--until", "1h"]).is_empty());

    let lines = world.ok(&["events", "--account", "acme", "--jsonl"]);
    let lines: Vec<Event> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, all);
    let table = world.ok(&["events", "--account", "acme"]);
    assert!(table.contains("ops@acme") && table.contains("leaked"), "{table}");
    world.fails(&["events", "--kind", "key.lost"], 2, &["key.created"]);
    world.fails(&["events", "--account", "no"], 3, &["there is no account no"]);
    assert_eq!(world.run(&["events", "--follow", "--json"]).code, 2);
}

async fn new_events_are_followed(world: &World) {
    let (id, _) = world.create(&["--account", "acme", "--name", "crawler"]);
    let mut command = world.command(&["events", "--account", "acme", "--follow"]);
    let mut follow = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut next = || lines.next().expect("it goes on").unwrap();
    assert!(next().contains(&format!("key.created key {id} (crawler) by cli")));
    world.ok(&["key", "disable", &id]);
    assert!(next().contains("key.disabled"));
    world.ok(&["key", "enable", &id]);
    world.ok(&["key", "revoke", &id]);
    assert!(next().contains("key.enabled"));
    assert!(next().contains("key.revoked"));
    follow.kill().unwrap();
    follow.wait().unwrap();
}
