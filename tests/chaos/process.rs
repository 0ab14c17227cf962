//! A process of a test: this test binary again; its environment says what to do.
#![allow(dead_code)] // Each binary uses its part.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// It ends with the test.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Process {
    /// The program that becomes one.
    pub(crate) fn program() -> Command {
        Command::new(std::env::current_exe().unwrap())
    }

    /// Starts one that runs this test only, through a program that becomes this test binary.
    pub(crate) fn start(
        mut program: Command,
        test: &str,
        mut on_line: impl FnMut(&str) + Send + 'static,
    ) -> Self {
        let mut child = program
            .args([test, "--exact", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        std::thread::spawn(move || lines.for_each(|line| on_line(&line)));
        Self { child, stdin }
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        assert_eq!(self.child.try_wait().unwrap(), None, "it ended by itself");
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it end what it is at.
    pub(crate) fn finish(mut self) {
        drop(self.stdin.take());
        let begun = Instant::now();
        let ended = loop {
            if let Some(ended) = self.child.try_wait().unwrap() {
                break ended;
            }
            assert!(begun.elapsed() < crate::HANG, "a process does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(ended.success(), "{ended}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the process: whether the test that started it says that it is enough, or is gone.
pub(crate) fn enough() -> Arc<AtomicBool> {
    let enough = Arc::new(AtomicBool::new(false));
    let told = enough.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        told.store(true, Ordering::SeqCst);
    });
    enough
}

/// In the process: sends a line to the test, if the test still reads.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
