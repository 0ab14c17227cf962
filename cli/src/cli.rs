//! The arguments that all commands share, and the commands.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands::{
    account, adjust, adopt, completions, doctor, entries, events, export, key, migrate, prune,
    reconcile, refund, usage,
};
use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::secrets;
use crate::ui::Ui;

/// API keys for agents: scoped, budgeted, delegated
///
/// Creates, shows, changes and revokes keys, reads what was charged, and checks a database of
/// agentkey. A change is in force from the next request of a running service on.
#[derive(Debug, Parser)]
#[command(name = "agentkey", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print one JSON document on standard output
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Example:
  export AGENTKEY_DATABASE=keys.db       # or postgres://user@host/database
  agentkey migrate
  agentkey key create --name packer --scopes read,pack --spend-limit 50
  agentkey key list
  agentkey key revoke 1

Exit codes:
  0  done
  1  refused or failed; a check of `doctor` failed; `reconcile` found a difference
  2  the arguments make no sense
  3  there is no such key, account or entry
  4  the database is missing, out of reach, not up to date, or the role lacks rights";

#[derive(Debug, Subcommand)]
enum Command {
    /// Create, show, change, rotate and revoke keys
    #[command(subcommand, after_help = "Example:\n  agentkey key list --account acme")]
    Key(key::Command),
    /// Show accounts, and set the ceiling over all keys of one
    #[command(subcommand, after_help = "Example:\n  agentkey account list")]
    Account(account::Command),
    /// Sum what was charged, by day, key or label
    Usage(usage::Args),
    /// List the ledger: each charge, refund and adjustment
    Entries(entries::Args),
    /// List the audit trail: what was done to keys, and by whom
    Events(events::Args),
    /// Top up what a key or an account may spend, or correct what it has spent
    Adjust(adjust::Args),
    /// Give back what an entry charged
    Refund(refund::Args),
    /// Make the tables, or bring them up to date
    Migrate(migrate::Args),
    /// Keep keys in a table of your own (PostgreSQL)
    Adopt(adopt::Args),
    /// Sum up old entries, and delete old events and ended holds
    Prune(prune::Args),
    /// Compare balances with the ledger, and mend them where you say so
    Reconcile(reconcile::Args),
    /// Check the database, and say what to do
    Doctor(doctor::Args),
    /// Write keys, accounts or entries as JSON lines or CSV
    Export(export::Args),
    /// Print the completions of a shell
    Completions(completions::Args),
}

impl Cli {
    pub(crate) fn ui(&self) -> Ui {
        Ui::new(self.json)
    }

    pub(crate) async fn run(self, ui: &Ui) -> Result<(), Error> {
        let database = &self.database;
        match self.command {
            Command::Key(command) => command.run(database, ui).await,
            Command::Account(command) => command.run(database, ui).await,
            Command::Usage(args) => args.run(database, ui).await,
            Command::Entries(args) => args.run(database, ui).await,
            Command::Events(args) => args.run(database, ui).await,
            Command::Adjust(args) => args.run(database, ui).await,
            Command::Refund(args) => args.run(database, ui).await,
            Command::Migrate(args) => args.run(database, ui).await,
            Command::Adopt(args) => args.run(database, ui).await,
            Command::Prune(args) => args.run(database, ui).await,
            Command::Reconcile(args) => args.run(database, ui).await,
            Command::Doctor(args) => args.run(database, ui).await,
            Command::Export(args) => args.run(database, ui).await,
            Command::Completions(args) => args.run(ui),
        }
    }
}

/// Shows help, the version, or what is wrong with the arguments, without the secrets among them.
pub(crate) fn report(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    if !error.use_stderr() {
        drop(error.print()); // help, to a pipe that may be closed
        return ExitCode::from(code);
    }
    let text = secrets::without_arguments(&error.render().to_string(), arguments);
    let is_json = arguments.iter().any(|argument| argument == "--json");
    Ui::new(is_json).report_usage(text.trim_end());
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_has_an_example_that_it_understands() {
        fn check(command: &clap::Command, path: &str) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let mut examples =
                help.lines().filter_map(|line| line.trim().strip_prefix("agentkey "));
            let example = examples.next().unwrap_or_else(|| panic!("{path} has no example"));
            let example = example.split(" # ").next().unwrap_or_default();
            let example = example.split([';', '|', '>', '<']).next().unwrap_or_default();
            let words = example.split_whitespace().map(|word| word.trim_matches('\''));
            let parsed = Cli::try_parse_from(std::iter::once("agentkey").chain(words));
            parsed.unwrap_or_else(|error| panic!("{path}: {example}: {error}"));
            for command in command.get_subcommands().filter(|command| command.get_name() != "help")
            {
                check(command, &format!("{path} {}", command.get_name()));
            }
        }
        let mut cli = Cli::command();
        cli.build();
        cli.debug_assert();
        check(&Cli::command(), "agentkey");
    }
}
