//! `adopt`: keys in a table of the application's own.

use agentkey::store::{Adoption, KeyColumn, SwitchedOff};
use agentkey::{Budget, ScopeSet};
use clap::Args as ClapArgs;

use super::migrate;
use crate::database::{DatabaseArgs, Target};
use crate::error::Error;
use crate::ui::Ui;
use crate::values::{self, PeriodLimit};

const EXAMPLES: &str = "\
Example:
  agentkey adopt sdk_api_keys --null-scopes '*' --null-limit none --print
  agentkey adopt keys --null-scopes none --null-limit 0 --column account=user_id --off in_use=false

Take a backup, stop the code that charges in the table, and read the SQL of --print first:
see docs/adoption.md. Afterwards give --table to the other commands.";

/// The arguments of `adopt`.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The table, with or without its schema
    #[arg(value_name = "TABLE")]
    adopted: String,
    /// What NULL scopes mean: * for everything, none, or a list with commas
    #[arg(long, value_name = "SCOPES")]
    null_scopes: String,
    /// What a NULL limit means: none for no limit, or AMOUNT[/PERIOD]
    #[arg(long, value_name = "LIMIT", value_parser = null_limit)]
    null_limit: Budget,
    /// Take a field from a column of another name, such as account=user_id
    #[arg(long, value_name = "FIELD=COLUMN", value_parser = column)]
    column: Vec<(KeyColumn, String)>,
    /// A column that switches keys off: when it is false, true, or set
    #[arg(long, value_name = "COLUMN=WHEN", value_parser = switch)]
    off: Vec<(String, SwitchedOff)>,
    /// A column that does not switch keys off, whatever its name is
    #[arg(long, value_name = "COLUMN")]
    ignore: Vec<String>,
    /// Print the SQL, and change nothing
    #[arg(long)]
    print: bool,
}

impl Args {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        let adoption = self.adoption()?;
        if database.table().is_some_and(|table| table != self.adopted) {
            return Err(Error::Usage(
                "`--table` and AGENTKEY_TABLE name another table than the one to adopt: leave them out"
                    .to_owned(),
            ));
        }
        if database.postgres_url().is_none() {
            database.name()?;
            return Err(not_postgres());
        }
        let target = match database.with_table(&self.adopted).target()? {
            Target::Postgres(options) => Target::Postgres(Box::new(options.adopt(adoption))),
            file => file,
        };
        let sql = target.migration_sql().await?;
        if !self.print {
            target.migrate().await?;
        }
        let table = &self.adopted;
        let done =
            format!("The keys are in {table}: give `--table {table}` to the other commands.");
        migrate::show(&sql, self.print, &done, ui)
    }

    fn adoption(&self) -> Result<Adoption, Error> {
        let scopes = match self.null_scopes.as_str() {
            "*" => ScopeSet::unrestricted(),
            "none" => ScopeSet::none(),
            list => values::scopes(&[list.to_owned()])?,
        };
        let mut adoption = Adoption::new(scopes, self.null_limit);
        for (field, name) in &self.column {
            adoption = adoption.column(*field, name);
        }
        for (column, off) in &self.off {
            adoption = adoption.switch(column, *off);
        }
        for column in &self.ignore {
            adoption = adoption.ignore(column);
        }
        Ok(adoption)
    }
}

fn not_postgres() -> Error {
    Error::Usage(
        "a table is adopted in PostgreSQL: name the database with `--database \
         postgres://user@host/database`; keys of SQLite are imported with `agentkey key import`"
            .to_owned(),
    )
}

fn null_limit(text: &str) -> Result<Budget, String> {
    if text == "none" {
        return Ok(Budget::unlimited());
    }
    let PeriodLimit { amount, period } = values::limit(text)?;
    Ok(Budget::new(Some(amount), period))
}

const FIELDS: [(&str, KeyColumn); 22] = [
    ("id", KeyColumn::Id),
    ("account", KeyColumn::Account),
    ("hash", KeyColumn::Hash),
    ("parent", KeyColumn::Parent),
    ("name", KeyColumn::Name),
    ("prefix", KeyColumn::Prefix),
    ("start", KeyColumn::Start),
    ("scopes", KeyColumn::Scopes),
    ("limit_micros", KeyColumn::LimitMicros),
    ("limit_cents", KeyColumn::LimitCents),
    ("period", KeyColumn::Period),
    ("more_limits", KeyColumn::MoreLimits),
    ("created_at", KeyColumn::CreatedAt),
    ("expires_at", KeyColumn::ExpiresAt),
    ("disabled_at", KeyColumn::DisabledAt),
    ("revoked_at", KeyColumn::RevokedAt),
    ("revoked_reason", KeyColumn::RevokedReason),
    ("delegated_by", KeyColumn::DelegatedBy),
    ("metadata", KeyColumn::Metadata),
    ("used_cents", KeyColumn::UsedCents),
    ("resets_at", KeyColumn::ResetsAt),
    ("subject", KeyColumn::Subject),
];

fn column(text: &str) -> Result<(KeyColumn, String), String> {
    let (field, column) = text.split_once('=').unwrap_or((text, ""));
    let known = FIELDS.iter().find(|(name, _)| *name == field);
    match known {
        Some((_, field)) if !column.is_empty() => Ok((*field, column.to_owned())),
        _ => {
            let fields: Vec<_> = FIELDS.iter().map(|(name, _)| *name).collect();
            Err(format!("write FIELD=COLUMN; the fields are {}", fields.join(", ")))
        }
    }
}

fn switch(text: &str) -> Result<(String, SwitchedOff), String> {
    let (column, when) = text.split_once('=').unwrap_or((text, ""));
    let off = match when {
        "false" => SwitchedOff::WhenFalse,
        "true" => SwitchedOff::WhenTrue,
        "set" => SwitchedOff::WhenSet,
        _ => return Err("write COLUMN=false, COLUMN=true or COLUMN=set".to_owned()),
    };
    Ok((column.to_owned(), off))
}
