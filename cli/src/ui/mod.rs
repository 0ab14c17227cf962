//! What the program prints: tables for people, one JSON document for programs.

mod format;
pub(crate) mod progress;
mod table;

use std::cell::Cell;
use std::env;
use std::io::{self, BufRead, BufWriter, IsTerminal, Write};
use std::pin::pin;

use futures_util::{Stream, TryStreamExt};
use serde::Serialize;

use crate::error::Error;

pub(crate) use format::{bar, budget, instant, limits, remaining, scopes, token_start};
pub(crate) use table::Table;

/// How the program speaks to its user.
pub(crate) struct Ui {
    is_json: bool,
    /// Whether a document was begun, so that an error adds no second one.
    has_printed: Cell<bool>,
}

#[derive(Serialize)]
struct Failure<'t> {
    error: FailureText<'t>,
}

#[derive(Serialize)]
struct FailureText<'t> {
    code: &'t str,
    message: &'t str,
}

impl Ui {
    pub(crate) const fn new(is_json: bool) -> Self {
        Self { is_json, has_printed: Cell::new(false) }
    }

    pub(crate) const fn is_json(&self) -> bool {
        self.is_json
    }

    /// Prints the one JSON document.
    pub(crate) fn document(&self, document: &impl Serialize) -> Result<(), Error> {
        self.has_printed.set(true);
        let mut out = BufWriter::new(io::stdout().lock());
        match io::stdout().is_terminal() {
            true => serde_json::to_writer_pretty(&mut out, document),
            false => serde_json::to_writer(&mut out, document),
        }
        .map_err(io::Error::from)?;
        writeln!(out)?;
        Ok(out.flush()?)
    }

    /// Prints one JSON document with a list, item by item as they come. If the list breaks off, the
    /// document says so in `error`.
    pub(crate) async fn list<T: Serialize>(
        &self,
        name: &str,
        items: impl Stream<Item = Result<T, Error>>,
    ) -> Result<(), Error> {
        let mut items = pin!(items);
        let mut next = items.try_next().await?;
        self.has_printed.set(true);
        let mut out = BufWriter::new(io::stdout().lock());
        write!(out, "{{\"{name}\":[")?;
        let mut separator = "\n";
        let done = loop {
            let Some(item) = next else { break Ok(()) };
            write!(out, "{separator}")?;
            serde_json::to_writer(&mut out, &item).map_err(io::Error::from)?;
            separator = ",\n";
            next = match items.try_next().await {
                Ok(next) => next,
                Err(error) => break Err(error),
            };
        };
        write!(out, "]")?;
        if let Err(error) = &done {
            let text = FailureText { code: error.code(), message: &error.to_string() };
            write!(out, ",\"error\":")?;
            serde_json::to_writer(&mut out, &text).map_err(io::Error::from)?;
        }
        writeln!(out, "}}")?;
        out.flush()?;
        done
    }

    /// Prints a line on standard output.
    pub(crate) fn line(&self, text: &str) -> Result<(), Error> {
        Ok(writeln!(io::stdout().lock(), "{text}")?)
    }

    /// Prints a line beside the output, for people.
    pub(crate) fn note(&self, text: &str) {
        if !self.is_json {
            drop(writeln!(io::stderr().lock(), "{text}"));
        }
    }

    /// Says what would happen, and asks whether to go on. Where nobody can answer, that is an error.
    pub(crate) fn confirm(&self, what: &str) -> Result<(), Error> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(Error::Failed(format!(
                "{what} Nothing was changed: give `--yes` where there is no terminal to ask on"
            )));
        }
        write!(io::stderr().lock(), "{what} Go on? [y/N] ")?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Error::Failed("nothing was changed".to_owned())),
        }
    }

    /// Reports why the command failed.
    pub(crate) fn report(&self, error: &Error) {
        // The reader of the output has gone, as `head` does.
        if matches!(error, Error::Output(error) if error.kind() == io::ErrorKind::BrokenPipe) {
            return;
        }
        self.report_as(error.code(), &error.to_string());
        drop(writeln!(io::stderr().lock(), "error: {error}"));
    }

    /// Reports arguments that make no sense.
    pub(crate) fn report_usage(&self, text: &str) {
        self.report_as("usage", text.trim_start_matches("error: "));
        drop(writeln!(io::stderr().lock(), "{text}"));
    }

    fn report_as(&self, code: &str, message: &str) {
        if self.is_json && !self.has_printed.get() {
            drop(self.document(&Failure { error: FailureText { code, message } }));
        }
    }
}

/// Returns whether colours are wanted where there is a terminal (<https://no-color.org>).
pub(crate) fn wants_colors() -> bool {
    let is_set = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !is_set && env::var_os("TERM").is_none_or(|term| term != "dumb")
}
