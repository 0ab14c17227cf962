//! `migrate`: the tables.

use clap::Args as ClapArgs;
use serde::Serialize;

use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::ui::Ui;

/// The arguments of `migrate`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  agentkey migrate --database keys.db\n  agentkey migrate --print > review.sql\n\nIt is the one command that makes an SQLite file."
)]
pub(crate) struct Args {
    /// Print the SQL, and change nothing
    #[arg(long)]
    print: bool,
}

/// What `migrate --json` prints.
#[derive(Serialize)]
pub(super) struct Migrated<'s> {
    /// Whether anything was to be done.
    pub(super) was_needed: bool,
    /// Whether it was done.
    pub(super) is_done: bool,
    /// The SQL, for `--print`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sql: Option<&'s str>,
}

impl Args {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        let target = database.target()?;
        let sql = target.migration_sql().await?;
        if !self.print {
            // Also where nothing is missing: another process may have the lock, or take rights away.
            target.migrate().await?;
        }
        show(&sql, self.print, "The tables are up to date.", ui)
    }
}

/// Prints what was done, or what would be.
pub(super) fn show(sql: &str, only_print: bool, done: &str, ui: &Ui) -> Result<(), Error> {
    let was_needed = !sql.is_empty();
    if ui.is_json() {
        let sql = only_print.then_some(sql);
        return ui.document(&Migrated { was_needed, is_done: !only_print, sql });
    }
    match (only_print, was_needed) {
        (true, true) => ui.line(sql.trim_end()),
        (true, false) => {
            ui.note("There is nothing to do.");
            Ok(())
        }
        (false, true) => ui.line(done),
        (false, false) => ui.line(&format!("{done} There was nothing to do.")),
    }
}
