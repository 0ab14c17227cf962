//! What was charged, adjusted and refunded.

use agentkey::Amount;
use agentkey::model::Entry;
use agentkey::store::Usage;
use serde_json::Value;

use crate::world::{World, on_both_databases};

on_both_databases! {
    usage_is_summed_by_day_key_and_label
    entries_are_listed_and_limited
    a_top_up_and_a_correction_are_entries
    a_refund_gives_back_a_part_or_all
}

fn usage(document: &Value) -> Vec<Usage> {
    serde_json::from_value(document["usage"].clone()).unwrap()
}

async fn usage_is_summed_by_day_key_and_label(world: &World) {
    let (a, _) = world.create(&["--account", "acme", "--name", "crawler", "--unrestricted"]);
    let (b, _) = world.create(&["--parent", &a]);
    assert!(usage(&world.json(&["usage", "--account", "acme"])).is_empty());
    world.charge(&a, 100).await;
    world.charge(&b, 250).await;
    for (arguments, sums) in [
        (&["--account", "acme"][..], &[350][..]),
        (&["--account", "acme", "--by", "key"], &[100, 250]),
        (&["--account", "acme", "--by", "label:model"], &[350]),
        (&["--account", "acme", "--by", "day", "--then-by", "key"], &[100, 250]),
        (&["--key", &a], &[100]),
        (&["--key", &a, "--subtree", "--by", "month"], &[350]),
        (&["--account", "acme", "--since", "1h"], &[350]),
        (&["--account", "acme", "--until", "1h"], &[]),
    ] {
        let found = usage(&world.json(&[&["usage"], arguments].concat()));
        let found: Vec<_> = found.iter().map(|sum| sum.amount).collect();
        let sums: Vec<_> = sums.iter().map(|cents| Amount::cents(*cents)).collect();
        assert_eq!(found, sums, "{arguments:?}");
    }
    let table = world.ok(&["usage", "--account", "acme", "--by", "key"]);
    assert!(table.contains("crawler") && table.contains("2.50"), "{table}");
    assert!(!table.contains('█'), "no bar where there is no terminal: {table}");
    world.fails(&["usage", "--by", "year"], 2, &["label:", "day"]);
    world.fails(&["usage", "--since", "yesterday"], 2, &["such as 7d"]);
    world.fails(&["usage", "--subtree"], 2, &["--key"]);
}

async fn entries_are_listed_and_limited(world: &World) {
    let (a, _) = world.create(&["--account", "acme", "--unrestricted"]);
    let (b, _) = world.create(&["--parent", &a]);
    let mut made = Vec::new();
    for (key, cents) in [(&a, 1), (&b, 2), (&a, 3)] {
        made.push(world.charge(key, cents).await);
    }
    let entries = |arguments: &[&str]| -> Vec<Entry> {
        let document = world.json(&[&["entries"], arguments].concat());
        serde_json::from_value(document["entries"].clone()).unwrap()
    };
    let ids = |entries: Vec<Entry>| entries.iter().map(|entry| entry.id).collect::<Vec<_>>();
    assert_eq!(ids(entries(&["--account", "acme"])), made);
    assert_eq!(ids(entries(&["--key", &a])), [made[0], made[2]]);
    assert_eq!(ids(entries(&["--key", &a, "--subtree"])), made);
    assert_eq!(ids(entries(&["--account", "acme", "--limit", "2"])), made[..2]);
    let table = world.ok(&["entries", "--account", "acme"]);
    assert!(table.contains(&made[1].to_string()) && table.contains("model=small"), "{table}");
}

async fn a_top_up_and_a_correction_are_entries(world: &World) {
    let (id, _) = world.create(&["--account", "acme", "--spend-limit", "10"]);
    let left = || world.json(&["key", "show", &id])["remaining_cents"].clone();
    let top_up = ["adjust", "--key", &id, "--top-up", "5", "--reason", "goodwill"];
    let answer = world.ok(&top_up);
    assert_eq!(left(), 1500);
    let with_id = ["--id", "019a2b3c-4d5e-7f60-8192-a3b4c5d6e7f8", "--reference", "ticket 17"];
    for _ in 0..2 {
        let adjust = ["adjust", "--key", &id, "--correct", "0.25", "--reason", "twice"];
        let posted = world.json(&[&adjust[..], &with_id].concat());
        assert_eq!(posted["entry"], with_id[1]);
        assert_eq!(left(), 1475, "its id takes effect once");
    }
    let entries = world.json(&["entries", "--account", "acme"]);
    let entries: Vec<Entry> = serde_json::from_value(entries["entries"].clone()).unwrap();
    let amounts: Vec<_> = entries.iter().map(|entry| entry.amount).collect();
    assert_eq!(amounts, [Amount::units(-5), Amount::cents(25)]);
    assert!(answer.contains(&entries[0].id.to_string()), "{answer}");
    assert_eq!(entries[1].note.reference.as_deref(), Some("ticket 17"));

    world.ok(&["adjust", "--account", "acme", "--top-up", "1", "--reason", "goodwill"]);
    let adjust =
        |rest: &[&'static str]| [&["adjust", "--key", &id, "--reason", "a"], rest].concat();
    world.fails(&adjust(&["--top-up", "0"]), 2, &["above zero"]);
    world.fails(&adjust(&["--top-up", "1", "--correct", "1"]), 2, &["cannot be used with"]);
    world.fails(&adjust(&[]), 2, &["--top-up"]);
    world.fails(&["adjust", "--top-up", "1", "--reason", "a"], 2, &["--account"]);
    world.fails(
        &["adjust", "--account", "no", "--top-up", "1", "--reason", "a"],
        3,
        &["no account"],
    );
    let (key, other) = (id.as_str(), "x".repeat(256));
    world.fails(&["adjust", "--key", key, "--top-up", "1", "--reason", &other], 1, &["255"]);
}

async fn a_refund_gives_back_a_part_or_all(world: &World) {
    let (id, _) = world.create(&["--account", "acme", "--spend-limit", "10"]);
    let first = world.charge(&id, 400).await.to_string();
    let second = world.charge(&id, 100).await.to_string();
    let left = || world.json(&["key", "show", &id])["remaining_cents"].clone();
    assert_eq!(left(), 500);
    world.ok(&["refund", &first, "--amount", "1.50"]);
    assert_eq!(left(), 650);
    world.fails(&["refund", &first, "--whole"], 1, &["has less left"]);
    let refund = world.json(&["refund", &second, "--whole"])["entry"].clone();
    assert_eq!(left(), 750);

    let unknown = "019a2b3c-4d5e-7f60-8192-a3b4c5d6e7f8";
    world.fails(&["refund", unknown, "--whole"], 3, &["no entry", "`agentkey entries`"]);
    world.fails(&["refund", refund.as_str().unwrap(), "--whole"], 1, &["refund"]);
    world.fails(&["refund", "7", "--whole"], 2, &["UUID"]);
    world.fails(&["refund", &first], 2, &["--whole"]);
    world.fails(&["refund", &first, "--amount", "-1"], 2, &["-1"]);
}
