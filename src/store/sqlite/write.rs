//! Writing back what a book changed: one statement for each table.

use jiff::Timestamp;
use serde::Serialize;
use sqlx::sqlite::SqliteConnection;

use super::load::{Hex, Query, json};
use crate::ledger::{Changes, ClaimRow, HoldRow, HoldState, OnExpiry};
use crate::{Account, Amount, Balance, Entry, EntryId, KeyId, Period};

pub(super) async fn changes(connection: &mut SqliteConnection, changes: &Changes) -> sqlx::Result<()> {
    accounts(connection, &changes.accounts).await?;
    balances(connection, &changes.balances).await?;
    holds(connection, changes.new_holds.iter().chain(&changes.changed_holds)).await?;
    entries(connection, &changes.entries).await?;
    claims(connection, &changes.claims).await?;
    dropped_claims(connection, changes).await
}

/// Writes accounts whole, policy and money, with the instant of the change. Their version goes up by one.
pub(super) async fn accounts(connection: &mut SqliteConnection, accounts: &[(Account, Timestamp)]) -> sqlx::Result<()> {
    const SQL: &str = "INSERT INTO agentkey_accounts \
         (id, version, changed_at, limit_micros, period, created_at, spent, held, since) \
         SELECT value ->> 0, 1, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, \
         value ->> 7 FROM json_each(?1) WHERE true \
         ON CONFLICT (id) DO UPDATE SET version = version + 1, changed_at = excluded.changed_at, \
         limit_micros = excluded.limit_micros, period = excluded.period, \
         spent = excluded.spent, held = excluded.held, since = excluded.since";
    let rows = accounts.iter().map(|(account, at)| {
        let Account { id, budget, created_at, balance } = account;
        let (spent, held, since) = money(balance);
        let limit = budget.limit.map(Amount::as_micros);
        (id, micros(*at), limit, budget.period.as_str(), micros(*created_at), spent, held, since)
    });
    execute(connection, SQL, rows).await
}

pub(super) async fn balances(
    connection: &mut SqliteConnection,
    balances: &[(KeyId, Period, Balance)],
) -> sqlx::Result<()> {
    const SQL: &str = "INSERT INTO agentkey_balances (key_id, period, spent, held, since) \
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?1) WHERE true \
         ON CONFLICT (key_id) DO UPDATE SET period = excluded.period, spent = excluded.spent, held = excluded.held, \
         since = excluded.since";
    let rows = balances.iter().map(|(key, period, balance)| {
        let (spent, held, since) = money(balance);
        (key, period.as_str(), spent, held, since)
    });
    execute(connection, SQL, rows).await
}

/// Writes holds, new or not: of one that is there only its end and its state can have changed.
async fn holds(connection: &mut SqliteConnection, holds: impl Iterator<Item = &HoldRow>) -> sqlx::Result<()> {
    const SQL: &str = "INSERT INTO agentkey_holds \
         (id, account_id, key_id, path, amount, created_at, expires_at, on_expiry, labels, reference, state) \
         SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value -> 3, value ->> 4, value ->> 5, value ->> 6, \
         value ->> 7, value -> 8, value ->> 9, value ->> 10 FROM json_each(?1) WHERE true \
         ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at, state = excluded.state";
    let rows = holds.map(|hold| {
        let on_expiry = match hold.on_expiry {
            OnExpiry::Release => "release",
            OnExpiry::Charge => "charge",
        };
        let state = match hold.state {
            HoldState::Live => "live",
            HoldState::Over => "over",
            HoldState::Charged => "charged",
        };
        (
            Hex(*hold.id.as_bytes()),
            &hold.account,
            hold.key,
            &hold.path,
            hold.amount.as_micros(),
            micros(hold.created_at),
            micros(hold.expires_at),
            on_expiry,
            &hold.note.labels,
            &hold.note.reference,
            state,
        )
    });
    execute(connection, SQL, rows).await
}

async fn entries(connection: &mut SqliteConnection, entries: &[Entry]) -> sqlx::Result<()> {
    const SQL: &str = "INSERT INTO agentkey_entries \
         (id, account_id, key_id, kind, amount, at, counts_at, refunds, labels, reference) \
         SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, \
         unhex(value ->> 7), value -> 8, value ->> 9 FROM json_each(?1) ORDER BY key";
    let rows = entries.iter().map(|entry| {
        (
            Hex(*entry.id.as_bytes()),
            &entry.account,
            entry.key,
            entry.kind.as_str(),
            entry.amount.as_micros(),
            micros(entry.at),
            micros(entry.counts_at),
            entry.refunds.map(hex),
            &entry.note.labels,
            &entry.note.reference,
        )
    });
    execute(connection, SQL, rows).await
}

async fn claims(connection: &mut SqliteConnection, claims: &[ClaimRow]) -> sqlx::Result<()> {
    const SQL: &str = "INSERT INTO agentkey_claims \
         (key_id, idempotency_key, fingerprint, owner, in_flight_until, entry) \
         SELECT value ->> 0, value ->> 1, unhex(value ->> 2), unhex(value ->> 3), value ->> 4, unhex(value ->> 5) \
         FROM json_each(?1) WHERE true ON CONFLICT (key_id, idempotency_key) DO UPDATE SET \
         fingerprint = excluded.fingerprint, owner = excluded.owner, \
         in_flight_until = excluded.in_flight_until, entry = excluded.entry";
    let rows = claims.iter().map(|row| {
        (
            row.key,
            &*row.claim.key,
            Hex(row.claim.fingerprint),
            Hex(*row.owner.as_bytes()),
            row.in_flight_until.map(micros),
            row.entry.map(hex),
        )
    });
    execute(connection, SQL, rows).await
}

async fn dropped_claims(connection: &mut SqliteConnection, changes: &Changes) -> sqlx::Result<()> {
    const SQL: &str = "DELETE FROM agentkey_claims WHERE (key_id, idempotency_key) IN \
         (SELECT value ->> 0, value ->> 1 FROM json_each(?1))";
    execute(connection, SQL, changes.dropped_claims.iter().map(|(key, claim)| (key, &**claim))).await
}

/// Runs `sql` on rows; not at all where there are none.
async fn execute<T: Serialize>(
    connection: &mut SqliteConnection,
    sql: &'static str,
    rows: impl Iterator<Item = T>,
) -> sqlx::Result<()> {
    let rows: Vec<T> = rows.collect();
    if rows.is_empty() {
        return Ok(());
    }
    run(connection, sqlx::query(sql).bind(json(&rows)?)).await
}

pub(super) async fn run(connection: &mut SqliteConnection, query: Query<'_>) -> sqlx::Result<()> {
    query.execute(connection).await.map(drop)
}

pub(super) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

fn money(balance: &Balance) -> (i64, i64, i64) {
    (balance.spent.as_micros(), balance.held.as_micros(), micros(balance.since))
}

fn hex(id: EntryId) -> Hex<16> {
    Hex(*id.as_bytes())
}
