//! `adjust`: top-ups and corrections.

use agentkey::model::PostingId;
use agentkey::{AccountId, AgentKeys, Amount, EntryId, Holder, KeyId};
use clap::{ArgGroup, Args as ClapArgs};

use super::refund::show;
use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::ui::Ui;
use crate::values;

const EXAMPLES: &str = "\
Example:
  agentkey adjust --key 7 --top-up 5 --reason outage --reference ticket-17
  agentkey adjust --account acme --correct 0.25 --reason charged-twice

A top-up lets so much more be spent in the current window. It is an entry of the ledger. To be
able to repeat a command whose answer was lost, give it an --id of your own.";

/// The arguments of `adjust`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = EXAMPLES,
    group = ArgGroup::new("holder").args(["key", "account"]).required(true),
    group = ArgGroup::new("amount").args(["top_up", "correct"]).required(true)
)]
pub(crate) struct Args {
    /// This key, and with it its parents and its account
    #[arg(long, value_name = "ID")]
    key: Option<KeyId>,
    /// This account alone
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<AccountId>,
    /// So much more may be spent, in units of money
    #[arg(long, value_name = "AMOUNT", value_parser = values::positive_amount)]
    top_up: Option<Amount>,
    /// So much more was spent, in units of money; no limit refuses it
    #[arg(long, value_name = "AMOUNT", value_parser = values::positive_amount)]
    correct: Option<Amount>,
    /// Why; the entry keeps it
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// A reference of your own, such as a ticket
    #[arg(long, value_name = "TEXT")]
    reference: Option<String>,
    /// The id of the entry, a UUID: a second command with it changes nothing
    #[arg(long, value_name = "UUID")]
    id: Option<PostingId>,
}

impl Args {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        let entry = database.with_keys(async |keys| self.adjust(keys).await).await?;
        show(entry, "Adjusted", ui)
    }

    async fn adjust(&self, keys: &AgentKeys) -> Result<EntryId, Error> {
        let holder = match (self.key, &self.account) {
            (Some(key), _) => Holder::Key(key),
            (None, Some(account)) => Holder::Account(account.clone()),
            (None, None) => {
                return Err(Error::Usage("name a holder: `--key` or `--account`".to_owned()));
            }
        };
        // A top-up takes away from what was spent.
        let top_up = self.top_up.and_then(|amount| Amount::ZERO.checked_sub(amount));
        let amount = top_up.or(self.correct).unwrap_or_default();
        let id = self.id.unwrap_or_else(PostingId::new);
        let reference = self.reference.as_deref();
        Ok(keys.adjust_as(id, holder, amount, &self.reason, reference).await?)
    }
}
