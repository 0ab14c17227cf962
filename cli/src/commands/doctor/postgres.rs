//! Checks of a PostgreSQL server. They read its settings and its activity, and change nothing.

use std::time::Duration;

use agentkey::jiff::{SignedDuration, Timestamp};
use agentkey::store::PostgresOptions;
use agentkey::{PostgresStore, StoreError};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{ConnectOptions, Connection, Row};
use tokio::time::timeout;

use super::check::Check;
use crate::error::Error;

const PATIENCE: Duration = Duration::from_secs(10);

/// Beyond this the instants that people see mislead.
const MAX_SKEW: SignedDuration = SignedDuration::from_secs(2);

const MIB: i64 = 1024 * 1024;

/// What is asked of the server. Each text is a column of one row.
const QUESTIONS: &str = "SELECT current_setting('server_version'), \
    current_setting('server_version_num')::int4, pg_is_in_recovery(), \
    current_setting('transaction_read_only') = 'on' AND NOT pg_is_in_recovery(), \
    current_setting('fsync'), current_setting('full_page_writes'), \
    current_setting('synchronous_commit'), current_setting('synchronous_standby_names'), \
    current_setting('max_connections')::int8, current_setting('autovacuum'), \
    (extract(epoch FROM clock_timestamp()) * 1000000)::int8";

const ACTIVITY: &str = "SELECT \
    (SELECT count(*) FROM pg_stat_activity), \
    (SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' \
        AND xact_start < now() - interval '1 minute'), \
    (SELECT count(*) FROM pg_stat_replication), \
    (SELECT coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)), 0)::int8 \
        FROM pg_replication_slots WHERE NOT active)";

/// Returns the time of the server's clock, if the tables are worth looking into.
pub(super) async fn check(url: &str, checks: &mut Vec<Check>) -> Option<Timestamp> {
    let mut connection = match connect(url).await {
        Ok(connection) => connection,
        Err(found) => {
            let mend = "start the server, or correct `--database`";
            checks.push(Check::failed("server", found, mend));
            return None;
        }
    };
    let before = Timestamp::now();
    let row = match ask(&mut connection, QUESTIONS).await {
        Ok(row) => row,
        Err(error) => {
            let mend = "is this PostgreSQL, 14 or newer?";
            checks.push(Check::failed("server", error.to_string(), mend));
            return None;
        }
    };
    let answered = before..Timestamp::now();
    let found = match Server::read(&row) {
        Ok(server) => server,
        Err(error) => {
            checks.push(Check::failed("server", error.to_string(), "is this PostgreSQL?"));
            return None;
        }
    };
    found.check(checks);
    checks.push(clock(found.now, &answered));
    if !found.is_standby
        && let Ok(row) = ask(&mut connection, ACTIVITY).await
    {
        activity(&row, &found, checks);
    }
    drop(connection.close().await);
    (!found.is_standby).then_some(found.now)
}

/// Connects without prepared statements, so that a pooler does not matter here.
async fn connect(url: &str) -> Result<PgConnection, String> {
    let options: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| error.to_string())?;
    let options =
        options.disable_statement_logging().statement_cache_capacity(0).extra_float_digits(None);
    match timeout(PATIENCE, PgConnection::connect_with(&options)).await {
        Ok(Ok(connection)) => Ok(connection),
        // The library says where the server is, and what its error means.
        Ok(Err(_)) | Err(_) => Err(opening_error(url).await),
    }
}

async fn opening_error(url: &str) -> String {
    let options = PostgresOptions::new(url).acquire_timeout(Duration::from_secs(2));
    let error = PostgresStore::migration_sql(options).await.err();
    let error = error.unwrap_or_else(|| StoreError::unavailable("it did not answer in time"));
    Error::from(error).to_string()
}

async fn ask(connection: &mut PgConnection, sql: &'static str) -> sqlx::Result<PgRow> {
    let row = sqlx::raw_sql(sql).fetch_one(connection);
    timeout(PATIENCE, row).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

struct Server {
    version: String,
    version_number: i32,
    is_standby: bool,
    is_read_only: bool,
    fsync: String,
    full_page_writes: String,
    synchronous_commit: String,
    synchronous_standbys: String,
    max_connections: i64,
    autovacuum: String,
    now: Timestamp,
}

impl Server {
    fn read(row: &PgRow) -> sqlx::Result<Self> {
        let micros: i64 = row.try_get_unchecked(10)?;
        Ok(Self {
            version: row.try_get_unchecked(0)?,
            version_number: row.try_get_unchecked(1)?,
            is_standby: row.try_get_unchecked(2)?,
            is_read_only: row.try_get_unchecked(3)?,
            fsync: row.try_get_unchecked(4)?,
            full_page_writes: row.try_get_unchecked(5)?,
            synchronous_commit: row.try_get_unchecked(6)?,
            synchronous_standbys: row.try_get_unchecked(7)?,
            max_connections: row.try_get_unchecked(8)?,
            autovacuum: row.try_get_unchecked(9)?,
            now: Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH),
        })
    }

    fn check(&self, checks: &mut Vec<Check>) {
        let version = format!("PostgreSQL {}", self.version);
        checks.push(match self.version_number {
            140_000.. => Check::ok("server", version),
            _ => Check::failed("server", version, "upgrade: agentkey needs PostgreSQL 14 or newer"),
        });
        checks.push(if self.is_standby {
            let mend = "name the primary in the URL: agentkey reads and writes there only";
            Check::failed(
                "role of the server",
                "a standby, which can only be read".to_owned(),
                mend,
            )
        } else if self.is_read_only {
            let mend = "set `default_transaction_read_only` to off for this role and database";
            Check::failed("role of the server", "transactions are read-only".to_owned(), mend)
        } else {
            Check::ok("role of the server", "a primary".to_owned())
        });
        let unsafe_writes = self.fsync != "on" || self.full_page_writes != "on";
        checks.push(Check::warn_if(
            unsafe_writes,
            "writes to disk",
            format!("fsync = {}, full_page_writes = {}", self.fsync, self.full_page_writes),
            "set both to on: a crash of the machine may lose the database",
        ));
        checks.push(Check::ok(
            "commits",
            format!(
                "synchronous_commit = {}{}",
                self.synchronous_commit,
                if self.synchronous_commit == "off" { ", which agentkey sets to on" } else { "" }
            ),
        ));
        checks.push(Check::warn_if(
            self.autovacuum != "on",
            "autovacuum",
            self.autovacuum.clone(),
            "set it to on: tables that are written often grow without it",
        ));
    }
}

fn activity(row: &PgRow, server: &Server, checks: &mut Vec<Check>) {
    let number = |column| row.try_get_unchecked::<i64, usize>(column).unwrap_or_default();
    let (sessions, idle, standbys, retained) = (number(0), number(1), number(2), number(3));
    checks.push(Check::warn_if(
        sessions * 10 > server.max_connections * 9,
        "connections",
        format!("{sessions} of {}", server.max_connections),
        "raise max_connections, make pools smaller, or put PgBouncer in front",
    ));
    checks.push(Check::warn_if(
        idle > 0,
        "open transactions",
        format!("{idle} are idle for a minute or more"),
        "look in pg_stat_activity: they keep rows locked, and old rows from being removed",
    ));
    checks.push(Check::warn_if(
        standbys > 0 && server.synchronous_standbys.is_empty(),
        "standbys",
        format!("{standbys}, synchronous_standby_names = '{}'", server.synchronous_standbys),
        "a failover may lose the last charges: name a synchronous standby, or accept that",
    ));
    checks.push(Check::warn_if(
        retained > 1024 * MIB,
        "WAL",
        format!("an unused replication slot keeps {} MiB", retained / MIB),
        "drop the slot, or start its standby, before the disk is full",
    ));
}

/// Compares the server's clock with this machine's, at the time of the answer.
fn clock(server: Timestamp, answered: &std::ops::Range<Timestamp>) -> Check {
    let behind = answered.start.duration_since(server);
    let ahead = server.duration_since(answered.end);
    let skew = behind.max(ahead).max(SignedDuration::ZERO);
    Check::warn_if(
        skew > MAX_SKEW,
        "clock",
        format!("the clocks differ by {} s", skew.as_secs()),
        "correct this machine's clock, or the server's: the server's decides expiry and windows",
    )
}
