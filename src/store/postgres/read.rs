//! Reading keys and accounts.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use sqlx::postgres::PgRow;

use super::connection::{Query, Statements};
use super::decode::{Cells, ReadCells};
use super::error::{Error, Result, invalid_row};
use super::inner::Inner;
use super::invalid_rows::InvalidRows;
use super::schema::KeyColumns;
use super::types::{Instant, RowVersion};
use super::validator::{ByRowVersion, CurrentVersions};
use crate::ledger::Take;
use crate::model::{Account, AccountId, Key, KeyId, Lineage, OpenHold, TokenHash};
use crate::store::account_row::AccountRow;
use crate::store::cache::Revalidation;
use crate::store::key_row::KeyRow;
use crate::store::stale::{ReadResult, Stale};
use crate::store::{AccountQuery, Found, KeyQuery, KeysOf};

impl Inner {
    /// Builds the look-up by token, at an instant or at the time of the server's clock.
    pub(super) fn find<'q>(&self, hashes: &[TokenHash], now: Option<Timestamp>) -> Query<'q> {
        let hashes: Vec<String> = hashes.iter().map(ToString::to_string).collect();
        self.sql.find.query().bind(hashes).bind(now.map(Instant))
    }

    /// Builds the revalidation, which also takes from rate limits if there is something to take.
    pub(super) fn revalidate<'q>(
        &self,
        revalidation: &Revalidation<ByRowVersion>,
        takes: &[Take],
    ) -> Query<'q> {
        let (keys, versions): (Vec<_>, Vec<_>) =
            revalidation.keys.iter().map(|(key, version)| (key.get(), *version)).unzip();
        let accounts: Vec<_> =
            revalidation.accounts.iter().map(|account| account.as_str().to_owned()).collect();
        let is_alone = takes.is_empty();
        let sql = if is_alone { &self.sql.revalidate } else { &self.sql.revalidate_and_take };
        let query = sql.query().bind(keys).bind(versions).bind(accounts);
        let query = query.bind(revalidation.epoch.map(Instant));
        if is_alone { query } else { self.bind_takes(query, takes) }
    }

    pub(super) fn lineages<'q>(&self, keys: &[KeyId]) -> Query<'q> {
        self.sql.lineages.query().bind(keys.iter().map(|key| key.get()).collect::<Vec<_>>())
    }

    pub(super) async fn find_by_ids(&self, keys: &[KeyId]) -> Result<Vec<Option<Lineage>>> {
        self.refreshed(async |statements| self.lineages_in(statements, keys, None).await).await
    }

    /// Returns the lineages of the keys of an adopted table with this subject.
    pub(super) async fn find_by_subject(&self, subject: &str) -> Result<Vec<Lineage>> {
        if self.schema.columns.is_own {
            return Ok(Vec::new());
        }
        let text = "SELECT k.{k.id}::int8 FROM {keys} k WHERE k.{k.sub} = $1 ORDER BY k.{k.id}";
        let text = self.schema.sql(text);
        let rows = self.connections.fetch(text.query().bind(subject.to_owned())).await?;
        let ids = rows.iter().map(|row| Cells::new(row).key_id()).collect::<Result<Vec<_>>>()?;
        Ok(self.find_by_ids(&ids).await?.into_iter().flatten().collect())
    }

    pub(super) async fn account(&self, id: &AccountId) -> Result<Option<Account>> {
        let account =
            self.refreshed(async |statements| self.account_in(statements, id, None).await).await?;
        Ok(account.map(|(account, _)| account))
    }

    pub(super) async fn accounts(&self, query: &AccountQuery) -> Result<Vec<Account>> {
        self.refreshed(async |statements| self.accounts_in(statements, query).await).await
    }

    async fn accounts_in(
        &self,
        statements: &mut Statements<'_>,
        query: &AccountQuery,
    ) -> Result<ReadResult<Vec<Account>>> {
        let after = query.after.as_ref().map_or("", AccountId::as_str).to_owned();
        let page = self.sql.accounts.query().bind(after).bind(i64::from(query.limit));
        let rows = statements.fetch(page).await?;
        let now = self.clock.now();
        let mut result = ReadResult { value: Vec::new(), stale: Stale::default() };
        for row in &rows {
            let Some(row) = Cells::new(row).maybe_account()? else { continue };
            if row.is_overdue(now) {
                result.stale.add_account(&row.account.id);
            }
            result.value.push(row.account.rolled(now.max(row.changed_at)));
        }
        Ok(result)
    }

    /// Returns the live holds of all accounts, the oldest first.
    pub(super) async fn open_holds(&self, limit: u32) -> Result<Vec<OpenHold>> {
        let rows =
            self.connections.fetch(self.sql.open_holds.query().bind(i64::from(limit))).await?;
        rows.iter().map(|row| Cells::new(row).hold().map(OpenHold::from)).collect()
    }

    pub(super) async fn keys(&self, query: &KeyQuery) -> Result<Vec<Key>> {
        self.refreshed(async |statements| self.keys_in(statements, query).await).await
    }

    /// Reads. If the result is stale, brings it up to date and reads again.
    async fn refreshed<T>(
        &self,
        read: impl AsyncFnOnce(&mut Statements<'_>) -> Result<ReadResult<T>> + Copy,
    ) -> Result<T> {
        let result = self.connections.pooled(read).await?;
        if result.stale.is_empty() {
            return Ok(result.value);
        }
        self.expire_holds(&result.stale).await?;
        Ok(self.connections.pooled(read).await?.value)
    }

    /// Returns lineages, each at the place of its key and at its account's time. If `now` is not given, it is the
    /// clock's time after the rows were read.
    pub(super) async fn lineages_in(
        &self,
        statements: &mut Statements<'_>,
        keys: &[KeyId],
        now: Option<Timestamp>,
    ) -> Result<ReadResult<Vec<Option<Lineage>>>> {
        let rows = statements.fetch(self.lineages(keys)).await?;
        let now = now.unwrap_or_else(|| self.clock.now());
        let members = members(&rows, &self.schema.columns)?;
        let mut result = ReadResult { value: vec![None; keys.len()], stale: Stale::default() };
        for (index, lineage) in lineages(&members) {
            let account = lineage.first().and_then(|member| member.account.as_ref());
            if let Some(row) = account.filter(|row| row.is_overdue(now)) {
                result.stale.add_account(&row.account.id);
            }
            if let Some(slot) = result.value.get_mut(index) {
                *slot = assemble(lineage, now, &mut result.stale);
            }
        }
        Ok(result)
    }

    /// Returns an account rolled to its time, and that time.
    pub(super) async fn account_in(
        &self,
        statements: &mut Statements<'_>,
        id: &AccountId,
        now: Option<Timestamp>,
    ) -> Result<ReadResult<Option<(Account, Timestamp)>>> {
        let rows = statements.fetch(self.sql.account.query().bind(id.as_str().to_owned())).await?;
        let now = now.unwrap_or_else(|| self.clock.now());
        let mut stale = Stale::default();
        let Some(row) =
            rows.first().map(|row| Cells::new(row).maybe_account()).transpose()?.flatten()
        else {
            return Ok(ReadResult { value: None, stale });
        };
        if row.is_overdue(now) {
            stale.add_account(id);
        }
        let at = now.max(row.changed_at);
        Ok(ReadResult { value: Some((row.account.rolled(at), at)), stale })
    }

    async fn keys_in(
        &self,
        statements: &mut Statements<'_>,
        query: &KeyQuery,
    ) -> Result<ReadResult<Vec<Key>>> {
        let columns = &self.schema.columns;
        let mut result = ReadResult { value: Vec::new(), stale: Stale::default() };
        let mut after = query.after.map_or(i64::MIN, KeyId::get);
        let limit = query.limit as usize;
        let owner = match &query.of {
            KeysOf::All => "$1::text IS NULL",
            KeysOf::Account(account) if !columns.account_type.can_hold(account.as_str()) => {
                return Ok(result);
            }
            KeysOf::Account(_) => "k.{k.account} = ($1::text)::{account_type}",
            KeysOf::Parent(_) => "k.{k.parent} = $1",
            KeysOf::Subtree(_) => {
                "k.{k.id} IN (WITH RECURSIVE family (id) AS (SELECT $1::int8 UNION SELECT c.{k.id}::int8 \
                FROM family f JOIN {keys} c ON c.{k.parent} = f.id) SELECT id FROM family)"
            }
        };
        let kind = match query.only_subjects {
            true => "k.{k.sub} IS NOT NULL AND coalesce(k.{k.issuer}::text, {issuer}) IS NOT NULL",
            false => "true",
        };
        let text = include_str!("sql/list_keys.sql").replace("{owner}", owner);
        let text = self.schema.sql(&text.replace("{kind}", kind));
        // Invalid rows are skipped and replaced by later ones: a short page would mean that there are no more keys.
        while result.value.len() < limit {
            let page = match &query.of {
                KeysOf::All => text.query().bind(None::<String>),
                KeysOf::Account(account) => text.query().bind(account.as_str().to_owned()),
                KeysOf::Parent(key) | KeysOf::Subtree(key) => text.query().bind(key.get()),
            };
            let rows = statements.fetch(page.bind(after).bind(i64::from(query.limit))).await?;
            let now = self.clock.now();
            for row in &rows {
                let mut cells = Cells::new(row);
                let (key, _) = cells.key(columns)?;
                let account = cells.maybe_account()?;
                after = key.id.get();
                let row = columns.invalid_rows.decode(key).filter(|_| result.value.len() < limit);
                let Some(KeyRow { mut key, is_stale }) = row else { continue };
                if account.as_ref().is_some_and(|row| row.is_overdue(now)) {
                    result.stale.add_account(&key.account);
                }
                if is_stale {
                    result.stale.add_key(&key);
                }
                key.roll(account.map_or(now, |row| now.max(row.changed_at)));
                result.value.push(key);
            }
            if rows.len() < limit {
                break;
            }
        }
        Ok(result)
    }

    /// Returns some accounts, except `skipped`, in which holds may have expired, the most overdue first.
    pub(super) async fn overdue(&self, skipped: &[AccountId]) -> Result<Stale> {
        let skipped: Vec<_> = skipped.iter().map(|account| account.as_str().to_owned()).collect();
        let overdue =
            self.sql.overdue_accounts.query().bind(self.clock.set().map(Instant)).bind(skipped);
        let rows = self.connections.fetch(overdue).await?;
        let accounts =
            rows.iter().map(|row| Cells::new(row).account_id()).collect::<Result<_>>()?;
        Ok(Stale { accounts, keys: Vec::new() })
    }
}

/// Decodes the answer to a revalidation: the keys whose rows have changed, and the versions of the accounts.
pub(super) fn revalidated(
    revalidation: &Revalidation<ByRowVersion>,
    rows: &[PgRow],
) -> Result<CurrentVersions> {
    let (mut changed, mut versions) = (HashSet::new(), HashMap::new());
    for row in rows {
        let mut cells = Cells::new(row);
        match cells.read::<Option<i64>>()? {
            Some(key) => drop(changed.insert(KeyId::new(key))),
            None => drop(versions.insert(cells.account_id()?, cells.read()?)),
        }
    }
    Ok(CurrentVersions::new(revalidation, &changed, versions))
}

/// Returns the incarnation of the server with its policy version, and the number of changes that it sums up.
pub(super) fn policy_version(rows: &[PgRow]) -> Result<(Option<(Timestamp, i64)>, i64)> {
    let row = rows.first().ok_or_else(|| invalid_row("the policy has no version"))?;
    let mut cells = Cells::new(row);
    let incarnation = cells.instant()?;
    let version = cells.read::<Option<i64>>()?;
    Ok((version.map(|version| (incarnation, version)), cells.read()?))
}

/// A row of a lineage.
pub(super) struct Member {
    place: i64,
    depth: i32,
    retires_at: Option<Timestamp>,
    /// The incarnation of the server that it was read from.
    pub(super) incarnation: Timestamp,
    /// `None` if the row is invalid.
    pub(super) key: Option<(KeyRow, RowVersion)>,
    pub(super) account: Option<AccountRow>,
}

/// Decodes lineages one after the other, each from its key up.
pub(super) fn members(rows: &[PgRow], columns: &KeyColumns) -> Result<Vec<Member>> {
    let mut members = rows.iter().map(|row| member(row, columns)).collect::<Result<Vec<_>>>()?;
    members.sort_by_key(|member| (member.place, member.depth));
    Ok(members)
}

fn member(row: &PgRow, columns: &KeyColumns) -> Result<Member> {
    let mut cells = Cells::new(row);
    let (place, depth, retires_at, incarnation) =
        (cells.read()?, cells.read()?, cells.maybe_instant()?, cells.instant()?);
    let (key, version) = cells.key(columns)?;
    let key = columns.invalid_rows.decode(key).map(|key| (key, version));
    let (key, account) = match cells.maybe_account() {
        // The invalid row takes the keys of its account out of service, but not the other keys of the batch.
        Err(Error::InvalidRow(error)) => {
            let account = key.as_ref().map(|(row, _)| tracing::field::display(&row.key.account));
            tracing::warn!(%error, account, "the row of this account is invalid: its keys are not found");
            (None, None)
        }
        account => (key, account?),
    };
    Ok(Member { place, depth, retires_at, incarnation, key, account })
}

/// Returns the members of each lineage, with its place in the query.
pub(super) fn lineages(members: &[Member]) -> impl Iterator<Item = (usize, &[Member])> {
    members.chunk_by(|member, next| member.place == next.place).filter_map(|lineage| {
        let index = lineage.first()?.place.checked_sub(1)?;
        Some((usize::try_from(index).ok()?, lineage))
    })
}

/// Returns the key that was found by its present token, or by its subject.
pub(super) fn current<'m>(
    members: &'m [Member],
    hash: &TokenHash,
) -> Option<(&'m Key, RowVersion)> {
    let first = members.first().filter(|first| first.retires_at.is_none() && first.opens(hash))?;
    first.key.as_ref().map(|(row, version)| (&row.key, *version))
}

impl Member {
    /// Returns whether a hash opens the key. The application may have given the row of a subject another one.
    fn opens(&self, hash: &TokenHash) -> bool {
        self.key.as_ref().is_none_or(|(KeyRow { key, .. }, _)| {
            !key.was_made_for_subject()
                || key.subject.as_ref().is_some_and(|subject| subject.digest() == *hash)
        })
    }
}

/// Returns the keys of a lineage from the key up. Every member up to the root must exist and be in one account. What a
/// missing member allows is unknown, so its descendants are not found.
pub(super) fn whole(members: &[Member]) -> Option<Vec<(&Key, RowVersion)>> {
    let mut keys: Vec<(&Key, RowVersion)> = Vec::with_capacity(members.len());
    for (member, step) in members.iter().zip(0_i32..) {
        let (KeyRow { key, .. }, version) = member.key.as_ref().filter(|_| member.depth == step)?;
        if keys
            .last()
            .is_some_and(|(child, _)| child.parent != Some(key.id) || child.account != key.account)
        {
            return None;
        }
        keys.push((key, *version));
    }
    keys.last().is_some_and(|(root, _)| root.parent.is_none()).then_some(keys)
}

/// Returns the lineage at its account's time, which does not go back when the clock does.
pub(super) fn assemble(members: &[Member], now: Timestamp, stale: &mut Stale) -> Option<Lineage> {
    let keys = whole(members)?;
    for KeyRow { key, .. } in
        members.iter().filter_map(|member| Some(&member.key.as_ref()?.0)).filter(|row| row.is_stale)
    {
        stale.add_key(key);
    }
    let mut keys = keys.into_iter().map(|(key, _)| key.clone());
    let key = keys.next()?;
    let (account, at) = match members.first()?.account.as_ref() {
        Some(row) => (row.account.clone(), now.max(row.changed_at)),
        None => (Account::new(key.account.clone(), now), now),
    };
    Some(Lineage::new(key, keys.collect(), account, at))
}

/// Returns what look-ups found, each at the place of its hash.
pub(super) fn found(
    hashes: &[TokenHash],
    members: &[Member],
    now: Timestamp,
    invalid_rows: &InvalidRows,
) -> ReadResult<Vec<Option<Found>>> {
    let mut result = ReadResult { value: Vec::new(), stale: Stale::default() };
    result.value.resize_with(hashes.len(), || None);
    for (index, lineage) in lineages(members) {
        let is_opened =
            hashes.get(index).zip(lineage.first()).is_some_and(|(hash, first)| first.opens(hash));
        if !is_opened {
            continue;
        }
        let retires_at = lineage.first().and_then(|first| first.retires_at);
        let keys: Option<Vec<_>> =
            (lineage.iter()).map(|member| member.key.as_ref().map(|(row, _)| &row.key)).collect();
        // An invalid row is logged by itself.
        if let Some((first, keys)) = keys.as_ref().and_then(|keys| Some((keys.first()?, keys))) {
            invalid_rows.check_lineage(first.id, keys.iter().copied());
        }
        let lineage = assemble(lineage, now, &mut result.stale);
        let lineage = lineage.filter(|lineage| retires_at.is_none_or(|end| end > lineage.at()));
        if let Some(slot) = result.value.get_mut(index) {
            *slot = lineage.map(|lineage| Found::new(lineage, retires_at));
        }
    }
    result
}
