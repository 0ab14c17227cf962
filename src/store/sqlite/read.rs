//! Reading keys and accounts.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use jiff::Timestamp;
use rusqlite::types::Null;
use rusqlite::{Connection, ToSql, params};

use super::decode::ReadCells;
use super::error::Result;
use super::statement::{all, in_snapshot, one};
use super::validator::{ByFileVersion, Cache};
use super::version::FileVersion;
use super::write::micros;
use crate::ledger::{Book, MAX_DEPTH};
use crate::model::{Account, AccountId, Key, KeyId, Lineage, OpenHold, TokenHash};
use crate::store::account_row::AccountRow;
use crate::store::broken_lineage::{BrokenLineage, OutOfService};
use crate::store::key_row::KeyRow;
use crate::store::stale::{ReadResult, Stale};
use crate::store::{AccountQuery, Found, KeyQuery, KeysOf, cache};

/// Keys and accounts that were read in one snapshot, each once. `None` is a row that does not exist.
#[derive(Default)]
pub(super) struct Snapshot {
    keys: HashMap<KeyId, Option<KeyRow>>,
    accounts: HashMap<AccountId, Option<AccountRow>>,
    /// Tokens that were looked up, each with the end of its grace.
    tokens: Vec<(TokenHash, KeyId, Option<Timestamp>)>,
    /// The keys that lead to no root.
    broken: Vec<(KeyId, BrokenLineage)>,
}

/// Finds keys by their tokens, from the cache if it is valid. This runs on every request.
pub(super) fn find(
    connection: &Connection,
    cache: &Cache,
    out_of_service: &OutOfService,
    hashes: &[TokenHash],
    now: Timestamp,
) -> Result<ReadResult<Vec<Option<Found>>>> {
    in_snapshot(connection, |connection| {
        let revalidation = cache.revalidate(&[], |_| false);
        let version = FileVersion::read(connection)?;
        let mut value = cache.lookup(hashes, &revalidation, &version, now);
        let mut snapshot = Snapshot::default();
        let mut stale = Stale::default();
        for (hash, found) in hashes.iter().zip(&mut value).filter(|(_, found)| found.is_none()) {
            let Some((id, retires_at)) = snapshot.token(connection, hash, now)? else { continue };
            let lineage = snapshot.lineage(connection, id, now, &mut stale)?;
            let lineage =
                lineage.map(|lineage| snapshot.after_expiry(connection, lineage)).transpose()?;
            // The time of an account does not go back when the clock does.
            let lineage = lineage.filter(|lineage| retires_at.is_none_or(|end| end > lineage.at()));
            *found = lineage.map(|lineage| Found::new(lineage, retires_at));
            if found.is_some() {
                out_of_service.forget(id);
            }
        }
        snapshot.broken.iter().for_each(|(key, reason)| out_of_service.log(*key, reason));
        if let Some(version) = version.filter(|_| !snapshot.keys.is_empty()) {
            cache.insert(&revalidation, version, snapshot.into_cache());
        }
        Ok(ReadResult { value, stale })
    })
}

impl Snapshot {
    /// Returns the key of a token, and the end of its grace if it was rotated away.
    fn token(
        &mut self,
        connection: &Connection,
        hash: &TokenHash,
        now: Timestamp,
    ) -> Result<Option<(KeyId, Option<Timestamp>)>> {
        const PRESENT: &str = include_str!("sql/key_of_token.sql");
        const RETIRED: &str = include_str!("sql/key_of_retired_token.sql");
        let text = hash.to_string();
        if let Some(row) = one(connection, PRESENT, [&text], |mut cells| cells.key_row())? {
            let id = row.key.id;
            self.keys.insert(id, Some(row));
            self.tokens.push((*hash, id, None));
            return Ok(Some((id, None)));
        }
        let retired = one(connection, RETIRED, params![text, micros(now)], |mut cells| {
            Ok((cells.key_id()?, Some(cells.instant()?)))
        })?;
        self.tokens.extend(retired.map(|(id, retires_at)| (*hash, id, retires_at)));
        Ok(retired)
    }

    fn key(&mut self, connection: &Connection, id: KeyId) -> Result<Option<&KeyRow>> {
        Ok(match self.keys.entry(id) {
            Entry::Occupied(cached) => cached.into_mut().as_ref(),
            Entry::Vacant(entry) => entry
                .insert(one(connection, KEY, [id.get()], |mut cells| cells.key_row())?)
                .as_ref(),
        })
    }

    fn account(&mut self, connection: &Connection, id: &AccountId) -> Result<Option<&AccountRow>> {
        Ok(match self.accounts.entry(id.clone()) {
            Entry::Occupied(cached) => cached.into_mut().as_ref(),
            Entry::Vacant(entry) => {
                let row =
                    one(connection, ACCOUNT, [id.as_str()], |mut cells| cells.maybe_account())?;
                entry.insert(row.flatten()).as_ref()
            }
        })
    }

    /// Returns a lineage without the holds that have expired and are not yet ended.
    fn after_expiry(&self, connection: &Connection, lineage: Lineage) -> Result<Lineage> {
        let row = self.accounts.get(lineage.account_id()).and_then(Option::as_ref);
        if !row.is_some_and(|row| row.may_count_expired(&lineage)) {
            return Ok(lineage);
        }
        let of_account = params![lineage.account_id().as_str(), micros(lineage.at())];
        // An invalid row counts as held: no other look-up of the batch fails with it.
        let expired =
            all(connection, EXPIRED_HOLDS, of_account, |mut cells| Ok(cells.hold().ok()))?;
        Ok(Book::after_expiry(&lineage, expired.into_iter().flatten()))
    }

    /// Returns what may be cached: existing accounts, and keys whose balance counts their period.
    pub(super) fn into_cache(self) -> cache::Snapshot<ByFileVersion> {
        let mut snapshot = cache::Snapshot::default();
        self.accounts.into_values().flatten().for_each(|row| snapshot.add_account(row));
        for (hash, id, retires_at) in self.tokens {
            if let Some(Some(row)) = self.keys.get(&id) {
                snapshot.add_token(hash, &row.key, (), retires_at);
            }
        }
        for row in self.keys.into_values().flatten().filter(|row| !row.is_stale) {
            snapshot.add_key(row.key, ());
        }
        snapshot
    }

    /// Reads the lineages of keys.
    pub(super) fn read(
        connection: &Connection,
        keys: impl IntoIterator<Item = KeyId>,
        now: Timestamp,
    ) -> Result<Self> {
        let mut snapshot = Self::default();
        for key in keys {
            snapshot.lineage(connection, key, now, &mut Stale::default())?;
        }
        Ok(snapshot)
    }

    /// Returns a lineage at its account's time. Every member up to the root must exist and be in one account. What a
    /// missing member allows is unknown, so its descendants are not found.
    fn lineage(
        &mut self,
        connection: &Connection,
        id: KeyId,
        now: Timestamp,
        stale: &mut Stale,
    ) -> Result<Option<Lineage>> {
        let mut keys: Vec<Key> = Vec::new();
        let mut stale_keys = Vec::new();
        let mut next = Some(id);
        while let Some(id) = next
            && let Some(KeyRow { key, is_stale }) = self.key(connection, id)?
        {
            if *is_stale {
                stale_keys.push(key.clone());
            }
            next = key.parent.filter(|_| keys.len() < MAX_DEPTH);
            keys.push(key.clone());
        }
        if let Some(reason) = BrokenLineage::of(&keys) {
            self.broken.push((id, reason));
            return Ok(None);
        }
        let mut keys = keys.into_iter();
        let Some(key) = keys.next() else { return Ok(None) };
        let Some(row) = self.account(connection, &key.account)? else { return Ok(None) };
        // A key that no look-up finds is not brought up to date.
        stale_keys.iter().for_each(|key| stale.add_key(key));
        Ok(Some(Lineage::new(key, keys.collect(), row.account.clone(), now.max(row.changed_at))))
    }
}

pub(super) const KEY: &str = include_str!("sql/key.sql");

pub(super) const EXPIRED_HOLDS: &str = include_str!("sql/expired_holds.sql");

pub(super) const ACCOUNT: &str = include_str!("sql/account.sql");

/// Returns the policy version. Triggers change it with every policy change, by any SQL.
pub(super) fn policy_version(connection: &Connection) -> Result<Option<i64>> {
    one(connection, "SELECT version FROM agentkey_policy WHERE id = 0", [], |mut cells| {
        cells.number()
    })
}

/// Returns the lineage of one key at its account's time.
pub(super) fn lineage(
    connection: &Connection,
    key: KeyId,
    now: Timestamp,
) -> Result<ReadResult<Option<Lineage>>> {
    let ReadResult { mut value, stale } = lineages(connection, &[key], now)?;
    Ok(ReadResult { value: value.pop().flatten(), stale })
}

/// Returns lineages, each at the place of its key.
pub(super) fn lineages(
    connection: &Connection,
    keys: &[KeyId],
    now: Timestamp,
) -> Result<ReadResult<Vec<Option<Lineage>>>> {
    let mut stale = Stale::default();
    let mut snapshot = Snapshot::default();
    let lineages = keys.iter().map(|key| snapshot.lineage(connection, *key, now, &mut stale));
    let value = lineages.collect::<Result<_>>()?;
    for row in snapshot.accounts.values().flatten().filter(|row| row.is_overdue(now)) {
        stale.add_account(&row.account.id);
    }
    Ok(ReadResult { value, stale })
}

/// Returns an account rolled to its time, and that time.
pub(super) fn account(
    connection: &Connection,
    id: &AccountId,
    now: Timestamp,
) -> Result<ReadResult<Option<(Account, Timestamp)>>> {
    let mut stale = Stale::default();
    let row = one(connection, ACCOUNT, [id.as_str()], |mut cells| cells.maybe_account())?.flatten();
    if row.as_ref().is_some_and(|row| row.is_overdue(now)) {
        stale.add_account(id);
    }
    let rolled = |row: AccountRow| {
        let at = now.max(row.changed_at);
        (row.account.rolled(at), at)
    };
    Ok(ReadResult { value: row.map(rolled), stale })
}

/// Returns accounts, each rolled to its time.
pub(super) fn accounts(
    connection: &Connection,
    query: &AccountQuery,
    now: Timestamp,
) -> Result<ReadResult<Vec<Account>>> {
    const SQL: &str = include_str!("sql/accounts.sql");
    let mut stale = Stale::default();
    let after = query.after.as_ref().map_or("", AccountId::as_str);
    let accounts = all(connection, SQL, params![after, query.limit], |mut cells| {
        let Some(row) = cells.maybe_account()? else { return Ok(None) };
        if row.is_overdue(now) {
            stale.add_account(&row.account.id);
        }
        Ok(Some(row.account.rolled(now.max(row.changed_at))))
    })?;
    Ok(ReadResult { value: accounts.into_iter().flatten().collect(), stale })
}

/// Returns the live holds of all accounts, the oldest first.
pub(super) fn open_holds(connection: &Connection, limit: u32) -> Result<Vec<OpenHold>> {
    const SQL: &str = include_str!("sql/open_holds.sql");
    all(connection, SQL, [limit], |mut cells| cells.hold().map(OpenHold::from))
}

const IN_SUBTREE: &str = "k.id IN (WITH RECURSIVE family (id) AS (SELECT ?1 UNION \
    SELECT c.id FROM family f CROSS JOIN agent_keys c ON c.parent_id = f.id) SELECT id FROM family)";

/// Returns how many children of a key are neither revoked nor expired.
pub(super) fn children_in_force(
    connection: &Connection,
    parent: KeyId,
    now: Timestamp,
) -> Result<u64> {
    const SQL: &str = "SELECT count(*) FROM agent_keys WHERE parent_id = ?1 AND revoked_at IS NULL \
        AND (expires_at IS NULL OR expires_at > ?2)";
    let count = one(connection, SQL, params![parent.get(), micros(now)], |mut row| row.number())?;
    Ok(count.unwrap_or_default().unsigned_abs())
}

/// Returns how many descendants of a key are not revoked.
pub(super) fn descendants(connection: &Connection, key: KeyId) -> Result<u64> {
    const SQL: &str = include_str!("sql/descendants.sql");
    let count = one(connection, SQL, [key.get()], |mut row| row.number())?;
    Ok(count.unwrap_or_default().unsigned_abs())
}

/// Returns how many tokens of a key were rotated away and still work.
pub(super) fn in_grace(connection: &Connection, key: KeyId, now: Timestamp) -> Result<u64> {
    const SQL: &str =
        "SELECT count(*) FROM agentkey_retired_tokens WHERE key_id = ?1 AND retires_at > ?2";
    let count = one(connection, SQL, params![key.get(), micros(now)], |mut row| row.number())?;
    Ok(count.unwrap_or_default().unsigned_abs())
}

pub(super) fn keys(
    connection: &Connection,
    query: &KeyQuery,
    now: Timestamp,
) -> Result<ReadResult<Vec<Key>>> {
    let (condition, owner): (_, &dyn ToSql) = match &query.of {
        KeysOf::All => ("?1 IS NULL", &Null),
        KeysOf::Account(account) => ("k.account_id = ?1", &account.as_str()),
        KeysOf::Parent(parent) => ("k.parent_id = ?1", &parent.get()),
        KeysOf::Subtree(root) => (IN_SUBTREE, &root.get()),
    };
    let kind = if query.only_subjects { "k.issuer IS NOT NULL" } else { "true" };
    let sql = include_str!("sql/keys.sql").replace("{owner}", condition).replace("{kind}", kind);
    let after = query.after.map_or(i64::MIN, KeyId::get);
    let mut stale = Stale::default();
    let keys = all(connection, &sql, params![owner, after, query.limit], |mut cells| {
        let KeyRow { mut key, is_stale } = cells.key_row()?;
        let Some(account) = cells.maybe_account()? else { return Ok(None) };
        if account.is_overdue(now) {
            stale.add_account(&key.account);
        }
        if is_stale {
            stale.add_key(&key);
        }
        key.roll(now.max(account.changed_at));
        Ok(Some(key))
    })?;
    Ok(ReadResult { value: keys.into_iter().flatten().collect(), stale })
}

/// Returns some accounts in which holds have expired, the most overdue first.
pub(super) fn overdue(connection: &Connection, now: Timestamp) -> Result<Stale> {
    const SQL: &str = include_str!("sql/overdue_accounts.sql");
    let accounts = all(connection, SQL, [micros(now)], |mut cells| cells.account_id())?;
    Ok(Stale { accounts, keys: Vec::new() })
}
