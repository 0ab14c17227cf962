//! Writes the changes of a book, row by row.

use std::borrow::Cow;

use jiff::Timestamp;
use rusqlite::{CachedStatement, Connection, Params, params};
use serde::Serialize;

use super::error::{Result, corrupt};
use super::index::{IndexRow, account_part, next_number};
use super::statement::{each, run};
use crate::ledger::{BalanceRow, HoldRow, IdempotencyRow, WriteSet};
use crate::model::{Account, AccountId, Amount, Balance, Entry, Event, KeyId, Note};
use crate::store::account_row::AccountRow;
use crate::store::cache::CacheDelta;
use crate::store::fast_path::next_seq;
use crate::store::records::{hold_state, more_limits, more_spent, on_expiry};

/// The decision about one account.
pub(super) struct Decision {
    before: AccountRow,
    after: AccountRow,
    pub(super) changes: WriteSet,
}

impl Decision {
    pub(super) fn new(before: AccountRow, changes: WriteSet) -> Self {
        Self { after: before.after(&changes), before, changes }
    }

    pub(super) fn delta(&self) -> CacheDelta {
        CacheDelta::new(self.before.version, self.after.clone(), &self.changes)
    }
}

/// Writes all decisions. Returns the index rows of the new entries.
pub(super) fn changes(connection: &Connection, decisions: &[Decision]) -> Result<Vec<IndexRow>> {
    let all_changes = || decisions.iter().map(|decision| &decision.changes);
    let count = all_changes().map(|changes| changes.entries.len()).sum();
    let mut index_rows = Vec::with_capacity(count);
    let mut number = if count == 0 { 0 } else { next_number(connection)? };
    for Decision { before, changes, .. } in decisions {
        let mut seq = before.last_entry;
        each(connection, NEW_ENTRY, &changes.entries, |statement, row| {
            seq = next_seq(seq, row.at);
            let (account, account_part) = (row.account.shared(), account_part(&row.account));
            let index_row = IndexRow { number, seq, account, account_part, key: row.key };
            entry(statement, row, &index_row)?;
            index_rows.push(index_row);
            number += 1;
            Ok(())
        })?;
    }
    let changed = decisions
        .iter()
        .filter(|decision| !decision.changes.is_empty())
        .map(|decision| &decision.after);
    each(connection, MONEY_OF_ACCOUNT, changed, money_of_account)?;
    each(connection, BALANCE, all_changes().flat_map(|changes| &changes.balances), write_balance)?;
    each(connection, NEW_HOLD, all_changes().flat_map(|changes| &changes.new_holds), new_hold)?;
    each(
        connection,
        CHANGED_HOLD,
        all_changes().flat_map(|changes| &changes.changed_holds),
        changed_hold,
    )?;
    each(connection, CLAIM, all_changes().flat_map(|changes| &changes.claims), claim)?;
    let dropped = all_changes().flat_map(|changes| &changes.dropped_claims);
    each(connection, DROPPED_CLAIM, dropped, |statement, (_, key, claim)| {
        execute(statement, params![key.get(), &**claim])
    })?;
    events(connection, all_changes().flat_map(|changes| &changes.events))?;
    Ok(index_rows)
}

fn execute(statement: &mut CachedStatement<'_>, row: impl Params) -> Result<()> {
    statement.execute(row)?;
    Ok(())
}

/// A charge names no column of policy, so that it fires none of their triggers.
const MONEY_OF_ACCOUNT: &str = include_str!("sql/update_money_of_account.sql");

fn money_of_account(statement: &mut CachedStatement<'_>, row: &AccountRow) -> Result<()> {
    let (spent, held, since) = money(&row.account.balance);
    let (at, next_expiry) = (micros(row.changed_at), row.next_expiry.map(micros));
    execute(
        statement,
        params![
            row.account.id.as_str(),
            at,
            spent,
            held,
            since,
            more_spent(&row.account.balance),
            next_expiry,
            row.last_entry
        ],
    )
}

/// Writes an account with its policy, changed at this instant. Inserts it if it is new.
pub(super) fn account(connection: &Connection, account: &Account, at: Timestamp) -> Result<()> {
    // Two statements: to triggers an upsert looks like an insert that replaces a row.
    const UPDATE: &str = include_str!("sql/update_account.sql");
    const INSERT: &str = include_str!("sql/insert_account.sql");
    let Account { id, budget, created_at, balance } = account;
    let (spent, held, since) = money(balance);
    let limit = budget.limit.map(Amount::as_micros);
    let (period, created_at) = (budget.period.as_str(), micros(*created_at));
    let (more_limits, more_spent) = (more_limits(budget), more_spent(balance));
    let row = params![
        id.as_str(),
        micros(at),
        limit,
        period,
        more_limits,
        created_at,
        spent,
        held,
        since,
        more_spent
    ];
    if run(connection, UPDATE, row)? == 0 {
        run(connection, INSERT, row)?;
    }
    Ok(())
}

const BALANCE: &str = include_str!("sql/upsert_balance.sql");

pub(super) fn balance(connection: &Connection, row: &BalanceRow) -> Result<()> {
    each(connection, BALANCE, [row], write_balance)
}

fn write_balance(statement: &mut CachedStatement<'_>, row: &BalanceRow) -> Result<()> {
    let (spent, held, since) = money(&row.balance);
    let (period, more_spent) = (row.balance.period().as_str(), more_spent(&row.balance));
    execute(statement, params![row.key.get(), period, spent, held, since, more_spent])
}

const NEW_HOLD: &str = include_str!("sql/insert_hold.sql");

fn new_hold(statement: &mut CachedStatement<'_>, hold: &HoldRow) -> Result<()> {
    let row = params![
        hold.id.as_bytes(),
        hold.account.as_str(),
        hold.key.get(),
        json(&hold.path)?,
        hold.amount.as_micros(),
        micros(hold.created_at),
        micros(hold.expires_at),
        on_expiry(hold.on_expiry),
        labels(&hold.note)?,
        hold.note.reference,
        hold_state(hold.state),
    ];
    execute(statement, row)
}

/// Only the expiry and the state of an existing hold can change.
const CHANGED_HOLD: &str = "UPDATE agentkey_holds SET expires_at = ?2, state = ?3 WHERE id = ?1";

fn changed_hold(statement: &mut CachedStatement<'_>, hold: &HoldRow) -> Result<()> {
    execute(statement, params![hold.id.as_bytes(), micros(hold.expires_at), hold_state(hold.state)])
}

const NEW_ENTRY: &str = include_str!("sql/insert_entry.sql");

fn entry(statement: &mut CachedStatement<'_>, entry: &Entry, index_row: &IndexRow) -> Result<()> {
    let row = params![
        index_row.number,
        entry.id.as_bytes(),
        index_row.seq,
        entry.account.as_str(),
        entry.key.map(KeyId::get),
        entry.kind.as_str(),
        entry.amount.as_micros(),
        micros(entry.at),
        micros(entry.counts_at),
        entry.refunds.as_ref().map(|id| id.as_bytes()),
        labels(&entry.note)?,
        entry.note.reference,
        index_row.account_part,
    ];
    execute(statement, row)
}

const NEW_EVENT: &str = include_str!("sql/insert_event.sql");

/// Writes events.
pub(super) fn events<'e>(
    connection: &Connection,
    events: impl IntoIterator<Item = &'e Event>,
) -> Result<()> {
    each(connection, NEW_EVENT, events, event)
}

pub(super) fn event(statement: &mut CachedStatement<'_>, event: &Event) -> Result<()> {
    let row = params![
        micros(event.at),
        event.account.as_str(),
        event.key.map(KeyId::get),
        event.key_name,
        json(&event.lineage)?,
        event.delegated_by,
        event.kind.as_str(),
        json(&event.origin.actor)?,
        event.origin.request_id,
        event.origin.route,
        event.reason(),
        event.count.cast_signed(),
        json(&event.detail)?,
    ];
    execute(statement, row)
}

const CLAIM: &str = include_str!("sql/upsert_claim.sql");
const DROPPED_CLAIM: &str =
    "DELETE FROM agentkey_idempotency_keys WHERE key_id = ?1 AND idempotency_key = ?2";

fn claim(
    statement: &mut CachedStatement<'_>,
    (_, row): &(AccountId, IdempotencyRow),
) -> Result<()> {
    let row = params![
        row.key.get(),
        &*row.claim.key,
        row.claim.fingerprint,
        row.owner.as_bytes(),
        row.in_flight_until.map(micros),
        row.entry.as_ref().map(|id| id.as_bytes()),
    ];
    execute(statement, row)
}

/// Returns the labels as JSON. Most postings have none.
fn labels(note: &Note) -> Result<Cow<'static, str>> {
    if note.labels.is_empty() { Ok("{}".into()) } else { json(&note.labels).map(Cow::Owned) }
}

pub(super) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

pub(super) fn json(value: &(impl Serialize + ?Sized)) -> Result<String> {
    serde_json::to_string(value).map_err(corrupt)
}

fn money(balance: &Balance) -> (i64, i64, i64) {
    (balance.spent().as_micros(), balance.held.as_micros(), micros(balance.since()))
}
