//! `key import`.

mod record;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

use agentkey::{AccountId, AgentKeys, Imported, KeyId, KeyImport};
use clap::{Args as ClapArgs, ValueEnum};
use indicatif::ProgressBar;
use serde::Serialize;

use self::record::Record;
use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::ui::{Ui, progress};

const EXAMPLES: &str = "\
Example:
  agentkey key import keys.csv
  psql -c 'COPY (SELECT …) TO STDOUT (FORMAT csv, HEADER)' | agentkey key import - --format csv

Each record has `hash` or `token`, `account` and `scopes`, and may have name, start, budget,
period, spent, resets_at, expires_at, disabled, delegated_by, metadata, rate_limit and
allowed_cidrs: see docs/adoption.md.
A record whose key is known changes nothing, so the command can be repeated.";

/// How many records are imported in one call.
const CHUNK: usize = 1_000;

/// The arguments of `key import`.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The file, or - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The format of the file [default: by its ending: .csv, .jsonl or .ndjson]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// The account of records that name none
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<AccountId>,
    /// Only check the records; nothing is imported and no database is opened
    #[arg(long)]
    check: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A header with the names of the members, and a record a line
    Csv,
    /// A JSON object a line
    Jsonl,
}

/// What became of the records, as `--json` prints it.
#[derive(Default, Serialize)]
struct Report {
    new: u64,
    known: u64,
    checked: u64,
    failed: Vec<Failed>,
    /// Why the file could not be read to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
    keys: Vec<Done>,
}

#[derive(Serialize)]
struct Failed {
    line: u64,
    error: String,
}

#[derive(Serialize)]
struct Done {
    line: u64,
    key: KeyId,
    is_new: bool,
}

impl Args {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        let (format, is_stdin) = (self.format()?, self.file.as_os_str() == "-");
        let (input, length): (Box<dyn Read>, _) = if is_stdin {
            (Box::new(io::stdin()), None)
        } else {
            let shown = self.file.display();
            let open = |error| Error::Failed(format!("{shown} cannot be read: {error}"));
            let file = File::open(&self.file).map_err(open)?;
            let length = file.metadata().map_err(open)?.len();
            (Box::new(file), Some(length))
        };
        let progress = progress::bytes(length);
        let input = BufReader::new(progress.wrap_read(input));
        let records = match format {
            Format::Csv => record::csv(input)?,
            Format::Jsonl => record::json_lines(input),
        };
        let records = records.map(|record| self.with_account(record));
        let report = match self.check {
            true => check(records),
            false => {
                database.with_keys(async |keys| import(keys, records, &progress).await).await?
            }
        };
        progress.finish_and_clear();
        report.print(ui)
    }

    fn format(&self) -> Result<Format, Error> {
        let ending = self.file.extension().and_then(|ending| ending.to_str());
        match (self.format, ending) {
            (Some(format), _) => Ok(format),
            (None, Some("csv")) => Ok(Format::Csv),
            (None, Some("jsonl" | "ndjson")) => Ok(Format::Jsonl),
            (None, _) => Err(Error::Usage(
                "the format is not known by the name of the file: give `--format csv` or \
                 `--format jsonl`"
                    .to_owned(),
            )),
        }
    }

    fn with_account(&self, record: Result<Record, Error>) -> Result<Record, Error> {
        let mut record = record?;
        if let Some(account) = &self.account {
            record.set_default("account", account.as_str());
        }
        Ok(record)
    }
}

fn check(records: impl Iterator<Item = Result<Record, Error>>) -> Report {
    let mut report = Report::default();
    for record in records {
        let Some(record) = report.read(record) else { break };
        match record.import() {
            Ok(_) => report.checked += 1,
            Err(error) => report.failed.push(Failed { line: record.line(), error }),
        }
    }
    report
}

async fn import(
    keys: &AgentKeys,
    records: impl Iterator<Item = Result<Record, Error>>,
    progress: &ProgressBar,
) -> Result<Report, Error> {
    let mut report = Report::default();
    let mut chunk: Vec<(u64, KeyImport)> = Vec::with_capacity(CHUNK);
    for record in records {
        let Some(record) = report.read(record) else { break };
        match record.import() {
            Ok(import) => chunk.push((record.line(), import)),
            Err(error) => report.failed.push(Failed { line: record.line(), error }),
        }
        if chunk.len() == CHUNK {
            report.add(keys, &mut chunk, progress).await?;
        }
    }
    report.add(keys, &mut chunk, progress).await?;
    report.failed.sort_by_key(|failed| failed.line);
    Ok(report)
}

impl Report {
    /// Returns the next record, or notes that no more can be read. What was imported before is reported.
    fn read(&mut self, record: Result<Record, Error>) -> Option<Record> {
        record.inspect_err(|error| self.unreadable = Some(error.to_string())).ok()
    }

    /// Imports a chunk, and empties it.
    async fn add(
        &mut self,
        keys: &AgentKeys,
        chunk: &mut Vec<(u64, KeyImport)>,
        progress: &ProgressBar,
    ) -> Result<(), Error> {
        let (lines, imports): (Vec<_>, Vec<_>) = chunk.drain(..).unzip();
        for (line, imported) in lines.into_iter().zip(keys.import(imports).await?) {
            match imported {
                Ok(imported) => {
                    let is_new = matches!(imported, Imported::New(_));
                    self.new += u64::from(is_new);
                    self.known += u64::from(!is_new);
                    self.keys.push(Done { line, key: imported.key(), is_new });
                }
                Err(error) => self.failed.push(Failed { line, error: error.to_string() }),
            }
        }
        progress.set_message(format!("{} keys", self.new + self.known));
        Ok(())
    }

    fn print(&self, ui: &Ui) -> Result<(), Error> {
        if ui.is_json() {
            ui.document(self)?;
        } else {
            let line = match self.checked {
                0 => format!("Imported {} keys; {} were known before.", self.new, self.known),
                checked => format!("{checked} records can be imported."),
            };
            ui.line(&line)?;
            for Failed { line, error } in &self.failed {
                ui.note(&format!("line {line}: not imported: {error}"));
            }
        }
        if let Some(error) = &self.unreadable {
            return Err(Error::Failed(error.clone()));
        }
        match self.failed.len() {
            0 => Ok(()),
            failed => Err(Error::Failed(format!(
                "{failed} records were not imported: correct them, and import the file again"
            ))),
        }
    }
}

/// Returns the lines of an input, each with its number.
fn lines(input: impl BufRead) -> impl Iterator<Item = (u64, io::Result<String>)> {
    (1..).zip(input.lines())
}
