//! What the crate logs, for all tests of this binary together.

use std::io;
use std::sync::{Mutex, Once};

use tracing_subscriber::filter::EnvFilter;

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Lines;

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Call it before what is to be captured.
pub(crate) fn capture_logs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let lines = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_env_filter(EnvFilter::new("info,agentkey=debug"))
            .with_writer(|| Lines);
        tracing::subscriber::set_global_default(lines.finish()).unwrap();
    });
}

/// The lines that have all of these in them.
pub(crate) fn logged(parts: &[&str]) -> Vec<String> {
    let lines = String::from_utf8(LINES.lock().unwrap().clone()).unwrap();
    let wanted = |line: &&str| parts.iter().all(|part| line.contains(part));
    lines.lines().filter(wanted).map(str::to_owned).collect()
}
