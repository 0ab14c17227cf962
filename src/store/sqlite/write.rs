//! Writing back what a book changed: one statement for each table, all sent at once.

use jiff::Timestamp;
use serde::Serialize;
use sqlx::sqlite::SqliteConnection;

use super::load::{Hex, Query, json};
use crate::ledger::{Changes, ClaimRow, HoldRow, HoldState, OnExpiry};
use crate::{Account, Amount, Balance, Entry, EntryId, KeyId, Period};

/// Accounts with the instant of the change: new ones whole, of those that are there the money, and the policy where
/// it is said. Their version goes up by one.
///
/// A charge does not even name the columns of policy, so that it fires no trigger of theirs.
macro_rules! put_accounts {
    ($($policy:literal)?) => {concat!(
            "INSERT INTO agentkey_accounts \
             (id, version, changed_at, limit_micros, period, created_at, spent, held, since) \
             SELECT value ->> 0, 1, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, \
             value ->> 7 FROM json_each(?) WHERE true ON CONFLICT (id) DO UPDATE SET version = version + 1, changed_at = excluded.changed_at, \
             spent = excluded.spent, held = excluded.held, since = excluded.since"
            $(, $policy)?
    )};
}

macro_rules! put_balances {
    () => {
            "INSERT INTO agentkey_balances (key_id, period, spent, held, since) \
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?) WHERE true ON CONFLICT (key_id) DO UPDATE SET period = excluded.period, spent = excluded.spent, \
             held = excluded.held, since = excluded.since"
    };
}

/// Writes everything that a book changed: six statements, sent at once.
pub(super) async fn changes(connection: &mut SqliteConnection, changes: &Changes) -> sqlx::Result<()> {
    const SQL: &str = concat!(
        put_accounts!(),
        "; ",
        put_balances!(),
        // Of a hold that is there already only its end and its state can have changed.
        "; INSERT INTO agentkey_holds \
         (id, account_id, key_id, path, amount, created_at, expires_at, on_expiry, labels, reference, state) \
         SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value -> 3, value ->> 4, value ->> 5, value ->> 6, \
         value ->> 7, value -> 8, value ->> 9, value ->> 10 FROM json_each(?) WHERE true \
         ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at, state = excluded.state",
        "; INSERT INTO agentkey_entries \
         (id, account_id, key_id, kind, amount, at, counts_at, refunds, labels, reference) \
         SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, \
         unhex(value ->> 7), value -> 8, value ->> 9 FROM json_each(?) ORDER BY key",
        "; INSERT INTO agentkey_claims \
         (key_id, idempotency_key, fingerprint, owner, in_flight_until, entry) \
         SELECT value ->> 0, value ->> 1, unhex(value ->> 2), unhex(value ->> 3), value ->> 4, unhex(value ->> 5) \
         FROM json_each(?) WHERE true ON CONFLICT (key_id, idempotency_key) DO UPDATE SET \
         fingerprint = excluded.fingerprint, owner = excluded.owner, \
         in_flight_until = excluded.in_flight_until, entry = excluded.entry",
        "; DELETE FROM agentkey_claims WHERE (key_id, idempotency_key) IN \
         (SELECT value ->> 0, value ->> 1 FROM json_each(?))",
    );
    if changes.is_empty() {
        return Ok(());
    }
    let dropped = changes.dropped_claims.iter().map(|(key, claim)| (key, &**claim));
    let query = sqlx::query(SQL)
        .bind(list(changes.accounts.iter().map(account_row))?)
        .bind(list(changes.balances.iter().map(balance_row))?)
        .bind(list(changes.new_holds.iter().chain(&changes.changed_holds).map(hold_row))?)
        .bind(list(changes.entries.iter().map(entry_row))?)
        .bind(list(changes.claims.iter().map(claim_row))?)
        .bind(list(dropped)?);
    run(connection, query).await
}

pub(super) async fn account(connection: &mut SqliteConnection, account: &(Account, Timestamp)) -> sqlx::Result<()> {
    const SQL: &str = put_accounts!(", limit_micros = excluded.limit_micros, period = excluded.period");
    run(connection, sqlx::query(SQL).bind(json(&[account_row(account)])?)).await
}

pub(super) async fn balance(connection: &mut SqliteConnection, balance: &(KeyId, Period, Balance)) -> sqlx::Result<()> {
    run(connection, sqlx::query(put_balances!()).bind(json(&[balance_row(balance)])?)).await
}

fn account_row((account, at): &(Account, Timestamp)) -> impl Serialize {
    let Account { id, budget, created_at, balance } = account;
    let (spent, held, since) = money(balance);
    let limit = budget.limit.map(Amount::as_micros);
    (id, micros(*at), limit, budget.period.as_str(), micros(*created_at), spent, held, since)
}

fn balance_row((key, period, balance): &(KeyId, Period, Balance)) -> impl Serialize {
    let (spent, held, since) = money(balance);
    (key, period.as_str(), spent, held, since)
}

fn hold_row(hold: &HoldRow) -> impl Serialize {
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
}

fn entry_row(entry: &Entry) -> impl Serialize {
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
}

fn claim_row(row: &ClaimRow) -> impl Serialize {
    (
        row.key,
        &*row.claim.key,
        Hex(row.claim.fingerprint),
        Hex(*row.owner.as_bytes()),
        row.in_flight_until.map(micros),
        row.entry.map(hex),
    )
}

fn list(rows: impl Iterator<Item = impl Serialize>) -> sqlx::Result<String> {
    json(&rows.collect::<Vec<_>>())
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
