//! Arguments that make no sense, help and completions.

use crate::world::{Run, World, program};

fn run(arguments: &[&str]) -> Run {
    Run::of(&program(arguments).output().unwrap())
}

#[test]
fn bad_flags_name_the_good_ones_and_change_nothing() {
    let world = World::sqlite();
    for (arguments, words) in [
        (&["key", "create", "--spend-limt", "5"][..], &["--spend-limit"][..]),
        (&["key", "create", "--spend-limit", "five"], &["decimal number"]),
        (&["key", "create", "--spend-limit", "5/year"], &["lifetime, day, week"]),
        (&["key", "create", "--spend-limit", "5", "--spend-limit", "6"], &["same unit of time"]),
        (&["key", "create", "--scopes", "a*b"], &["proxy.*"]),
        (&["key", "create", "--expires", "soon"], &["such as 30d"]),
        (&["key", "create", "--metadata", "[]"], &["JSON object"]),
        (&["key", "create", "--account", ""], &["account id"]),
        (&["key", "creat"], &["create"]),
        (&["key"], &["create", "revoke"]),
        (&["key", "show"], &["<ID>"]),
        (&["key", "show", "seven"], &["whole number"]),
        (&["key", "rotate", "1", "--grace", "1mo"], &["such as 30m"]),
        (&["completions", "tcsh"], &["bash"]),
        (
            &["adopt", "keys", "--null-scopes", "*", "--null-limit", "none"],
            &["`agentkey key import`"],
        ),
        (&["key", "list", "--table", "keys"], &["PostgreSQL"]),
    ] {
        world.fails(arguments, 2, words);
    }
}

#[test]
fn limits_of_both_spellings_and_units_are_the_same() {
    let world = World::sqlite();
    let budgets = [
        ["--spend-limit", "50"],
        ["--spendLimit", "50"],
        ["--spendLimit", "50.00/lifetime"],
        ["--limit-cents", "5000"],
        ["--limitCents", "5000"],
    ]
    .map(|limit| {
        let (id, _) = world.create(&limit);
        world.json(&["key", "show", &id])["key"]["budgets"][0]["limit_cents"].clone()
    });
    assert_eq!(budgets, [5_000, 5_000, 5_000, 5_000, 5_000]);
}

#[test]
fn help_needs_no_database_and_shows_no_environment() {
    let mut help = program(&["key", "create", "--help"]);
    help.env("AGENTKEY_DATABASE", "postgres://app:s3cret@db/app");
    let help = Run::of(&help.output().unwrap());
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    assert!(
        help.stdout
            .contains("agentkey key create --name packer --scopes read,pack --spend-limit 50")
    );
    assert!(
        help.stdout.contains("AGENTKEY_DATABASE") && !help.stdout.contains("s3cret"),
        "{help:?}"
    );
    assert!(run(&["--version"]).stdout.starts_with("agentkey "));
    assert_eq!(run(&["--help"]).code, 0);
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let completions = run(&["completions", shell]);
        assert_eq!(completions.code, 0, "{shell}");
        for word in ["rotate", "spend-limit", "doctor"] {
            assert!(completions.stdout.contains(word), "{shell}: {word}");
        }
    }
    assert!(run(&["completions", "bash", "--json"]).document()["script"].is_string());
}

/// `agentkey key list | head -1`
#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let world = World::sqlite();
    let csv = (0..3_000).fold("token,account,scopes\n".to_owned(), |csv, n| {
        csv + &format!("sk-token-{n:08},acme,read\n")
    });
    world.ok(&["key", "import", &world.file("many.csv", &csv)]);
    let program = env!("CARGO_BIN_EXE_agentkey");
    let mut shell = std::process::Command::new("sh");
    let script = format!("'{program}' export keys --format csv | head -1");
    shell.args(["-c", &script]).env("AGENTKEY_DATABASE", world.database());
    let run = Run::of(&shell.output().unwrap());
    assert_eq!(run.stdout.lines().count(), 1);
    assert_eq!(run.stderr, "");
}

/// The lines of README.md and of docs/cli.md, as they are there.
#[test]
fn the_documented_walks_work() {
    for document in [include_str!("../../../README.md"), include_str!("../../../docs/cli.md")] {
        let (_, block) = document.split_once("```sh\nexport AGENTKEY_DATABASE=keys.db").unwrap();
        let (lines, _) = block.split_once("```").unwrap();
        assert_eq!(lines.trim_end().lines().count(), 5, "five lines: {lines}");
        let folder = tempfile::tempdir().unwrap();
        let bin = std::path::Path::new(env!("CARGO_BIN_EXE_agentkey")).parent().unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let script =
            format!("set -e\nexport AGENTKEY_DATABASE=keys.db{lines}\nagentkey key show 1");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script]).env("PATH", path).current_dir(folder.path());
        let run = Run::of(&shell.output().unwrap());
        assert_eq!(run.code, 0, "{run:?}");
        assert!(run.stdout.contains("0.00 of 50.00 lifetime") && run.stdout.contains("revoked"));
    }
}

#[test]
#[cfg(target_os = "linux")] // has /dev/full
fn a_token_that_could_not_be_written_is_told_with_its_key() {
    let world = World::sqlite();
    for json in ["", "--json"] {
        let program = env!("CARGO_BIN_EXE_agentkey");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &format!("'{program}' key create {json} > /dev/full")]);
        let run = Run::of(&shell.env("AGENTKEY_DATABASE", world.database()).output().unwrap());
        assert_eq!(run.code, 1, "{run:?}");
        assert!(
            run.stderr.contains("cannot be written")
                && run.stderr.contains("`agentkey key rotate ")
        );
    }
    assert_eq!(world.json(&["key", "list"])["keys"].as_array().unwrap().len(), 2);
}
