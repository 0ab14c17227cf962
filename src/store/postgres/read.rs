//! Keys and accounts, as they stand.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use sqlx::postgres::PgRow;

use super::connection::{Connection, Query, Statements};
use super::decode::{Cells, ReadCells};
use super::error::{Error, Result, invalid_row};
use super::layout::{KeyColumns, Layout};
use super::names::Sql;
use super::types::{Instant, RowVersion};
use super::validator::{Answer, ByRowVersion};
use crate::store::account_row::AccountRow;
use crate::store::behind::{Behind, Seen};
use crate::store::cache::Revalidation;
use crate::store::stored_key::KeyRow;
use crate::store::{Found, KeyQuery, KeysOf};
use crate::{Account, AccountId, Key, KeyId, Lineage, TokenHash};

/// The texts of what is read.
pub(super) struct Reads {
    pub(super) find: Sql,
    pub(super) lineages: Sql,
    revalidate: Sql,
    policy_version: Sql,
    fold_policy_changes: Sql,
    account: Sql,
    keys_of_account: Sql,
    keys_of_parent: Sql,
    overdue: Sql,
}

impl Reads {
    pub(super) fn new(layout: &Layout) -> Self {
        let listing = |of: &str| {
            layout.sql(&format!(
                "SELECT c.*, {{of_balance}}, {{of_account}}, {{server_time}} FROM (SELECT {{of_key}} FROM {{keys}} k WHERE {of} \
                 AND k.{{k.id}} > $2 ORDER BY k.{{k.id}} LIMIT $3) c {{with_money}} ORDER BY c.id"
            ))
        };
        Self {
            find: layout.sql(include_str!("sql/find.sql")),
            lineages: layout.sql(include_str!("sql/lineages.sql")),
            policy_version: layout.sql(
                "SELECT {run}, (sum(p.step) % 9223372036854775807)::int8, count(*), {server_time} FROM {policy_changes} p WHERE {writable}",
            ),
            // The sum of what is committed stays. What is not committed yet is not seen, and stays too.
            fold_policy_changes: layout.sql(
                "WITH folded AS (DELETE FROM {policy_changes} RETURNING step) INSERT INTO {policy_changes} (step) \
                 SELECT (sum(f.step) % 9223372036854775807)::int8 FROM folded f HAVING count(*) > 0",
            ),
            revalidate: layout.sql(include_str!("sql/revalidate.sql")),
            account: layout.sql("SELECT {of_account}, {server_time} FROM {accounts} a WHERE a.id = $1"),
            keys_of_account: listing("k.{k.account} = ($1::text)::{account_type}"),
            keys_of_parent: listing("k.{k.parent} = $1"),
            overdue: layout
                .sql("SELECT a.id FROM {accounts} a WHERE a.next_expiry <= coalesce($1, statement_timestamp()) AND a.id <> ALL ($2::text[]) ORDER BY a.next_expiry LIMIT 100"),
        }
    }

    /// At an instant, or at that of the server's clock.
    pub(super) fn find<'q>(&self, hashes: &[TokenHash], now: Option<Timestamp>) -> Query<'q> {
        let hashes: Vec<String> = hashes.iter().map(ToString::to_string).collect();
        self.find.query().bind(hashes).bind(now.map(Instant))
    }

    pub(super) fn revalidate<'q>(&self, asked: &Revalidation<ByRowVersion>) -> Query<'q> {
        let (keys, versions): (Vec<_>, Vec<_>) = asked.keys.iter().map(|(key, version)| (key.get(), *version)).unzip();
        let accounts: Vec<_> = asked.accounts.iter().map(|account| account.as_str().to_owned()).collect();
        self.revalidate.query().bind(keys).bind(versions).bind(accounts).bind(asked.epoch.map(Instant))
    }

    pub(super) fn policy_version<'q>(&self) -> Query<'q> {
        self.policy_version.query()
    }

    pub(super) fn fold_policy_changes<'q>(&self) -> Query<'q> {
        self.fold_policy_changes.query()
    }

    pub(super) fn lineages<'q>(&self, keys: &[KeyId]) -> Query<'q> {
        self.lineages.query().bind(keys.iter().map(|key| key.get()).collect::<Vec<_>>())
    }
}

/// What the server says to a revalidation: the keys whose rows have changed, and the accounts' versions.
pub(super) fn revalidated(asked: &Revalidation<ByRowVersion>, rows: &[PgRow]) -> Result<Answer> {
    let (mut changed, mut versions) = (HashSet::new(), HashMap::new());
    for row in rows {
        let mut cells = Cells::of(row);
        match cells.read::<Option<i64>>()? {
            Some(key) => drop(changed.insert(KeyId::new(key))),
            None => drop(versions.insert(cells.account_id()?, cells.read()?)),
        }
    }
    Ok(Answer::new(asked, &changed, versions))
}

/// The incarnation of the server with the version of its policy, and of how many changes that is the sum.
pub(super) fn policy_version(rows: &[PgRow]) -> Result<(Option<(Timestamp, i64)>, i64)> {
    let row = rows.first().ok_or_else(|| invalid_row("the policy has no version"))?;
    let mut cells = Cells::of(row);
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
    /// `None` where the row makes no sense.
    pub(super) key: Option<(KeyRow, RowVersion)>,
    pub(super) account: Option<AccountRow>,
}

/// Lineages one after the other, each from its key up.
pub(super) fn members(rows: &[PgRow], columns: &KeyColumns) -> Result<Vec<Member>> {
    let mut members = rows.iter().map(|row| member(row, columns)).collect::<Result<Vec<_>>>()?;
    members.sort_by_key(|member| (member.place, member.depth));
    Ok(members)
}

fn member(row: &PgRow, columns: &KeyColumns) -> Result<Member> {
    let mut cells = Cells::of(row);
    let (place, depth, retires_at, incarnation) =
        (cells.read()?, cells.read()?, cells.maybe_instant()?, cells.instant()?);
    let (key, stamp) = cells.key(columns)?;
    let key = columns.invalid_rows.decode(key).map(|key| (key, stamp));
    let (key, account) = match cells.maybe_account() {
        // It takes its keys out of service, and not those that are looked up with them.
        Err(Error::InvalidRow(error)) => {
            let account = key.as_ref().map(|(row, _)| tracing::field::display(&row.key.account));
            tracing::error!(%error, account, "the row of an account makes no sense: its keys are not found");
            (None, None)
        }
        account => (key, account?),
    };
    Ok(Member { place, depth, retires_at, incarnation, key, account })
}

/// The members of each lineage, with the place that it was asked for.
pub(super) fn lineages(members: &[Member]) -> impl Iterator<Item = (usize, &[Member])> {
    members.chunk_by(|member, next| member.place == next.place).filter_map(|lineage| {
        let place = lineage.first()?.place.checked_sub(1)?;
        Some((usize::try_from(place).ok()?, lineage))
    })
}

/// The key whose present token was asked for.
pub(super) fn current(members: &[Member]) -> Option<(&Key, RowVersion)> {
    let first = members.first().filter(|first| first.retires_at.is_none())?;
    first.key.as_ref().map(|(row, version)| (&row.key, *version))
}

/// The keys of a lineage from the key up. One that does not climb to a root, step by step and in one account, is
/// none: nothing is known of what the missing member allows.
pub(super) fn whole(members: &[Member]) -> Option<Vec<(&Key, RowVersion)>> {
    let mut keys: Vec<(&Key, RowVersion)> = Vec::with_capacity(members.len());
    for (member, step) in members.iter().zip(0_i32..) {
        let (KeyRow { key, .. }, stamp) = member.key.as_ref().filter(|_| member.depth == step)?;
        if keys.last().is_some_and(|(child, _)| child.parent != Some(key.id) || child.account != key.account) {
            return None;
        }
        keys.push((key, *stamp));
    }
    keys.last().is_some_and(|(root, _)| root.parent.is_none()).then_some(keys)
}

/// The lineage at its account's own time, which does not go back when the clock does.
pub(super) fn assemble(members: &[Member], now: Timestamp, behind: &mut Behind) -> Option<Lineage> {
    let keys = whole(members)?;
    for KeyRow { key, .. } in
        members.iter().filter_map(|member| Some(&member.key.as_ref()?.0)).filter(|row| row.is_behind)
    {
        behind.add_key(key);
    }
    let mut keys = keys.into_iter().map(|(key, _)| key.clone());
    let key = keys.next()?;
    let (account, at) = match members.first()?.account.as_ref() {
        Some(row) => (row.account.clone(), now.max(row.changed_at)),
        None => (Account::new(key.account.clone(), now), now),
    };
    Some(Lineage::new(key, keys.collect(), account, at))
}

/// What look-ups found, each in the place of its hash.
pub(super) fn found(count: usize, members: &[Member], now: Timestamp) -> Seen<Vec<Option<Found>>> {
    let mut seen = Seen { value: Vec::new(), behind: Behind::default() };
    seen.value.resize_with(count, || None);
    for (place, lineage) in lineages(members) {
        let retires_at = lineage.first().and_then(|first| first.retires_at);
        let lineage = assemble(lineage, now, &mut seen.behind);
        let lineage = lineage.filter(|lineage| retires_at.is_none_or(|end| end > lineage.at()));
        if let Some(slot) = seen.value.get_mut(place) {
            *slot = lineage.map(|lineage| Found::new(lineage, retires_at));
        }
    }
    seen
}

/// Asks by itself or inside a transaction.
pub(super) enum Asking<'a, 'c> {
    Alone(&'a mut Connection<'c>),
    Within(&'a mut Statements<'c>),
}

impl Asking<'_, '_> {
    async fn fetch(&mut self, query: Query<'_>) -> Result<Vec<PgRow>> {
        match self {
            Self::Alone(connection) => connection.fetch(query).await,
            Self::Within(statements) => statements.fetch(query).await,
        }
    }
}

/// The lineage of one key, at the account's own time.
pub(super) async fn lineage(
    mut asking: Asking<'_, '_>,
    (layout, reads): (&Layout, &Reads),
    key: KeyId,
    now: impl Fn() -> Timestamp,
) -> Result<Seen<Option<Lineage>>> {
    let rows = asking.fetch(reads.lineages(&[key])).await?;
    let now = now();
    let members = members(&rows, &layout.columns)?;
    let mut behind = Behind::default();
    let value = assemble(&members, now, &mut behind);
    if let Some(row) = members.first().and_then(|member| member.account.as_ref())
        && row.is_overdue(now)
    {
        behind.add_account(&row.account.id);
    }
    Ok(Seen { value, behind })
}

/// An account, not rolled to its time, which is told too.
pub(super) async fn account(
    mut asking: Asking<'_, '_>,
    reads: &Reads,
    id: &AccountId,
    now: impl Fn() -> Timestamp,
) -> Result<Seen<Option<(Account, Timestamp)>>> {
    let rows = asking.fetch(reads.account.query().bind(id.as_str().to_owned())).await?;
    let now = now();
    let mut behind = Behind::default();
    let Some(row) = rows.first().map(|row| Cells::of(row).maybe_account()).transpose()?.flatten() else {
        return Ok(Seen { value: None, behind });
    };
    if row.is_overdue(now) {
        behind.add_account(id);
    }
    Ok(Seen { value: Some((row.account, now.max(row.changed_at))), behind })
}

pub(super) async fn keys(
    connection: &mut Connection<'_>,
    layout: &Layout,
    reads: &Reads,
    query: &KeyQuery,
    now: impl Fn() -> Timestamp,
) -> Result<Seen<Vec<Key>>> {
    let mut seen = Seen { value: Vec::new(), behind: Behind::default() };
    let mut after = query.after.map_or(i64::MIN, KeyId::get);
    let most = query.limit as usize;
    // Rows that make no sense are passed over, and others come in their place: fewer would say that there are no more.
    while seen.value.len() < most {
        let listing = match &query.of {
            KeysOf::Account(account) if !layout.columns.can_hold(account) => return Ok(seen),
            KeysOf::Account(account) => reads.keys_of_account.query().bind(account.as_str().to_owned()),
            KeysOf::Parent(parent) => reads.keys_of_parent.query().bind(parent.get()),
        };
        let rows = connection.fetch(listing.bind(after).bind(i64::from(query.limit))).await?;
        let now = now();
        for row in &rows {
            let mut cells = Cells::of(row);
            let (key, _) = cells.key(&layout.columns)?;
            let account = cells.maybe_account()?;
            after = key.id.get();
            let row = layout.columns.invalid_rows.decode(key).filter(|_| seen.value.len() < most);
            let Some(KeyRow { mut key, is_behind }) = row else { continue };
            if account.as_ref().is_some_and(|row| row.is_overdue(now)) {
                seen.behind.add_account(&key.account);
            }
            if is_behind {
                seen.behind.add_key(&key);
            }
            key.roll(account.map_or(now, |row| now.max(row.changed_at)));
            seen.value.push(key);
        }
        if rows.len() < most {
            break;
        }
    }
    Ok(seen)
}

/// Some accounts, `but` these, in which holds may have run out, those first that wait longest.
pub(super) async fn overdue(
    connection: &mut Connection<'_>,
    reads: &Reads,
    now: Option<Timestamp>,
    but: &[AccountId],
) -> Result<Behind> {
    let but: Vec<_> = but.iter().map(|account| account.as_str().to_owned()).collect();
    let rows = connection.fetch(reads.overdue.query().bind(now.map(Instant)).bind(but)).await?;
    let accounts = rows.iter().map(|row| Cells::of(row).account_id()).collect::<Result<_>>()?;
    Ok(Behind { accounts, keys: Vec::new() })
}
