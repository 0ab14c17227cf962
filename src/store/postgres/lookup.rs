//! Look-ups by token: of the keys that are cached only the versions are asked for; what is new or has changed is read whole.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::error::{Result, is_lost};
use super::inner::Inner;
use super::read::{self, Member};
use super::validator::ByRowVersion;
use crate::model::TokenHash;
use crate::store::Found;
use crate::store::cache::{Revalidation, Snapshot};
use crate::store::stale::{ReadResult, Stale};

/// Between attempts to look up.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// So many rows may be summed up for the version of the policy, before they are made one.
const MAX_POLICY_CHANGES: i64 = 500;

impl Inner {
    /// A connection that was lost is replaced, for as long as a connection is waited for: a look-up may be asked as
    /// often as you like. It is the server that goes, and comes back, with all of them.
    pub(super) async fn found(&self, hashes: &[TokenHash]) -> Result<Vec<Option<Found>>> {
        let (begun, mut pause) = (Instant::now(), Duration::ZERO);
        loop {
            match self.found_once(hashes).await {
                Err(error) if is_lost(&error) && begun.elapsed() < self.connections.acquire_timeout() => {
                    self.cache.clear();
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).clamp(FIRST_PAUSE, MAX_PAUSE);
                }
                found => return found,
            }
        }
    }

    async fn found_once(&self, hashes: &[TokenHash]) -> Result<Vec<Option<Found>>> {
        let seen = self.look_up(hashes).await?;
        if seen.stale.is_empty() {
            return Ok(seen.value);
        }
        // The figures of those that cannot be brought up to date are returned as they are: no charge is decided by them.
        self.refresh_skipping(seen.stale, &mut Vec::new()).await?;
        Ok(self.look_up(hashes).await?.value)
    }

    async fn look_up(&self, hashes: &[TokenHash]) -> Result<ReadResult<Vec<Option<Found>>>> {
        self.connections.lookup(async |connection| self.look_up_by(connection, hashes).await).await
    }

    async fn look_up_by(
        &self,
        connection: &mut Connection<'_>,
        hashes: &[TokenHash],
    ) -> Result<ReadResult<Vec<Option<Found>>>> {
        let asked = self.cache.revalidate(hashes, |account| self.backoff.is_skipped(account));
        let mut value = vec![None; hashes.len()];
        if !asked.keys.is_empty() {
            let answer = read::revalidated(&asked, &connection.fetch(self.revalidate(&asked)).await?)?;
            value = self.cache.lookup(hashes, &asked, &answer, self.clock.now());
        }
        let (mut slots, rest): (Vec<_>, Vec<_>) =
            value.iter_mut().zip(hashes).filter(|(found, _)| found.is_none()).map(|(slot, hash)| (slot, *hash)).unzip();
        if rest.is_empty() {
            return Ok(ReadResult { value, stale: Stale::default() });
        }
        let rows = connection.fetch(self.find(&rest, self.clock.set())).await?;
        let members = read::members(&rows, &self.layout.columns)?;
        self.insert(&asked, &members, &rest);
        let late = read::found(rest.len(), &members, self.clock.now());
        slots.iter_mut().zip(late.value).for_each(|(slot, found)| **slot = found);
        Ok(ReadResult { value, stale: late.stale })
    }

    /// Caches lineages as they were read in one snapshot: whole, up to date, of accounts that have a row. Those that were asked
    /// for by a token have its hash at their place in `hashes`.
    pub(super) fn insert(&self, asked: &Revalidation<ByRowVersion>, members: &[Member], hashes: &[TokenHash]) {
        let Some(first) = members.first() else { return };
        let mut snapshot = Snapshot::default();
        for (place, lineage) in read::lineages(members) {
            let Some(keys) = read::whole(lineage) else { continue };
            if lineage.iter().any(|member| member.key.as_ref().is_none_or(|(row, _)| row.is_stale)) {
                continue;
            }
            let Some(account) = lineage.first().and_then(|first| first.account.as_ref()) else { continue };
            snapshot.add_account(account.clone());
            if let Some(hash) = hashes.get(place)
                && let Some((key, version)) = read::current(lineage)
            {
                snapshot.add_token(*hash, key, version, None);
            }
            keys.into_iter().for_each(|(key, version)| snapshot.add_key(key.clone(), version));
        }
        self.cache.insert(asked, first.incarnation, snapshot);
    }

    /// Asks which policy is in force. Another server has another one.
    pub(super) async fn poll_policy_version(&self) -> Result<()> {
        if !self.layout.columns.is_own {
            return Ok(()); // An adopted table has no trigger of ours.
        }
        let asked_at = Instant::now();
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
            let folded = self.connections.short_lock_timeout(async |statements| statements.run(fold).await).await;
            if let Err(error) = folded {
                tracing::warn!(%error, changes, "agentkey could not fold the rows of agentkey_policy_changes; the table grows");
            }
        }
        Ok(())
    }
}
