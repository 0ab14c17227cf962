//! `account`: the accounts of a database, and their ceilings.

use agentkey::model::{Account, ChangeError};
use agentkey::store::AccountQuery;
use agentkey::{AccountId, AgentKeys, Budget};
use clap::{ArgGroup, Args, Subcommand};
use futures_util::TryStreamExt;
use serde::Serialize;

use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::ui::{self, Table, Ui};
use crate::values::BudgetArgs;

/// How many accounts are read at once.
const PAGE: u32 = 500;

/// The commands about accounts.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List accounts, with what all keys of each have spent
    #[command(after_help = "Example:\n  agentkey account list")]
    List,
    /// Show one account
    #[command(after_help = "Example:\n  agentkey account show acme")]
    Show(ShowArgs),
    /// Set the ceiling over all keys of an account
    Set(SetArgs),
}

/// The arguments of `account show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The id of the account
    #[arg(value_name = "ACCOUNT")]
    account: AccountId,
}

/// The arguments of `account set`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  agentkey account set acme --spend-limit 100/month\n\nLimits replace all that there were. What was spent stays.",
    group = ArgGroup::new("limits")
        .args(["spend_limit", "limit_cents", "no_limit"]).required(true).multiple(true)
)]
pub(crate) struct SetArgs {
    /// The id of the account
    #[arg(value_name = "ACCOUNT")]
    account: AccountId,
    #[command(flatten)]
    budget: BudgetArgs,
    /// Remove the ceiling
    #[arg(long, conflicts_with_all = ["spend_limit", "limit_cents"])]
    no_limit: bool,
    /// Make the account, where there is none
    #[arg(long)]
    create: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    account: &'a Account,
}

impl Command {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        match self {
            Self::List => database.with_keys(async |keys| list(keys, ui).await).await,
            Self::Show(args) => {
                let account =
                    database.with_keys(async |keys| find(keys, &args.account).await).await?;
                show(&account, ui)
            }
            Self::Set(args) => {
                let account = database.with_keys(async |keys| args.set(keys).await).await?;
                show(&account, ui)
            }
        }
    }
}

impl SetArgs {
    async fn set(&self, keys: &AgentKeys) -> Result<Account, Error> {
        let budget = self.budget.budget()?.unwrap_or(Budget::unlimited());
        if self.create {
            keys.ensure_account(self.account.clone(), budget).await?;
        } else if keys.account(&self.account).await?.is_none() {
            return Err(Error::NotFound(format!(
                "there is no account {}: `--create` makes it",
                self.account
            )));
        }
        Ok(keys.set_account_budget(&self.account, budget).await?)
    }
}

async fn find(keys: &AgentKeys, id: &AccountId) -> Result<Account, Error> {
    Ok(keys.account(id).await?.ok_or_else(|| ChangeError::UnknownAccount(id.clone()))?)
}

async fn list(keys: &AgentKeys, ui: &Ui) -> Result<(), Error> {
    let mut accounts = keys.account_stream(AccountQuery::all().limit(PAGE)).map_err(Error::from);
    if ui.is_json() {
        return ui.list("accounts", accounts).await;
    }
    let mut table = Table::new(&["ACCOUNT", "SPENT", "LEFT", "CREATED"]).right(2);
    let mut is_empty = true;
    while let Some(account) = accounts.try_next().await? {
        table.row([
            account.id.to_string(),
            ui::budget(&account.budget, &account.balance),
            ui::remaining(account.remaining()),
            ui::instant(account.created_at),
        ]);
        is_empty = false;
    }
    if is_empty {
        ui.note("There are no accounts.");
        return Ok(());
    }
    table.print()
}

fn show(account: &Account, ui: &Ui) -> Result<(), Error> {
    if ui.is_json() {
        return ui.document(&Shown { account });
    }
    let mut table = Table::new(&[]);
    for (name, value) in [
        ("Account", account.id.to_string()),
        ("Spent", ui::budget(&account.budget, &account.balance)),
        ("Left", ui::remaining(account.remaining())),
        ("Created", ui::instant(account.created_at)),
    ] {
        table.row([name, &value]);
    }
    table.print()
}
