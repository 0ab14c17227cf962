//! `key show`.

use agentkey::jiff::Timestamp;
use agentkey::model::{Account, Lineage};
use agentkey::{Amount, Key, KeyId};
use clap::Args as ClapArgs;
use serde::Serialize;

use crate::commands::owner::find;
use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::requests;
use crate::states::States;
use crate::ui::{self, Table, Ui};

/// The arguments of `key show`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  agentkey key show 7")]
pub(crate) struct Args {
    /// The id of the key
    #[arg(value_name = "ID")]
    key: KeyId,
}

/// What `key show --json` prints.
#[derive(Serialize)]
struct Shown<'k> {
    key: &'k Key,
    /// `active`, `disabled`, `expired` or `revoked`, by the store's clock.
    state: &'static str,
    /// The key that decides the state.
    by: KeyId,
    /// The least that a member of the lineage has left; `null` where none has a limit.
    remaining_cents: Option<Amount>,
    last_used_at: Option<Timestamp>,
    ancestors: &'k [Key],
    account: &'k Account,
}

impl Args {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        let work = async |keys: &agentkey::AgentKeys| {
            let lineage = find(keys, self.key).await?;
            let last_used = keys.last_used(&[self.key]).await?.pop().flatten();
            print(&lineage, last_used, ui)
        };
        database.with_keys(work).await
    }
}

fn print(lineage: &Lineage, last_used: Option<Timestamp>, ui: &Ui) -> Result<(), Error> {
    let key = lineage.key();
    let (state, by) = States::below(lineage).of(key, lineage.at());
    if ui.is_json() {
        return ui.document(&Shown {
            key,
            state: state.as_str(),
            by: by.unwrap_or(key.id),
            remaining_cents: lineage.remaining(),
            last_used_at: last_used,
            ancestors: lineage.ancestors(),
            account: lineage.account(),
        });
    }
    let mut table = Table::new(&[]);
    let ids: Vec<_> = lineage.ancestors().iter().map(|key| key.id.to_string()).collect();
    let instant = |at: Option<Timestamp>| at.map_or_else(|| "never".to_owned(), ui::instant);
    let text = |text: Option<&str>| text.unwrap_or("-").to_owned();
    for (name, value) in [
        ("Key", key.id.to_string()),
        ("Name", key.name.clone()),
        ("Account", key.account.to_string()),
        ("Minted from", if ids.is_empty() { "-".to_owned() } else { ids.join(" < ") }),
        ("Token", ui::token_start(key)),
        ("Subject", key.subject.as_ref().map_or("-".to_owned(), ToString::to_string)),
        ("Acts for", text(lineage.delegated_by())),
        ("Scopes", ui::scopes(&key.scopes)),
        ("Spent", ui::budget(&key.budget, &key.balance)),
        ("Left", ui::remaining(lineage.remaining())),
        ("Requests", key.rate_limit.as_ref().map_or("no limit".to_owned(), requests::shown)),
        ("Addresses", key.allowed_cidrs.as_ref().map_or("any".to_owned(), ToString::to_string)),
        ("Account spent", ui::budget(&lineage.account().budget, &lineage.account().balance)),
        ("Created", ui::instant(key.created_at)),
        ("Expires", instant(lineage.expires_at())),
        ("Last used", instant(last_used)),
        ("Metadata", key.metadata.to_string()),
        ("Reason", text(key.revoked_reason.as_deref())),
    ] {
        table.row([name, &value]);
    }
    table.key_row(["State"], (state, by));
    table.print()
}

/// Returns the name of a key in brackets, if it has one.
pub(super) fn named(key: &Key) -> String {
    match key.name.as_str() {
        "" => String::new(),
        name => format!(" ({})", name.escape_debug()),
    }
}
