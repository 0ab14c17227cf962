//! Changes of policy, each with its event, in one transaction.

use jiff::Timestamp;

use super::Inner;
use super::connection::{Query, Statements};
use super::decode::Cells;
use super::error::{Error, Result, Retry, config_error, database_error, invalid_row, is_contention};
use super::layout::{KeyColumns, Layout};
use super::names::Sql;
use super::read::{Asking, account, lineage};
use super::step::first;
use super::types::Instant;
use super::validator::ByRowVersion;
use super::write::random_version_step;
use crate::ledger::{AccountWrite, ChangeError, Event, KeyChange, KeyRecord, KeyWrite, Load, Rules};
use crate::store::cache::{PendingWrite, Write};
use crate::store::stored_key::KeyRow;
use crate::{Account, AccountId, Amount, Budget, Key, KeyId, Lineage, TokenHash};

/// The texts of changes.
pub(super) struct Puts {
    lock: Sql,
    make_lock: Sql,
    owner: Sql,
    insert_key: Sql,
    balance: Sql,
    account: Sql,
    touch: Sql,
    shorten: Sql,
    retire: Sql,
    token: Sql,
    forget: Sql,
    revoked: Sql,
    event: Sql,
}

impl Puts {
    pub(super) fn new(layout: &Layout) -> Self {
        let columns = &layout.columns;
        // An account whose row is gone may have holds and entries all the same.
        let with_rows = |text: &str| {
            let left = "(SELECT min(h.expires_at) FROM {holds} h WHERE h.account_id = $1 AND h.state = 'live'), \
                        (SELECT coalesce(max(e.seq), -9223372036854775808) FROM {entries} e WHERE e.account_id = $1)";
            layout.sql(&text.replace("{left}", left))
        };
        Self {
            lock: layout.sql(
                "SELECT a.id, {server_time} FROM (SELECT a.id FROM {accounts} a WHERE a.id = $1 FOR NO KEY UPDATE) a",
            ),
            // Who makes an account's row does it alone.
            make_lock: layout.sql("SELECT pg_advisory_xact_lock(hashtextextended($1, 6004215)), {server_time}"),
            owner: layout.sql("SELECT k.{k.account}::text FROM {keys} k WHERE k.{k.id} = $1 FOR NO KEY UPDATE"),
            insert_key: layout.sql(&format!(
                "INSERT INTO {{keys}} AS k ({{k.account}}, {{k.parent}}, {{k.name}}, {{k.prefix}}, {{k.start}}, \
                 {{k.hash}}, {{k.scopes}}, {{k.limit}}, {{k.period}}, {{k.created_at}}, {{k.expires_at}}) \
                 VALUES (($1::text)::{{account_type}}, $2, $3, $4, $5, $6, $7, $8, $9, {}, {}) \
                 RETURNING k.{{k.id}}::int8",
                columns.created_at.value(10),
                columns.expires_at.value(11),
            )),
            balance: layout.sql(
                "INSERT INTO {balances} AS b (key_id, account_id, period, spent, held, since) \
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (key_id) DO UPDATE SET \
                 period = CASE WHEN b.account_id = excluded.account_id THEN excluded.period END, spent = excluded.spent, \
                 held = excluded.held, since = excluded.since",
            ),
            account: with_rows(
                "INSERT INTO {accounts} AS a (id, version, changed_at, limit_micros, period, created_at, spent, held, \
                 since, next_expiry, last_entry) VALUES ($1, $9, $2, $3, $4, $5, $6, $7, $8, {left}) ON CONFLICT (id) DO UPDATE SET \
                 version = a.version + $9, changed_at = excluded.changed_at, limit_micros = excluded.limit_micros, \
                 period = excluded.period, spent = excluded.spent, held = excluded.held, since = excluded.since",
            ),
            touch: with_rows(
                "INSERT INTO {accounts} AS a (id, version, changed_at, period, created_at, spent, held, since, \
                 next_expiry, last_entry) VALUES ($1, $5, $2, $3, $2, 0, 0, $4, {left}) ON CONFLICT (id) DO UPDATE SET \
                 version = a.version + $5, changed_at = greatest(a.changed_at, excluded.changed_at)",
            ),
            shorten: layout.sql("UPDATE {retired_tokens} SET retires_at = least(retires_at, $2) WHERE key_id = $1"),
            retire: layout.sql(
                "INSERT INTO {retired_tokens} (key_hash, key_id, retires_at) \
                 SELECT k.{k.hash}::text, k.{k.id}::int8, $3 FROM {keys} k WHERE k.{k.id} = $1 \
                 AND k.{k.hash} <> $2::{hash_type} ON CONFLICT (key_hash) DO UPDATE SET key_id = excluded.key_id, \
                 retires_at = excluded.retires_at",
            ),
            token: layout.sql("UPDATE {keys} SET {k.hash} = $2, {k.prefix} = $3, {k.start} = $4 WHERE {k.id} = $1"),
            forget: layout.sql("DELETE FROM {retired_tokens} WHERE key_hash = $3 OR key_id = $1 AND retires_at <= $2"),
            revoked: layout.sql(&format!(
                "UPDATE {{keys}} SET {{k.revoked_at}} = {} WHERE {{k.id}} = $1",
                columns.revoked_at.value(2)
            )),
            event: layout
                .sql("INSERT INTO {events} (at, account_id, key_id, kind, detail) VALUES ($1, $2, $3, $4, $5::jsonb)"),
        }
    }
}

type Changed<T> = Result<Result<T, ChangeError>>;

/// How often a change is begun anew because others were in the way.
const ATTEMPTS: usize = 8;

impl Inner {
    /// Lets nobody else make this account's row until the transaction ends.
    pub(super) fn make_lock(&self, account: &AccountId) -> Query<'static> {
        self.puts.make_lock.query().bind(account.as_str().to_owned())
    }

    /// Makes a change of a key.
    pub(super) async fn change_key(&self, change: &KeyChange, rules: &Rules) -> Changed<Key> {
        for _ in 0..ATTEMPTS {
            let mut pending = None;
            let work = async |statements: &mut Statements<'_>| {
                self.try_change_key(Session::new(self, statements, &mut pending), change, rules).await
            };
            let done = self.connections.pooled(async |connection| connection.transaction(work).await).await;
            drop(pending);
            if let Some(done) = self.done(done) {
                return done;
            }
        }
        Err(Retry::Conflict.into())
    }

    async fn try_change_key(
        &self,
        mut session: Session<'_, '_, '_>,
        change: &KeyChange,
        rules: &Rules,
    ) -> Changed<Key> {
        let account = match change {
            KeyChange::Create { draft, .. } => Some(draft.account.clone()),
            KeyChange::Update { key, .. } | KeyChange::Rotate { key, .. } | KeyChange::Revoke { key } => {
                session.lock_key(*key).await?
            }
        };
        if let Some(account) = &account {
            session.lock_account(account).await?;
        }
        let now = session.now;
        let (mut lineage, time) = match change.load() {
            Load::Lineage(id) => (session.lineage(id).await?, now),
            Load::Time(account) => (None, session.account(account).await?.map_or(now, |(_, at)| at)),
        };
        if let (KeyChange::Revoke { key }, None, Some(account)) = (change, &lineage, account) {
            lineage = session.out_of_service(*key, account).await?;
        }
        let write = change.decide(lineage.as_ref(), time, rules);
        // Also what is refused has ended the holds that had run out.
        match write.and_then(|write| self.layout.columns.check(&write).map(|()| write)) {
            Ok(write) => session.write_key(write).await.map(Ok),
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// Sets an account's ceiling.
    pub(super) async fn set_account(&self, id: &AccountId, budget: Budget) -> Changed<Account> {
        for _ in 0..ATTEMPTS {
            let mut pending = None;
            let work = async |statements: &mut Statements<'_>| {
                self.try_set_account(Session::new(self, statements, &mut pending), id, budget).await
            };
            let done = self.connections.pooled(async |connection| connection.transaction(work).await).await;
            drop(pending);
            if let Some(done) = self.done(done) {
                return done;
            }
        }
        Err(Retry::Conflict.into())
    }

    async fn try_set_account(
        &self,
        mut session: Session<'_, '_, '_>,
        id: &AccountId,
        budget: Budget,
    ) -> Changed<Account> {
        session.lock_account(id).await?;
        let known = session.account(id).await?;
        match AccountWrite::decide(id, budget, known, session.now) {
            Ok(write) => session.write_account(write).await.map(Ok),
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// What an attempt comes to; `None` where others were in the way, and it is made once more.
    fn done<T>(&self, done: Changed<T>) -> Option<Changed<T>> {
        match done {
            Err(error) if is_contention(&error) => None,
            Err(error) => Some(self.refused_by_table(error).map(Err)),
            done => Some(done),
        }
    }

    /// A key that the table of a host's own does not take, by a rule of the host's.
    fn refused_by_table(&self, error: Error) -> Result<ChangeError> {
        let columns = &self.layout.columns;
        let Some(told) = database_error(&error).filter(|told| !columns.is_own && self.layout.is_of_keys(told)) else {
            return Err(error);
        };
        let column = told.column().unwrap_or("");
        let field = columns.field(column);
        let rule = told.constraint().unwrap_or("");
        match (told.code(), field) {
            (NOT_NULL, Some(field)) => {
                let reason = format!("must be given: the column {column:?} is NOT NULL");
                Ok(ChangeError::Invalid { field, reason })
            }
            (NOT_NULL, None) => Err(config_error(format!(
                "the column {column:?} of {} is NOT NULL and has no default, and agentkey does not know what to write \
                 there: give it a default, or drop the NOT NULL",
                self.layout.keys
            ))),
            (FOREIGN_KEY | CHECK | UNIQUE | EXCLUSION, _) => {
                let reason = format!("is not what the rule {rule:?} of {} allows", self.layout.keys);
                Ok(ChangeError::Invalid { field: "key", reason })
            }
            _ => Err(error),
        }
    }
}

// What PostgreSQL says where a rule of a table is not kept.
const NOT_NULL: &str = "23502";
const FOREIGN_KEY: &str = "23503";
const UNIQUE: &str = "23505";
const CHECK: &str = "23514";
const EXCLUSION: &str = "23P01";

/// Sets the columns whose field is another one now. What else a row of the host's says, and how it says it, stays: NULL,
/// a word of the host's for a period, an instant that is later than all that we can write. `None` where nothing is.
///
/// The parameters are those that [`update_key`](Session::update_key) binds.
fn policy(layout: &Layout, before: &Key, key: &Key) -> Result<Option<Sql>, String> {
    let columns = &layout.columns;
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
        set.push(format!("{{k.expires_at}} = {}", columns.expires_at.value(4)));
    }
    if is_limit_new {
        set.push("{k.limit} = $5".to_owned());
    }
    if before.budget.period == period {
        // With the limit, what NULL says here may be another period.
        if is_limit_new && columns.period(None, has_limit) != Ok(period) {
            set.push(format!("{{k.period}} = coalesce({{k.period}}, {stored})"));
        }
    } else if is_limit_new {
        set.push(format!("{{k.period}} = {stored}"));
    } else {
        set.push("{k.period} = CASE WHEN {k.limit} IS NULL THEN $6 ELSE $7 END".to_owned());
    }
    let text = || layout.sql(&format!("UPDATE {{keys}} SET {} WHERE {{k.id}} = $1", set.join(", ")));
    Ok((!set.is_empty()).then(text))
}

type Pending<'i> = Option<PendingWrite<'i, ByRowVersion>>;

/// A transaction under way.
struct Session<'i, 's, 'c> {
    inner: &'i Inner,
    statements: &'s mut Statements<'c>,
    /// What the cache knows of the change, until it is committed or not.
    pending: &'s mut Pending<'i>,
    now: Timestamp,
}

impl<'i, 's, 'c> Session<'i, 's, 'c> {
    fn new(inner: &'i Inner, statements: &'s mut Statements<'c>, pending: &'s mut Pending<'i>) -> Self {
        statements.may_begin_anew = false;
        Self { inner, statements, pending, now: inner.clock.now() }
    }

    /// Locks a key against the host's own SQL, before anything is read that the change is decided by; tells whose it is.
    async fn lock_key(&mut self, key: KeyId) -> Result<Option<AccountId>> {
        let rows = self.statements.fetch(self.inner.puts.owner.query().bind(key.get())).await?;
        Ok(first(&rows, None::<String>)?.and_then(|owner| AccountId::new(owner).ok()))
    }

    /// Locks an account, or the making of its row.
    async fn lock_account(&mut self, account: &AccountId) -> Result<()> {
        let lock = || self.inner.puts.lock.query().bind(account.as_str().to_owned());
        if self.statements.fetch(lock()).await?.is_empty() {
            self.statements.run(self.inner.make_lock(account)).await?;
            self.statements.run(lock()).await?;
        }
        self.now = self.inner.clock.now();
        let write = Write { epoch: None, next: None, deltas: Vec::new(), policy: vec![account.clone()] };
        *self.pending = Some(self.inner.cache.begin_write(write));
        Ok(())
    }

    async fn run(&mut self, query: Query<'_>) -> Result<()> {
        self.statements.run(query).await
    }

    async fn lineage(&mut self, key: KeyId) -> Result<Option<Lineage>> {
        let (Inner { layout, reads, .. }, now) = (self.inner, self.now);
        let mut seen = lineage(Asking::Within(self.statements), (layout, reads), key, || now).await?;
        if !seen.behind.is_empty() {
            self.inner.catch_up_in(self.statements, &seen.behind).await?;
            seen = lineage(Asking::Within(self.statements), (layout, reads), key, || now).await?;
        }
        Ok(seen.value)
    }

    /// A key that is out of service, by its own row or by that of an ancestor, without the lineage that it has not: it can be
    /// revoked all the same, so that it does not work again when the row is mended.
    async fn out_of_service(&mut self, id: KeyId, account: AccountId) -> Result<Option<Lineage>> {
        let columns = &self.inner.layout.columns;
        for row in &self.statements.fetch(self.inner.reads.lineages(&[id])).await? {
            let (stored, _) = Cells::member(row).key(columns)?;
            let (is_asked_for, revoked_at) = (stored.id == id, stored.revoked_at);
            if let Some(KeyRow { mut key, .. }) =
                columns.invalid_rows.decode_or_disabled(stored).filter(|_| is_asked_for)
            {
                key.revoked_at = revoked_at;
                key.account = account.clone();
                return Ok(Some(Lineage::new(key, Vec::new(), Account::new(account, self.now), self.now)));
            }
        }
        Ok(None)
    }

    /// An account rolled to its time, and that time.
    async fn account(&mut self, id: &AccountId) -> Result<Option<(Account, Timestamp)>> {
        let (Inner { reads, .. }, now) = (self.inner, self.now);
        let mut seen = account(Asking::Within(self.statements), reads, id, || now).await?;
        if !seen.behind.is_empty() {
            self.inner.catch_up_in(self.statements, &seen.behind).await?;
            seen = account(Asking::Within(self.statements), reads, id, || now).await?;
        }
        Ok(seen.value.map(|(account, at)| (account.rolled(at), at)))
    }

    async fn write_key(&mut self, write: KeyWrite) -> Result<Key> {
        let KeyWrite { mut key, at, record } = write;
        let Some((record, event)) = record else { return Ok(key) };
        self.touch(&key.account, at).await?;
        match record {
            KeyRecord::Insert(hash) => key.id = self.insert_key(&key, &hash).await?,
            KeyRecord::Update { before, recount_from } => {
                if let Some(since) = recount_from {
                    let sums = &self.inner.sums;
                    key.balance.spent = sums.spent_by_key(self.statements, &key, since).await?;
                    self.write_balance(&key).await?;
                }
                self.update_key(&before, &key).await?;
            }
            KeyRecord::Rotate { hash, retires_at } => self.rotate_token(&key, &hash, retires_at, at).await?,
            KeyRecord::Revoke => {
                let query = self.inner.puts.revoked.query().bind(key.id.get()).bind(Instant(at));
                self.run(query).await?;
            }
        }
        self.event(at, &key.account, Some(key.id), &event).await?;
        Ok(key)
    }

    async fn insert_key(&mut self, key: &Key, hash: &TokenHash) -> Result<KeyId> {
        let columns = &self.inner.layout.columns;
        let limit = columns.stored_limit(key.budget.limit).map_err(invalid_row)?;
        let query = self
            .inner
            .puts
            .insert_key
            .query()
            .bind(key.account.as_str().to_owned())
            .bind(key.parent.map(KeyId::get))
            .bind(key.name.clone())
            .bind(key.prefix.clone())
            .bind(key.start.clone())
            .bind(hash.to_string())
            .bind(columns.stored_scopes(&key.scopes))
            .bind(limit)
            .bind(columns.stored_period(key.budget.period, limit.is_some()))
            .bind(Instant(key.created_at))
            .bind(key.expires_at.map(Instant));
        let rows = self.statements.fetch(query).await?;
        let id = first(&rows, None)?;
        id.map(KeyId::new).ok_or_else(|| invalid_row("a key was inserted without an id"))
    }

    async fn update_key(&mut self, before: &Key, key: &Key) -> Result<()> {
        let layout = &self.inner.layout;
        let columns = &layout.columns;
        let limit = columns.stored_limit(key.budget.limit).map_err(invalid_row)?;
        let Some(policy) = policy(layout, before, key).map_err(invalid_row)? else { return Ok(()) };
        let query = policy
            .query()
            .bind(key.id.get())
            .bind(key.name.clone())
            .bind(columns.stored_scopes(&key.scopes))
            .bind(key.expires_at.map(Instant))
            .bind(limit)
            .bind(columns.stored_period(key.budget.period, false))
            .bind(columns.stored_period(key.budget.period, true));
        self.run(query).await
    }

    async fn write_balance(&mut self, key: &Key) -> Result<()> {
        let query = self
            .inner
            .puts
            .balance
            .query()
            .bind(key.id.get())
            .bind(key.account.as_str().to_owned())
            .bind(key.budget.period.as_str())
            .bind(key.balance.spent.as_micros())
            .bind(key.balance.held.as_micros())
            .bind(Instant(key.balance.since));
        self.run(query).await
    }

    async fn write_account(&mut self, write: AccountWrite) -> Result<Account> {
        let AccountWrite { mut account, at, recount_from, event } = write;
        let Some(event) = event else { return Ok(account) };
        if let Some(since) = recount_from {
            let sums = &self.inner.sums;
            account.balance.spent = sums.spent_by_account(self.statements, &account.id, since).await?;
        }
        let Account { id, budget, created_at, balance } = &account;
        let query = self
            .inner
            .puts
            .account
            .query()
            .bind(id.as_str().to_owned())
            .bind(Instant(at))
            .bind(budget.limit.map(Amount::as_micros))
            .bind(budget.period.as_str())
            .bind(Instant(*created_at))
            .bind(balance.spent.as_micros())
            .bind(balance.held.as_micros())
            .bind(Instant(balance.since))
            .bind(random_version_step());
        self.run(query).await?;
        self.event(at, id, None, &event).await?;
        Ok(account)
    }

    /// No token that was retired before outlives the one that is retired now.
    async fn rotate_token(&mut self, key: &Key, hash: &TokenHash, retires_at: Timestamp, now: Timestamp) -> Result<()> {
        let Puts { shorten, retire, token: replace, forget, .. } = &self.inner.puts;
        let (id, hash) = (key.id.get(), hash.to_string());
        self.run(shorten.query().bind(id).bind(Instant(retires_at))).await?;
        self.run(retire.query().bind(id).bind(hash.clone()).bind(Instant(retires_at))).await?;
        let replace = replace.query().bind(id).bind(hash.clone()).bind(key.prefix.clone()).bind(key.start.clone());
        self.run(replace).await?;
        self.run(forget.query().bind(id).bind(Instant(now)).bind(hash)).await
    }

    /// Marks an account as changed at `at`; makes it where there is none.
    async fn touch(&mut self, id: &AccountId, at: Timestamp) -> Result<()> {
        let account = Account::new(id.clone(), at);
        let query = self
            .inner
            .puts
            .touch
            .query()
            .bind(id.as_str().to_owned())
            .bind(Instant(at))
            .bind(account.budget.period.as_str())
            .bind(Instant(account.balance.since))
            .bind(random_version_step());
        self.run(query).await
    }

    async fn event(&mut self, at: Timestamp, account: &AccountId, key: Option<KeyId>, event: &Event) -> Result<()> {
        let query = self.inner.puts.event.query();
        let query = query.bind(Instant(at)).bind(account.as_str().to_owned()).bind(key.map(KeyId::get));
        self.run(query.bind(event.kind).bind(event.detail.to_string())).await
    }
}

impl KeyColumns {
    /// What of a key the table cannot hold.
    fn check(&self, write: &KeyWrite) -> Result<(), ChangeError> {
        let KeyWrite { key, record: Some((KeyRecord::Insert(_) | KeyRecord::Update { .. }, _)), .. } = write else {
            return Ok(());
        };
        if !self.can_hold(&key.account) {
            let reason = format!("is not what a column of the type {} holds", self.account_type.name());
            return Err(ChangeError::Invalid { field: "account", reason });
        }
        let limit = self.stored_limit(key.budget.limit);
        limit.map(drop).map_err(|reason| ChangeError::Invalid { field: "limit", reason })
    }
}
