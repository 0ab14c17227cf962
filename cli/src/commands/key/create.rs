//! `key create`.

use agentkey::model::{Metadata, TokenPrefix};
use agentkey::{AccountId, Created, KeyId, NewKey, ScopeSet};
use clap::Args as ClapArgs;

use crate::commands::DEFAULT_ACCOUNT;
use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::requests::RequestArgs;
use crate::ui::Ui;
use crate::values::{self, BudgetArgs, Expiry};

const EXAMPLES: &str = "\
Example:
  agentkey key create --name packer --scopes read,pack --spend-limit 50
  agentkey key create --parent 7 --scopes read --spend-limit 2/day --expires 30d
  agentkey key create --name ci --rate 100/1m --in-flight 4 --allow-cidr 192.0.2.0/24
  TOKEN=$(agentkey key create --name ci --scopes deploy)

The token is the only line on standard output. Without --scopes the key may do nothing,
without a limit it may spend what its parent and its account have left.";

/// The arguments of `key create`.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The name for people
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    name: String,
    /// The account that owns the key
    #[arg(
        long,
        env = "AGENTKEY_ACCOUNT",
        value_name = "ACCOUNT",
        default_value = DEFAULT_ACCOUNT
    )]
    account: AccountId,
    /// The key that it is minted from; it stays within that one, in the same account
    #[arg(long, value_name = "ID")]
    parent: Option<KeyId>,
    /// What it may do, with commas between the scopes
    #[arg(long, value_name = "SCOPES")]
    scopes: Vec<String>,
    /// It may do everything that its parent may
    #[arg(long, conflicts_with = "scopes")]
    unrestricted: bool,
    #[command(flatten)]
    budget: BudgetArgs,
    #[command(flatten)]
    requests: RequestArgs,
    /// How long it is valid, such as 30d, or until when
    #[arg(long, value_name = "TIME", value_parser = values::expiry)]
    expires: Option<Expiry>,
    /// The human on whose behalf it acts, by the application's own id
    #[arg(long, value_name = "HUMAN")]
    delegated_by: Option<String>,
    /// A JSON object that the application keeps with it
    #[arg(long, value_name = "JSON", value_parser = values::metadata)]
    metadata: Option<Metadata>,
    /// The prefix of its token [default: ak]
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<TokenPrefix>,
}

impl Args {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        let new = self.new_key()?;
        database.with_keys(async |keys| show(&keys.create(new).await?, "Created", ui)).await
    }

    fn new_key(self) -> Result<NewKey, Error> {
        let scopes = match self.unrestricted {
            true => ScopeSet::unrestricted(),
            false => values::scopes(&self.scopes)?,
        };
        let mut new = match self.parent {
            Some(parent) => NewKey::child_of(parent),
            None => NewKey::new(self.account),
        };
        new = new.name(self.name).scopes(scopes);
        if let Some(budget) = self.budget.budget()? {
            new = new.budget(budget);
        }
        new = match self.expires {
            None => new,
            Some(Expiry::At(at)) => new.expires_at(at),
            Some(Expiry::In(validity)) => new.expires_in(validity),
        };
        new = self.requests.create(new)?;
        if let Some(human) = self.delegated_by {
            new = new.delegated_by(human);
        }
        if let Some(metadata) = self.metadata {
            new = new.metadata(metadata);
        }
        if let Some(prefix) = self.prefix {
            new = new.prefix(prefix);
        }
        Ok(new)
    }
}

/// Prints a token, the only time that it is shown. For people, the token is a line of its own.
pub(super) fn show(created: &Created, done: &str, ui: &Ui) -> Result<(), Error> {
    if ui.is_json() {
        return ui.document(created);
    }
    let key = &created.key;
    ui.line(created.token.expose())?;
    ui.note(&format!(
        "{done} key {}{} of the account {}. Its token is shown this once only: keep it now.",
        key.id,
        super::show::named(key),
        key.account
    ));
    Ok(())
}
