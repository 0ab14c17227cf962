//! `key disable` and `key enable`.

use agentkey::{Key, KeyId};
use clap::Args as ClapArgs;
use serde::Serialize;

use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::ui::Ui;

/// The arguments of `key disable`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  agentkey key disable 7\n\nMoney, holds and the charges that run stay as they are."
)]
pub(crate) struct DisableArgs {
    /// The id of the key
    #[arg(value_name = "ID")]
    key: KeyId,
}

/// The arguments of `key enable`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  agentkey key enable 7")]
pub(crate) struct EnableArgs {
    /// The id of the key
    #[arg(value_name = "ID")]
    key: KeyId,
}

impl DisableArgs {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        let key = database.with_keys(async |keys| Ok(keys.disable(self.key).await?)).await?;
        show(&key, "Disabled", ui)
    }
}

impl EnableArgs {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        let key = database.with_keys(async |keys| Ok(keys.enable(self.key).await?)).await?;
        show(&key, "Enabled", ui)
    }
}

#[derive(Serialize)]
struct Changed<'k> {
    key: &'k Key,
}

/// Prints a key after a change.
pub(super) fn show(key: &Key, done: &str, ui: &Ui) -> Result<(), Error> {
    match ui.is_json() {
        true => ui.document(&Changed { key }),
        false => ui.line(&format!("{done} key {}{}.", key.id, super::show::named(key))),
    }
}
