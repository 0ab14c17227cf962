//! `entries`: the ledger.

use agentkey::model::Entry;
use agentkey::{AgentKeys, EntryQuery};
use clap::Args as ClapArgs;
use futures_util::{Stream, StreamExt, TryStreamExt};

use crate::commands::OwnerArgs;
use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::ui::{self, Table, Ui};

/// How many entries are read at once.
const PAGE: u32 = 500;

/// The arguments of `entries`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  agentkey entries --key 7 --subtree --since 1d\n  agentkey entries --account acme --json"
)]
pub(crate) struct Args {
    #[command(flatten)]
    owner: OwnerArgs,
    /// At most so many, the oldest first
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

impl Args {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        let work = async |keys: &AgentKeys| {
            let entries = self.owner.entries(keys).await?;
            print(entries.take(self.limit.unwrap_or(usize::MAX)), ui).await
        };
        database.with_keys(work).await
    }
}

impl OwnerArgs {
    /// Returns a stream of the entries that the arguments name.
    pub(super) async fn entries(
        &self,
        keys: &AgentKeys,
    ) -> Result<impl Stream<Item = Result<Entry, Error>> + use<>, Error> {
        let (account, key) = self.owner(keys).await?;
        let mut query = EntryQuery::for_account(account).limit(PAGE);
        query = match key {
            Some(key) if self.subtree => query.subtree(key),
            Some(key) => query.key(key),
            None => query,
        };
        query.since = self.since;
        query.until = self.until;
        Ok(keys.entry_stream(query).map_err(Error::from))
    }
}

async fn print(entries: impl Stream<Item = Result<Entry, Error>>, ui: &Ui) -> Result<(), Error> {
    if ui.is_json() {
        return ui.list("entries", entries).await;
    }
    let header = ["AT", "ENTRY", "KEY", "KIND", "AMOUNT", "LABELS", "REFERENCE"];
    let mut table = Table::new(&header).right(2).right(4);
    let mut is_empty = true;
    let mut entries = std::pin::pin!(entries);
    while let Some(entry) = entries.try_next().await? {
        let labels: Vec<_> =
            entry.note.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        table.row([
            ui::instant(entry.at),
            entry.id.to_string(),
            entry.key.map(|key| key.to_string()).unwrap_or_default(),
            entry.kind.as_str().to_owned(),
            entry.amount.to_string(),
            labels.join(" "),
            entry.note.reference.unwrap_or_default(),
        ]);
        is_empty = false;
    }
    if is_empty {
        ui.note("There are no entries.");
        return Ok(());
    }
    table.print()
}
