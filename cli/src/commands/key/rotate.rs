//! `key rotate`.

use std::time::Duration;

use agentkey::{Grace, KeyId};
use clap::Args as ClapArgs;

use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::ui::Ui;
use crate::values;

/// The arguments of `key rotate`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  agentkey key rotate 7 --grace 1h\n\nThe new token is the only line on standard output."
)]
pub(crate) struct Args {
    /// The id of the key
    #[arg(value_name = "ID")]
    key: KeyId,
    /// How long the old token still works, such as 1h; without it, not at all
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    grace: Option<Duration>,
}

impl Args {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        let grace = self.grace.map_or(Grace::NONE, Grace::lasting);
        let work = async |keys: &agentkey::AgentKeys| {
            super::create::show(&keys.rotate(self.key, grace).await?, "Rotated", ui)
        };
        database.with_keys(work).await
    }
}
