//! `key update`.

use agentkey::model::{Metadata, RateLimit};
use agentkey::{AgentKeys, Budget, KeyId, KeyPatch, ScopeSet};
use clap::{ArgGroup, Args as ClapArgs};

use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::requests::RequestArgs;
use crate::ui::Ui;
use crate::values::{self, BudgetArgs, Expiry};

const EXAMPLES: &str = "\
Example:
  agentkey key update 7 --spend-limit 20/month --spend-limit 2/day
  agentkey key update 7 --no-limit --no-expiry
  agentkey key update 7 --scopes read

Limits of money replace all that there were. A rate, with its burst, replaces the one before, and so
does a number in flight; neither touches the other. What was spent stays.";

/// The arguments of `key update`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = EXAMPLES,
    override_usage = "agentkey key update [OPTIONS] <ID>",
    group = ArgGroup::new("change").args(["spend_limit", "limit_cents", "rate", "in_flight", "allow_cidr"]).required(true).multiple(true)
)]
pub(crate) struct Args {
    /// The id of the key
    #[arg(value_name = "ID")]
    key: KeyId,
    /// Another name
    #[arg(long, value_name = "NAME", group = "change")]
    name: Option<String>,
    /// What it may do from the next request on, with commas between the scopes
    #[arg(long, value_name = "SCOPES", group = "change")]
    scopes: Vec<String>,
    /// It may do nothing from the next request on
    #[arg(long, group = "change", conflicts_with = "scopes")]
    no_scopes: bool,
    /// It may do everything that its parent may
    #[arg(long, group = "change", conflicts_with_all = ["scopes", "no_scopes"])]
    unrestricted: bool,
    #[command(flatten)]
    budget: BudgetArgs,
    /// Remove its limits: it may spend what its parent and its account have left
    #[arg(long, group = "change", conflicts_with_all = ["spend_limit", "limit_cents"])]
    no_limit: bool,
    #[command(flatten)]
    requests: RequestArgs,
    /// Remove its own limit of requests, also of those in flight; those of its parents stay
    #[arg(long, group = "change", conflicts_with_all = ["rate", "in_flight"])]
    no_rate: bool,
    /// Let it be used from everywhere that its parents may be used from
    #[arg(long, group = "change", conflicts_with = "allow_cidr")]
    no_cidr: bool,
    /// How long it is valid from now on, such as 30d, or until when
    #[arg(long, value_name = "TIME", group = "change", value_parser = values::expiry)]
    expires: Option<Expiry>,
    /// Remove its expiry
    #[arg(long, group = "change", conflicts_with = "expires")]
    no_expiry: bool,
    /// Another JSON object, in place of all there was
    #[arg(long, value_name = "JSON", group = "change", value_parser = values::metadata)]
    metadata: Option<Metadata>,
    /// Remove its metadata
    #[arg(long, group = "change", conflicts_with = "metadata")]
    no_metadata: bool,
}

impl Args {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        let id = self.key;
        let update = async |keys: &AgentKeys| {
            let stays = match self.requests.sets_limit() {
                true => keys.find_by_id(id).await?.and_then(|found| found.key().rate_limit),
                false => None,
            };
            Ok(keys.update(id, self.patch(stays)?).await?)
        };
        let key = database.with_keys(update).await?;
        super::change::show(&key, "Updated", ui)
    }

    fn patch(self, stays: Option<RateLimit>) -> Result<KeyPatch, Error> {
        let mut patch = KeyPatch::new();
        if let Some(name) = self.name {
            patch = patch.name(name);
        }
        if self.unrestricted {
            patch = patch.scopes(ScopeSet::unrestricted());
        } else if self.no_scopes {
            patch = patch.scopes(ScopeSet::none());
        } else if !self.scopes.is_empty() {
            patch = patch.scopes(values::scopes(&self.scopes)?);
        }
        if let Some(budget) = self.budget.budget()?.or(self.no_limit.then(Budget::unlimited)) {
            patch = patch.budget(budget);
        }
        patch = self.requests.update(patch, stays, self.no_rate, self.no_cidr)?;
        patch = match self.expires {
            Some(Expiry::At(at)) => patch.expires_at(at),
            Some(Expiry::In(validity)) => patch.expires_in(validity),
            None if self.no_expiry => patch.never_expires(),
            None => patch,
        };
        if let Some(metadata) = self.metadata.or(self.no_metadata.then(Metadata::default)) {
            patch = patch.metadata(metadata);
        }
        Ok(patch)
    }
}
