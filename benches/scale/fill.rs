//! Databases as years of use would leave them, made by SQL.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentkey::model::TokenHash;
use agentkey::{AgentKeys, Budget};
#[cfg(feature = "postgres")]
use sqlx::Connection;

use crate::support::Result;

#[derive(Clone, Copy)]
pub struct Size {
    pub keys: i64,
    pub entries: i64,
}

/// Over so many days are the entries spread, up to now.
const DAYS: u64 = 60;
/// Half of all keys are of one account, the others of so many.
const TEAMS: i64 = 1_000;
#[cfg(feature = "postgres")]
const BATCH: i64 = 10_000;

/// Of the token of a key.
pub fn hash(id: i64) -> TokenHash {
    TokenHash::digest(&format!("scale-{id:012}"))
}

/// The first instant, in microseconds, and how far entries are apart.
fn times(size: Size) -> Result<(i64, i64)> {
    let span = Duration::from_secs(DAYS * 86_400);
    let first = SystemTime::now().duration_since(UNIX_EPOCH)? - span;
    let step = i64::try_from(span.as_micros())? / (size.entries + 1);
    Ok((i64::try_from(first.as_micros())?, step))
}

/// Each account has its row, and the ceiling that says nothing.
async fn make_accounts(keys: &AgentKeys) -> Result<()> {
    for account in (0..TEAMS).map(|team| format!("team-{team}")).chain(["acme".to_owned()]) {
        keys.ensure_account(account.parse()?, Budget::unlimited()).await?;
    }
    Ok(())
}

#[cfg(feature = "postgres")]
/// So many ids from `first` on, and the hashes of their tokens.
fn batch(size: Size, first: i64) -> (Vec<i64>, Vec<String>) {
    (first..(first + BATCH).min(size.keys + 1)).map(|id| (id, hash(id).to_string())).unzip()
}

#[cfg(feature = "postgres")]
pub async fn postgres(keys: &AgentKeys, url: &str, size: Size) -> Result<()> {
    make_accounts(keys).await?;
    let (first, step) = times(size)?;
    let mut connection = sqlx::PgConnection::connect(url).await?;
    for batch in (1..=size.keys).step_by(BATCH as usize).map(|first| batch(size, first)) {
        sqlx::query(
            "INSERT INTO agent_keys (id, account_id, key_hash, created_at) \
             SELECT id, CASE WHEN id % 2 = 0 THEN 'acme' ELSE 'team-' || id / 2 % 1000 END, hash, \
             'epoch'::timestamptz + $3 * interval '1 microsecond' FROM unnest($1::int8[], $2::text[]) w (id, hash)",
        )
        .bind(batch.0)
        .bind(batch.1)
        .bind(first)
        .execute(&mut connection)
        .await?;
    }
    let entries = "INSERT INTO agentkey_entries (id, seq, account_id, key_id, kind, amount, at, counts_at, labels) \
         SELECT lpad(to_hex(n), 32, '0')::uuid, us * 256, k.account_id, k.id, 'pay', 1, at, at, '{}' \
         FROM generate_series(1, $1) n CROSS JOIN LATERAL (SELECT $2 + n * $3 AS us) t \
         CROSS JOIN LATERAL (SELECT 'epoch'::timestamptz + us * interval '1 microsecond' AS at) i \
         JOIN agent_keys k ON k.id = n * 7919 % $4 + 1 ORDER BY n";
    sqlx::query(entries)
        .bind(size.entries)
        .bind(first)
        .bind(step)
        .bind(size.keys)
        .execute(&mut connection)
        .await?;
    for sql in [
        "INSERT INTO agentkey_balances (key_id, account_id, period, spent, held, since) \
         SELECT e.key_id, e.account_id, a.period, count(*), 0, a.since FROM agentkey_entries e \
         JOIN agentkey_accounts a ON a.id = e.account_id GROUP BY e.key_id, e.account_id, a.period, a.since",
        "UPDATE agentkey_accounts a SET spent = e.spent, last_entry = e.last FROM (SELECT account_id, \
         count(*) AS spent, max(seq) AS last FROM agentkey_entries GROUP BY account_id) e WHERE e.account_id = a.id",
        "VACUUM ANALYZE",
        "CHECKPOINT",
    ] {
        sqlx::raw_sql(sql).execute(&mut connection).await?;
    }
    Ok(connection.close().await?)
}

pub async fn sqlite(keys: &AgentKeys, file: &Path, size: Size) -> Result<()> {
    make_accounts(keys).await?;
    let (first, step) = times(size)?;
    let connection = rusqlite::Connection::open(file)?;
    connection.execute_batch("BEGIN")?;
    let mut key = connection.prepare(
        "INSERT INTO agent_keys (id, account_id, key_hash, created_at) \
         VALUES (?1, CASE WHEN ?1 % 2 = 0 THEN 'acme' ELSE 'team-' || (?1 / 2 % 1000) END, ?2, ?3)",
    )?;
    for id in 1..=size.keys {
        key.execute((id, hash(id).to_string(), first))?;
    }
    let entries = "INSERT INTO agentkey_entries (id, seq, account_id, key_id, kind, amount, at, counts_at, labels, \
         account_part) WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1) \
         SELECT unhex(printf('%032x', n)), (?2 + n * ?3) * 256, k.account_id, k.id, 'pay', 1, ?2 + n * ?3, \
         ?2 + n * ?3, '{}', a.rowid FROM n CROSS JOIN agent_keys k ON k.id = n * 7919 % ?4 + 1 \
         JOIN agentkey_accounts a ON a.id = k.account_id";
    connection.execute(entries, (size.entries, first, step, size.keys))?;
    connection.execute_batch(
        "INSERT INTO agentkey_entries_of_account SELECT account_id, seq, number FROM agentkey_entries ORDER BY 1, 2; \
         INSERT INTO agentkey_entries_of_key SELECT key_id, seq, number FROM agentkey_entries ORDER BY 1, 2; \
         UPDATE agentkey_index_parts SET last = n, due = n FROM (SELECT max(number) AS n FROM agentkey_entries); \
         INSERT INTO agentkey_balances (key_id, period, spent, held, since) \
         SELECT e.key_id, a.period, count(*), 0, a.since FROM agentkey_entries e \
         JOIN agentkey_accounts a ON a.id = e.account_id GROUP BY e.key_id; \
         UPDATE agentkey_accounts SET spent = e.spent, last_entry = e.last FROM (SELECT account_id, \
         count(*) AS spent, max(seq) AS last FROM agentkey_entries GROUP BY account_id) e WHERE e.account_id = id; \
         COMMIT; PRAGMA wal_checkpoint(TRUNCATE)",
    )?;
    Ok(())
}
