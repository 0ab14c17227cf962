//! Reading the ledger: entries and their sums.

use jiff::Timestamp;

use super::connection::{Query, Statements};
use super::decode::{Cells, ReadCells};
use super::error::Result;
use super::inner::Inner;
use super::types::Instant;
use crate::model::{AccountId, Amount, Entry, EntryId, Key, KeyId, Spent};
use crate::store::fast_path::{ceiling, min_seq_at, seq_after};
use crate::store::usage_sums::{UsageSums, bucket, saturated};
use crate::store::{Cursor, EntryQuery, Usage, UsageBy, UsageQuery};

impl Inner {
    pub(super) async fn entries(&self, query: &EntryQuery) -> Result<Vec<(Cursor, Entry)>> {
        let page = self.schema.sql(
            &include_str!("sql/list_entries.sql")
                .replace("{owner}", owner(query.key, query.with_descendants)),
        );
        let page =
            bind_owner_and_time(page.query(), &query.account, query.key, query.since, query.until);
        let page =
            page.bind(query.after.map_or(i64::MIN, Cursor::get)).bind(i64::from(query.limit));
        let read = |mut cells: Cells<'_>| {
            Ok((Cursor::new(cells.number()?), cells.entry_with_delegator()?))
        };
        self.connections.fetch(page).await?.iter().map(Cells::new).map(read).collect()
    }

    pub(super) async fn entry(&self, id: EntryId) -> Result<Option<Entry>> {
        self.connections.pooled(async |statements| self.entry_in(statements, id).await).await
    }

    pub(super) async fn entry_in(
        &self,
        statements: &mut Statements<'_>,
        id: EntryId,
    ) -> Result<Option<Entry>> {
        let rows = statements
            .fetch(self.sql.entry.query().bind(uuid::Uuid::from_bytes(*id.as_bytes())))
            .await?;
        rows.first().map(|row| Cells::new(row).entry_with_delegator()).transpose()
    }

    pub(super) async fn usage(&self, query: &UsageQuery) -> Result<Vec<Usage>> {
        let (first_group, argument) = group(Some(&query.by), 7);
        let (second_group, more) =
            group(query.then_by.as_ref(), 7 + usize::from(argument.is_some()));
        let text = include_str!("sql/usage.sql")
            .replace("{owner}", owner(query.key, query.with_descendants))
            .replace("{group}", &first_group)
            .replace("{subgroup}", &second_group);
        let text = self.schema.sql(&text);
        let mut statement =
            bind_owner_and_time(text.query(), &query.account, query.key, query.since, query.until);
        for argument in argument.into_iter().chain(more) {
            statement = statement.bind(argument);
        }
        let mut groups = UsageSums::default();
        for row in &self.connections.fetch(statement).await? {
            let mut cells = Cells::new(row);
            let mut group = |by: &UsageBy| match by.unit() {
                Some(unit) => Ok(bucket(cells.instant()?, unit)),
                None => cells.text().map(str::to_owned),
            };
            let first = group(&query.by)?;
            let second = query.then_by.as_ref().map(&mut group).transpose()?;
            if second.is_none() {
                cells.text()?;
            }
            let group = (first, second);
            groups.add(group, cells.sum()?, cells.number()?.unsigned_abs(), cells.sum()?);
        }
        Ok(groups.into_usage())
    }

    /// Counts what a key and its descendants were charged in a window that was not counted before.
    pub(super) async fn recount_key(
        &self,
        statements: &mut Statements<'_>,
        key: &mut Key,
        window: Spent,
    ) -> Result<()> {
        let amount = self.spent_by_key(statements, key, window.since).await?;
        key.balance.set_spent(Spent { amount, ..window });
        Ok(())
    }

    /// Returns what a key and its descendants were charged since then in its account.
    pub(super) async fn spent_by_key(
        &self,
        statements: &mut Statements<'_>,
        key: &Key,
        since: Timestamp,
    ) -> Result<Amount> {
        let query = self
            .sql
            .spent_by_key
            .query()
            .bind(key.id.get())
            .bind(min_seq_at(since))
            .bind(Instant(since));
        total(statements, query.bind(key.account.as_str().to_owned())).await
    }

    /// Returns what all keys of an account were charged since then.
    pub(super) async fn spent_by_account(
        &self,
        statements: &mut Statements<'_>,
        account: &AccountId,
        since: Timestamp,
    ) -> Result<Amount> {
        let query = self.sql.spent_by_account.query().bind(account.as_str().to_owned());
        total(statements, query.bind(min_seq_at(since)).bind(Instant(since))).await
    }
}

/// Returns the SQL of a group, and its argument, the parameter `n`.
fn group(by: Option<&UsageBy>, n: usize) -> (String, Option<&str>) {
    let start = || format!("date_trunc(${n}, e.counts_at AT TIME ZONE 'UTC')");
    match by {
        Some(UsageBy::Key) => ("coalesce(e.key_id::text, '')".to_owned(), None),
        Some(UsageBy::Label(name)) => (format!("coalesce(e.labels ->> ${n}, '')"), Some(name)),
        Some(UsageBy::Hour) => (start(), Some("hour")),
        Some(UsageBy::Day) => (start(), Some("day")),
        Some(UsageBy::Month) => (start(), Some("month")),
        None => ("''::text".to_owned(), None),
    }
}

/// Returns the condition of an account's entries, or of a key's. Each is a statement of its own, because a plan is made
/// once and uses the index of either.
pub(super) const fn owner(key: Option<KeyId>, with_descendants: bool) -> &'static str {
    match key {
        Some(_) if with_descendants => {
            "e.account_id = $1 AND e.key_id IN (WITH RECURSIVE family (id) AS (SELECT $2::int8 UNION \
            SELECT c.{k.id}::int8 FROM family f JOIN {keys} c ON c.{k.parent} = f.id) SELECT id FROM family)"
        }
        Some(_) => "e.account_id = $1 AND e.key_id = $2",
        None => "e.account_id = $1 AND $2::int8 IS NULL",
    }
}

/// Binds the parameters $1 to $6.
fn bind_owner_and_time<'q>(
    query: Query<'q>,
    account: &AccountId,
    key: Option<KeyId>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
) -> Query<'q> {
    query
        .bind(account.as_str().to_owned())
        .bind(key.map(KeyId::get))
        .bind(since.map_or(i64::MIN, min_seq_at))
        .bind(until.map_or(i64::MAX, seq_after))
        .bind(Instant(since.map_or(Timestamp::MIN, ceiling)))
        .bind(Instant(until.map_or(Timestamp::MAX, ceiling)))
}

async fn total(statements: &mut Statements<'_>, query: Query<'_>) -> Result<Amount> {
    let rows = statements.fetch(query).await?;
    let sum = rows.first().map(|row| Cells::new(row).sum()).transpose()?;
    Ok(saturated(sum.unwrap_or_default()))
}
