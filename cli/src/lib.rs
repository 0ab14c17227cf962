//! The command line of [agentkey](https://docs.rs/agentkey): keys, accounts and money of a database,
//! from a terminal or a script.
//!
//! The program `agentkey` is [`main`]. Everything that it does goes through the public API of the
//! crate, so an application can do the same. docs/cli.md has the commands and the exit codes.
//!
//! Another program may take the commands in:
//!
//! ```
//! use agentkey_cli::Cli;
//! use clap::Parser;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let cli = Cli::try_parse_from(["agentkey", "key", "show", "7"]).expect("a command");
//! let error = agentkey_cli::run(cli).await.expect_err("no database was named");
//! assert_eq!(error.exit_code(), 2);
//! # }
//! ```

mod cli;
mod commands;
mod database;
mod error;
mod requests;
mod secrets;
mod states;
mod ui;
mod values;

use std::io::{IsTerminal, stderr};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

pub use cli::Cli;
pub use error::Error;

/// Runs the program with the arguments and the environment of the process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return cli::report(&error, &arguments),
    };
    start_log();
    let ui = cli.ui();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(cli.run(&ui)),
        Err(error) => Err(Error::Output(error)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.report(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Runs one command. Its output goes to the standard output of the process.
///
/// # Errors
///
/// [`Error`] where the command was refused or failed. Its text is one sentence that says what to
/// do, and never contains a token.
pub async fn run(cli: Cli) -> Result<(), Error> {
    let ui = cli.ui();
    cli.run(&ui).await
}

/// Writes the log lines of the library to standard error: warnings, or what `RUST_LOG` asks for.
fn start_log() {
    // What is mended is the output of `reconcile` itself.
    let default = || EnvFilter::new("warn,agentkey::engine::reconcile=error");
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| default());
    // It shows the values of parameters of the URL that it does not know.
    if let Ok(directive) = "sqlx_postgres::options=error".parse() {
        filter = filter.add_directive(directive);
    }
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    // A host that took the commands in may have a log of its own.
    drop(log.with_ansi(stderr().is_terminal() && ui::wants_colors()).try_init());
}
