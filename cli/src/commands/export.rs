//! `export`: keys, accounts and entries for other programs.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::pin::pin;

use agentkey::jiff::Timestamp;
use agentkey::model::{Account, Entry};
use agentkey::store::AccountQuery;
use agentkey::{AccountId, AgentKeys, EntryQuery, Key, KeyQuery};
use clap::{Args as ClapArgs, ValueEnum};
use futures_util::{Stream, TryStreamExt};
use serde::Serialize;

use super::owner;
use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::ui::{self, Ui};
use crate::values;

const EXAMPLES: &str = "\
Example:
  agentkey export entries --account acme --since 2027-01-01 --format csv --output january.csv
  agentkey export keys

No token and no hash of one is exported. Amounts of CSV are in units of money, those of JSON
lines in cents.";

/// How many records are read at once.
const PAGE: u32 = 1_000;

/// The arguments of `export`.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What to export
    #[arg(value_name = "WHAT")]
    what: What,
    /// Only of this account
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<AccountId>,
    /// Entries from this instant on: 7d ago, 2027-01-31, or 2027-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = values::instant)]
    since: Option<Timestamp>,
    /// Entries before this instant
    #[arg(long, value_name = "TIME", value_parser = values::instant)]
    until: Option<Timestamp>,
    /// The format
    #[arg(long, value_name = "FORMAT", default_value = "jsonl")]
    format: Format,
    /// A new file for it [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    Keys,
    Accounts,
    Entries,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A JSON object a line
    Jsonl,
    /// A header, and a record a line
    Csv,
}

/// What `export --json` prints, beside the file.
#[derive(Serialize)]
struct Exported {
    records: u64,
}

impl Args {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        if self.what != What::Entries && (self.since.is_some() || self.until.is_some()) {
            return Err(Error::Usage("`--since` and `--until` are for entries".to_owned()));
        }
        if ui.is_json() && self.output.is_none() {
            return Err(Error::Usage(
                "an export is no single JSON document: give it a file with `--output`, or leave \
                 `--json` out for JSON lines"
                    .to_owned(),
            ));
        }
        let records = database.with_keys(async |keys| self.export(keys).await).await?;
        match (&self.output, ui.is_json()) {
            (_, true) => ui.document(&Exported { records }),
            (Some(file), false) => {
                ui.line(&format!("Exported {records} records to {}.", file.display()))
            }
            (None, false) => Ok(()),
        }
    }

    async fn export(&self, keys: &AgentKeys) -> Result<u64, Error> {
        if let Some(account) = &self.account
            && keys.account(account).await?.is_none()
        {
            return Err(owner::unknown(account));
        }
        let mut sink = Sink::new(self.format, self.writer()?);
        match self.what {
            What::Keys => {
                let query = match &self.account {
                    Some(account) => KeyQuery::for_account(account.clone()),
                    None => KeyQuery::all(),
                };
                sink.all(keys.key_stream(query.limit(PAGE)), KEY, key).await?;
            }
            What::Accounts => match &self.account {
                Some(id) => {
                    let found = keys.account(id).await?.map(Ok);
                    sink.all(futures_util::stream::iter(found), ACCOUNT, account).await?;
                }
                None => {
                    let accounts = keys.account_stream(AccountQuery::all().limit(PAGE));
                    sink.all(accounts, ACCOUNT, account).await?;
                }
            },
            What::Entries => {
                let accounts = match &self.account {
                    Some(account) => vec![account.clone()],
                    None => {
                        let accounts = keys.account_stream(AccountQuery::all().limit(PAGE));
                        accounts.map_ok(|account| account.id).try_collect().await?
                    }
                };
                for account in accounts {
                    let mut query = EntryQuery::for_account(account).limit(PAGE);
                    (query.since, query.until) = (self.since, self.until);
                    sink.all(keys.entry_stream(query), ENTRY, entry).await?;
                }
            }
        }
        sink.finish()
    }

    /// Opens the output. A file that is there is not written over.
    fn writer(&self) -> Result<Box<dyn Write>, Error> {
        let Some(path) = &self.output else { return Ok(Box::new(io::stdout().lock())) };
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(file) => Ok(Box::new(file)),
            Err(error) => Err(Error::Failed(format!(
                "{} cannot be made: {error}: name a file that is not there yet",
                path.display()
            ))),
        }
    }
}

/// Where records go.
struct Sink {
    format: Format,
    out: BufWriter<Box<dyn Write>>,
    records: u64,
    has_header: bool,
}

impl Sink {
    fn new(format: Format, out: Box<dyn Write>) -> Self {
        Self { format, out: BufWriter::new(out), records: 0, has_header: false }
    }

    async fn all<T: Serialize, const N: usize>(
        &mut self,
        items: impl Stream<Item = Result<T, agentkey::Error>>,
        header: [&str; N],
        row: fn(&T) -> [String; N],
    ) -> Result<(), Error> {
        let mut items = pin!(items);
        if !self.has_header && self.format == Format::Csv {
            self.csv(&header)?;
            self.has_header = true;
        }
        while let Some(item) = items.try_next().await? {
            match self.format {
                Format::Csv => self.csv(&row(&item))?,
                Format::Jsonl => {
                    serde_json::to_writer(&mut self.out, &item).map_err(io::Error::from)?;
                    writeln!(self.out)?;
                }
            }
            self.records += 1;
        }
        Ok(())
    }

    fn csv<T: AsRef<[u8]>>(&mut self, fields: &[T]) -> Result<(), Error> {
        let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
        writer.write_record(fields).map_err(io::Error::other)?;
        let line = writer.into_inner().map_err(|error| io::Error::other(error.to_string()))?;
        Ok(self.out.write_all(&line)?)
    }

    fn finish(mut self) -> Result<u64, Error> {
        self.out.flush()?;
        Ok(self.records)
    }
}

const KEY: [&str; 16] = [
    "id",
    "account",
    "parent",
    "name",
    "start",
    "scopes",
    "limits",
    "spent",
    "held",
    "created_at",
    "expires_at",
    "disabled_at",
    "revoked_at",
    "delegated_by",
    "issuer",
    "subject",
];

fn key(key: &Key) -> [String; 16] {
    let instant = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    [
        key.id.to_string(),
        key.account.to_string(),
        key.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        key.name.clone(),
        key.start.clone(),
        match key.scopes.is_unrestricted() {
            true => "*".to_owned(),
            false => key.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" "),
        },
        ui::limits(&key.budget),
        key.balance.spent().to_string(),
        key.balance.held.to_string(),
        key.created_at.to_string(),
        instant(key.expires_at),
        instant(key.disabled_at),
        instant(key.revoked_at),
        key.delegated_by.clone().unwrap_or_default(),
        key.subject.as_ref().map(|subject| subject.issuer().to_owned()).unwrap_or_default(),
        key.subject.as_ref().map(|subject| subject.id().to_owned()).unwrap_or_default(),
    ]
}

const ACCOUNT: [&str; 5] = ["id", "limits", "spent", "held", "created_at"];

fn account(account: &Account) -> [String; 5] {
    [
        account.id.to_string(),
        ui::limits(&account.budget),
        account.balance.spent().to_string(),
        account.balance.held.to_string(),
        account.created_at.to_string(),
    ]
}

const ENTRY: [&str; 10] = [
    "id",
    "account",
    "key",
    "delegated_by",
    "kind",
    "amount",
    "at",
    "refunds",
    "reference",
    "labels",
];

fn entry(entry: &Entry) -> [String; 10] {
    [
        entry.id.to_string(),
        entry.account.to_string(),
        entry.key.map(|key| key.to_string()).unwrap_or_default(),
        entry.delegated_by.clone().unwrap_or_default(),
        entry.kind.as_str().to_owned(),
        entry.amount.to_string(),
        entry.at.to_string(),
        entry.refunds.map(|entry| entry.to_string()).unwrap_or_default(),
        entry.note.reference.clone().unwrap_or_default(),
        serde_json::to_string(&entry.note.labels).unwrap_or_default(),
    ]
}
