//! `key list` and `key children`.

use agentkey::jiff::Timestamp;
use agentkey::{AccountId, Key, KeyId, KeyQuery};
use clap::Args as ClapArgs;
use futures_util::TryStreamExt;

use crate::commands::owner::find;
use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::states::States;
use crate::ui::{self, Table, Ui};

/// How many keys are read at once.
const PAGE: u32 = 500;

/// The column of subjects, which is shown where a listed key has one.
const SUBJECT: usize = 5;

/// The arguments of `key list`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  agentkey key list --account acme\n  agentkey key list --json | jq '.keys[].id'"
)]
pub(crate) struct Args {
    /// Only the keys of this account
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<AccountId>,
}

/// The arguments of `key children`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  agentkey key children 7 --all")]
pub(crate) struct ChildrenArgs {
    /// The id of the key
    #[arg(value_name = "ID")]
    key: KeyId,
    /// Also the children's children, and so on
    #[arg(long)]
    all: bool,
}

impl Args {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        let query = match self.account {
            Some(account) => KeyQuery::for_account(account),
            None => KeyQuery::all(),
        };
        let work = async |keys: &agentkey::AgentKeys| {
            let keys = keys.key_stream(query.limit(PAGE)).map_err(Error::from);
            print(keys, States::default(), ui).await
        };
        database.with_keys(work).await
    }
}

impl ChildrenArgs {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        let work = async |keys: &agentkey::AgentKeys| {
            let lineage = find(keys, self.key).await?;
            let query = match self.all {
                true => KeyQuery::subtree_of(self.key),
                false => KeyQuery::children_of(self.key),
            };
            let children = keys.key_stream(query.limit(PAGE)).map_err(Error::from);
            let children = children.try_filter(|key| std::future::ready(key.id != self.key));
            print(children, States::below(&lineage), ui).await
        };
        database.with_keys(work).await
    }
}

async fn print(
    keys: impl futures_util::Stream<Item = Result<Key, Error>>,
    mut states: States,
    ui: &Ui,
) -> Result<(), Error> {
    if ui.is_json() {
        return ui.list("keys", keys).await;
    }
    let now = Timestamp::now();
    let header = [
        "ID", "NAME", "ACCOUNT", "PARENT", "TOKEN", "SUBJECT", "SCOPES", "SPENT", "EXPIRES",
        "STATE",
    ];
    let mut table = Table::new(&header).right(0).right(3);
    let (mut count, mut has_subject) = (0_usize, false);
    let mut keys = std::pin::pin!(keys);
    while let Some(key) = keys.try_next().await? {
        let state = states.of(&key, now);
        let expires = key.expires_at.map_or_else(|| "never".to_owned(), ui::instant);
        let parent = key.parent.map(|parent| parent.to_string()).unwrap_or_default();
        table.key_row(
            [
                key.id.to_string(),
                key.name.clone(),
                key.account.to_string(),
                parent,
                ui::token_start(&key),
                key.subject.as_ref().map(ToString::to_string).unwrap_or_default(),
                ui::scopes(&key.scopes),
                ui::budget(&key.budget, &key.balance),
                expires,
            ],
            state,
        );
        count += 1;
        has_subject |= key.subject.is_some();
    }
    if count == 0 {
        ui.note("There are no keys.");
        return Ok(());
    }
    if !has_subject {
        table.hide(SUBJECT);
    }
    table.print()
}
