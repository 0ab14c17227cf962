//! `key`: the keys of a database.

mod change;
mod create;
mod import;
mod list;
mod revoke;
mod rotate;
mod show;
mod update;

use clap::Subcommand;

use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::ui::Ui;

/// The commands about keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a key, and print its token: the only time that it is shown
    Create(create::Args),
    /// Import keys by the hashes of their tokens, from CSV or JSON lines
    Import(import::Args),
    /// List keys, of all accounts or of one
    List(list::Args),
    /// Show one key: what it may do and spend, and whether it is in force
    Show(show::Args),
    /// Change a key; what is not named stays as it is
    Update(update::Args),
    /// Refuse a key and those minted from it until it is enabled again
    Disable(change::DisableArgs),
    /// Let a disabled key work again
    Enable(change::EnableArgs),
    /// Give a key another token, and print it: the only time that it is shown
    Rotate(rotate::Args),
    /// Revoke a key and those minted from it, for good
    Revoke(revoke::Args),
    /// List the keys that were minted from a key
    Children(list::ChildrenArgs),
}

impl Command {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        match self {
            Self::Create(args) => args.run(database, ui).await,
            Self::Import(args) => args.run(database, ui).await,
            Self::List(args) => args.run(database, ui).await,
            Self::Show(args) => args.run(database, ui).await,
            Self::Update(args) => args.run(database, ui).await,
            Self::Disable(args) => args.run(database, ui).await,
            Self::Enable(args) => args.run(database, ui).await,
            Self::Rotate(args) => args.run(database, ui).await,
            Self::Revoke(args) => args.run(database, ui).await,
            Self::Children(args) => args.run(database, ui).await,
        }
    }
}
