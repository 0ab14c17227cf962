//! Accounts and their ceilings.

use agentkey::model::Account;
use agentkey::{Amount, Budget};

use crate::world::{World, on_both_databases};

on_both_databases! {
    a_ceiling_is_set_shown_and_removed
    an_account_is_made_only_where_asked
}

async fn a_ceiling_is_set_shown_and_removed(world: &World) {
    let (id, _) = world.create(&["--account", "acme"]);
    world.create(&["--account", "zeta"]);
    let set = ["account", "set", "acme", "--spend-limit", "100/month", "--limit-cents", "500/day"];
    let account: Account = serde_json::from_value(world.json(&set)["account"].clone()).unwrap();
    assert_eq!(account.budget, Budget::monthly(Amount::units(100)).and_daily(Amount::units(5)));
    world.charge(&id, 125).await;
    let shown = world.json(&["account", "show", "acme"]);
    let shown: Account = serde_json::from_value(shown["account"].clone()).unwrap();
    assert_eq!(shown.remaining(), Some(Amount::cents(375)));
    let listed = world.json(&["account", "list"]);
    let listed: Vec<Account> = serde_json::from_value(listed["accounts"].clone()).unwrap();
    let ids: Vec<_> = listed.iter().map(|account| account.id.as_str()).collect();
    assert_eq!(ids, ["acme", "zeta"]);
    assert_eq!(listed[0], shown);
    let table = world.ok(&["account", "list"]);
    assert!(table.contains("1.25 of 5.00 day") && table.contains("3.75"), "{table}");
    assert!(world.ok(&["account", "show", "acme"]).contains("1.25 of 100.00 month"));

    world.ok(&["account", "set", "acme", "--no-limit"]);
    let shown = world.json(&["account", "show", "acme"]);
    assert_eq!(shown["account"]["budgets"][0]["limit_cents"], serde_json::Value::Null);
}

async fn an_account_is_made_only_where_asked(world: &World) {
    world.fails(&["account", "set", "acmee", "--spend-limit", "1"], 3, &["acmee", "`--create`"]);
    world.fails(&["account", "set", "acme"], 2, &["--spend-limit"]);
    world.fails(&["account", "show", "acme"], 3, &["acme", "`agentkey account list`"]);
    world.fails(&["usage", "--account", "acme"], 3, &["acme", "`agentkey account list`"]);
    world.ok(&["account", "set", "acme", "--spend-limit", "1", "--create"]);
    assert!(world.ok(&["account", "list"]).contains("acme"));
}
