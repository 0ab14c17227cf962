//! `prune`: what is older than it is to be kept.

use std::time::Duration;

use agentkey::model::ChangeError;
use agentkey::store::Prunable;
use agentkey::{AgentKeys, Prune, Pruned};
use clap::Args as ClapArgs;
use serde::Serialize;

use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::ui::{Table, Ui, progress};
use crate::values;

const EXAMPLES: &str = "\
Example:
  agentkey prune --older-than 90d
  agentkey prune --older-than 90d --events-older-than 400d --time-bound 10m --yes
  agentkey prune --older-than 90d --dry-run

Entries become daily sums: usage and budgets have the same figures as before. Run it once a day,
beside the service. If it is stopped or killed, the next run goes on. See docs/operations.md.";

/// The arguments of `prune`.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The age of entries and events that go, such as 90d; at least 32d
    #[arg(long, value_name = "AGE", value_parser = values::duration)]
    older_than: Duration,
    /// Another age for events; at least 1d
    #[arg(long, value_name = "AGE", value_parser = values::duration)]
    events_older_than: Option<Duration>,
    /// Stop after this time, such as 10m; the next run goes on
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    time_bound: Option<Duration>,
    /// Leave a label out of the sums, because nearly every request has another value; repeat it for more
    #[arg(long, value_name = "LABEL")]
    without_label: Vec<String>,
    /// Only say how much has that age
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short, conflicts_with = "dry_run")]
    yes: bool,
}

/// What `prune --json` prints.
#[derive(Serialize)]
struct Report {
    pruned: Pruned,
}

/// What `prune --dry-run --json` prints.
#[derive(Serialize)]
struct DryReport {
    prunable: Prunable,
}

impl Args {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        database.with_keys(async |keys| self.prune(keys, ui).await).await
    }

    async fn prune(&self, keys: &AgentKeys, ui: &Ui) -> Result<(), Error> {
        let prune = self.what();
        let found = keys.prunable(&prune).await.map_err(in_flags)?;
        if self.dry_run {
            return print_prunable(found, ui);
        }
        let all = found.entries + found.holds + found.events;
        if all > 0 && !self.yes {
            ui.confirm(&format!(
                "This sums up {}, which then can neither be listed nor refunded, and deletes {} \
                 and {}.",
                counted(found.entries, "entries"),
                counted(found.events, "events"),
                counted(found.holds, "ended holds")
            ))?;
        }
        let progress = progress::count(Some(all), "rows");
        let pruned = keys
            .prune_reporting(&prune, |done| {
                progress.set_position(done.entries + done.holds + done.events);
            })
            .await;
        progress.finish_and_clear();
        print_pruned(pruned.map_err(in_flags)?, ui)
    }

    fn what(&self) -> Prune {
        let mut prune = Prune::older_than(self.older_than);
        if let Some(age) = self.events_older_than {
            prune = prune.events_older_than(age);
        }
        if let Some(bound) = self.time_bound {
            prune = prune.time_bound(bound);
        }
        self.without_label.iter().fold(prune, Prune::without_label)
    }
}

/// Names the flag of a field that is refused.
fn in_flags(error: agentkey::Error) -> Error {
    match error {
        agentkey::Error::Change(ChangeError::Invalid { field, reason }) => {
            Error::Usage(format!("`--{}` {reason}", field.replace('_', "-")))
        }
        error => error.into(),
    }
}

fn counted(rows: u64, what: &str) -> String {
    match rows {
        0 => format!("no {what}"),
        rows => format!("{rows} {what}"),
    }
}

fn print_prunable(prunable: Prunable, ui: &Ui) -> Result<(), Error> {
    if ui.is_json() {
        return ui.document(&DryReport { prunable });
    }
    let Prunable { entries, holds, events, .. } = prunable;
    let mut table = Table::new(&["WHAT", "OLD"]).right(1);
    for (what, old) in [("entries", entries), ("events", events), ("ended holds", holds)] {
        table.row([what, &old.to_string()]);
    }
    table.print()
}

fn print_pruned(pruned: Pruned, ui: &Ui) -> Result<(), Error> {
    if ui.is_json() {
        return ui.document(&Report { pruned });
    }
    let left = pruned.left;
    let mut table = Table::new(&["WHAT", "PRUNED", "LEFT"]).right(1).right(2);
    for (what, rows, left) in [
        ("entries", pruned.entries, Some(left.entries)),
        ("events", pruned.events, Some(left.events)),
        ("ended holds", pruned.holds, Some(left.holds)),
        ("idempotency keys", pruned.idempotency_keys, None),
        ("rate limits", pruned.rate_limits, None),
    ] {
        table.row([
            what,
            &rows.to_string(),
            &left.map(|left| left.to_string()).unwrap_or_default(),
        ]);
    }
    table.print()?;
    if !pruned.is_complete {
        ui.note(
            "It did not come to its end: the time was up, or other transactions kept entries \
             locked. Run it again to go on.",
        );
    } else if left.entries + left.holds > 0 {
        ui.note("What is left goes later: charges with a refund that is younger, and live holds.");
    }
    Ok(())
}
