//! `prune`: what is old goes, and the figures stay.

use agentkey::jiff::{SignedDuration, Timestamp};
use agentkey::model::ManualClock;
use agentkey::{Amount, Key, NewKey};
use serde_json::{Value, json};

use crate::world::{World, on_both_databases};

on_both_databases! {
    old_entries_and_events_go_and_the_sums_stay
    events_have_an_age_of_their_own
    a_prune_is_confirmed
    a_run_whose_time_is_up_says_what_is_left
    an_age_that_is_too_small_names_its_flag
}

/// Charges a key a hundred days ago, so many times, and once now.
pub(crate) async fn with_old_charges(world: &World, charges: i32) -> Key {
    let clock = ManualClock::at(Timestamp::now() - SignedDuration::from_hours(100 * 24));
    let keys = world.service_with_clock(&clock).await;
    let new = NewKey::new("default".parse().unwrap()).name("old");
    let key = keys.create(new).await.unwrap().key;
    for n in 0..charges {
        let charge = keys.charge(&keys.authorize_by_id(key.id).await.unwrap()).await.unwrap();
        charge.label("model", if n % 2 == 0 { "small" } else { "large" }).unwrap();
        charge.add(Amount::cents(2));
        charge.settle().await.unwrap();
    }
    keys.shutdown().await;
    world.charge(&key.id.to_string(), 7).await;
    key
}

fn len(list: &Value) -> usize {
    list.as_array().unwrap().len()
}

async fn old_entries_and_events_go_and_the_sums_stay(world: &World) {
    let key = with_old_charges(world, 6).await.id.to_string();
    let sums = |by: &str| world.json(&["usage", "--key", &key, "--by", by]);
    let before = ["day", "month", "key", "label:model"].map(sums);
    let spent = world.json(&["key", "show", &key])["key"]["spent_cents"].clone();
    assert_eq!(len(&world.json(&["entries"])["entries"]), 7);

    let dry = world.json(&["prune", "--older-than", "90d", "--dry-run"]);
    assert_eq!((&dry["prunable"]["entries"], &dry["prunable"]["events"]), (&json!(6), &json!(1)));
    assert!(world.ok(&["prune", "--older-than", "90d", "--dry-run"]).contains("entries"));
    assert_eq!(len(&world.json(&["entries"])["entries"]), 7, "it only says so");

    let pruned = world.json(&["prune", "--older-than", "90d", "--yes"])["pruned"].clone();
    assert_eq!((&pruned["entries"], &pruned["events"]), (&json!(6), &json!(1)), "{pruned}");
    assert_eq!((&pruned["is_complete"], &pruned["left"]["entries"]), (&json!(true), &json!(0)));
    assert_eq!(len(&world.json(&["entries"])["entries"]), 1);
    assert_eq!(len(&world.json(&["events"])["events"]), 0);
    assert_eq!(["day", "month", "key", "label:model"].map(sums), before);
    assert_eq!(world.json(&["key", "show", &key])["key"]["spent_cents"], spent);
    assert!(world.ok(&["reconcile"]).contains("agree"), "balances count what was summed up");

    // Nothing is left, so there is nothing to ask.
    let table = world.ok(&["prune", "--older-than", "90d"]);
    for what in ["entries", "events", "ended holds", "idempotency keys", "rate limits"] {
        let row = table.lines().find(|line| line.trim_start().starts_with(what)).unwrap();
        assert!(row.trim_start_matches(|c: char| !c.is_ascii_digit()).starts_with('0'), "{table}");
    }
}

async fn events_have_an_age_of_their_own(world: &World) {
    with_old_charges(world, 2).await;
    let run = ["prune", "--older-than", "90d", "--events-older-than", "400d", "--yes"];
    let pruned = world.json(&run)["pruned"].clone();
    assert_eq!((&pruned["entries"], &pruned["events"]), (&json!(2), &json!(0)), "{pruned}");
    assert_eq!(len(&world.json(&["events"])["events"]), 1);
    let run = ["prune", "--older-than", "400d", "--events-older-than", "1d", "--yes"];
    assert_eq!(world.json(&run)["pruned"]["events"], 1);
}

async fn a_prune_is_confirmed(world: &World) {
    with_old_charges(world, 3).await;
    let words = ["sums up 3 entries", "deletes 1 events", "no ended holds", "`--yes`"];
    world.fails(&["prune", "--older-than", "90d"], 1, &words);
}

async fn a_run_whose_time_is_up_says_what_is_left(world: &World) {
    with_old_charges(world, 3).await;
    let bounded = ["prune", "--older-than", "90d", "--time-bound", "0s", "--yes"];
    let pruned = world.json(&bounded)["pruned"].clone();
    assert_eq!((&pruned["is_complete"], &pruned["left"]["entries"]), (&json!(false), &json!(3)));
    let run = world.run(&bounded);
    assert_eq!(run.code, 0, "it did what it was asked to");
    assert!(run.stderr.contains("Run it again to go on"), "{run:?}");
    let pruned = world.json(&["prune", "--older-than", "90d", "--yes"])["pruned"].clone();
    assert_eq!((&pruned["entries"], &pruned["is_complete"]), (&json!(3), &json!(true)));
}

async fn an_age_that_is_too_small_names_its_flag(world: &World) {
    with_old_charges(world, 1).await;
    let prune = |arguments: &[&'static str]| [&["prune", "--yes"], arguments].concat();
    world.fails(&prune(&["--older-than", "31d"]), 2, &["`--older-than` is at least 32 days"]);
    let events = ["--older-than", "90d", "--events-older-than", "1h"];
    world.fails(&prune(&events), 2, &["`--events-older-than` is at least one day"]);
    world.fails(&prune(&["--older-than", "90"]), 2, &["such as 30m"]);
    world.fails(&prune(&[]), 2, &["--older-than <AGE>"]);
    world.fails(&prune(&["--older-than", "90d", "--dry-run"]), 2, &["--dry-run"]);
}
