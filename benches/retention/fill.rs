//! A database with charges of sixty days, made by SQL.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use agentkey::AgentKeys;
use agentkey::jiff::Timestamp;

use crate::support::Result;

pub const KEYS: i64 = 1_000;
pub const ACCOUNTS: i64 = 10;

const DAY: Duration = Duration::from_secs(24 * 3_600);
/// Over so many days are the charges spread, up to two days ago.
const DAYS: u32 = 60;

pub enum Database {
    Sqlite(tempfile::TempDir),
    #[cfg(feature = "postgres")]
    Postgres(crate::support::database::Database),
}

/// The name of a table, and its size with its indexes in MB.
pub type Sizes = Vec<(String, f64)>;

const TABLES: [&str; 5] = [
    "agentkey_entries",
    "agentkey_rollups",
    "agentkey_holds",
    "agentkey_idempotency_keys",
    "agentkey_events",
];

/// No charge of the past is later.
pub fn two_days_ago() -> Timestamp {
    static NOW: LazyLock<Timestamp> = LazyLock::new(Timestamp::now);
    *NOW - 2 * DAY
}

/// The first instant in microseconds, and how far charges are apart.
fn times(charges: i64) -> (i64, i64) {
    let first = two_days_ago() - (DAYS - 2) * DAY;
    let span = i64::try_from(((DAYS - 2) * DAY).as_micros()).unwrap_or(i64::MAX);
    (first.as_microsecond(), span / (charges + 1))
}

impl Database {
    pub fn sqlite() -> Result<Self> {
        Ok(Self::Sqlite(tempfile::tempdir()?))
    }

    /// None where PostgreSQL is not installed.
    #[cfg(feature = "postgres")]
    pub async fn postgres() -> Option<Self> {
        crate::support::database::Database::start().await.map(Self::Postgres)
    }

    fn file(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("keys.db")
    }

    pub async fn open(&self) -> Result<AgentKeys> {
        Ok(match self {
            Self::Sqlite(dir) => {
                AgentKeys::new(agentkey::SqliteStore::connect(Self::file(dir)).await?)?
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => {
                AgentKeys::new(agentkey::PostgresStore::connect(database.url()).await?)?
            }
        })
    }

    /// Adds charges as a service leaves them.
    pub async fn fill(&self, charges: i64) -> Result<()> {
        let (first, step) = times(charges);
        match self {
            Self::Sqlite(dir) => {
                let connection = rusqlite::Connection::open(Self::file(dir))?;
                connection.execute("BEGIN", ())?;
                for sql in SQLITE {
                    let mut statement = connection.prepare(sql)?;
                    let all = [charges, first, step, KEYS, ACCOUNTS];
                    let count = statement.parameter_count();
                    statement.execute(rusqlite::params_from_iter(all.iter().take(count)))?;
                }
                connection.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)")?;
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => {
                use sqlx::Connection;

                let mut connection = sqlx::PgConnection::connect(database.url()).await?;
                for sql in POSTGRES {
                    let sql = sql
                        .replace("$1", &charges.to_string())
                        .replace("$2", &first.to_string())
                        .replace("$3", &step.to_string())
                        .replace("$4", &KEYS.to_string())
                        .replace("$5", &ACCOUNTS.to_string());
                    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await?;
                }
                connection.close().await?;
            }
        }
        Ok(())
    }

    pub async fn sizes(&self) -> Result<Sizes> {
        const MB: f64 = 1e6;
        let mut sizes = Vec::new();
        match self {
            Self::Sqlite(dir) => {
                let connection = rusqlite::Connection::open(Self::file(dir))?;
                for table in TABLES {
                    // The deferred indexes of entries are tables.
                    let of = "SELECT coalesce(sum(d.pgsize), 0) FROM dbstat d JOIN sqlite_schema s ON s.name = d.name \
                        WHERE s.tbl_name = ?1 OR s.tbl_name LIKE ?1 || '\\_of\\_%' ESCAPE '\\'";
                    let size: i64 = connection.query_row(of, [table], |row| row.get(0))?;
                    sizes.push((table.to_owned(), size as f64 / MB));
                }
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => {
                use sqlx::Connection;

                let mut connection = sqlx::PgConnection::connect(database.url()).await?;
                for table in TABLES {
                    let size: i64 =
                        sqlx::query_scalar("SELECT pg_total_relation_size($1::regclass)")
                            .bind(table)
                            .fetch_one(&mut connection)
                            .await?;
                    sizes.push((table.to_owned(), size as f64 / MB));
                }
                connection.close().await?;
            }
        }
        Ok(sizes)
    }

    /// Gives freed pages back, so that sizes are those of what is there.
    pub async fn compact(&self) -> Result<()> {
        match self {
            Self::Sqlite(dir) => {
                rusqlite::Connection::open(Self::file(dir))?.execute_batch("VACUUM")?
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => {
                use sqlx::Connection;

                let mut connection = sqlx::PgConnection::connect(database.url()).await?;
                sqlx::raw_sql("VACUUM FULL").execute(&mut connection).await?;
                connection.close().await?;
            }
        }
        Ok(())
    }
}

/// Charges ?1, the first instant ?2, the time between two ?3, keys ?4, accounts ?5. Ids are in the order of time.
const SQLITE: [&str; 7] = [
    "INSERT INTO agentkey_entries (number, id, seq, account_id, key_id, kind, amount, at, counts_at, labels, account_part) \
     WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1) \
     SELECT n, unhex(printf('%016x', n) || hex(randomblob(8))), (?2 + n * ?3) * 256, 'acme-' || (n * 7919 % ?4 % ?5), \
     n * 7919 % ?4 + 1, 'settle', n % 1000, ?2 + n * ?3, ?2 + n * ?3, json_object('model', 'model-' || (n % 5), \
     'request_id', printf('0191f0c0-%016x', n), 'route', '/v1/chat/completions'), n * 7919 % ?4 % ?5 FROM n",
    "INSERT INTO agentkey_entries (id, seq, account_id, key_id, kind, amount, at, counts_at, refunds, labels, account_part) \
     SELECT randomblob(16), seq + 1, account_id, key_id, 'refund', -amount, at, counts_at, id, labels, account_part \
     FROM agentkey_entries WHERE number % 100 = 1 AND amount > 0",
    "INSERT INTO agentkey_holds (id, account_id, key_id, path, amount, created_at, expires_at, on_expiry, labels, state) \
     SELECT id, account_id, key_id, json_array(key_id), 1000, at, at + 60000000, 'release', labels, 'ended' \
     FROM agentkey_entries WHERE kind = 'settle' ORDER BY id",
    "INSERT INTO agentkey_idempotency_keys (key_id, idempotency_key, fingerprint, owner, entry) \
     SELECT key_id, 'request-' || number, randomblob(32), id, id FROM agentkey_entries WHERE kind = 'settle' AND number % 10 = 0",
    "INSERT INTO agentkey_entries_of_account SELECT account_id, seq, number FROM agentkey_entries ORDER BY 1, 2",
    "INSERT INTO agentkey_entries_of_key SELECT key_id, seq, number FROM agentkey_entries ORDER BY 1, 2",
    "UPDATE agentkey_index_parts SET last = n, due = n FROM (SELECT max(number) AS n FROM agentkey_entries)",
];

#[cfg(feature = "postgres")]
const POSTGRES: [&str; 5] = [
    "INSERT INTO agentkey_entries (id, seq, account_id, key_id, kind, amount, at, counts_at, labels) \
     SELECT (lpad(to_hex(n), 16, '0') || substr(md5(n::text), 1, 16))::uuid, us * 256, 'acme-' || (n * 7919 % $4 % $5), \
     n * 7919 % $4 + 1, 'settle', n % 1000, at, at, jsonb_build_object('model', 'model-' || (n % 5), 'request_id', \
     '0191f0c0-' || lpad(to_hex(n), 16, '0'), 'route', '/v1/chat/completions') \
     FROM generate_series(1, $1::int8) n CROSS JOIN LATERAL (SELECT $2 + n * $3 AS us) t \
     CROSS JOIN LATERAL (SELECT 'epoch'::timestamptz + us * interval '1 microsecond' AS at) i ORDER BY n",
    "INSERT INTO agentkey_entries (id, seq, account_id, key_id, kind, amount, at, counts_at, refunds, labels) \
     SELECT gen_random_uuid(), seq + 1, account_id, key_id, 'refund', -amount, at, counts_at, id, labels \
     FROM agentkey_entries WHERE seq / 256 / $3 % 100 = 1 AND amount > 0",
    "INSERT INTO agentkey_holds (id, account_id, key_id, path, amount, created_at, expires_at, on_expiry, labels, state) \
     SELECT id, account_id, key_id, ARRAY[key_id], 1000, at, at + interval '1 min', 'release', labels, 'ended' \
     FROM agentkey_entries WHERE kind = 'settle' ORDER BY seq",
    "INSERT INTO agentkey_idempotency_keys (key_id, idempotency_key, fingerprint, owner, entry) \
     SELECT key_id, 'request-' || seq, sha256(id::text::bytea), id, id FROM agentkey_entries \
     WHERE kind = 'settle' AND amount % 10 = 0",
    "VACUUM ANALYZE",
];
