//! Connections: a few dedicated ones for look-ups and postings, and the pool for everything else.
//!
//! A pool of sqlx checks a connection after each use, which would cost every batch a round trip. So look-ups and
//! postings have dedicated connections. A connection whose last use failed is closed, and the next use opens another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, PgRow, Postgres};
use sqlx::{AssertSqlSafe, Connection as _, Executor, Row};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{sleep, timeout};

use super::clock::ServerClock;
use super::error::{Error, Result, config_error, connection_survives};
use super::names::Sql;
use super::types::Instant;
use crate::model::Clock;

pub(super) type Query<'q> = sqlx::query::Query<'q, Postgres, sqlx::postgres::PgArguments>;

pub(super) struct Connections {
    pool: PgPool,
    /// Whether the store owns the pool and closes it.
    owns_pool: bool,
    lookups: Vec<Slot>,
    postings: Vec<Slot>,
    next: AtomicUsize,
    closed: AtomicBool,
    session: SessionOptions,
    clock: Arc<ServerClock>,
}

/// How sessions are used.
#[derive(Clone, Debug)]
pub(super) struct SessionOptions {
    /// Whether a pooler gives every transaction another session, so that nothing may be left in one.
    pub(super) transactions_only: bool,
    /// How long to wait for a connection.
    pub(super) acquire_timeout: Duration,
    lookups: SessionKind,
    /// Postings do not wait long for a row that another transaction has locked.
    postings: SessionKind,
    /// Occasional statements, in a session of the pool, which has the settings of its database.
    others: SessionKind,
    /// The same for statements that must not keep rows locked while they wait.
    short_lock_timeout: SessionKind,
    /// The same for several reads of one snapshot.
    snapshots: SessionKind,
}

/// How sessions of a kind are set up, and how their transactions begin.
#[derive(Clone, Debug)]
struct SessionKind {
    set_up: Option<Sql>,
    begin: Sql,
}

impl SessionOptions {
    pub(super) fn new(
        transactions_only: bool,
        statement_timeout: Duration,
        acquire_timeout: Duration,
    ) -> Self {
        let timeout = statement_timeout.as_millis();
        let set = |local: bool, has_short_lock_timeout: bool| {
            let lock_timeout = if has_short_lock_timeout {
                LOCK_TIMEOUT
            } else {
                "current_setting('lock_timeout')"
            };
            // The connections of a pooler are not for the store to configure.
            let tcp = if transactions_only { "" } else { include_str!("sql/session_tcp.sql") };
            format!("{}{tcp}", include_str!("sql/session.sql"))
                .replace("{statement_timeout}", &timeout.to_string())
                .replace("{lock_timeout}", lock_timeout)
                .replace("{local}", if local { "true" } else { "false" })
        };
        let beginning = |begin, is_short| SessionKind {
            set_up: None,
            begin: Sql::new(&format!("{begin};\n{}", set(true, is_short))),
        };
        let of_pool = |is_short| beginning(BEGIN, is_short);
        let dedicated = |is_short| match transactions_only {
            true => of_pool(is_short),
            false => SessionKind {
                set_up: Some(Sql::new(
                    &(set(false, is_short) + include_str!("sql/session_dedicated.sql")),
                )),
                begin: Sql::new(BEGIN),
            },
        };
        Self {
            transactions_only,
            acquire_timeout,
            lookups: dedicated(false),
            postings: dedicated(true),
            others: of_pool(false),
            short_lock_timeout: of_pool(true),
            snapshots: beginning(BEGIN_SNAPSHOT, false),
        }
    }

    /// Prepares a query for these sessions. It gets no name if the next query may be in another session.
    fn prepare<'q>(&self, query: Query<'q>) -> Query<'q> {
        query.persistent(!self.transactions_only)
    }
}

/// How every transaction of the store begins, whatever the defaults of the database are.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// How a transaction begins all of whose statements see one snapshot. It asks for the right to write, because a standby
/// may be behind.
const BEGIN_SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE";

/// How long postings wait for a row, in milliseconds: longer than other instances of agentkey keep one locked.
const LOCK_TIMEOUT: &str = "'100'";

/// How long to wait for a response before another connection is tried. A lost packet is sent again after ever longer
/// pauses. After an outage of some seconds the first attempts therefore take seconds more.
const ATTEMPT: Duration = Duration::from_millis(400);

/// Whether a backend of this server waits for its client or has ended. A backend that has just answered gets a moment
/// for its answer to arrive. Behind a proxy another server may answer, which does not know this backend.
const IS_LOST: &str = "SELECT pg_postmaster_start_time() = $2 AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 \
    AND (state LIKE 'idle%' AND state_change < clock_timestamp() - interval '200 ms') IS NOT TRUE)";

/// The session of a connection. Servers behind a proxy may use the same process ids.
const SESSION: &str = "SELECT pg_backend_pid() || ' ' || pg_postmaster_start_time()";

const LENT_SESSIONS: &str = "PostgreSQL is behind a pooler that gives every transaction another session, such as PgBouncer \
    with `pool_mode = transaction`: set `PostgresOptions::transaction_pooling(true)`";

impl Connections {
    pub(super) fn new(
        (pool, owns_pool): (PgPool, bool),
        lookups: usize,
        postings: usize,
        session: SessionOptions,
        clock: &Clock,
    ) -> Self {
        let slots = |count| (0..count).map(|_| Slot::default()).collect();
        Self {
            pool,
            owns_pool,
            lookups: slots(lookups),
            postings: slots(postings),
            next: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            session,
            clock: Arc::new(ServerClock::new(clock)),
        }
    }

    /// Returns the clock that follows the server's answers on these connections.
    pub(super) fn clock(&self) -> &Arc<ServerClock> {
        &self.clock
    }

    pub(super) fn lookups(&self) -> usize {
        self.lookups.len()
    }

    pub(super) fn postings(&self) -> usize {
        self.postings.len()
    }

    /// Returns the pool from which connections come.
    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Returns how long to wait for a connection.
    pub(super) fn acquire_timeout(&self) -> Duration {
        self.session.acquire_timeout
    }

    /// Runs `work` on a dedicated connection for look-ups.
    pub(super) async fn lookup<T>(
        &self,
        work: impl AsyncFnOnce(&mut Connection<'_>) -> Result<T>,
    ) -> Result<T> {
        self.slot(&self.lookups, &self.session.lookups).await?.run(work).await
    }

    /// Runs `work` on a dedicated connection for postings.
    pub(super) async fn posting<T>(
        &self,
        work: impl AsyncFnOnce(&mut Connection<'_>) -> Result<T>,
    ) -> Result<T> {
        self.slot(&self.postings, &self.session.postings).await?.run(work).await
    }

    /// Runs `work` in a transaction on a connection of the pool, for occasional statements.
    pub(super) async fn pooled<T>(
        &self,
        work: impl AsyncFnOnce(&mut Statements<'_>) -> Result<T>,
    ) -> Result<T> {
        self.of_pool(&self.session.others)
            .await?
            .run(async |connection| connection.transaction(work).await)
            .await
    }

    /// Runs `work` as [`pooled`](Self::pooled) does, but soon gives up on a row that another transaction has locked. It
    /// is for statements that lock many accounts.
    pub(super) async fn short_lock_timeout<T>(
        &self,
        work: impl AsyncFnOnce(&mut Statements<'_>) -> Result<T>,
    ) -> Result<T> {
        let kind = &self.session.short_lock_timeout;
        self.of_pool(kind).await?.run(async |connection| connection.transaction(work).await).await
    }

    /// Runs reads in one snapshot, on a connection of the pool.
    pub(super) async fn in_snapshot<T>(
        &self,
        read: impl AsyncFnOnce(&mut Statements<'_>) -> Result<T>,
    ) -> Result<T> {
        let kind = &self.session.snapshots;
        self.of_pool(kind).await?.run(async |connection| connection.transaction(read).await).await
    }

    /// Runs one statement on a connection of the pool.
    pub(super) async fn fetch(&self, query: Query<'_>) -> Result<Vec<PgRow>> {
        self.pooled(async |statements| statements.fetch(query).await).await
    }

    /// Checks that a client keeps its session from one transaction to the next, unless the options say that a pooler
    /// lends it another one.
    ///
    /// Two connections of ours never have one session, and one never changes its own. A pooler lends the session that
    /// was returned last, or the one that has been idle longest: each shows in one of the two comparisons.
    pub(super) async fn check_sessions(&self) -> Result<()> {
        if self.session.transactions_only {
            return Ok(());
        }
        let mut one = self.acquire().await?;
        // Without a second connection there is nothing to compare.
        let Ok(mut two) = self.acquire().await else { return Ok(()) };
        let is_lent = async {
            let first = session(&mut one).await?;
            for _ in 0..3 {
                if session(&mut one).await? != first {
                    return Ok(true);
                }
            }
            let mut transaction = two.begin().await?;
            Ok(session(&mut transaction).await? == first || session(&mut one).await? != first)
        };
        let is_lent: sqlx::Result<bool> = timeout(self.session.acquire_timeout, is_lent)
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut));
        if is_lent? { Err(config_error(LENT_SESSIONS)) } else { Ok(()) }
    }

    async fn of_pool<'a>(&'a self, kind: &'a SessionKind) -> Result<Connection<'a>> {
        let connection = self.acquire().await?;
        Ok(Connection {
            source: ConnectionSource::Pool(Box::new(connection)),
            connections: self,
            kind,
            survives: false,
        })
    }

    async fn slot<'a>(
        &'a self,
        slots: &'a [Slot],
        kind: &'a SessionKind,
    ) -> Result<Connection<'a>> {
        let mut open = self.free(slots).await?;
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::Closed);
        }
        if open.is_none() {
            *open = Some(self.attempt(|| self.open_dedicated(kind)).await?);
        }
        Ok(Connection {
            source: ConnectionSource::Slot(open),
            connections: self,
            kind,
            survives: false,
        })
    }

    async fn open_dedicated(&self, kind: &SessionKind) -> sqlx::Result<DedicatedConnection> {
        let mut connection = self.pool.acquire().await?;
        // No other user of the pool gets the settings of this session.
        connection.close_on_drop();
        let backend = match &kind.set_up {
            Some(set_up) => {
                let row = set_up.query().fetch_one(&mut *connection).await?;
                let (pid, incarnation) =
                    (row.try_get("pg_backend_pid")?, row.try_get("pg_postmaster_start_time")?);
                Some(Backend { pid, incarnation })
            }
            None => None,
        };
        Ok(DedicatedConnection { connection, backend })
    }

    async fn free<'a>(
        &'a self,
        slots: &'a [Slot],
    ) -> Result<MutexGuard<'a, Option<DedicatedConnection>>> {
        if let Some(open) = slots.iter().find_map(|slot| slot.try_lock().ok()) {
            return Ok(open);
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(slots.len()).unwrap_or(0);
        let slot = slots.get(turn).ok_or(Error::Closed)?;
        timeout(self.session.acquire_timeout, slot.lock())
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut.into())
    }

    async fn acquire(&self) -> Result<PoolConnection<Postgres>> {
        self.attempt(|| self.pool.acquire()).await
    }

    /// Connects. The first attempt has all the time that there is, since servers may be far away or slow. Later
    /// attempts run beside it, so that a server that is back is found at once.
    async fn attempt<T, F: Future<Output = sqlx::Result<T>>>(
        &self,
        connect: impl Fn() -> F,
    ) -> Result<T> {
        let again = async {
            sleep(ATTEMPT).await;
            loop {
                if let Ok(connected) = timeout(ATTEMPT, connect()).await {
                    break connected;
                }
            }
        };
        let connected = async {
            tokio::select! {
                biased;
                connected = connect() => connected,
                connected = again => connected,
            }
        };
        Ok(timeout(self.session.acquire_timeout, connected)
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut))?)
    }

    /// Returns once the server answers on another connection but this backend is idle or gone. The query of the
    /// backend, or its answer, was then lost on the way.
    async fn lost(&self, backend: Backend) {
        loop {
            sleep(ATTEMPT).await;
            let is_lost = async {
                let mut connection = self.pool.acquire().await?;
                sqlx::query_scalar(IS_LOST)
                    .bind(backend.pid)
                    .bind(backend.incarnation)
                    .fetch_one(&mut *connection)
                    .await
            };
            if let Ok(Ok(true)) = timeout(ATTEMPT, is_lost).await {
                return;
            }
        }
    }

    /// Closes the dedicated connections, and the pool if the store owns it.
    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for slot in self.lookups.iter().chain(&self.postings) {
            if let Some(dedicated) = slot.lock().await.take() {
                let _ = dedicated.connection.close().await;
            }
        }
        if self.owns_pool {
            self.pool.close().await;
        }
    }
}

/// Returns the session in which a statement runs. The statement is not prepared, so it works through every pooler.
async fn session(connection: &mut PgConnection) -> sqlx::Result<String> {
    connection.fetch_one(sqlx::raw_sql(SESSION)).await?.try_get(0)
}

type Slot = Mutex<Option<DedicatedConnection>>;

/// A dedicated connection.
struct DedicatedConnection {
    connection: PoolConnection<Postgres>,
    /// `None` behind a pooler, which gives every transaction another backend.
    backend: Option<Backend>,
}

/// The server process of a connection.
#[derive(Clone, Copy)]
struct Backend {
    pid: i32,
    /// The incarnation of its server.
    incarnation: Instant,
}

/// A connection in use. It is closed unless its work succeeded or the error leaves it usable.
pub(super) struct Connection<'a> {
    source: ConnectionSource<'a>,
    connections: &'a Connections,
    kind: &'a SessionKind,
    survives: bool,
}

enum ConnectionSource<'a> {
    Slot(MutexGuard<'a, Option<DedicatedConnection>>),
    Pool(Box<PoolConnection<Postgres>>),
}

impl Connection<'_> {
    /// Runs `work` and releases the connection. After an error that is not an answer of the server, the connection is
    /// closed.
    async fn run<T>(
        mut self,
        work: impl AsyncFnOnce(&mut Connection<'_>) -> Result<T>,
    ) -> Result<T> {
        let done = work(&mut self).await;
        self.survives = done.as_ref().map_or_else(connection_survives, |_| true);
        done
    }

    /// Runs one statement in a transaction of its own.
    pub(super) async fn fetch(&mut self, query: Query<'_>) -> Result<Vec<PgRow>> {
        let session = &self.connections.session;
        if !session.transactions_only {
            let (watch, query) = (self.watch(), session.prepare(query));
            return watch.rows(self.connection()?.fetch_all(query)).await;
        }
        self.transaction(async |statements| statements.fetch(query).await).await
    }

    /// Runs `work` in a transaction. Commits it if the work succeeded, and rolls it back if not.
    pub(super) async fn transaction<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Statements<'_>) -> Result<T>,
    ) -> Result<T> {
        let (watch, begin) = (self.watch(), self.kind.begin.text());
        let mut tx = watch.answered(self.connection()?.begin_with(AssertSqlSafe(begin))).await?;
        let done = work(&mut Statements { connection: &mut tx, watch, may_retry: true }).await?;
        watch.answered(tx.commit()).await?;
        Ok(done)
    }

    fn connection(&mut self) -> Result<&mut PgConnection> {
        match &mut self.source {
            ConnectionSource::Slot(open) => {
                open.as_mut().map(|dedicated| &mut *dedicated.connection).ok_or(Error::Closed)
            }
            ConnectionSource::Pool(connection) => Ok(connection),
        }
    }
}

impl<'a> Connection<'a> {
    fn watch(&self) -> Watch<'a> {
        let backend = match &self.source {
            ConnectionSource::Slot(open) => open.as_ref().and_then(|dedicated| dedicated.backend),
            ConnectionSource::Pool(_) => None,
        };
        Watch { connections: self.connections, backend }
    }
}

/// Ends the wait for an answer that was lost.
#[derive(Clone, Copy)]
struct Watch<'a> {
    connections: &'a Connections,
    backend: Option<Backend>,
}

impl Watch<'_> {
    /// Returns the rows of an answer. Passes the server's time to the clock if the last row has it.
    async fn rows(
        self,
        answer: impl Future<Output = sqlx::Result<Vec<PgRow>>>,
    ) -> Result<Vec<PgRow>> {
        let asked_at = std::time::Instant::now();
        let rows = self.answered(answer).await?;
        if let Some(Ok(Instant(shown))) = rows.last().map(|row| row.try_get("server_time")) {
            self.connections.clock.observe(shown, asked_at);
        }
        Ok(rows)
    }

    async fn answered<T>(self, answer: impl Future<Output = sqlx::Result<T>>) -> Result<T> {
        let Some(backend) = self.backend else { return Ok(answer.await?) };
        tokio::select! {
            biased;
            answer = answer => Ok(answer?),
            () = self.connections.lost(backend) => Err(sqlx::Error::from(std::io::Error::from(std::io::ErrorKind::TimedOut)).into()),
        }
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        if !self.survives {
            match &mut self.source {
                ConnectionSource::Slot(open) => drop(open.take()),
                ConnectionSource::Pool(connection) => connection.close_on_drop(),
            }
        }
    }
}

/// A connection inside a transaction of the store or of the application.
pub(super) struct Statements<'c> {
    connection: &'c mut PgConnection,
    watch: Watch<'c>,
    /// Whether the store may roll back the whole transaction and retry it.
    pub(super) may_retry: bool,
}

impl<'c> Statements<'c> {
    /// Runs statements inside a transaction of the application.
    pub(super) fn external(connection: &'c mut PgConnection, connections: &'c Connections) -> Self {
        Self { connection, watch: Watch { connections, backend: None }, may_retry: false }
    }

    pub(super) async fn fetch(&mut self, query: Query<'_>) -> Result<Vec<PgRow>> {
        let query = self.watch.connections.session.prepare(query);
        self.watch.rows(self.connection.fetch_all(query)).await
    }

    pub(super) async fn run(&mut self, query: Query<'_>) -> Result<()> {
        self.fetch(query).await.map(drop)
    }

    /// Runs a script of one or more statements.
    pub(super) async fn run_script(&mut self, text: &str) -> Result<()> {
        self.connection.execute(sqlx::raw_sql(AssertSqlSafe(text.to_owned()))).await?;
        Ok(())
    }
}
