//! The commands of README.md, as its reader runs them: a shell for each terminal, with the proxy, the agent and `agentkey` as
//! processes on one SQLite file. What they print is compared with what is there.
#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

const README: &str = include_str!("../README.md");

const PROXY: &str = env!("CARGO_BIN_EXE_example-llm-proxy");
const AGENT: &str = env!("CARGO_BIN_EXE_runaway");

/// Only a hang gets here.
const HANG: Duration = Duration::from_secs(60);

/// The address in README.md. The test takes a free one.
const ADDR: &str = "127.0.0.1:3000";

#[test]
fn a_runaway_is_limited_refused_paused_and_read_about() {
    let folder = tempfile::tempdir().unwrap();
    let mut terminals: BTreeMap<&str, Terminal> = BTreeMap::new();
    let (mut addr, mut token) = (None, String::new());
    for Step { terminal, command, shown } in steps() {
        let terminal =
            terminals.entry(terminal).or_insert_with(|| Terminal::open(folder.path(), terminal));
        let Some(command) = command else {
            terminal.goes_on(&shown);
            continue;
        };
        if command.contains("cargo run") {
            if terminal.name == "agent" {
                token = terminal.run("echo $OPENAI_API_KEY").remove(0);
                assert!(token.starts_with("ak_"), "no token");
            }
            terminal.start(command, addr.as_deref().unwrap_or("127.0.0.1:0"));
            let last = terminal.goes_on(&shown);
            let listening = last.strip_prefix("Listening on http://");
            addr = listening.and_then(|rest| Some(rest.split_once(',')?.0.to_owned())).or(addr);
            continue;
        }
        terminal.prints(command, &shown);
        // The agent would see it too, but the test sends the very next request itself.
        let refused = match command {
            "agentkey key disable 1" => "disabled_key",
            "agentkey key revoke 1 --reason runaway" => "revoked_key",
            _ => continue,
        };
        let (status, body) = ask(addr.as_deref().expect("it serves"), &token);
        assert_eq!(status, 401, "{body}");
        assert!(body.contains(refused), "{body}");
    }
    let mut end = |name| terminals.remove(name).expect("it is open");
    end("agent").ends(); // its key is revoked
    let proxy = end("proxy");
    let pid = proxy.shell.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    for all in [proxy.ends(), end("person").ends()] {
        assert!(!all.is_empty() && !all.contains(&token), "a token was shown: {all}");
    }
}

/// A command of README.md and what it prints, or what a program that runs prints next.
struct Step {
    terminal: &'static str,
    command: Option<&'static str>,
    shown: Vec<&'static str>,
}

fn steps() -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in README.split("\n```console ").skip(1) {
        let (terminal, lines) = block.split_once('\n').unwrap();
        let (lines, _) = lines.split_once("\n```").unwrap();
        let mut step: Option<Step> = None;
        for line in lines.lines() {
            match (line.strip_prefix("$ "), &mut step) {
                (None, Some(step)) => step.shown.push(line),
                (command, step) => {
                    let shown = Vec::from_iter(command.is_none().then_some(line));
                    steps.extend(step.replace(Step { terminal, command, shown }));
                }
            }
        }
        steps.extend(step);
    }
    steps
}

/// A shell, and what it and its programs print.
struct Terminal {
    name: &'static str,
    shell: Child,
    /// `None` when nothing more is typed.
    typed: Option<ChildStdin>,
    lines: Receiver<String>,
    all: String,
}

impl Terminal {
    fn open(folder: &Path, name: &'static str) -> Self {
        let mut shell = Command::new("sh");
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if ["AGENTKEY_", "RUST_LOG"].iter().any(|start| text.starts_with(start)) {
                shell.env_remove(&name);
            }
        }
        let path = env::var("PATH").unwrap();
        shell.env("PATH", format!("{}:{path}", agentkey_folder().display())).env("NO_COLOR", "1");
        let mut shell =
            shell.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let typed = shell.stdin.take();
        let stdout = BufReader::new(shell.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut terminal = Self { name, shell, typed, lines, all: String::new() };
        terminal.type_line("exec 2>&1");
        terminal
    }

    fn type_line(&mut self, line: &str) {
        writeln!(self.typed.as_mut().expect("it is open"), "{line}").unwrap();
    }

    fn next_line(&mut self) -> String {
        let line = self.lines.recv_timeout(HANG);
        let line = line.unwrap_or_else(|error| panic!("{}: {error}: {}", self.name, self.all));
        self.all = format!("{}{line}\n", self.all);
        line
    }

    /// Runs a command to its end, which is a good one.
    fn run(&mut self, command: &str) -> Vec<String> {
        self.type_line(&format!("{command}\necho \"ended $?\""));
        let mut shown = Vec::new();
        loop {
            let line = self.next_line();
            match line.strip_prefix("ended ") {
                Some("0") => return shown,
                Some(code) => panic!("{command}: exit code {code}: {shown:?}"),
                None => shown.push(line),
            }
        }
    }

    /// Runs a command that prints this. What was refused is in the trail only after a while.
    fn prints(&mut self, command: &str, shown: &[&str]) {
        let (began, shown) = (Instant::now(), masked(shown));
        loop {
            let printed = self.run(command);
            if masked(&printed) == shown {
                return;
            }
            let may_change = command.starts_with("agentkey events") && began.elapsed() < HANG;
            assert!(may_change, "{command} prints\n{}", printed.join("\n"));
        }
    }

    /// Starts a program of this workspace in place of the shell.
    fn start(&mut self, command: &str, addr: &str) {
        let command = command
            .replace("cargo run -p example-llm-proxy --bin runaway", AGENT)
            .replace("cargo run -p example-llm-proxy", PROXY)
            .replace(ADDR, addr);
        self.type_line(&format!("exec env {command}"));
    }

    /// Waits until the program has printed these lines, maybe with others between them. Returns the last one.
    fn goes_on(&mut self, shown: &[&str]) -> String {
        let mut last = String::new();
        for line in shown {
            last = self.next_line();
            while mask(&last) != mask(line) {
                last = self.next_line();
            }
        }
        last
    }

    /// Expects that it ends well. Returns all that it printed.
    fn ends(mut self) -> String {
        self.typed = None;
        while let Ok(line) = self.lines.recv_timeout(HANG) {
            self.all = format!("{}{line}\n", self.all);
        }
        assert!(self.shell.wait().unwrap().success(), "{}: {}", self.name, self.all);
        std::mem::take(&mut self.all)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// The lines without what differs from run to run. Refusals of two minutes are two lines that only differ in that.
fn masked<T: AsRef<str>>(lines: &[T]) -> BTreeSet<String> {
    lines.iter().map(|line| mask(line.as_ref())).collect()
}

fn mask(line: &str) -> String {
    line.split_whitespace().map(mask_word).collect::<Vec<_>>().join(" ")
}

fn mask_word(word: &str) -> String {
    if let Some((before, _)) = word.split_once("127.0.0.1:") {
        return format!("{before}ADDR");
    }
    if let Some((name, value)) = word.split_once('=') {
        let value = if name == "start" { "TOKEN".to_owned() } else { mask_word(value) };
        return format!("{name}={value}");
    }
    let shape: String =
        word.chars().map(|char| if char.is_ascii_hexdigit() { '0' } else { char }).collect();
    match shape.trim_end_matches('.') {
        "0000-00-00" => "DATE".to_owned(),
        "00:00:00Z" => "TIME".to_owned(),
        "00000000-0000-0000-0000-000000000000" => "ID".to_owned(),
        shape if shape.starts_with("0000-00-00T") => "INSTANT".to_owned(),
        shape if shape.trim_matches('0').is_empty() => "NUMBER".to_owned(),
        _ if word.starts_with("ak_") => "TOKEN".to_owned(),
        _ => word.to_owned(),
    }
}

/// Sends a request as the agent does. Returns the status and the body of the answer.
fn ask(addr: &str, token: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    let ask = r#"{"model":"tales-1","max_completion_tokens":100,"messages":[]}"#;
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.0\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{ask}",
        ask.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    (head.split(' ').nth(1).expect("a status").parse().unwrap(), body.to_owned())
}

/// The folder of the program `agentkey`: that of the other programs, where a build of the workspace puts it. A build of this
/// package alone does not.
fn agentkey_folder() -> PathBuf {
    let folder = Path::new(PROXY).parent().unwrap();
    if !is_up_to_date(&folder.join("agentkey")) {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--locked", "-p", "agentkey-cli", "--target-dir"]);
        build.arg(folder.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().unwrap().success(), "agentkey cannot be built");
    }
    folder.to_owned()
}

/// Whether a program is as new as its sources. Cargo lists them beside it.
fn is_up_to_date(program: &Path) -> bool {
    let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    let sources = fs::read_to_string(program.with_extension("d")).unwrap_or_default();
    let (Some(built), Some((_, sources))) = (changed(program), sources.split_once(": ")) else {
        return false;
    };
    sources.split_whitespace().all(|path| changed(Path::new(path)).is_some_and(|at| at <= built))
}
