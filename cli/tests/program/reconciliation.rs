//! `reconcile`: balances that SQL wrote are found, and mended where that is asked for.

use agentkey::model::Reconciled;
use serde_json::{Value, json};

use crate::world::{World, on_both_databases};

on_both_databases! {
    balances_that_agree_are_counted
    a_balance_that_sql_wrote_is_found_and_mended
    only_the_named_account_is_compared
}

/// Two keys of two accounts, each of which was charged; returns their ids.
async fn charged(world: &World) -> [String; 2] {
    let mut ids = [String::new(), String::new()];
    for (id, account) in ids.iter_mut().zip(["acme", "globex"]) {
        *id = world.create(&["--account", account, "--spend-limit", "5/month"]).0;
        world.charge(id, 25).await;
    }
    ids
}

/// Forgets what a key has spent, as a script that was meant to give it a new month may.
async fn forget(world: &World, key: &str) {
    world.execute(&format!("UPDATE agentkey_balances SET spent = 0 WHERE key_id = {key}")).await;
}

fn found(document: &Value) -> Vec<Reconciled> {
    serde_json::from_value(document["found"].clone()).unwrap()
}

async fn balances_that_agree_are_counted(world: &World) {
    charged(world).await;
    assert_eq!(world.ok(&["reconcile"]), "4 balances agree with the ledger.\n");
    let document = world.json(&["reconcile"]);
    assert_eq!((&document["compared"], &document["is_mended"]), (&json!(4), &json!(false)));
    assert!(found(&document).is_empty());
    // There is nothing to ask.
    assert_eq!(world.ok(&["reconcile", "--mend"]), "4 balances agree with the ledger.\n");
}

async fn a_balance_that_sql_wrote_is_found_and_mended(world: &World) {
    let [key, _] = charged(world).await;
    forget(world, &key).await;

    let run = world.run(&["reconcile"]);
    assert_eq!(run.code, 1, "{run:?}");
    let row = run.stdout.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(row, ["acme", &key, "spent", "month", "0.00", "0.25", "-0.25"], "{run:?}");
    assert!(run.stderr.contains("1 of 4 balances differ") && run.stderr.contains("`--mend`"));
    let run = world.run(&["reconcile", "--json"]);
    let document = run.document();
    assert_eq!((run.code, &document["is_mended"]), (1, &json!(false)));
    assert_eq!(found(&document)[0].key.unwrap().to_string(), key);

    // Nobody can answer here.
    let asked = world.run(&["reconcile", "--mend"]);
    assert_eq!(asked.code, 1, "{asked:?}");
    assert!(asked.stdout.contains("-0.25") && asked.stderr.contains("`--yes`"), "{asked:?}");
    let asked = world.run(&["reconcile", "--mend", "--json"]);
    assert_eq!((asked.code, &asked.document()["error"]["code"]), (1, &json!("failed")));
    assert_eq!(world.run(&["reconcile"]).code, 1, "nothing was mended");

    let mended = world.json(&["reconcile", "--mend", "--yes"]);
    assert_eq!((&mended["is_mended"], found(&mended).len()), (&json!(true), 1));
    assert!(world.ok(&["reconcile"]).contains("4 balances agree"));
    assert!(world.ok(&["key", "show", &key]).contains("0.25 of 5.00 month"));
    // It says what it did, and the entries add up to the same.
    let entries = world.json(&["entries", "--key", &key]);
    let entry = &entries["entries"][1];
    assert_eq!((&entry["kind"], &entry["amount_cents"]), (&json!("adjust"), &json!(0)), "{entry}");
    assert!(world.ok(&["events", "--account", "acme"]).contains("reconciled"));

    forget(world, &key).await;
    let table = world.ok(&["reconcile", "--mend", "--yes"]);
    assert!(table.ends_with("1 of 4 balances were mended.\n"), "{table}");
}

async fn only_the_named_account_is_compared(world: &World) {
    let [key, _] = charged(world).await;
    forget(world, &key).await;
    let of_another = ["reconcile", "--account", "globex"];
    assert_eq!(world.ok(&of_another), "2 balances agree with the ledger.\n");
    assert_eq!(world.run(&["reconcile", "--account", "acme"]).code, 1);
    world.fails(&["reconcile", "--account", "no"], 3, &["there is no account no"]);
    world.fails(&["reconcile", "--yes"], 2, &["--mend"]);
}
