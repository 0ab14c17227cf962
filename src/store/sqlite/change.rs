//! Changes of policy, each with its event, in one transaction.

use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::write::{micros, run};
use super::{load, post, read, usage, write};
use crate::ledger::{Change, ChangeError, KeyDraft, NewToken, Rules, not_revoked};
use crate::store::Changed;
use crate::{Account, AccountId, Amount, Balance, Budget, Clock, Key, KeyId, KeyPatch, Lineage, ScopeSet, TokenHash};

type Outcome<T> = sqlx::Result<Result<T, ChangeError>>;

pub(super) async fn change(
    connection: &mut SqliteConnection,
    clock: &Clock,
    change: &Change,
    rules: &Rules,
) -> Outcome<Changed> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut session = Session { connection: &mut tx, now: clock.now() };
    let changed = match change {
        Change::Create { draft, token } => session.create(draft, token, rules).await?.map(Changed::Key),
        Change::EnsureAccount { account, budget } => {
            session.ensure_account(account, *budget).await?.map(Changed::Account)
        }
        Change::Update { key, patch } => session.update(*key, patch, rules).await?.map(Changed::Key),
        Change::Rotate { key, token, grace } => session.rotate(*key, token, *grace).await?.map(Changed::Key),
        Change::Revoke { key } => session.revoke(*key).await?.map(Changed::Key),
    };
    // Also what is refused has ended the holds that had run out.
    tx.commit().await?;
    Ok(changed)
}

/// A transaction under way.
struct Session<'c> {
    connection: &'c mut SqliteConnection,
    now: Timestamp,
}

impl Session<'_> {
    async fn create(&mut self, draft: &KeyDraft, token: &NewToken, rules: &Rules) -> Outcome<Key> {
        let (parent, at) = match draft.parent {
            Some(id) => match self.lineage(id).await?.filter(|it| *it.account_id() == draft.account) {
                Some(parent) => {
                    let at = parent.at();
                    (Some(parent), at)
                }
                None => return Ok(Err(ChangeError::UnknownKey(id))),
            },
            None => (None, self.account(&draft.account).await?.map_or(self.now, |(_, at)| at)),
        };
        let mut key = match draft.admit(parent.as_ref(), rules, at) {
            Ok(key) => key,
            Err(refused) => return Ok(Err(refused)),
        };
        key.prefix.clone_from(&token.prefix);
        key.start.clone_from(&token.start);
        self.touch(&key.account, at).await?;
        key.id = self.insert(&key, &token.hash).await?;
        self.event(&key.account, Some(key.id), at, "key.created", &described(&key)).await?;
        Ok(Ok(key))
    }

    async fn ensure_account(&mut self, id: &AccountId, budget: Budget) -> Outcome<Account> {
        let known = self.account(id).await?;
        let is_new = known.is_none();
        let (account, at) = known.unwrap_or_else(|| (new_account(id, self.now), self.now));
        let before = account.budget;
        let update = match account.admit(budget, at) {
            Ok(update) => update,
            Err(refused) => return Ok(Err(refused)),
        };
        let mut account = update.record;
        if let Some(since) = update.recount_from {
            account.balance.spent = usage::spent_by_account(self.connection, id, since).await?;
            account.balance.since = since;
        }
        if is_new || before != account.budget {
            write::account(self.connection, &(account.clone(), at)).await?;
            self.event(id, None, at, "account.updated", &described_budget(&budget)).await?;
        }
        Ok(Ok(account))
    }

    async fn update(&mut self, id: KeyId, patch: &KeyPatch, rules: &Rules) -> Outcome<Key> {
        let Some(lineage) = self.lineage(id).await? else { return Ok(Err(ChangeError::UnknownKey(id))) };
        let update = match patch.admit(&lineage, parent_of(&lineage).as_ref(), rules) {
            Ok(update) => update,
            Err(refused) => return Ok(Err(refused)),
        };
        let mut key = update.record;
        if let Some(since) = update.recount_from {
            key.balance.spent = usage::spent_by_key(self.connection, id, since).await?;
            key.balance.since = since;
            write::balance(self.connection, &(id, key.budget.period, key.balance)).await?;
        }
        if key != *lineage.key() {
            let query = sqlx::query(
                "UPDATE agent_keys SET name = ?2, scopes = ?3, limit_micros = ?4, period = ?5, expires_at = ?6 \
                 WHERE id = ?1",
            );
            let query = query
                .bind(id.get())
                .bind(&key.name)
                .bind(scopes(&key.scopes)?)
                .bind(key.budget.limit.map(Amount::as_micros))
                .bind(key.budget.period.as_str())
                .bind(key.expires_at.map(micros));
            run(self.connection, query).await?;
            self.changed(&lineage, "key.updated", &described(&key)).await?;
        }
        Ok(Ok(key))
    }

    async fn rotate(&mut self, id: KeyId, token: &NewToken, grace: std::time::Duration) -> Outcome<Key> {
        let Some(lineage) = self.lineage(id).await? else { return Ok(Err(ChangeError::UnknownKey(id))) };
        if let Err(refused) = not_revoked(&lineage) {
            return Ok(Err(refused));
        }
        let mut key = lineage.key().clone();
        key.prefix.clone_from(&token.prefix);
        key.start.clone_from(&token.start);
        let retires_at = crate::clock::later(lineage.at(), grace);
        let hash = token.hash.to_string();
        // No token that was retired before outlives this one.
        let shorten =
            sqlx::query("UPDATE agentkey_retired_tokens SET retires_at = min(retires_at, ?2) WHERE key_id = ?1");
        run(self.connection, shorten.bind(id.get()).bind(micros(retires_at))).await?;
        let retire = sqlx::query(
            "INSERT INTO agentkey_retired_tokens (key_hash, key_id, retires_at) \
             SELECT key_hash, id, ?3 FROM agent_keys WHERE id = ?1 AND key_hash <> ?2 \
             ON CONFLICT (key_hash) DO UPDATE SET key_id = excluded.key_id, retires_at = excluded.retires_at",
        );
        run(self.connection, retire.bind(id.get()).bind(&hash).bind(micros(retires_at))).await?;
        let replace = sqlx::query("UPDATE agent_keys SET key_hash = ?2, prefix = ?3, start = ?4 WHERE id = ?1");
        run(self.connection, replace.bind(id.get()).bind(&hash).bind(&key.prefix).bind(&key.start)).await?;
        let forget =
            sqlx::query("DELETE FROM agentkey_retired_tokens WHERE key_hash = ?3 OR key_id = ?1 AND retires_at <= ?2");
        run(self.connection, forget.bind(id.get()).bind(micros(lineage.at())).bind(&hash)).await?;
        let detail = json!({"prefix": key.prefix, "start": key.start, "old_retires_at": retires_at});
        self.changed(&lineage, "key.rotated", &detail).await?;
        Ok(Ok(key))
    }

    async fn revoke(&mut self, id: KeyId) -> Outcome<Key> {
        let Some(lineage) = self.lineage(id).await? else { return Ok(Err(ChangeError::UnknownKey(id))) };
        let mut key = lineage.key().clone();
        if key.revoked_at.is_none() {
            key.revoked_at = Some(lineage.at());
            let query = sqlx::query("UPDATE agent_keys SET revoked_at = ?2 WHERE id = ?1");
            run(self.connection, query.bind(id.get()).bind(micros(lineage.at()))).await?;
            self.changed(&lineage, "key.revoked", &json!({})).await?;
        }
        Ok(Ok(key))
    }

    /// A lineage at the account's time, with its holds that have run out ended.
    async fn lineage(&mut self, id: KeyId) -> sqlx::Result<Option<Lineage>> {
        let seen = read::lineage(self.connection, id, self.now).await?;
        if seen.behind.is_empty() {
            return Ok(seen.value);
        }
        post::catch_up_in(self.connection, self.now, seen.behind).await?;
        Ok(read::lineage(self.connection, id, self.now).await?.value)
    }

    /// An account and its time, in the same way.
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

    async fn insert(&mut self, key: &Key, hash: &TokenHash) -> sqlx::Result<KeyId> {
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

    /// Takes note of a change to a key.
    async fn changed(&mut self, lineage: &Lineage, kind: &'static str, detail: &Value) -> sqlx::Result<()> {
        self.touch(lineage.account_id(), lineage.at()).await?;
        self.event(lineage.account_id(), Some(lineage.id()), lineage.at(), kind, detail).await
    }

    /// Marks an account as changed at `at`; makes it where there is none.
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

    async fn event(
        &mut self,
        account: &AccountId,
        key: Option<KeyId>,
        at: Timestamp,
        kind: &'static str,
        detail: &Value,
    ) -> sqlx::Result<()> {
        let query = sqlx::query(
            "INSERT INTO agentkey_events (at, account_id, key_id, kind, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
        );
        let query = query.bind(micros(at)).bind(account.as_str()).bind(key.map(KeyId::get));
        run(self.connection, query.bind(kind).bind(detail.to_string())).await
    }
}

/// An account as its first key makes it: without a ceiling.
fn new_account(id: &AccountId, now: Timestamp) -> Account {
    let budget = Budget::unlimited();
    let since = budget.period.window(now, now).start;
    Account::stored(id.clone(), budget, now, Balance::empty(since))
}

fn parent_of(lineage: &Lineage) -> Option<Lineage> {
    let (parent, ancestors) = lineage.ancestors().split_first()?;
    Some(Lineage::new(parent.clone(), ancestors.to_vec(), lineage.account().clone(), lineage.at()))
}

/// A JSON array; NULL where there is no restriction.
fn scopes(scopes: &ScopeSet) -> sqlx::Result<Option<String>> {
    (!scopes.is_unrestricted()).then(|| load::json(scopes)).transpose()
}

fn described(key: &Key) -> Value {
    json!({
        "name": key.name,
        "prefix": key.prefix,
        "start": key.start,
        "parent": key.parent,
        "scopes": key.scopes,
        "limit_micros": key.budget.limit.map(Amount::as_micros),
        "period": key.budget.period,
        "expires_at": key.expires_at,
    })
}

fn described_budget(budget: &Budget) -> Value {
    json!({"limit_micros": budget.limit.map(Amount::as_micros), "period": budget.period})
}
