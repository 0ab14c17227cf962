//! Changes of policy, each with its event, in one transaction.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::connection::Open;
use super::error::Result;
use super::known::{Effect, Known};
use super::statement::{in_writing, run};
use super::write::{json, micros};
use super::{post, read, usage, write};
use crate::ledger::{AccountWrite, ChangeError, Event, KeyChange, KeyRecord, KeyWrite, Load, Rules};
use crate::store::behind::Behind;
use crate::{Account, AccountId, Amount, Budget, Clock, Key, KeyId, Lineage, ScopeSet, TokenHash};

/// Makes a change of a key. The holds that had run out are ended also where the change is refused.
pub(super) fn change_key(
    open: &mut Open,
    known: &Known,
    clock: &Clock,
    change: &KeyChange,
    rules: &Rules,
) -> Result<std::result::Result<Key, ChangeError>> {
    in_session(open, known, clock, |session| {
        let now = session.now;
        let (lineage, time) = match change.load() {
            Load::Lineage(id) => (session.lineage(id)?, now),
            Load::Time(account) => (None, session.account(account)?.map_or(now, |(_, at)| at)),
        };
        match change.decide(lineage.as_ref(), time, rules) {
            Ok(write) => session.write_key(write).map(Ok),
            Err(refused) => Ok(Err(refused)),
        }
    })
}

/// Sets an account's ceiling.
pub(super) fn set_account(
    open: &mut Open,
    known: &Known,
    clock: &Clock,
    id: &AccountId,
    budget: Budget,
) -> Result<std::result::Result<Account, ChangeError>> {
    in_session(open, known, clock, |session| {
        let before = session.account(id)?;
        match AccountWrite::decide(id, budget, before, session.now) {
            Ok(write) => session.write_account(write).map(Ok),
            Err(refused) => Ok(Err(refused)),
        }
    })
}

fn in_session<T>(
    open: &mut Open,
    known: &Known,
    clock: &Clock,
    change: impl FnOnce(&mut Session<'_>) -> Result<T>,
) -> Result<T> {
    in_writing(open, known, |connection, _| {
        let mut session = Session { connection, now: clock.now(), touched: Vec::new() };
        let changed = change(&mut session)?;
        Ok((changed, Effect::forgetting(session.touched)))
    })
}

/// A transaction under way, which has the lock of the whole file.
struct Session<'c> {
    connection: &'c Connection,
    now: Timestamp,
    /// The accounts in which anything was written.
    touched: Vec<AccountId>,
}

impl Session<'_> {
    fn catch_up(&mut self, behind: Behind) -> Result<()> {
        self.touched.extend_from_slice(&behind.accounts);
        post::catch_up_in(self.connection, self.now, behind).map(drop)
    }

    fn lineage(&mut self, id: KeyId) -> Result<Option<Lineage>> {
        let seen = read::lineage(self.connection, id, self.now)?;
        if seen.behind.is_empty() {
            return Ok(seen.value);
        }
        self.catch_up(seen.behind)?;
        Ok(read::lineage(self.connection, id, self.now)?.value)
    }

    /// An account rolled to its time, and that time.
    fn account(&mut self, id: &AccountId) -> Result<Option<(Account, Timestamp)>> {
        let mut seen = read::account(self.connection, id, self.now)?;
        if !seen.behind.is_empty() {
            self.catch_up(seen.behind)?;
            seen = read::account(self.connection, id, self.now)?;
        }
        Ok(seen.value.map(|(account, at)| (account.rolled(at), at)))
    }

    fn write_key(&mut self, write: KeyWrite) -> Result<Key> {
        let KeyWrite { mut key, at, record } = write;
        let Some((record, event)) = record else { return Ok(key) };
        self.touch(&key.account, at)?;
        match record {
            KeyRecord::Insert(hash) => key.id = self.insert_key(&key, &hash)?,
            KeyRecord::Update { recount_from, .. } => {
                if let Some(since) = recount_from {
                    key.balance.spent = usage::spent_by_key(self.connection, &key, since)?;
                    write::balance(self.connection, &(key.id, key.budget.period, key.balance))?;
                }
                self.update_key(&key)?;
            }
            KeyRecord::Rotate { hash, retires_at } => self.rotate_token(&key, &hash, retires_at, at)?,
            KeyRecord::Revoke => {
                const SQL: &str = "UPDATE agent_keys SET revoked_at = ?2 WHERE id = ?1";
                run(self.connection, SQL, params![key.id.get(), micros(at)])?;
            }
        }
        self.event(at, &key.account, Some(key.id), &event)?;
        Ok(key)
    }

    fn write_account(&mut self, write: AccountWrite) -> Result<Account> {
        let AccountWrite { mut account, at, recount_from, event } = write;
        let Some(event) = event else { return Ok(account) };
        if let Some(since) = recount_from {
            account.balance.spent = usage::spent_by_account(self.connection, &account.id, since)?;
        }
        self.touched.push(account.id.clone());
        write::account(self.connection, &account, at)?;
        self.event(at, &account.id, None, &event)?;
        Ok(account)
    }

    fn insert_key(&self, key: &Key, hash: &TokenHash) -> Result<KeyId> {
        const SQL: &str = "INSERT INTO agent_keys (account_id, parent_id, name, prefix, start, key_hash, scopes, \
                           limit_micros, period, created_at, expires_at) \
                           VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        let row = params![
            key.account.as_str(),
            key.parent.map(KeyId::get),
            key.name,
            key.prefix,
            key.start,
            hash.to_string(),
            scopes(&key.scopes)?,
            key.budget.limit.map(Amount::as_micros),
            key.budget.period.as_str(),
            micros(key.created_at),
            key.expires_at.map(micros),
        ];
        run(self.connection, SQL, row)?;
        Ok(KeyId::new(self.connection.last_insert_rowid()))
    }

    fn update_key(&self, key: &Key) -> Result<()> {
        const SQL: &str = "UPDATE agent_keys SET name = ?2, scopes = ?3, limit_micros = ?4, period = ?5, \
                           expires_at = ?6 WHERE id = ?1";
        let row = params![
            key.id.get(),
            key.name,
            scopes(&key.scopes)?,
            key.budget.limit.map(Amount::as_micros),
            key.budget.period.as_str(),
            key.expires_at.map(micros),
        ];
        run(self.connection, SQL, row).map(drop)
    }

    /// No token that was retired before outlives the one that is retired now.
    fn rotate_token(&self, key: &Key, hash: &TokenHash, retires_at: Timestamp, now: Timestamp) -> Result<()> {
        const SHORTEN: &str = "UPDATE agentkey_retired_tokens SET retires_at = min(retires_at, ?2) WHERE key_id = ?1";
        const RETIRE: &str = "INSERT INTO agentkey_retired_tokens (key_hash, key_id, retires_at) \
                              SELECT key_hash, id, ?3 FROM agent_keys WHERE id = ?1 AND key_hash <> ?2 \
                              ON CONFLICT (key_hash) DO UPDATE SET key_id = excluded.key_id, \
                              retires_at = excluded.retires_at";
        const REPLACE: &str = "UPDATE agent_keys SET key_hash = ?2, prefix = ?3, start = ?4 WHERE id = ?1";
        const FORGET: &str =
            "DELETE FROM agentkey_retired_tokens WHERE key_hash = ?3 OR key_id = ?1 AND retires_at <= ?2";
        let (id, hash) = (key.id.get(), hash.to_string());
        run(self.connection, SHORTEN, params![id, micros(retires_at)])?;
        run(self.connection, RETIRE, params![id, hash, micros(retires_at)])?;
        run(self.connection, REPLACE, params![id, hash, key.prefix, key.start])?;
        run(self.connection, FORGET, params![id, micros(now), hash]).map(drop)
    }

    /// Marks an account as changed at `at`; makes it where there is none.
    fn touch(&mut self, id: &AccountId, at: Timestamp) -> Result<()> {
        const SQL: &str = "UPDATE agentkey_accounts SET version = version + 1, changed_at = ?2 WHERE id = ?1";
        self.touched.push(id.clone());
        match run(self.connection, SQL, params![id.as_str(), micros(at)])? {
            0 => write::account(self.connection, &Account::new(id.clone(), at), at),
            _ => Ok(()),
        }
    }

    fn event(&self, at: Timestamp, account: &AccountId, key: Option<KeyId>, event: &Event) -> Result<()> {
        const SQL: &str =
            "INSERT INTO agentkey_events (at, account_id, key_id, kind, detail) VALUES (?1, ?2, ?3, ?4, ?5)";
        let row = params![micros(at), account.as_str(), key.map(KeyId::get), event.kind, event.detail.to_string()];
        run(self.connection, SQL, row).map(drop)
    }
}

/// A JSON array; NULL where there is no restriction.
fn scopes(scopes: &ScopeSet) -> Result<Option<String>> {
    (!scopes.is_unrestricted()).then(|| json(scopes)).transpose()
}
