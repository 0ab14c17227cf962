//! `key revoke`.

use agentkey::{AgentKeys, Key, KeyId, KeyQuery};
use clap::Args as ClapArgs;
use futures_util::TryStreamExt;
use serde::Serialize;

use crate::commands::owner::find;
use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::ui::Ui;

/// The arguments of `key revoke`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  agentkey key revoke 7 --reason leaked --yes\n\nA revocation is final. `key disable` can be undone."
)]
pub(crate) struct Args {
    /// The id of the key
    #[arg(value_name = "ID")]
    key: KeyId,
    /// Why; the key keeps it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not ask, also where other keys go with it
    #[arg(long, short)]
    yes: bool,
}

/// What `key revoke --json` prints.
#[derive(Serialize)]
struct Revoked<'k> {
    key: &'k Key,
    /// How many keys below it were not revoked themselves.
    revoked_with: u64,
}

impl Args {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        let work = async |keys: &AgentKeys| {
            let found = find(keys, self.key).await?;
            let key = found.key();
            if key.revoked_at.is_some() {
                return Ok((key.clone(), None));
            }
            let with = descendants(keys, self.key).await?;
            if with > 0 && !self.yes {
                ui.confirm(&format!(
                    "Revoking key {}{} also revokes the {} minted from it, for good.",
                    key.id,
                    super::show::named(key),
                    count(with)
                ))?;
            }
            Ok((keys.revoke(self.key, self.reason.as_deref()).await?, Some(with)))
        };
        let (key, revoked_with) = database.with_keys(work).await?;
        if ui.is_json() {
            return ui.document(&Revoked { key: &key, revoked_with: revoked_with.unwrap_or(0) });
        }
        let name = format!("{}{}", key.id, super::show::named(&key));
        ui.line(&match revoked_with {
            None => format!("Key {name} was revoked before."),
            Some(0) => format!("Revoked key {name}."),
            Some(with) => {
                format!("Revoked key {name}, and with it the {} minted from it.", count(with))
            }
        })
    }
}

/// Returns how many keys below this one were not revoked themselves.
async fn descendants(keys: &AgentKeys, root: KeyId) -> Result<u64, Error> {
    let mut below = keys.key_stream(KeyQuery::subtree_of(root).limit(1_000));
    let mut count = 0;
    while let Some(key) = below.try_next().await? {
        count += u64::from(key.id != root && key.revoked_at.is_none());
    }
    Ok(count)
}

fn count(keys: u64) -> String {
    match keys {
        1 => "key".to_owned(),
        keys => format!("{keys} keys"),
    }
}
