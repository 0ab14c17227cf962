//! Look-ups by token. Cached keys are revalidated by their versions; new and changed keys are read.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::connection::Connection;
use super::decode::{Cells, ReadCells};
use super::error::{Result, invalid_row, is_lost};
use super::inner::Inner;
use super::rate_limits::taken;
use super::read::{self, Member};
use super::types::Instant;
use super::validator::ByRowVersion;
use crate::ledger::{Book, Take, Taken};
use crate::model::TokenHash;
use crate::store::cache::{Revalidation, Snapshot};
use crate::store::stale::{ReadResult, Stale};
use crate::store::{Found, FoundAndTaken};

/// The pauses between attempts of a look-up.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// The most rows that are summed up for the policy version before they are folded into one.
const MAX_POLICY_CHANGES: i64 = 500;

impl Inner {
    /// Fails on a standby and on a read-only server. It takes the connection of a posting.
    pub(super) async fn check_writable(&self) -> Result<()> {
        let query = self.sql.check_writable.query();
        self.connections.posting(async |connection| connection.fetch(query).await).await.map(drop)
    }

    /// Looks tokens up. Replaces a lost connection for as long as one is waited for, because a look-up can be repeated
    /// safely. A server that stops and comes back takes all connections with it.
    ///
    /// What is to be taken from rate limits is taken with it where cached lineages are revalidated. A repeated look-up takes
    /// nothing: the first may have, and its answer was lost.
    pub(super) async fn find_tokens(
        &self,
        hashes: &[TokenHash],
        takes: &[Take],
    ) -> Result<FoundAndTaken> {
        let mut takes = takes;
        let (begun, mut pause) = (std::time::Instant::now(), Duration::ZERO);
        loop {
            match self.find_tokens_once(hashes, takes).await {
                Err(error)
                    if is_lost(&error) && begun.elapsed() < self.connections.acquire_timeout() =>
                {
                    self.cache.clear();
                    takes = &[];
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).clamp(FIRST_PAUSE, MAX_PAUSE);
                }
                found => return found,
            }
        }
    }

    async fn find_tokens_once(
        &self,
        hashes: &[TokenHash],
        takes: &[Take],
    ) -> Result<FoundAndTaken> {
        let (result, taken) = self.look_up(hashes, takes).await?;
        if result.stale.is_empty() {
            return Ok((result.value, taken));
        }
        // Accounts that cannot be brought up to date keep their figures: no charge is decided by them.
        self.refresh_skipping(result.stale, &mut Vec::new()).await?;
        Ok((self.look_up(hashes, &[]).await?.0.value, taken))
    }

    async fn look_up(
        &self,
        hashes: &[TokenHash],
        takes: &[Take],
    ) -> Result<(ReadResult<Vec<Option<Found>>>, Option<Vec<Taken>>)> {
        let look_up = async |connection: &mut Connection<'_>| {
            self.look_up_by(connection, hashes, takes).await
        };
        self.connections.lookup(look_up).await
    }

    async fn look_up_by(
        &self,
        connection: &mut Connection<'_>,
        hashes: &[TokenHash],
        takes: &[Take],
    ) -> Result<(ReadResult<Vec<Option<Found>>>, Option<Vec<Taken>>)> {
        let mut was_taken = None;
        let revalidation =
            self.cache.revalidate(hashes, |account| self.backoff.is_skipped(account));
        let mut value = vec![None; hashes.len()];
        if !revalidation.keys.is_empty() {
            let mut rows = connection.fetch(self.revalidate(&revalidation, takes)).await?;
            if !takes.is_empty() {
                // The last part of the statement, and one row of it.
                let row = rows.pop().ok_or_else(|| invalid_row("nothing was taken"))?;
                was_taken = Some(taken(takes, &row)?);
            }
            let answer = read::revalidated(&revalidation, &rows)?;
            value = self.cache.lookup(hashes, &revalidation, &answer, self.clock.now());
        }
        let (mut slots, rest): (Vec<_>, Vec<_>) = value
            .iter_mut()
            .zip(hashes)
            .filter(|(found, _)| found.is_none())
            .map(|(slot, hash)| (slot, *hash))
            .unzip();
        if rest.is_empty() {
            return Ok((ReadResult { value, stale: Stale::default() }, was_taken));
        }
        let rows = connection.fetch(self.find(&rest, self.clock.set())).await?;
        let members = read::members(&rows, &self.schema.columns)?;
        self.insert(&revalidation, &members, &rest);
        let invalid_rows = &self.schema.columns.invalid_rows;
        let mut late = read::found(&rest, &members, self.clock.now(), invalid_rows);
        self.end_expired(connection, &members, &mut late.value).await?;
        slots.iter_mut().zip(late.value).for_each(|(slot, found)| **slot = found);
        Ok((ReadResult { value, stale: late.stale }, was_taken))
    }

    /// Takes holds that have expired and are not yet ended out of what was found.
    async fn end_expired(
        &self,
        connection: &mut Connection<'_>,
        members: &[Member],
        found: &mut [Option<Found>],
    ) -> Result<()> {
        let rows = members.iter().filter_map(|member| member.account.as_ref());
        let rows: HashMap<_, _> = rows.map(|row| (&row.account.id, row)).collect();
        let mut overdue: Vec<_> = (found.iter_mut().flatten())
            .map(|found| &mut found.lineage)
            .filter(|lineage| {
                rows.get(lineage.account_id()).is_some_and(|row| row.may_count_expired(lineage))
            })
            .collect();
        if overdue.is_empty() {
            return Ok(());
        }
        let accounts = overdue.iter().map(|lineage| (lineage.account_id(), lineage.at()));
        let (accounts, at): (Vec<_>, Vec<_>) = accounts
            .collect::<HashMap<_, _>>()
            .into_iter()
            .map(|(account, at)| (account.as_str().to_owned(), Instant(at)))
            .unzip();
        let expired = self.sql.expired_holds.query().bind(accounts).bind(at);
        let rows = connection.fetch(expired).await?;
        // An invalid row counts as held: no other look-up of the batch fails with it.
        let holds: Vec<_> = rows.iter().filter_map(|row| Cells::new(row).hold().ok()).collect();
        for lineage in &mut overdue {
            let of_account = holds.iter().filter(|hold| hold.account == *lineage.account_id());
            **lineage = Book::after_expiry(lineage, of_account.cloned());
        }
        Ok(())
    }

    /// Caches lineages that were read in one snapshot, if they are whole and up to date and their accounts have rows. A
    /// lineage that was looked up by token has its hash at its place in `hashes`.
    pub(super) fn insert(
        &self,
        revalidation: &Revalidation<ByRowVersion>,
        members: &[Member],
        hashes: &[TokenHash],
    ) {
        let Some(first) = members.first() else { return };
        let mut snapshot = Snapshot::default();
        for (index, lineage) in read::lineages(members) {
            let Some(keys) = read::whole(lineage) else { continue };
            if lineage.iter().any(|member| member.key.as_ref().is_none_or(|(row, _)| row.is_stale))
            {
                continue;
            }
            let Some(account) = lineage.first().and_then(|first| first.account.as_ref()) else {
                continue;
            };
            snapshot.add_account(account.clone());
            if let Some(hash) = hashes.get(index)
                && let Some((key, version)) = read::current(lineage, hash)
            {
                snapshot.add_token(*hash, key, version, None);
            }
            keys.into_iter().for_each(|(key, version)| snapshot.add_key(key.clone(), version));
        }
        self.cache.insert(revalidation, first.incarnation, snapshot);
    }

    /// Polls the policy version. Another server has another one.
    pub(super) async fn poll_policy_version(&self) -> Result<()> {
        if !self.schema.columns.is_own {
            return Ok(()); // An adopted table has no triggers of agentkey.
        }
        let asked_at = std::time::Instant::now();
        let ask = self.sql.policy_version.query();
        let rows = self.connections.lookup(async |connection| connection.fetch(ask).await).await?;
        let (polled, changes) = read::policy_version(&rows)?;
        let version = polled.map(|polled| {
            let mut hasher = DefaultHasher::new();
            polled.hash(&mut hasher);
            hasher.finish()
        });
        self.cache.record_policy_version(version, asked_at);
        if changes > MAX_POLICY_CHANGES {
            let fold = self.sql.fold_policy_changes.query();
            let folded = self
                .connections
                .short_lock_timeout(async |statements| statements.run(fold).await)
                .await;
            if let Err(error) = folded {
                tracing::warn!(%error, changes, "agentkey could not fold the rows of agentkey_policy_changes, and the table grows: grant DELETE on it to the role");
            }
        }
        Ok(())
    }
}
