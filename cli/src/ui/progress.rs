//! Progress on standard error, where that is a terminal.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

/// Returns a bar over so many bytes, or a counter of them.
pub(crate) fn bytes(length: Option<u64>) -> ProgressBar {
    match length {
        Some(length) => {
            styled(ProgressBar::new(length), "{bar:30} {binary_bytes}/{binary_total_bytes}  {msg}")
        }
        None => styled(ProgressBar::no_length(), "{spinner} {binary_bytes}  {msg}"),
    }
}

/// Returns a bar over so many things, or a counter of them.
pub(crate) fn count(of: Option<u64>, things: &str) -> ProgressBar {
    match of {
        Some(all) => styled(
            ProgressBar::new(all),
            &format!("{{bar:30}} {{human_pos}}/{{human_len}} {things}"),
        ),
        None => styled(ProgressBar::no_length(), &format!("{{spinner}} {{human_pos}} {things}")),
    }
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
