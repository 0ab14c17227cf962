//! `usage`: sums of what was charged.

use agentkey::store::{Usage, UsageBy};
use agentkey::{AgentKeys, Amount, KeyId, UsageQuery};
use clap::Args as ClapArgs;
use serde::Serialize;

use crate::commands::OwnerArgs;
use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::ui::{self, Table, Ui};

const EXAMPLES: &str = "\
Example:
  agentkey usage --account acme --by day --since 30d
  agentkey usage --account acme --by label:model
  agentkey usage --key 7 --subtree --by key --then-by day";

/// For how many keys the names are shown beside the ids.
const MAX_NAMES: usize = 100;

/// The arguments of `usage`.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    owner: OwnerArgs,
    /// How it is summed: hour, day, month, key, or label: and the name of a label
    #[arg(long, value_name = "GROUP", default_value = "day")]
    by: UsageBy,
    /// How each group is summed once more
    #[arg(long, value_name = "GROUP")]
    then_by: Option<UsageBy>,
}

/// What `usage --json` prints.
#[derive(Serialize)]
struct Sums<'u> {
    usage: &'u [Usage],
}

impl Args {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        database.with_keys(async |keys| self.print(keys, ui).await).await
    }

    async fn print(&self, keys: &AgentKeys, ui: &Ui) -> Result<(), Error> {
        let usage = keys.usage(&self.query(keys).await?).await?;
        if ui.is_json() {
            return ui.document(&Sums { usage: &usage });
        }
        if usage.is_empty() {
            ui.note("Nothing was charged.");
            return Ok(());
        }
        let names = self.names(keys, &usage).await?;
        let mut header = vec![heading(&self.by)];
        header.extend(names.as_ref().map(|_| "NAME".to_owned()));
        header.extend(self.then_by.as_ref().map(heading));
        let amounts = header.len();
        header.extend(["AMOUNT", "CHARGES", "ADJUSTED"].map(str::to_owned));
        let header: Vec<_> = header.iter().map(String::as_str).chain([""]).collect();
        let mut table = Table::new(&header).right(amounts).right(amounts + 1).right(amounts + 2);
        let most = usage.iter().map(|sum| sum.amount).max().unwrap_or_default();
        for (place, sum) in usage.iter().enumerate() {
            let mut row = vec![group(&self.by, &sum.group)];
            row.extend(names.as_ref().map(|names| names.get(place).cloned().unwrap_or_default()));
            let then = sum.subgroup.as_deref();
            row.extend(self.then_by.as_ref().map(|by| group(by, then.unwrap_or_default())));
            row.extend([sum.amount.to_string(), sum.charges.to_string(), sum.adjusted.to_string()]);
            row.extend(table.is_on_terminal().then(|| ui::bar(sum.amount, most)));
            table.row(row);
        }
        let total = usage.iter().fold(Amount::ZERO, |sum, group| sum.saturating_add(group.amount));
        table.print()?;
        ui.note(&format!("Charged in all: {total}"));
        Ok(())
    }

    async fn query(&self, keys: &AgentKeys) -> Result<UsageQuery, Error> {
        let (account, key) = self.owner.owner(keys).await?;
        let mut query = UsageQuery::for_account(account, self.by.clone());
        query = match key {
            Some(key) if self.owner.subtree => query.subtree(key),
            Some(key) => query.key(key),
            None => query,
        };
        query.since = self.owner.since;
        query.until = self.owner.until;
        query.then_by.clone_from(&self.then_by);
        Ok(query)
    }

    /// Returns the name of each row's key, where rows are keys and not too many.
    async fn names(&self, keys: &AgentKeys, usage: &[Usage]) -> Result<Option<Vec<String>>, Error> {
        if self.by != UsageBy::Key || usage.len() > MAX_NAMES {
            return Ok(None);
        }
        let mut names = Vec::with_capacity(usage.len());
        for sum in usage {
            let key = match sum.group.parse::<KeyId>() {
                Ok(key) => keys.find_by_id(key).await?,
                Err(_) => None,
            };
            names.push(key.map(|key| key.key().name.clone()).unwrap_or_default());
        }
        Ok(Some(names))
    }
}

fn heading(by: &UsageBy) -> String {
    match by {
        UsageBy::Label(name) => name.to_uppercase(),
        by => by.to_string().to_uppercase(),
    }
}

/// Returns a group as people read it: a day is its date.
fn group(by: &UsageBy, group: &str) -> String {
    let length = match by {
        UsageBy::Day => "2027-01-31".len(),
        UsageBy::Month => "2027-01".len(),
        _ if group.is_empty() => return "-".to_owned(),
        _ => group.len(),
    };
    group.get(..length).unwrap_or(group).to_owned()
}
