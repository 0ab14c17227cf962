//! Runs an example as its reader does: reads what it prints, and sends the requests that it suggests.
//!
//! The test of an example includes this by its path, and names the program by `env!("CARGO_BIN_EXE_example-…")`. It needs
//! nothing but the standard library, so that an example has no dependencies for its test.
#![allow(dead_code)] // Each test uses its part.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// Only a hang gets here.
const HANG: Duration = Duration::from_secs(60);

/// Runs an example that ends by itself, and expects it to end well. Returns what it printed.
pub(crate) fn walk(command: Command) -> String {
    let mut running = Running::start(command);
    let mut shown = String::new();
    while let Some(line) = running.next_line() {
        shown = shown + &line + "\n";
    }
    let status = running.child.wait().unwrap();
    assert!(status.success() && !shown.is_empty(), "{status}\n{shown}");
    shown
}

/// An example that serves, and what it printed about itself.
pub(crate) struct Served {
    running: Running,
    address: Address,
    shown: String,
    /// That of the curl lines, if it printed any.
    pub(crate) token: Option<String>,
}

/// Where an example listens.
pub(crate) struct Address(String);

impl Served {
    /// Starts it, and reads what it prints up to its address and, where `shows_token`, the curl line with the token.
    pub(crate) fn start(command: Command, shows_token: bool) -> Self {
        let mut running = Running::start(command);
        let (mut addr, mut token, mut shown) = (None, None, String::new());
        while addr.is_none() || (shows_token && token.is_none()) {
            let line = running.next_line().expect("it ended early");
            if let Some(rest) = line.split("Listening on http://").nth(1) {
                addr = Some(rest.split([',', ' ']).next().unwrap().to_owned());
            }
            if let Some(rest) = line.split("Bearer ").nth(1) {
                token = Some(rest.split('\'').next().unwrap().to_owned());
            }
            shown = shown + &line + "\n";
        }
        Self { running, address: Address(addr.unwrap()), shown, token }
    }

    /// Another address, which it has printed after these words.
    pub(crate) fn also_at(&self, words: &str) -> Address {
        let rest = self.shown.split(words).nth(1).expect("it printed the words");
        Address(rest.split([',', ' ', '\n']).next().unwrap().trim_end_matches('.').to_owned())
    }

    /// The status and the body of the response.
    pub(crate) fn ask(&self, method: &str, path: &str, token: Option<&str>) -> (u16, String) {
        self.address.ask(method, path, token)
    }

    /// Expects a refusal with this status and this `error`.
    pub(crate) fn is_refused(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        status: u16,
        error: &str,
    ) {
        let (told, body) = self.ask(method, path, token);
        assert_eq!(told, status, "{body}");
        assert!(body.contains(&format!(r#""error":"{error}""#)), "{body}");
    }

    /// Ends it as Ctrl-C does, and expects it to end well. Returns what it printed in the meantime.
    #[cfg(unix)]
    pub(crate) fn interrupt(mut self) -> String {
        let pid = self.running.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let mut shown = String::new();
        while let Some(line) = self.running.next_line() {
            shown = shown + &line + "\n";
        }
        assert!(self.running.child.wait().unwrap().success(), "{shown}");
        shown
    }
}

impl Address {
    /// The status and the body of the response.
    pub(crate) fn ask(&self, method: &str, path: &str, token: Option<&str>) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.0).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        let authorization =
            token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
        // HTTP/1.0: the body is not chunked, and ends with the connection.
        stream
            .write_all(format!("{method} {path} HTTP/1.0\r\n{authorization}\r\n").as_bytes())
            .unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").expect("a whole head");
        (head.split(' ').nth(1).expect("a status").parse().unwrap(), body.to_owned())
    }
}

/// A process, killed when this is dropped.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        // Without colours, which a build of the whole workspace enables.
        let command = command.env("ADDR", "127.0.0.1:0").env("NO_COLOR", "1");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines }
    }

    /// None when it has closed its standard output.
    fn next_line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(HANG) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("it hangs"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
