//! No output and no log line has a token, but the one line that shows it.

use crate::world::{Run, World, on_both_databases};

on_both_databases! {
    tokens_are_shown_once_and_nowhere_else
}

async fn tokens_are_shown_once_and_nowhere_else(world: &World) {
    let mut tokens: Vec<String> = Vec::new();
    let mut rest: Vec<String> = Vec::new();
    let traced = |arguments: &[&str]| {
        let mut command = world.command(arguments);
        Run::of(&command.env("RUST_LOG", "trace").output().unwrap())
    };
    // What shows a token: the line of standard output is taken, and the rest is searched.
    let mut shows = |run: Run| {
        assert_eq!(run.code, 0, "{run:?}");
        assert!(run.stderr.contains("INFO agentkey"), "it is logged: {run:?}");
        rest.push(run.stderr.clone());
        run.stdout
    };
    tokens.push(shows(traced(&["key", "create", "--name", "a", "--unrestricted"])).trim().into());
    tokens.push(
        shows(traced(&["key", "create", "--parent", "1", "--spend-limit", "5"])).trim().into(),
    );
    tokens.push(shows(traced(&["key", "rotate", "2", "--grace", "1h"])).trim().into());
    let document = shows(traced(&["key", "create", "--json"]));
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    tokens.push(document["token"].as_str().unwrap().to_owned());
    let foreign = "sk-foreign-abcdef0123456789";
    tokens.push(foreign.to_owned());
    let file = world
        .file("keys.csv", &format!("token,account,scopes\n{foreign},default,read\n{foreign},,\n"));

    let entry = world.charge("1", 5).await.to_string();
    let token = tokens[0].clone();
    let flag = format!("--name={token}extra");
    for arguments in [
        &["key", "import", &file][..],
        &["key", "import", &file, "--json"],
        &["key", "list"],
        &["key", "list", "--json"],
        &["key", "show", "1"],
        &["key", "show", "1", "--json"],
        &["key", "update", "1", "--name", "b"],
        &["key", "disable", "1"],
        &["key", "enable", "1"],
        &["key", "children", "1"],
        &["account", "list"],
        &["account", "show", "default"],
        &["account", "set", "default", "--spend-limit", "90"],
        &["usage", "--by", "key"],
        &["entries"],
        &["events"],
        &["events", "--jsonl"],
        &["adjust", "--key", "1", "--top-up", "1", "--reason", "a"],
        &["refund", &entry, "--whole"],
        &["migrate"],
        &["migrate", "--print"],
        &["doctor"],
        &["reconcile"],
        &["prune", "--older-than", "90d", "--yes"],
        &["prune", "--older-than", &token],
        &["export", "keys"],
        &["export", "entries", "--format", "csv"],
        &["export", "accounts"],
        &["completions", "bash"],
        // Where a token was given in place of something else.
        &["key", "show", &token],
        &["key", "show", &token, "--json"],
        &["key", "revoke", "1", &token],
        &[&token],
        &["key", &token],
        &["usage", "--by", &token],
        &["refund", &token, "--whole"],
        &["key", "rotate", "1", "--grace", &token],
        &["key", "create", "--spend-limit", &token],
        &["key", "show", &flag],
        &["key", "import", "-", &token],
        &["--help"],
        &["key", "create", "--help"],
        &["key", "revoke", "1", "--yes"],
    ] {
        let run = traced(arguments);
        rest.extend([run.stdout, run.stderr]);
    }
    for token in &tokens {
        assert!(token.len() > 20, "{token}");
        for text in &rest {
            assert!(!text.contains(token.as_str()), "a token is in: {text}");
        }
    }
}
