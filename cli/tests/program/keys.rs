//! Keys from their creation to their end.

use agentkey::model::{Account, Cidrs, RateLimit, Subject};
use agentkey::{Amount, Budget, Created, Key, NewKey, ScopeSet, Token};
use serde_json::Value;

use crate::world::{World, on_both_databases};

on_both_databases! {
    the_walk_of_a_key
    every_field_is_set_and_changed
    absent_none_and_a_value_are_three_things
    requests_are_limited_by_rate_and_address
    a_revoked_subtree_is_counted_and_confirmed
    a_rotation_prints_the_new_token_alone
    states_of_ancestors_show
    subjects_show
    an_unknown_key_is_not_found
    what_the_parent_does_not_allow_is_refused
}

fn keys(document: &Value) -> Vec<Key> {
    serde_json::from_value(document["keys"].clone()).unwrap()
}

fn key(world: &World, id: &str) -> Key {
    serde_json::from_value(world.json(&["key", "show", id])["key"].clone()).unwrap()
}

/// The five lines of README.md.
async fn the_walk_of_a_key(world: &World) {
    let create = ["key", "create", "--name", "packer", "--scopes", "read,pack"];
    let run = world.run(&[&create[..], &["--spendLimit", "50"]].concat());
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.stdout.lines().count(), 1, "the token alone: {run:?}");
    let token = Token::parse(run.stdout.trim()).unwrap();
    assert!(run.stderr.contains("Created key") && run.stderr.contains("this once only"));

    let listed = keys(&world.json(&["key", "list"]));
    let [packer] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((packer.name.as_str(), packer.account.as_str()), ("packer", "default"));
    assert_eq!(packer.scopes, ScopeSet::parse(["read", "pack"]).unwrap());
    assert_eq!(packer.budget, Budget::lifetime(Amount::units(50)), "dollars");
    let table = world.ok(&["key", "list"]);
    assert!(table.contains("packer") && table.contains("0.00 of 50.00 lifetime"), "{table}");
    assert!(table.contains("active") && !table.contains(token.expose()), "{table}");
    assert!(!table.contains('\u{1b}'), "no colours where there is no terminal: {table:?}");

    let service = world.service().await;
    assert!(service.authorize(&token).await.is_ok());
    let id = packer.id.to_string();
    assert_eq!(world.ok(&["key", "revoke", &id]), format!("Revoked key {id} (packer).\n"));
    assert!(service.authorize(&token).await.is_err(), "from the next request on");
    service.shutdown().await;
    assert!(world.ok(&["key", "list"]).contains("revoked"));
}

async fn every_field_is_set_and_changed(world: &World) {
    let (id, _) = world.create(&[
        "--name",
        "a",
        "--account",
        "acme",
        "--scopes",
        "read",
        "--scopes",
        "proxy.*",
        "--spend-limit",
        "20/month",
        "--limit-cents",
        "150/day",
        "--expires",
        "2031-01-31",
        "--delegated-by",
        "user_9",
        "--metadata",
        r#"{"team":"search"}"#,
        "--prefix",
        "ak_live",
    ]);
    let made = key(world, &id);
    assert_eq!(made.budget, Budget::monthly(Amount::units(20)).and_daily(Amount::cents(150)));
    assert_eq!(made.expires_at, Some("2031-01-31T00:00:00Z".parse().unwrap()));
    assert_eq!((made.delegated_by.as_deref(), made.prefix.as_str()), (Some("user_9"), "ak_live"));
    assert_eq!(made.metadata.to_string(), r#"{"team":"search"}"#);
    assert_eq!(made.account.as_str(), "acme");

    let update =
        ["key", "update", &id, "--name", "b", "--scopes", "read", "--spend-limit", "5/week"];
    let changed: Key = serde_json::from_value(world.json(&update)["key"].clone()).unwrap();
    assert_eq!((changed.name.as_str(), changed.budget), ("b", Budget::weekly(Amount::units(5))));
    assert_eq!(changed.scopes, ScopeSet::parse(["read"]).unwrap());
    assert_eq!((changed.expires_at, &changed.metadata), (made.expires_at, &made.metadata));
    assert_eq!(changed, key(world, &id), "the answer is the record");

    let shown = world.json(&["key", "show", &id]);
    let account: Account = serde_json::from_value(shown["account"].clone()).unwrap();
    assert_eq!(account.id.as_str(), "acme");
    assert_eq!((&shown["state"], &shown["remaining_cents"]), (&"active".into(), &500.into()));
    let table = world.ok(&["key", "show", &id]);
    assert!(table.contains("user_9") && table.contains("0.00 of 5.00 week"), "{table}");
}

async fn absent_none_and_a_value_are_three_things(world: &World) {
    let (id, _) = world.create(&[
        "--scopes",
        "read",
        "--spend-limit",
        "1",
        "--expires",
        "30d",
        "--metadata",
        r#"{"a":1}"#,
    ]);
    let made = key(world, &id);
    world.ok(&["key", "update", &id, "--no-expiry"]);
    let changed = key(world, &id);
    assert_eq!(changed.expires_at, None);
    assert_eq!((changed.scopes, changed.budget), (made.scopes, made.budget), "the rest stays");
    world.ok(&["key", "update", &id, "--no-limit", "--no-scopes", "--no-metadata"]);
    let changed = key(world, &id);
    assert_eq!((changed.budget, changed.scopes), (Budget::unlimited(), ScopeSet::none()));
    assert!(changed.metadata.is_empty());
    world.ok(&["key", "update", &id, "--unrestricted", "--spend-limit", "0", "--expires", "1h"]);
    let changed = key(world, &id);
    assert!(changed.scopes.is_unrestricted() && changed.expires_at.is_some());
    assert_eq!(changed.budget, Budget::lifetime(Amount::ZERO), "0 is no removal");

    world.fails(&["key", "update", &id], 2, &["--no-expiry", "--name"]);
    world.fails(&["key", "update", &id, "--no-limit", "--spend-limit", "5"], 2, &["--no-limit"]);
    world.fails(&["key", "update", &id, "--no-expiry", "--expires", "5d"], 2, &["--expires"]);
}

async fn a_revoked_subtree_is_counted_and_confirmed(world: &World) {
    let (root, _) = world.create(&["--name", "root", "--unrestricted"]);
    let (child, token) = world.create(&["--parent", &root]);
    let (_, _) = world.create(&["--parent", &child]);
    let (gone, _) = world.create(&["--parent", &root]);
    world.ok(&["key", "revoke", &gone]);

    let said = world.fails(&["key", "revoke", &root], 1, &["`--yes`", "Nothing was changed"]);
    assert!(said.contains("the 2 keys minted from it"), "{said}");
    let revoke = ["key", "revoke", &root, "--yes", "--reason", "leaked"];
    let revoked = world.json(&revoke);
    assert_eq!(revoked["revoked_with"], 2);
    assert_eq!(revoked["key"]["revoked_reason"], "leaked");
    let again = ["key", "revoke", &root, "--reason", "once more"];
    assert_eq!(world.ok(&again), format!("Key {root} (root) was revoked before.\n"));
    let again = world.json(&again);
    assert_eq!((&again["revoked_with"], &again["key"]), (&0.into(), &revoked["key"]));
    assert_eq!(world.json(&["key", "show", &child])["state"], "revoked");
    let service = world.service().await;
    assert!(service.authorize(&Token::parse(&token).unwrap()).await.is_err());
    service.shutdown().await;
}

async fn a_rotation_prints_the_new_token_alone(world: &World) {
    let (id, old) = world.create(&["--name", "a", "--prefix", "ak_live"]);
    let run = world.run(&["key", "rotate", &id, "--grace", "1h"]);
    let new = Token::parse(run.stdout.trim()).unwrap();
    assert_eq!((run.code, run.stdout.lines().count(), new.prefix()), (0, 1, "ak_live"));
    let rotated = world.json(&["key", "rotate", &id, "--grace", "1h"]);
    let rotated: Created = serde_json::from_value(rotated).unwrap();
    let service = world.service().await;
    for token in [&rotated.token, &new, &Token::parse(&old).unwrap()] {
        assert!(service.authorize(token).await.is_ok(), "within the grace");
    }
    world.ok(&["key", "rotate", &id]);
    assert!(service.authorize(&rotated.token).await.is_err(), "without a grace");
    service.shutdown().await;
}

async fn states_of_ancestors_show(world: &World) {
    let (root, _) = world.create(&["--name", "root", "--unrestricted"]);
    let (child, _) = world.create(&["--name", "child", "--parent", &root, "--unrestricted"]);
    let (leaf, _) = world.create(&["--name", "leaf", "--parent", &child]);
    assert_eq!(world.ok(&["key", "disable", &root]), format!("Disabled key {root} (root).\n"));
    let shown = world.json(&["key", "show", &leaf]);
    assert_eq!((&shown["state"], shown["by"].to_string()), (&"disabled".into(), root.clone()));
    assert_eq!(shown["ancestors"].as_array().unwrap().len(), 2);
    let by = format!("disabled (by {root})");
    for list in [
        &["key", "list"][..],
        &["key", "children", &child],
        &["key", "list", "--account", "default"],
    ] {
        let table = world.ok(list);
        let row = table.lines().find(|line| line.contains("leaf")).unwrap();
        assert!(row.ends_with(&by), "{row}");
    }
    assert_eq!(keys(&world.json(&["key", "children", &root])).len(), 1);
    assert_eq!(keys(&world.json(&["key", "children", &root, "--all"])).len(), 2);
    assert_eq!(keys(&world.json(&["key", "children", &leaf])), []);
    world.ok(&["key", "enable", &root]);
    assert_eq!(world.json(&["key", "show", &leaf])["state"], "active");
}

/// A key that a service made for an identity of another issuer.
async fn subjects_show(world: &World) {
    let (token_key, _) = world.create(&["--name", "with a token"]);
    assert!(!world.ok(&["key", "list"]).contains("SUBJECT"), "a column with nothing in it");

    let service = world.service().await;
    let subject = Subject::new("https://issuer.example", "robot-7").unwrap();
    let new = NewKey::new("default".parse().unwrap()).name("robot");
    let made = service.ensure_subject(subject.clone(), new).await.unwrap();
    service.shutdown().await;

    let id = made.id.to_string();
    assert_eq!(key(world, &id).subject, Some(subject));
    let listed = keys(&world.json(&["key", "list"]));
    assert_eq!(listed.iter().find(|key| key.id == made.id).unwrap().subject, made.subject);
    let table = world.ok(&["key", "list"]);
    assert!(table.contains("SUBJECT"), "{table}");
    let row = |name: &str| table.lines().find(|line| line.contains(name)).unwrap();
    assert!(row("robot").contains("robot-7 of https://issuer.example"), "{table}");
    assert!(!row("with a token").contains("issuer"), "{table}");
    assert!(row("robot").ends_with("active") && row("with a token").ends_with("active"));
    let shown = world.ok(&["key", "show", &id]);
    let line = |name: &str| shown.lines().find(|line| line.trim().starts_with(name)).unwrap();
    assert!(line("Subject").ends_with("robot-7 of https://issuer.example"), "{shown}");
    assert!(line("Token").ends_with("subject"), "it has no token: {shown}");
    assert!(world.ok(&["key", "show", &token_key]).contains("Subject"), "as `-`");
    let csv = world.ok(&["export", "keys", "--format", "csv"]);
    assert!(csv.lines().any(|line| line.ends_with("https://issuer.example,robot-7")), "{csv}");
    world.fails(&["key", "rotate", &id], 1, &["subject"]);
}

async fn an_unknown_key_is_not_found(world: &World) {
    world.create(&["--name", "a"]);
    for command in [
        &["key", "show", "987"][..],
        &["key", "update", "987", "--name", "b"],
        &["key", "disable", "987"],
        &["key", "enable", "987"],
        &["key", "rotate", "987"],
        &["key", "revoke", "987", "--yes"],
        &["key", "children", "987"],
        &["key", "create", "--parent", "987"],
        &["usage", "--key", "987"],
        &["entries", "--key", "987"],
        &["events", "--key", "987"],
        &["adjust", "--key", "987", "--top-up", "1", "--reason", "a"],
    ] {
        world.fails(command, 3, &["there is no key 987", "`agentkey key list`"]);
    }
}

async fn what_the_parent_does_not_allow_is_refused(world: &World) {
    let (root, _) = world.create(&["--scopes", "read", "--spend-limit", "5"]);
    world.fails(&["key", "create", "--parent", &root, "--scopes", "write"], 1, &["scope"]);
    world.ok(&["key", "revoke", &root]);
    world.fails(&["key", "create", "--parent", &root, "--scopes", "read"], 1, &["was revoked"]);
    world.fails(&["key", "update", &root, "--name", "b"], 1, &["was revoked"]);
}

async fn requests_are_limited_by_rate_and_address(world: &World) {
    let (id, _) = world.create(&[
        "--rate",
        "100/1m",
        "--burst",
        "20",
        "--in-flight",
        "4",
        "--allow-cidr",
        "192.0.2.0/24,::1",
    ]);
    let made = key(world, &id);
    assert_eq!(made.rate_limit, Some(RateLimit::per_minute(100).burst(20).in_flight(4)));
    assert_eq!(made.allowed_cidrs, Some(Cidrs::parse(["192.0.2.0/24", "::1/128"]).unwrap()));
    let table = world.ok(&["key", "show", &id]);
    assert!(table.contains("100 in 60 s, 20 at once, 4 in flight"), "{table}");
    assert!(table.contains("192.0.2.0/24, ::1/128"), "{table}");

    world.ok(&["key", "update", &id, "--rate", "5/s"]);
    let changed = key(world, &id);
    let in_place_of_the_rate = Some(RateLimit::per_second(5).in_flight(4));
    assert_eq!(changed.rate_limit, in_place_of_the_rate, "what is not named stays");
    assert_eq!(changed.allowed_cidrs, made.allowed_cidrs, "the rest stays");
    world.ok(&["key", "update", &id, "--rate", "100/1m", "--burst", "20"]);
    world.ok(&["key", "update", &id, "--in-flight", "9"]);
    let changed = key(world, &id).rate_limit;
    assert_eq!(changed, Some(RateLimit::per_minute(100).burst(20).in_flight(9)));
    world.ok(&["key", "update", &id, "--no-rate", "--no-cidr"]);
    let changed = key(world, &id);
    assert_eq!((changed.rate_limit, changed.allowed_cidrs), (None, None));

    world.fails(&["key", "update", &id, "--rate", "100"], 2, &["such as 100/1m"]);
    world.fails(&["key", "update", &id, "--burst", "5"], 2, &["--rate"]);
    world.fails(&["key", "update", &id, "--no-rate", "--rate", "5/s"], 2, &["--no-rate"]);
    world.fails(&["key", "update", &id, "--allow-cidr", "192.0.2.1/24"], 2, &["192.0.2.0/24"]);
    let (child, _) = world.create(&["--allow-cidr", "192.0.2.0/24", "--unrestricted"]);
    world.fails(
        &["key", "create", "--parent", &child, "--allow-cidr", "10.0.0.0/8"],
        1,
        &["cidrs"],
    );
}
