//! `doctor`: looks at a database, and says what to do.

mod check;
mod holds;
mod postgres;
mod service;
mod sqlite;

use agentkey::AgentKeys;
use agentkey::jiff::Timestamp;
use agentkey::model::PostingId;
use clap::Args as ClapArgs;
use comfy_table::Color;
use serde::Serialize;

use self::check::{Check, Status};
use crate::database::{DatabaseArgs, Target};
use crate::error::Error;
use crate::ui::{Table, Ui};

/// The arguments of `doctor`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  agentkey doctor\n\nIt changes nothing but the journal of an SQLite file, to WAL. A failed check is exit code 1; a warning is 0."
)]
pub(crate) struct Args {}

/// What `doctor --json` prints.
#[derive(Serialize)]
struct Report<'c> {
    is_healthy: bool,
    checks: &'c [Check],
}

impl Args {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        let target = database.target()?;
        let mut checks = vec![Check::info(
            "program",
            format!("agentkey {} ({})", env!("CARGO_PKG_VERSION"), std::env::consts::OS),
        )];
        // The time of the store's clock, if the server could be asked.
        let now = match &target {
            Target::Sqlite(options) => match options.file()? {
                Some(path) => sqlite::check(&path, &mut checks),
                None => None,
            },
            Target::Postgres(_) => postgres::check(database.name()?, &mut checks).await,
        };
        if let Some(now) = now {
            check_tables(&target, database, &mut checks, now).await;
        }
        print(&checks, ui)
    }
}

/// Checks the tables, and what is in them, through the library.
async fn check_tables(
    target: &Target,
    database: &DatabaseArgs,
    checks: &mut Vec<Check>,
    now: Timestamp,
) {
    match target.migration_sql().await {
        Ok(sql) if sql.is_empty() => checks.push(Check::ok("tables", "up to date".to_owned())),
        Ok(_) => {
            let found = "missing, or of an older version".to_owned();
            let mend = "run `agentkey migrate`, or the SQL of `agentkey migrate --print`";
            return checks.push(Check::failed("tables", found, mend));
        }
        Err(error) => {
            return checks.push(Check::failed("tables", error.to_string(), "correct that first"));
        }
    }
    let work = async |keys: &AgentKeys| {
        service::check(keys, checks).await;
        holds::check(keys, now, checks).await?;
        // A list of keys would end the holds of their accounts that are over.
        keys.entry(PostingId::new().into()).await?; // there is none
        Ok(())
    };
    match database.with_keys(work).await {
        Ok(()) => checks.push(Check::ok("rights", "the tables can be opened and read".to_owned())),
        Err(error) if error.to_string().contains("pooler") => checks.push(Check::failed(
            "pooler",
            error.to_string(),
            "set `PostgresOptions::transaction_pooling` in the service too",
        )),
        Err(error) => checks.push(Check::failed(
            "rights",
            error.to_string(),
            "the service that uses this database meets the same",
        )),
    }
}

fn print(checks: &[Check], ui: &Ui) -> Result<(), Error> {
    let failed = checks.iter().filter(|check| check.status == Status::Failed).count();
    if ui.is_json() {
        ui.document(&Report { is_healthy: failed == 0, checks })?;
    } else {
        let mut table = Table::new(&["CHECK", "FOUND", "WHAT TO DO", ""]);
        for check in checks {
            let color = match check.status {
                Status::Info => Color::Reset,
                Status::Ok => Color::Green,
                Status::Warning => Color::Yellow,
                Status::Failed => Color::Red,
            };
            let mend = check.mend.unwrap_or_default();
            table.row_with_last([check.name, &check.found, mend], check.status.as_str(), color);
        }
        table.print()?;
    }
    match failed {
        0 => Ok(()),
        1 => Err(Error::Failed("a check failed".to_owned())),
        failed => Err(Error::Failed(format!("{failed} checks failed"))),
    }
}
