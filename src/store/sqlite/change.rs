//! Changes of policy, each with its event, in one transaction.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::connection::Open;
use super::error::{Error, Result, corrupt};
use super::known::{Effect, Known};
use super::statement::{in_writing, run};
use super::write::{json, micros};
use super::{post, read, usage, write};
use crate::ledger::{Change, ChangeError, NewToken, Rules};
use crate::store::Changed;
use crate::store::behind::Behind;
use crate::store::changing::{self, Event, new_account};
use crate::{Account, AccountId, Amount, Clock, Key, KeyId, Lineage, ScopeSet, TokenHash};

/// Also what is refused has ended the holds that had run out.
pub(super) fn change(
    open: &mut Open,
    known: &Known,
    clock: &Clock,
    change: &Change,
    rules: &Rules,
) -> Result<std::result::Result<Changed, ChangeError>> {
    in_writing(open, known, |connection, _| {
        let mut session = Session { connection, now: clock.now(), touched: Vec::new() };
        let changed = at_once(changing::change(&mut session, change, rules))?;
        Ok((changed, Effect::forgetting(session.touched)))
    })
}

/// Nothing in a change waits here: it is shared with databases that have to be waited for.
fn at_once<T>(change: impl Future<Output = Result<T>>) -> Result<T> {
    match pin!(change).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(changed) => changed,
        Poll::Pending => Err(corrupt("a change of policy waited for something")),
    }
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
}

impl changing::Session for Session<'_> {
    type Error = Error;

    fn now(&self) -> Timestamp {
        self.now
    }

    async fn lineage(&mut self, id: KeyId) -> Result<Option<Lineage>> {
        let seen = read::lineage(self.connection, id, self.now)?;
        if seen.behind.is_empty() {
            return Ok(seen.value);
        }
        self.catch_up(seen.behind)?;
        Ok(read::lineage(self.connection, id, self.now)?.value)
    }

    async fn account(&mut self, id: &AccountId) -> Result<Option<(Account, Timestamp)>> {
        let mut seen = read::account(self.connection, id, self.now)?;
        if !seen.behind.is_empty() {
            self.catch_up(seen.behind)?;
            seen = read::account(self.connection, id, self.now)?;
        }
        Ok(seen.value.map(|(mut account, at)| {
            account.roll(at);
            (account, at)
        }))
    }

    async fn spent_by_key(&mut self, key: &Key, since: Timestamp) -> Result<Amount> {
        usage::spent_by_key(self.connection, key, since)
    }

    async fn spent_by_account(&mut self, account: &AccountId, since: Timestamp) -> Result<Amount> {
        usage::spent_by_account(self.connection, account, since)
    }

    async fn insert_key(&mut self, key: &Key, hash: &TokenHash) -> Result<KeyId> {
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

    async fn put_policy(&mut self, _before: &Key, key: &Key) -> Result<()> {
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

    async fn put_balance(&mut self, key: &Key) -> Result<()> {
        self.touched.push(key.account.clone());
        write::balance(self.connection, &(key.id, key.budget.period, key.balance))
    }

    async fn put_account(&mut self, account: &Account, at: Timestamp) -> Result<()> {
        self.touched.push(account.id.clone());
        write::account(self.connection, account, at)
    }

    async fn put_token(&mut self, key: &Key, token: &NewToken, retires_at: Timestamp, now: Timestamp) -> Result<()> {
        const SHORTEN: &str = "UPDATE agentkey_retired_tokens SET retires_at = min(retires_at, ?2) WHERE key_id = ?1";
        const RETIRE: &str = "INSERT INTO agentkey_retired_tokens (key_hash, key_id, retires_at) \
                              SELECT key_hash, id, ?3 FROM agent_keys WHERE id = ?1 AND key_hash <> ?2 \
                              ON CONFLICT (key_hash) DO UPDATE SET key_id = excluded.key_id, \
                              retires_at = excluded.retires_at";
        const REPLACE: &str = "UPDATE agent_keys SET key_hash = ?2, prefix = ?3, start = ?4 WHERE id = ?1";
        const FORGET: &str =
            "DELETE FROM agentkey_retired_tokens WHERE key_hash = ?3 OR key_id = ?1 AND retires_at <= ?2";
        let (id, hash) = (key.id.get(), token.hash.to_string());
        run(self.connection, SHORTEN, params![id, micros(retires_at)])?;
        run(self.connection, RETIRE, params![id, hash, micros(retires_at)])?;
        run(self.connection, REPLACE, params![id, hash, key.prefix, key.start])?;
        run(self.connection, FORGET, params![id, micros(now), hash]).map(drop)
    }

    async fn put_revoked(&mut self, key: KeyId, at: Timestamp) -> Result<()> {
        const SQL: &str = "UPDATE agent_keys SET revoked_at = ?2 WHERE id = ?1";
        run(self.connection, SQL, params![key.get(), micros(at)]).map(drop)
    }

    async fn touch(&mut self, id: &AccountId, at: Timestamp) -> Result<()> {
        const SQL: &str = "UPDATE agentkey_accounts SET version = version + 1, changed_at = ?2 WHERE id = ?1";
        self.touched.push(id.clone());
        match run(self.connection, SQL, params![id.as_str(), micros(at)])? {
            0 => write::account(self.connection, &new_account(id, at), at),
            _ => Ok(()),
        }
    }

    async fn event(&mut self, event: Event<'_>) -> Result<()> {
        const SQL: &str =
            "INSERT INTO agentkey_events (at, account_id, key_id, kind, detail) VALUES (?1, ?2, ?3, ?4, ?5)";
        let (account, key) = (event.account.as_str(), event.key.map(KeyId::get));
        run(self.connection, SQL, params![micros(event.at), account, key, event.kind, event.detail.to_string()])
            .map(drop)
    }
}

/// A JSON array; NULL where there is no restriction.
fn scopes(scopes: &ScopeSet) -> Result<Option<String>> {
    (!scopes.is_unrestricted()).then(|| json(scopes)).transpose()
}
