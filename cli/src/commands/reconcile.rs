//! `reconcile`: balances compared with the ledger.

use agentkey::model::{ChangeError, Reconciled};
use agentkey::{AccountId, AgentKeys, ReconcileQuery};
use clap::Args as ClapArgs;
use futures_util::TryStreamExt;
use serde::Serialize;

use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::ui::{Table, Ui, progress};

const EXAMPLES: &str = "\
Example:
  agentkey reconcile
  agentkey reconcile --account acme --mend

What was spent is compared with the entries, and what is held with the live holds, beside the
service. Exit code 1 says that a balance differs and was not mended. A mended figure is an entry of
amount zero and an event: find out first who wrote the balance.";

/// How many balances are read at once.
const PAGE: u32 = 100;

/// The arguments of `reconcile`.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only this account and its keys
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<AccountId>,
    /// Set balances that differ to what the ledger says
    #[arg(long)]
    mend: bool,
    /// Do not ask
    #[arg(long, short, requires = "mend")]
    yes: bool,
}

/// What `reconcile --json` prints.
#[derive(Serialize)]
struct Report {
    /// How many balances were compared.
    compared: u64,
    /// Those that differ, or that differed until they were mended.
    found: Vec<Reconciled>,
    /// Whether they were mended.
    is_mended: bool,
}

impl Args {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        let report = database.with_keys(async |keys| self.reconcile(keys, ui).await).await?;
        report.print(ui)
    }

    async fn reconcile(&self, keys: &AgentKeys, ui: &Ui) -> Result<Report, Error> {
        let mut report = self.compare(keys).await?;
        if report.found.is_empty() {
            return Ok(report);
        }
        if !ui.is_json() {
            print_table(&report.found)?;
        }
        if !self.mend {
            return Ok(report);
        }
        if !self.yes {
            ui.confirm(&format!(
                "{} to what the ledger says.",
                match report.found.len() {
                    1 => "This sets the balance".to_owned(),
                    found => format!("This sets the {found} balances"),
                }
            ))?;
        }
        let mut mended = Vec::with_capacity(report.found.len());
        for found in &report.found {
            let now = keys.mend_balance(found.holder()).await?;
            // The application's own SQL may have set it right in the meantime.
            mended.extend((!now.agrees()).then_some(now));
        }
        (report.found, report.is_mended) = (mended, true);
        Ok(report)
    }

    async fn compare(&self, keys: &AgentKeys) -> Result<Report, Error> {
        let query = match &self.account {
            Some(account) if keys.account(account).await?.is_none() => {
                return Err(ChangeError::UnknownAccount(account.clone()).into());
            }
            Some(account) => ReconcileQuery::for_account(account.clone()),
            None => ReconcileQuery::all(),
        };
        let progress = progress::count(None, "balances");
        let mut balances = keys.reconcile_stream(query.limit(PAGE));
        let mut report = Report { compared: 0, found: Vec::new(), is_mended: false };
        while let Some(balance) = balances.try_next().await? {
            report.compared += 1;
            progress.set_position(report.compared);
            report.found.extend((!balance.agrees()).then_some(balance));
        }
        progress.finish_and_clear();
        Ok(report)
    }
}

impl Report {
    fn print(&self, ui: &Ui) -> Result<(), Error> {
        let (compared, found) = (self.compared, self.found.len());
        if ui.is_json() {
            ui.document(self)?;
        } else if self.is_mended {
            ui.line(&format!("{found} of {compared} balances were mended."))?;
        } else if found == 0 {
            ui.line(&format!("{compared} balances agree with the ledger."))?;
        }
        match found == 0 || self.is_mended {
            true => Ok(()),
            false => Err(Error::Failed(format!(
                "{found} of {compared} balances differ from the ledger: find out what wrote them, then \
                 give `--mend`"
            ))),
        }
    }
}

fn print_table(found: &[Reconciled]) -> Result<(), Error> {
    let header = ["ACCOUNT", "KEY", "FIGURE", "PERIOD", "BALANCE", "LEDGER", "DIFFERENCE"];
    let mut table = Table::new(&header).right(1).right(4).right(5).right(6);
    for balance in found {
        for it in &balance.differences {
            table.row([
                balance.account.to_string(),
                balance.key.map(|key| key.to_string()).unwrap_or_default(),
                it.figure.as_str().to_owned(),
                it.figure.period().map(|period| period.to_string()).unwrap_or_default(),
                it.stored.to_string(),
                it.computed.to_string(),
                it.stored.saturating_sub(it.computed).to_string(),
            ]);
        }
    }
    table.print()
}
