//! `completions`: scripts for shells.

use std::io::{self, Write};

use clap::{Args as ClapArgs, CommandFactory};
use clap_complete::Shell;
use serde::Serialize;

use crate::cli::Cli;
use crate::error::Error;
use crate::ui::Ui;

/// The arguments of `completions`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  agentkey completions bash > ~/.local/share/bash-completion/completions/agentkey"
)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

#[derive(Serialize)]
struct Script {
    script: String,
}

impl Args {
    pub(crate) fn run(self, ui: &Ui) -> Result<(), Error> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "agentkey", &mut script);
        if ui.is_json() {
            return ui.document(&Script { script: String::from_utf8_lossy(&script).into_owned() });
        }
        Ok(io::stdout().lock().write_all(&script)?)
    }
}
