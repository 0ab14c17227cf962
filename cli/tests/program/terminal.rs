//! What a person sees and is asked. `script` gives the program a terminal.
#![cfg(target_os = "linux")]

use std::io::Write;
use std::process::Stdio;

use crate::world::{Run, World};

/// Runs a command on a terminal that is so wide, and types this into it.
fn on_terminal(world: &World, width: u32, command: &str, typed: &str, no_color: &str) -> Run {
    let mut script = std::process::Command::new("script");
    let program = env!("CARGO_BIN_EXE_agentkey");
    script.args(["-qec", &format!("stty cols {width}; exec '{program}' {command}"), "/dev/null"]);
    script.env("AGENTKEY_DATABASE", world.database()).env("NO_COLOR", no_color);
    script.env("TERM", "xterm").env_remove("RUST_LOG");
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = script.spawn().expect("`script` of util-linux");
    // The terminal stays open until the program has read.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(typed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    Run::of(&output)
}

#[test]
fn tables_follow_the_terminal_and_no_color_is_heeded() {
    let world = World::sqlite();
    world.create(&["--name", "a rather long name of a key that does not fit", "--scopes", "read"]);
    for width in [60, 100, 200] {
        let run = on_terminal(&world, width, "key list", "", "1");
        assert_eq!(run.code, 0, "{run:?}");
        let widest = run.stdout.lines().map(|line| line.trim_end().chars().count()).max();
        assert!(widest <= Some(width as usize), "{width}: {run:?}");
        assert!(!run.stdout.contains('\u{1b}'), "{run:?}");
    }
    assert!(on_terminal(&world, 100, "key list", "", "").stdout.contains("\u{1b}["));
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_has_a_bar_beside_each_row() {
    let world = World::sqlite();
    let (a, _) = world.create(&[]);
    let (b, _) = world.create(&[]);
    world.charge(&a, 100).await;
    world.charge(&b, 50).await;
    let run = on_terminal(&world, 100, "usage --by key", "", "1");
    let bars: Vec<_> = run.stdout.lines().map(|line| line.matches('█').count()).collect();
    let bars: Vec<_> = bars.into_iter().filter(|length| *length > 0).collect();
    assert_eq!(bars, [24, 12], "{run:?}");
}

#[test]
fn a_subtree_is_revoked_after_a_yes_only() {
    let world = World::sqlite();
    let (root, _) = world.create(&["--name", "root", "--unrestricted"]);
    world.create(&["--parent", &root]);
    let revoke = format!("key revoke {root}");
    for typed in ["n\n", "\n", "yess\n"] {
        let run = on_terminal(&world, 100, &revoke, typed, "1");
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.stdout.contains("also revokes the key minted from it"), "{run:?}");
        assert!(run.stdout.contains("[y/N]") && run.stdout.contains("nothing was changed"));
        assert_eq!(world.json(&["key", "show", &root])["state"], "active");
    }
    let run = on_terminal(&world, 100, &revoke, "y\n", "1");
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stdout.contains("Revoked key 1 (root), and with it the key"), "{run:?}");
    assert_eq!(world.json(&["key", "show", &root])["state"], "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_asks_and_shows_how_far_it_is() {
    let world = World::sqlite();
    crate::retention::with_old_charges(&world, 3).await;
    let prune = "prune --older-than 90d";
    let run = on_terminal(&world, 100, prune, "n\n", "1");
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stdout.contains("sums up 3 entries") && run.stdout.contains("[y/N]"), "{run:?}");
    assert!(run.stdout.contains("nothing was changed"), "{run:?}");
    let run = on_terminal(&world, 100, prune, "y\n", "1");
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stdout.contains("/4 rows"), "three entries and an event: {run:?}");
    let is_row = |line: &str| line.split_whitespace().eq(["entries", "3", "0"]);
    assert!(run.stdout.lines().any(is_row), "{run:?}");
}
