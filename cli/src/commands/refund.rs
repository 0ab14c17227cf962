//! `refund`: money given back.

use agentkey::model::{EntryKind, PostingId};
use agentkey::{AgentKeys, Amount, EntryId, Refusal};
use clap::{ArgGroup, Args as ClapArgs};
use serde::Serialize;

use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::ui::Ui;
use crate::values;

const EXAMPLES: &str = "\
Example:
  agentkey refund 019a2b3c-4d5e-7f60-8192-a3b4c5d6e7f8 --amount 0.50
  agentkey refund 019a2b3c-4d5e-7f60-8192-a3b4c5d6e7f8 --whole

`agentkey entries` has the ids. To be able to repeat a command whose answer was lost, give it an
--id of your own.";

/// The arguments of `refund`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = EXAMPLES,
    group = ArgGroup::new("how_much").args(["amount", "whole"]).required(true)
)]
pub(crate) struct Args {
    /// The id of the entry
    #[arg(value_name = "ENTRY")]
    entry: EntryId,
    /// How much of it, in units of money
    #[arg(long, value_name = "AMOUNT", value_parser = values::positive_amount)]
    amount: Option<Amount>,
    /// All of it
    #[arg(long)]
    whole: bool,
    /// The id of the refund, a UUID: a second command with it changes nothing
    #[arg(long, value_name = "UUID")]
    id: Option<PostingId>,
}

#[derive(Serialize)]
struct Posted {
    entry: EntryId,
}

impl Args {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        let entry = database.with_keys(async |keys| self.refund(keys).await).await?;
        show(entry, "Refunded", ui)
    }

    async fn refund(&self, keys: &AgentKeys) -> Result<EntryId, Error> {
        let entry = keys.entry(self.entry).await?.ok_or_else(|| {
            Error::NotFound(format!(
                "there is no entry {}; `agentkey entries` shows those that there are",
                self.entry
            ))
        })?;
        if !entry.amount.is_positive() {
            return Err(no_charge(entry.kind));
        }
        let amount = self.amount.unwrap_or(entry.amount);
        let id = self.id.unwrap_or_else(PostingId::new);
        match keys.refund_as(id, &entry.account, entry.id, amount).await {
            // There is an entry, so it is its kind.
            Err(agentkey::Error::Refused(Refusal::UnknownEntry)) => Err(no_charge(entry.kind)),
            refunded => Ok(refunded?),
        }
    }
}

fn no_charge(kind: EntryKind) -> Error {
    Error::Failed(format!(
        "the entry is no charge, but of the kind {}: it has nothing to give back",
        kind.as_str()
    ))
}

/// Prints the id of the entry that was made.
pub(super) fn show(entry: EntryId, done: &str, ui: &Ui) -> Result<(), Error> {
    match ui.is_json() {
        true => ui.document(&Posted { entry }),
        false => ui.line(&format!("{done}: entry {entry}.")),
    }
}
