//! Changes of policy, each with its event, in one transaction.

use jiff::Timestamp;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::write::{micros, run};
use super::{load, post, read, usage, write};
use crate::ledger::{Change, ChangeError, NewToken, Rules};
use crate::store::Changed;
use crate::store::changing::{self, Event, new_account};
use crate::{Account, AccountId, Amount, Clock, Key, KeyId, Lineage, ScopeSet, TokenHash};

pub(super) async fn change(
    connection: &mut SqliteConnection,
    clock: &Clock,
    change: &Change,
    rules: &Rules,
) -> sqlx::Result<Result<Changed, ChangeError>> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut session = Session { connection: &mut tx, now: clock.now() };
    let changed = changing::change(&mut session, change, rules).await?;
    // Also what is refused has ended the holds that had run out.
    tx.commit().await?;
    Ok(changed)
}

/// A transaction under way, which has the lock of the whole file.
struct Session<'c> {
    connection: &'c mut SqliteConnection,
    now: Timestamp,
}

impl changing::Session for Session<'_> {
    fn now(&self) -> Timestamp {
        self.now
    }

    async fn lineage(&mut self, id: KeyId) -> sqlx::Result<Option<Lineage>> {
        let seen = read::lineage(self.connection, id, self.now).await?;
        if seen.behind.is_empty() {
            return Ok(seen.value);
        }
        post::catch_up_in(self.connection, self.now, seen.behind).await?;
        Ok(read::lineage(self.connection, id, self.now).await?.value)
    }

    async fn account(&mut self, id: &AccountId) -> sqlx::Result<Option<(Account, Timestamp)>> {
        let mut seen = read::account(self.connection, id, self.now).await?;
        if !seen.behind.is_empty() {
            post::catch_up_in(self.connection, self.now, seen.behind).await?;
            seen = read::account(self.connection, id, self.now).await?;
        }
        Ok(seen.value.map(|(mut account, at)| {
            account.roll(at);
            (account, at)
        }))
    }

    async fn spent_by_key(&mut self, key: KeyId, since: Timestamp) -> sqlx::Result<Amount> {
        usage::spent_by_key(self.connection, key, since).await
    }

    async fn spent_by_account(&mut self, account: &AccountId, since: Timestamp) -> sqlx::Result<Amount> {
        usage::spent_by_account(self.connection, account, since).await
    }

    async fn insert_key(&mut self, key: &Key, hash: &TokenHash) -> sqlx::Result<KeyId> {
        let query = sqlx::query(
            "INSERT INTO agent_keys (account_id, parent_id, name, prefix, start, key_hash, scopes, limit_micros, \
             period, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        );
        let query = query
            .bind(key.account.as_str())
            .bind(key.parent.map(KeyId::get))
            .bind(&key.name)
            .bind(&key.prefix)
            .bind(&key.start)
            .bind(hash.to_string())
            .bind(scopes(&key.scopes)?)
            .bind(key.budget.limit.map(Amount::as_micros))
            .bind(key.budget.period.as_str())
            .bind(micros(key.created_at))
            .bind(key.expires_at.map(micros));
        Ok(KeyId::new(query.execute(&mut *self.connection).await?.last_insert_rowid()))
    }

    async fn put_policy(&mut self, key: &Key) -> sqlx::Result<()> {
        let query = sqlx::query(
            "UPDATE agent_keys SET name = ?2, scopes = ?3, limit_micros = ?4, period = ?5, expires_at = ?6 \
             WHERE id = ?1",
        );
        let query = query
            .bind(key.id.get())
            .bind(&key.name)
            .bind(scopes(&key.scopes)?)
            .bind(key.budget.limit.map(Amount::as_micros))
            .bind(key.budget.period.as_str())
            .bind(key.expires_at.map(micros));
        run(self.connection, query).await
    }

    async fn put_balance(&mut self, key: &Key) -> sqlx::Result<()> {
        write::balance(self.connection, &(key.id, key.budget.period, key.balance)).await
    }

    async fn put_account(&mut self, account: &Account, at: Timestamp) -> sqlx::Result<()> {
        write::account(self.connection, &(account.clone(), at)).await
    }

    async fn put_token(
        &mut self,
        key: &Key,
        token: &NewToken,
        retires_at: Timestamp,
        now: Timestamp,
    ) -> sqlx::Result<()> {
        let (id, hash) = (key.id.get(), token.hash.to_string());
        let shorten =
            sqlx::query("UPDATE agentkey_retired_tokens SET retires_at = min(retires_at, ?2) WHERE key_id = ?1");
        run(self.connection, shorten.bind(id).bind(micros(retires_at))).await?;
        let retire = sqlx::query(
            "INSERT INTO agentkey_retired_tokens (key_hash, key_id, retires_at) \
             SELECT key_hash, id, ?3 FROM agent_keys WHERE id = ?1 AND key_hash <> ?2 \
             ON CONFLICT (key_hash) DO UPDATE SET key_id = excluded.key_id, retires_at = excluded.retires_at",
        );
        run(self.connection, retire.bind(id).bind(&hash).bind(micros(retires_at))).await?;
        let replace = sqlx::query("UPDATE agent_keys SET key_hash = ?2, prefix = ?3, start = ?4 WHERE id = ?1");
        run(self.connection, replace.bind(id).bind(&hash).bind(&key.prefix).bind(&key.start)).await?;
        let forget =
            sqlx::query("DELETE FROM agentkey_retired_tokens WHERE key_hash = ?3 OR key_id = ?1 AND retires_at <= ?2");
        run(self.connection, forget.bind(id).bind(micros(now)).bind(&hash)).await
    }

    async fn put_revoked(&mut self, key: KeyId, at: Timestamp) -> sqlx::Result<()> {
        let query = sqlx::query("UPDATE agent_keys SET revoked_at = ?2 WHERE id = ?1");
        run(self.connection, query.bind(key.get()).bind(micros(at))).await
    }

    async fn touch(&mut self, id: &AccountId, at: Timestamp) -> sqlx::Result<()> {
        let account = new_account(id, at);
        let query = sqlx::query(
            "INSERT INTO agentkey_accounts (id, version, changed_at, period, created_at, spent, held, since) \
             VALUES (?1, 1, ?2, ?3, ?2, 0, 0, ?4) \
             ON CONFLICT (id) DO UPDATE SET version = version + 1, changed_at = excluded.changed_at",
        );
        let query = query.bind(id.as_str()).bind(micros(at));
        let query = query.bind(account.budget.period.as_str()).bind(micros(account.balance.since));
        run(self.connection, query).await
    }

    async fn event(&mut self, event: Event<'_>) -> sqlx::Result<()> {
        let query = sqlx::query(
            "INSERT INTO agentkey_events (at, account_id, key_id, kind, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
        );
        let query = query.bind(micros(event.at)).bind(event.account.as_str()).bind(event.key.map(KeyId::get));
        run(self.connection, query.bind(event.kind).bind(event.detail.to_string())).await
    }
}

/// A JSON array; NULL where there is no restriction.
fn scopes(scopes: &ScopeSet) -> sqlx::Result<Option<String>> {
    (!scopes.is_unrestricted()).then(|| load::json(scopes)).transpose()
}
