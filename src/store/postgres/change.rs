//! Policy changes, each with its event in one transaction.

mod import;
mod subjects;

use jiff::Timestamp;

use super::connection::{Query, Statements};
use super::decode::Cells;
use super::error::{
    Error, Result, Retry, config_error, database_error, invalid_row, is_contention,
};
use super::inner::Inner;
use super::names::Sql;
use super::schema::{KeyColumns, Schema};
use super::step::first;
use super::types::Instant;
use super::validator::ByRowVersion;
use super::write::random_version_step;
use crate::ledger::{
    AccountChange, AccountWrite, KeyChange, KeyRecord, KeyWrite, Load, Loaded, Rules,
};
use crate::model::{
    Account, AccountId, Amount, ChangeError, Key, KeyId, Lineage, Origin, Spent, TokenHash,
};
use crate::store::cache::{PendingWrite, Write};
use crate::store::key_row::KeyRow;
use crate::store::key_row::stored_rate_limit;
use crate::store::records::{more_limits, more_spent};

type ChangeOutcome<T> = Result<Result<T, ChangeError>>;

/// How often a change is attempted that conflicts with other transactions.
const ATTEMPTS: usize = 8;

impl Inner {
    /// Builds the query that keeps other transactions from making this account's row until this one ends.
    pub(super) fn lock_new_account(&self, account: &AccountId) -> Query<'static> {
        self.sql.lock_new_account.query().bind(account.as_str().to_owned())
    }

    /// Changes a key.
    pub(super) async fn change_key(&self, change: &KeyChange, rules: &Rules) -> ChangeOutcome<Key> {
        let mut attempts = 0;
        loop {
            let changed =
                self.attempt(async |mut session| session.change_key(change, rules).await).await;
            attempts += 1;
            let is_conflict = match &changed {
                Ok(Err(ChangeError::TableRule { .. })) => true,
                Err(error) => database_error(error).is_some_and(|broken| broken.code() == UNIQUE),
                _ => false,
            };
            // Another process has made the key of the subject in the meantime.
            match change {
                KeyChange::EnsureSubject { .. } if is_conflict && attempts < 2 => {}
                _ => return changed,
            }
        }
    }

    /// Creates or changes an account.
    pub(super) async fn change_account(
        &self,
        id: &AccountId,
        change: AccountChange,
        origin: &Origin,
    ) -> ChangeOutcome<Account> {
        self.attempt(async |mut session| session.change_account(id, change, origin).await).await
    }

    async fn attempt<T>(
        &self,
        change: impl AsyncFnOnce(PolicyTransaction<'_, '_, '_>) -> ChangeOutcome<T> + Copy,
    ) -> ChangeOutcome<T> {
        for _ in 0..ATTEMPTS {
            // It is dropped after the transaction: only then is the change visible or undone.
            let mut pending = None;
            let work = async |statements: &mut Statements<'_>| {
                statements.may_retry = false;
                change(PolicyTransaction {
                    inner: self,
                    statements,
                    pending: &mut pending,
                    now: self.clock.now(),
                })
                .await
            };
            let done = self.connections.pooled(work).await;
            drop(pending);
            match done {
                Err(error) if is_contention(&error) => {}
                Err(error) => return self.refused_by_table(error).map(Err),
                done => return done,
            }
        }
        Err(Retry::Conflict.into())
    }

    /// Returns the refusal of a change that a rule of the application's own table does not allow.
    fn refused_by_table(&self, error: Error) -> Result<ChangeError> {
        let columns = &self.schema.columns;
        let Some(broken) = database_error(&error)
            .filter(|broken| !columns.is_own && self.schema.concerns_keys(broken))
        else {
            return Err(error);
        };
        let column = broken.column().unwrap_or("");
        let field = columns.field(column);
        let rule = broken.constraint().unwrap_or("");
        match (broken.code(), field) {
            (NOT_NULL, Some(field)) => {
                let reason = "must be given".to_owned();
                Ok(ChangeError::Invalid { field, reason })
            }
            (NOT_NULL, None) => Err(config_error(format!(
                "the column {column:?} of {} is NOT NULL and has no default, and agentkey does not know what to write \
                 there: give it a default, or drop the NOT NULL",
                self.schema.keys
            ))),
            (FOREIGN_KEY | CHECK | UNIQUE | EXCLUSION, _) => Ok(ChangeError::TableRule {
                rule: rule.to_owned(),
                table: self.schema.keys.clone(),
            }),
            _ => Err(error),
        }
    }
}

// The SQLSTATEs of broken rules of a table.
const NOT_NULL: &str = "23502";
const FOREIGN_KEY: &str = "23503";
const UNIQUE: &str = "23505";
const CHECK: &str = "23514";
const EXCLUSION: &str = "23P01";

/// Returns the statement that updates the columns of changed fields; `None` if no field changed. The other columns of
/// an adopted row stay as they are: NULL, the application's own name of a period, an instant that is later than all
/// that we can write.
///
/// Its parameters are those that [`update_key`](PolicyTransaction::update_key) binds.
fn update_sql(schema: &Schema, before: &Key, key: &Key) -> Result<Option<Sql>, String> {
    let columns = &schema.columns;
    let (period, is_limit_new) = (key.budget.period, before.budget.limit != key.budget.limit);
    let has_limit = columns.stored_limit(key.budget.limit)?.is_some();
    let stored = if has_limit { "$7" } else { "$6" };
    let mut set = Vec::new();
    if before.name != key.name {
        set.push("{k.name} = $2".to_owned());
    }
    if before.scopes != key.scopes {
        set.push("{k.scopes} = $3".to_owned());
    }
    if before.expires_at != key.expires_at {
        set.push("{k.expires_at} = $4::timestamptz{zone.expires_at}".to_owned());
    }
    if is_limit_new {
        set.push("{k.limit} = $5".to_owned());
    }
    if !before.budget.more().eq(key.budget.more()) {
        set.push("{k.more_limits} = $8::jsonb".to_owned());
    }
    if before.disabled_at != key.disabled_at {
        set.push("{k.disabled_at} = $9::timestamptz{zone.disabled_at}".to_owned());
    }
    if before.metadata != key.metadata {
        set.push("{k.metadata} = $10::jsonb".to_owned());
    }
    if before.rate_limit != key.rate_limit {
        set.push("{k.rate_limit} = $11::jsonb".to_owned());
    }
    if before.allowed_cidrs != key.allowed_cidrs {
        set.push("{k.allowed_cidrs} = $12::text[]::cidr[]".to_owned());
    }
    if before.budget.period == period {
        // When the limit changes, NULL in this column may mean another period.
        if is_limit_new && columns.period(None, has_limit) != Ok(period) {
            set.push(format!("{{k.period}} = coalesce({{k.period}}, {stored})"));
        }
    } else if is_limit_new {
        set.push(format!("{{k.period}} = {stored}"));
    } else {
        set.push("{k.period} = CASE WHEN {k.limit} IS NULL THEN $6 ELSE $7 END".to_owned());
    }
    let text =
        || schema.sql(&format!("UPDATE {{keys}} SET {} WHERE {{k.id}} = $1", set.join(", ")));
    Ok((!set.is_empty()).then(text))
}

fn stored_cidrs(key: &Key) -> Option<Vec<String>> {
    key.allowed_cidrs.as_ref().map(|ranges| ranges.iter().collect())
}

/// A transaction in progress.
struct PolicyTransaction<'i, 's, 'c> {
    inner: &'i Inner,
    statements: &'s mut Statements<'c>,
    /// The announcement of the change to the cache, until the transaction ends.
    pending: &'s mut Option<PendingWrite<'i, ByRowVersion>>,
    now: Timestamp,
}

impl PolicyTransaction<'_, '_, '_> {
    async fn change_key(&mut self, change: &KeyChange, rules: &Rules) -> ChangeOutcome<Key> {
        let account = match change {
            KeyChange::Create { draft, .. } | KeyChange::EnsureSubject { draft, .. } => {
                Some(draft.account.clone())
            }
            KeyChange::Update { key, .. }
            | KeyChange::Rotate { key, .. }
            | KeyChange::EndGrace { key }
            | KeyChange::Revoke { key, .. } => self.lock_key(*key).await?,
        };
        self.lock_accounts(&account).await?;
        if let KeyChange::EnsureSubject { subject, .. } = change
            && let Some(id) = self.key_of_subject(&subject.subject).await?
        {
            let found = self.lineage(id).await?;
            return Ok(subject.check_found(id, found.as_ref().map(Lineage::key)));
        }
        let now = self.now;
        let (mut lineage, time) = match change.load() {
            Load::Lineage(id) => (self.lineage(id).await?, now),
            Load::Time(account) => (None, self.account(account).await?.map_or(now, |(_, at)| at)),
        };
        if let (KeyChange::Revoke { key, .. }, None, Some(account)) = (change, &lineage, account) {
            lineage = self.out_of_service(*key, account).await?;
        }
        let caller = match change.load_caller(lineage.as_ref(), rules) {
            Some(caller) => self.lineage(caller).await?,
            None => None,
        };
        let children = match change.count_children(rules) {
            Some(parent) => self.children_in_force(parent).await?,
            None => 0,
        };
        let descendants = match change.count_descendants() {
            Some(key) => self.descendants(key).await?,
            None => 0,
        };
        let in_grace = match change.count_in_grace() {
            Some(key) => self.in_grace(key).await?,
            None => 0,
        };
        let loaded = Loaded { lineage, caller, children, descendants, in_grace, time };
        let write = change.decide(&loaded, rules);
        // Also a refused change has ended the expired holds.
        match write.and_then(|write| self.inner.schema.columns.check(&write).map(|()| write)) {
            Ok(write) => match self.switched_off_by(&write).await? {
                None => self.write_key(write).await.map(Ok),
                Some(column) => Ok(Err(ChangeError::Invalid {
                    field: "disabled",
                    reason: format!(
                        "the column {column:?} of the application's own table switches the key off: switch it on there"
                    ),
                })),
            },
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// Returns the column of the application that keeps a key off which is to be enabled.
    async fn switched_off_by(&mut self, write: &KeyWrite) -> Result<Option<String>> {
        let KeyWrite { key, record: Some((KeyRecord::Update { before, .. }, _)), .. } = write
        else {
            return Ok(None);
        };
        let is_enabled = before.disabled_at.is_some() && key.disabled_at.is_none();
        if !is_enabled || self.inner.schema.columns.switches.is_empty() {
            return Ok(None);
        }
        let query = self.inner.sql.switched_off.query().bind(key.id.get());
        first(&self.statements.fetch(query).await?, None)
    }

    async fn change_account(
        &mut self,
        id: &AccountId,
        change: AccountChange,
        origin: &Origin,
    ) -> ChangeOutcome<Account> {
        self.lock_accounts([id]).await?;
        let current = self.account(id).await?;
        match AccountWrite::decide(id, change, current, self.now, origin) {
            Ok(write) => self.write_account(write).await.map(Ok),
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// Locks a key against the application's own SQL, before anything is read that the change is decided by. Returns
    /// its account.
    async fn lock_key(&mut self, key: KeyId) -> Result<Option<AccountId>> {
        let rows = self.statements.fetch(self.inner.sql.lock_key.query().bind(key.get())).await?;
        Ok(first(&rows, None::<String>)?.and_then(|owner| AccountId::stored(owner).ok()))
    }

    /// Locks accounts, in the order of their ids, or the creation of their rows.
    async fn lock_accounts<'a>(
        &mut self,
        accounts: impl IntoIterator<Item = &'a AccountId>,
    ) -> Result<()> {
        let mut locked = Vec::new();
        for account in accounts {
            let lock = || self.inner.sql.lock_account.query().bind(account.as_str().to_owned());
            if self.statements.fetch(lock()).await?.is_empty() {
                self.statements.run(self.inner.lock_new_account(account)).await?;
                self.statements.run(lock()).await?;
            }
            locked.push(account.clone());
        }
        self.now = self.inner.clock.now();
        let write = Write { epoch: None, next: None, deltas: Vec::new(), policy: locked };
        *self.pending = Some(self.inner.cache.begin_write(write));
        Ok(())
    }

    async fn run(&mut self, query: Query<'_>) -> Result<()> {
        self.statements.run(query).await
    }

    async fn lineage(&mut self, key: KeyId) -> Result<Option<Lineage>> {
        let (now, keys) = (Some(self.now), [key]);
        let mut result = self.inner.lineages_in(self.statements, &keys, now).await?;
        if !result.stale.is_empty() {
            self.inner.expire_holds_in(self.statements, &result.stale).await?;
            result = self.inner.lineages_in(self.statements, &keys, now).await?;
        }
        Ok(result.value.pop().flatten())
    }

    /// Returns how many children of a key are neither revoked nor expired.
    async fn children_in_force(&mut self, parent: KeyId) -> Result<u64> {
        let query = self.inner.sql.children_in_force.query();
        self.count(query.bind(parent.get()).bind(Instant(self.now))).await
    }

    /// Returns how many descendants of a key are not revoked.
    async fn descendants(&mut self, key: KeyId) -> Result<u64> {
        self.count(self.inner.sql.descendants.query().bind(key.get())).await
    }

    /// Returns how many tokens of a key were rotated away and still work.
    async fn in_grace(&mut self, key: KeyId) -> Result<u64> {
        let query = self.inner.sql.in_grace.query();
        self.count(query.bind(key.get()).bind(Instant(self.now))).await
    }

    async fn count(&mut self, query: Query<'_>) -> Result<u64> {
        let rows = self.statements.fetch(query).await?;
        Ok(first(&rows, None::<i64>)?.unwrap_or_default().unsigned_abs())
    }

    /// Returns a key that is out of service by its own row or that of an ancestor, without its lineage. It can
    /// still be revoked, so that it does not work again when the row is corrected.
    async fn out_of_service(&mut self, id: KeyId, account: AccountId) -> Result<Option<Lineage>> {
        let columns = &self.inner.schema.columns;
        for row in &self.statements.fetch(self.inner.lineages(&[id])).await? {
            let (stored, _) = Cells::member(row).key(columns)?;
            let (is_asked_for, revoked_at) = (stored.id == id, stored.revoked_at);
            if let Some(KeyRow { mut key, .. }) =
                columns.invalid_rows.decode_or_disabled(stored).filter(|_| is_asked_for)
            {
                key.revoked_at = revoked_at;
                key.account = account.clone();
                return Ok(Some(Lineage::new(
                    key,
                    Vec::new(),
                    Account::new(account, self.now),
                    self.now,
                )));
            }
        }
        Ok(None)
    }

    /// Returns an account rolled to its time, and that time.
    async fn account(&mut self, id: &AccountId) -> Result<Option<(Account, Timestamp)>> {
        let mut result = self.inner.account_in(self.statements, id, Some(self.now)).await?;
        if !result.stale.is_empty() {
            self.inner.expire_holds_in(self.statements, &result.stale).await?;
            result = self.inner.account_in(self.statements, id, Some(self.now)).await?;
        }
        Ok(result.value)
    }

    async fn write_key(&mut self, write: KeyWrite) -> Result<Key> {
        let KeyWrite { mut key, at, record } = write;
        let Some((record, mut event)) = record else { return Ok(key) };
        self.touch(&key.account, at).await?;
        match record {
            KeyRecord::Insert(hash) => {
                key.id = self.insert_key(&key, &hash).await?;
                event.set_new_key(key.id);
                if key.anchor != key.created_at {
                    self.write_balance(&key).await?;
                    let query = self.inner.sql.update_anchor.query().bind(key.id.get());
                    self.run(query.bind(Instant(key.anchor))).await?;
                }
            }
            KeyRecord::Update { before, recount } => {
                for window in recount {
                    self.inner.recount_key(self.statements, &mut key, window).await?;
                }
                // A key without entries gets no balance: it may still be deleted.
                if !before.balance.counts(&key.budget) && !key.balance.is_zero() {
                    self.write_balance(&key).await?;
                }
                self.update_key(&before, &key).await?;
            }
            KeyRecord::Rotate { hash, retires_at } => {
                self.rotate_token(&key, &hash, retires_at, at).await?
            }
            KeyRecord::EndGrace => {
                self.run(self.inner.sql.end_grace.query().bind(key.id.get())).await?
            }
            KeyRecord::Revoke => {
                let query = self.inner.sql.revoke_key.query().bind(key.id.get()).bind(Instant(at));
                self.run(query.bind(key.revoked_reason.clone())).await?;
            }
        }
        self.inner.insert_event(self.statements, &event).await?;
        Ok(key)
    }

    async fn insert_key(&mut self, key: &Key, hash: &TokenHash) -> Result<KeyId> {
        let columns = &self.inner.schema.columns;
        let limit = columns.stored_limit(key.budget.limit).map_err(invalid_row)?;
        let query = &self.inner.sql.insert_key;
        let query = query
            .query()
            .bind(key.account.as_str().to_owned())
            .bind(key.parent.map(KeyId::get))
            .bind(key.name.clone())
            .bind(key.prefix.clone())
            .bind(columns.stored_start(key))
            .bind(hash.to_string())
            .bind(columns.stored_scopes(&key.scopes))
            .bind(limit)
            .bind(columns.stored_period(key.budget.period, limit.is_some()))
            .bind(Instant(key.created_at))
            .bind(key.expires_at.map(Instant))
            .bind(more_limits(&key.budget))
            .bind(key.delegated_by.clone())
            .bind(columns.stored_metadata(&key.metadata))
            .bind(key.disabled_at.map(Instant))
            .bind(stored_rate_limit(key.rate_limit.as_ref()))
            .bind(stored_cidrs(key))
            .bind(key.subject.as_ref().map(|subject| subject.issuer().to_owned()))
            .bind(key.subject.as_ref().map(|subject| subject.id().to_owned()));
        let rows = self.statements.fetch(query).await?;
        let id = first(&rows, None)?;
        id.map(KeyId::new).ok_or_else(|| invalid_row("a key was inserted without an id"))
    }

    async fn update_key(&mut self, before: &Key, key: &Key) -> Result<()> {
        let schema = &self.inner.schema;
        let columns = &schema.columns;
        let limit = columns.stored_limit(key.budget.limit).map_err(invalid_row)?;
        let Some(update) = update_sql(schema, before, key).map_err(invalid_row)? else {
            return Ok(());
        };
        let query = update
            .query()
            .bind(key.id.get())
            .bind(key.name.clone())
            .bind(columns.stored_scopes(&key.scopes))
            .bind(key.expires_at.map(Instant))
            .bind(limit)
            .bind(columns.stored_period(key.budget.period, false))
            .bind(columns.stored_period(key.budget.period, true))
            .bind(more_limits(&key.budget))
            .bind(key.disabled_at.map(Instant))
            .bind(columns.stored_metadata(&key.metadata))
            .bind(stored_rate_limit(key.rate_limit.as_ref()))
            .bind(stored_cidrs(key));
        self.run(query).await
    }

    async fn write_balance(&mut self, key: &Key) -> Result<()> {
        let query = &self.inner.sql.upsert_balance;
        let query = query
            .query()
            .bind(key.id.get())
            .bind(key.account.as_str().to_owned())
            .bind(key.balance.period().as_str())
            .bind(key.balance.spent().as_micros())
            .bind(key.balance.held.as_micros())
            .bind(Instant(key.balance.since()))
            .bind(more_spent(&key.balance));
        self.run(query).await
    }

    async fn write_account(&mut self, write: AccountWrite) -> Result<Account> {
        let AccountWrite { mut account, at, recount, event } = write;
        let Some(event) = event else { return Ok(account) };
        for window in recount {
            let spent = self.inner.spent_by_account(self.statements, &account.id, window.since);
            account.balance.set_spent(Spent { amount: spent.await?, ..window });
        }
        let Account { id, budget, created_at, balance } = &account;
        let query = &self.inner.sql.upsert_account;
        let query = query
            .query()
            .bind(id.as_str().to_owned())
            .bind(Instant(at))
            .bind(budget.limit.map(Amount::as_micros))
            .bind(budget.period.as_str())
            .bind(Instant(*created_at))
            .bind(balance.spent().as_micros())
            .bind(balance.held.as_micros())
            .bind(Instant(balance.since()))
            .bind(random_version_step())
            .bind(more_limits(budget))
            .bind(more_spent(balance));
        self.run(query).await?;
        self.inner.insert_event(self.statements, &event).await?;
        Ok(account)
    }

    /// Replaces a token. No token that was retired before outlives the one that is retired now.
    async fn rotate_token(
        &mut self,
        key: &Key,
        hash: &TokenHash,
        retires_at: Timestamp,
        now: Timestamp,
    ) -> Result<()> {
        let sql = &self.inner.sql;
        let (id, hash) = (key.id.get(), hash.to_string());
        self.run(sql.shorten_retired_tokens.query().bind(id).bind(Instant(retires_at))).await?;
        self.run(sql.retire_token.query().bind(id).bind(hash.clone()).bind(Instant(retires_at)))
            .await?;
        let replace = sql.replace_token.query().bind(id).bind(hash.clone());
        let start = self.inner.schema.columns.stored_start(key);
        self.run(replace.bind(key.prefix.clone()).bind(start)).await?;
        self.run(sql.delete_retired_tokens.query().bind(id).bind(Instant(now)).bind(hash)).await
    }

    /// Marks an account as changed at `at`. Makes its row if there is none.
    async fn touch(&mut self, id: &AccountId, at: Timestamp) -> Result<()> {
        let account = Account::new(id.clone(), at);
        let query = &self.inner.sql.touch_account;
        let query = query
            .query()
            .bind(id.as_str().to_owned())
            .bind(Instant(at))
            .bind(account.budget.period.as_str())
            .bind(Instant(account.balance.since()))
            .bind(random_version_step());
        self.run(query).await
    }
}

impl KeyColumns {
    /// Refuses a key that the table cannot store.
    fn check(&self, write: &KeyWrite) -> Result<(), ChangeError> {
        let KeyWrite {
            key,
            record: Some((KeyRecord::Insert(_) | KeyRecord::Update { .. }, _)),
            ..
        } = write
        else {
            return Ok(());
        };
        if !self.account_type.can_hold(key.account.as_str()) {
            let reason =
                format!("is not what a column of the type {} holds", self.account_type.name());
            return Err(ChangeError::Invalid { field: "account", reason });
        }
        if let Some(human) = &key.delegated_by
            && !self.delegated_by_type.can_hold(human)
        {
            let column = self.delegated_by_type.name();
            let reason = format!("is not what a column of the type {column} holds");
            return Err(ChangeError::Invalid { field: "delegated_by", reason });
        }
        let limit = self.stored_limit(key.budget.limit);
        limit.map(drop).map_err(|reason| ChangeError::Invalid { field: "budgets", reason })
    }
}
