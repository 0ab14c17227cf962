//! Pruning: entries are rolled up, and other rows that retention no longer keeps are deleted.

use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::connection::{Query, Statements};
use super::decode::{Cells, ReadCells};
use super::error::{Result, Retry, invalid_row, is_contention, is_locked};
use super::inner::Inner;
use super::step::first;
use super::types::Instant;
use super::write::json;
use crate::ledger::{Rollup, rate_time, roll_up};
use crate::model::{AccountId, Entry, KeyId};
use crate::store::fast_path::seq_after;
use crate::store::prune::{halves, of_whole_charges};
use crate::store::{Prunable, PruneCutoffs, PrunePosition, PruneStep, PruneTable, PrunedStep};

/// How often a step is tried whose rows other transactions have locked or changed.
const ATTEMPTS: u32 = 50;

/// How many accounts a step looks at.
const ACCOUNTS: i64 = 1_000;

/// How many times as many idempotency keys a step looks at as rows of other tables: most of them stay.
const CLAIMS: i64 = 10;

impl Inner {
    /// Makes a step of a run.
    pub(super) async fn prune(&self, step: &PruneStep) -> Result<PrunedStep> {
        let limit = i64::from(step.limit);
        match step.table {
            PruneTable::Entries => self.prune_entries(step).await,
            PruneTable::Holds => {
                let after = match step.after {
                    Some(PrunePosition::Id(id)) => Uuid::from_bytes(id),
                    _ => Uuid::nil(),
                };
                let query = self.sql.prune_holds.query().bind(after);
                self.prune_in_order(query.bind(Instant(step.before)).bind(limit), |cells| {
                    Ok(cells.maybe_id()?.map(PrunePosition::Id))
                })
                .await
            }
            PruneTable::Events => {
                let after = match step.after {
                    Some(PrunePosition::Number(seq)) => seq,
                    _ => i64::MIN,
                };
                let query = self.sql.prune_events.query().bind(after);
                self.prune_in_order(query.bind(Instant(step.before)).bind(limit), |cells| {
                    Ok(cells.maybe_number()?.map(PrunePosition::Number))
                })
                .await
            }
            PruneTable::IdempotencyKeys => {
                let (key, claim) = match &step.after {
                    Some(PrunePosition::Claim(key, claim)) => (*key, claim.clone()),
                    _ => (i64::MIN, String::new()),
                };
                let query = self.sql.prune_idempotency_keys.query().bind(key).bind(claim);
                let query = query.bind(Instant(step.before)).bind(CLAIMS * limit);
                let rows = self.connections.fetch(query).await?;
                let Some(row) = rows.first() else { return Ok(PrunedStep::default()) };
                let mut cells = Cells::new(row);
                let last = PrunePosition::Claim(cells.number()?, cells.text()?.to_owned());
                let rows = cells.number()?.unsigned_abs();
                Ok(PrunedStep { rows, next: Some(last), ..PrunedStep::default() })
            }
            PruneTable::RateLimits => {
                let query = self.sql.prune_rate_limits.query().bind(rate_time(step.before));
                self.prune_first(query.bind(limit)).await
            }
        }
    }

    /// Counts the rows that are older than retention keeps them.
    pub(super) async fn prunable(&self, cutoffs: PruneCutoffs) -> Result<Prunable> {
        let query = self.sql.prunable.query();
        let query = query
            .bind(seq_after(cutoffs.entries))
            .bind(Instant(cutoffs.entries))
            .bind(Instant(cutoffs.holds))
            .bind(Instant(cutoffs.events));
        // A count of a large table takes as long as it takes.
        let work = async |statements: &mut Statements<'_>| {
            statements.run_script("SET LOCAL statement_timeout = 0").await?;
            statements.fetch(query).await
        };
        let rows = self.connections.pooled(work).await?;
        let row = rows.first().ok_or_else(|| invalid_row("nothing was counted"))?;
        let mut cells = Cells::new(row);
        let mut count = || cells.number().map(i64::unsigned_abs);
        Ok(Prunable::new(count()?, count()?, count()?))
    }

    /// Runs a statement that deletes the first rows it finds, and returns how many.
    async fn prune_first(&self, query: Query<'_>) -> Result<PrunedStep> {
        let deleted: i64 = first(&self.connections.fetch(query).await?, 0)?;
        Ok(PrunedStep::of_first(deleted.unsigned_abs()))
    }

    /// Runs a statement that deletes old rows among the next ones of a table in the order of time. It returns the last of
    /// them, how many are old, and how many it deleted.
    async fn prune_in_order(
        &self,
        query: Query<'_>,
        last: impl FnOnce(&mut Cells<'_>) -> Result<Option<PrunePosition>>,
    ) -> Result<PrunedStep> {
        let rows = self.connections.fetch(query).await?;
        let row = rows.first().ok_or_else(|| invalid_row("nothing was pruned"))?;
        let mut cells = Cells::new(row);
        let last = last(&mut cells)?;
        let (old, deleted) = (cells.number()?, cells.number()?.unsigned_abs());
        Ok(PrunedStep { rows: deleted, next: last.filter(|_| old > 0), ..PrunedStep::default() })
    }

    /// Rolls up entries of the next accounts.
    async fn prune_entries(&self, step: &PruneStep) -> Result<PrunedStep> {
        let (account, seq) = match &step.after {
            Some(PrunePosition::Seq(account, seq)) => (account.as_str().to_owned(), *seq),
            _ => (String::new(), i64::MIN),
        };
        let query = self.sql.prunable_accounts.query().bind(account.clone()).bind(ACCOUNTS);
        let rows = self.connections.fetch(query).await?;
        let row = rows.first().ok_or_else(|| invalid_row("no accounts were counted"))?;
        let mut cells = Cells::new(row);
        let Some(last) = cells.maybe_text()? else { return Ok(PrunedStep::default()) };
        let last = AccountId::stored(last).map_err(invalid_row)?;
        let is_end = cells.number()? < ACCOUNTS;
        let end = || PrunePosition::Seq(last.clone(), i64::MAX);
        for _ in 0..ATTEMPTS {
            let work = async |statements: &mut Statements<'_>| {
                self.roll_up_accounts(statements, (&account, seq), &last, step).await
            };
            match self.connections.short_lock_timeout(work).await {
                Err(error) if is_locked(&error) || is_contention(&error) => {}
                Err(error) => return Err(error),
                Ok(pruned @ PrunedStep { next: None, .. }) => {
                    return Ok(PrunedStep { next: (!is_end).then(end), ..pruned });
                }
                Ok(pruned) => return Ok(pruned),
            }
        }
        tracing::warn!(
            from = account,
            to = last.as_str(),
            "agentkey could not roll up the entries of some accounts, because other transactions had them locked; the next run tries again"
        );
        let next = (!is_end).then(end);
        Ok(PrunedStep { next, has_left_some: true, ..PrunedStep::default() })
    }

    /// Rolls up entries from a position on, of accounts up to the last. Where it found fewer than a step takes, there are no
    /// more.
    async fn roll_up_accounts(
        &self,
        statements: &mut Statements<'_>,
        (account, seq): (&str, i64),
        last: &AccountId,
        step: &PruneStep,
    ) -> Result<PrunedStep> {
        let query = self.sql.prunable_entries.query().bind(account.to_owned()).bind(seq);
        let query = query.bind(seq_after(step.before)).bind(Instant(step.before));
        let query = query.bind(i64::from(step.limit)).bind(last.as_str().to_owned());
        let rows = statements.fetch(query).await?;
        let mut next = None;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut cells = Cells::new(row);
            let (seq, account) = (cells.number()?, cells.account_id()?);
            next = Some(PrunePosition::Seq(account, seq));
            found.push(charge_and_entry(&mut cells)?);
        }
        let charges = found.iter().filter_map(|(_, entry)| entry.as_ref().map(id)).collect();
        for row in &self.refunds(statements, charges).await? {
            let (charge, refund) = charge_and_entry(&mut Cells::new(row))?;
            if refund.as_ref().is_some_and(|refund| refund.at >= step.before) {
                return Err(Retry::Conflict.into()); // the charge was refunded just now
            }
            found.push((charge, refund));
        }
        let entries = of_whole_charges(found);
        let charged: Vec<_> = entries.iter().map(id).collect();
        let delete = self.sql.delete_entries.query().bind(charged.clone());
        let deleted = statements.fetch(delete).await?;
        let row = deleted.first().ok_or_else(|| invalid_row("nothing was deleted"))?;
        let mut cells = Cells::new(row);
        let (gone, claims) = (cells.number()?, cells.number()?.unsigned_abs());
        // Another run took some of them, or one of the charges was refunded before it was locked.
        let is_whole = usize::try_from(gone) == Ok(entries.len());
        if !is_whole || !self.refunds(statements, charged).await?.is_empty() {
            return Err(Retry::Conflict.into());
        }
        let rollups = roll_up(&entries, &step.left_out);
        statements.run(self.upsert_rollups(&rollups)).await?;
        Ok(PrunedStep {
            rows: entries.len() as u64,
            idempotency_keys: claims,
            next: next.filter(|_| rows.len() >= step.limit as usize),
            has_left_some: false,
        })
    }

    async fn refunds(&self, statements: &mut Statements<'_>, of: Vec<Uuid>) -> Result<Vec<PgRow>> {
        statements.fetch(self.sql.refunds.query().bind(of)).await
    }

    fn upsert_rollups(&self, rollups: &[Rollup]) -> Query<'static> {
        let amounts = || rollups.iter().map(|rollup| halves(rollup.amount));
        let adjusted = || rollups.iter().map(|rollup| halves(rollup.adjusted));
        let query = self.sql.upsert_rollups.query();
        query
            .bind(rollups.iter().map(|it| Uuid::from_bytes(it.id())).collect::<Vec<_>>())
            .bind(rollups.iter().map(|it| it.account.as_str().to_owned()).collect::<Vec<_>>())
            .bind(rollups.iter().map(|it| it.key.map(KeyId::get)).collect::<Vec<_>>())
            .bind(rollups.iter().map(|it| Instant(it.counts_at)).collect::<Vec<_>>())
            .bind(rollups.iter().map(|it| json(&it.labels)).collect::<Vec<_>>())
            .bind(amounts().map(|(high, _)| high).collect::<Vec<_>>())
            .bind(amounts().map(|(_, low)| low).collect::<Vec<_>>())
            .bind(rollups.iter().map(|rollup| rollup.charges).collect::<Vec<_>>())
            .bind(adjusted().map(|(high, _)| high).collect::<Vec<_>>())
            .bind(adjusted().map(|(_, low)| low).collect::<Vec<_>>())
    }
}

fn id(entry: &Entry) -> Uuid {
    Uuid::from_bytes(*entry.id.as_bytes())
}

/// Reads the charge that a row is about, and its entry, unless it is invalid.
fn charge_and_entry(cells: &mut Cells<'_>) -> Result<(Uuid, Option<Entry>)> {
    let charge: Uuid = cells.read()?;
    let entry = cells.entry().inspect_err(|error| {
        tracing::warn!(%error, %charge, "agentkey leaves an invalid entry and its charge where they are");
    });
    Ok((charge, entry.ok()))
}
