//! Reconciliation: balances beside what entries and live holds add up to.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::connection::Open;
use super::decode::ReadCells;
use super::error::Result;
use super::statement::{all, one};
use super::transaction::{Written, in_write_transaction};
use super::validator::Cache;
use super::write::Decision;
use super::{load, post, read, usage, write};
use crate::ledger::Recount;
use crate::model::{Account, AccountId, Amount, Clock, Holder, Key, KeyId, Origin, Reconciled};
use crate::store::stale::Stale;
use crate::store::usage_sums::saturated;

/// Returns the balance of a holder as it is stored, and what its entries and live holds add up to. It ends no holds and
/// writes nothing. The connection has begun a transaction.
pub(super) fn recount(
    connection: &Connection,
    holder: &Holder,
    now: Timestamp,
) -> Result<Option<Recount>> {
    match holder {
        Holder::Account(id) => {
            let account = account(connection, id, now)?;
            account.map(|(account, at)| of_account(connection, &account, at)).transpose()
        }
        Holder::Key(id) => {
            let row = one(connection, read::KEY, [id.get()], |mut cells| cells.key_row())?;
            let Some(key) = row.map(|row| row.key) else { return Ok(None) };
            let at = account(connection, &key.account, now)?.map_or(now, |(_, at)| at);
            of_key(connection, &key, at).map(Some)
        }
    }
}

/// Sets what differs of a balance to what its entries and live holds add up to.
pub(super) fn mend(
    open: &mut Open,
    cache: &Cache,
    clock: &Clock,
    holder: &Holder,
    origin: &Origin,
) -> Result<Option<Reconciled>> {
    in_write_transaction(open, cache, |connection, _| {
        let now = clock.now();
        let Some(account) = account_of(connection, holder)? else {
            return Ok((None, Written::default()));
        };
        let key = match holder {
            Holder::Key(key) => Some((account.clone(), *key)),
            Holder::Account(_) => None,
        };
        // Holds that have expired end first, so that the book and the tables say the same.
        let stale = Stale { accounts: vec![account.clone()], keys: key.into_iter().collect() };
        let needs = stale.needs();
        let (_, Written { mut index_rows, .. }) = post::expire_holds_in(connection, now, stale)?;
        let Some(recount) = recount(connection, holder, now)? else {
            return Ok((None, Written::default()));
        };
        let (mut book, row) = load::book(connection, &needs, now)?;
        let mended =
            Reconciled { differences: book.mend(&recount, origin), ..recount.reconciled() };
        let changes = book.take_writes();
        let decision = row.map(|row| Decision::new(row, changes));
        index_rows.extend(write::changes(connection, decision.as_slice())?);
        Ok((Some(mended), Written { index_rows, policy: vec![account], ..Written::default() }))
    })
}

/// Returns the account that is locked to change a holder.
fn account_of(connection: &Connection, holder: &Holder) -> Result<Option<AccountId>> {
    const SQL: &str = "SELECT account_id FROM agent_keys WHERE id = ?1";
    match holder {
        Holder::Account(account) => Ok(Some(account.clone())),
        Holder::Key(key) => one(connection, SQL, [key.get()], |mut cells| cells.account_id()),
    }
}

/// Returns an account rolled to its time, and that time.
fn account(
    connection: &Connection,
    id: &AccountId,
    now: Timestamp,
) -> Result<Option<(Account, Timestamp)>> {
    Ok(read::account(connection, id, now)?.value)
}

fn of_account(connection: &Connection, account: &Account, at: Timestamp) -> Result<Recount> {
    let held = held(connection, &account.id, None)?;
    let mut recount = Recount::of_account(account, at, held);
    for window in recount.windows() {
        let sum = usage::spent_by_account(connection, &account.id, window.since)?;
        recount.set_sum(window, sum);
    }
    Ok(recount)
}

fn of_key(connection: &Connection, key: &Key, at: Timestamp) -> Result<Recount> {
    const GONE: &str = include_str!("sql/balances_without_key.sql");
    let held = held(connection, &key.account, Some(key.id))?;
    let mut recount = Recount::of_key(key, at, held);
    for window in recount.windows() {
        recount.set_sum(window, usage::spent_by_key(connection, key, window.since)?);
    }
    if recount.reconciled().agrees() {
        return Ok(recount);
    }
    for id in all(connection, GONE, [], |mut cells| cells.key_id())? {
        let gone = Key { id, ..key.clone() };
        for window in recount.windows() {
            let sum = usage::spent_by_key(connection, &gone, window.since)?;
            recount.add_sum_of_gone(window, sum);
        }
    }
    Ok(recount)
}

/// Returns the sum of the live holds of a key and its descendants, or of an account.
fn held(connection: &Connection, account: &AccountId, key: Option<KeyId>) -> Result<Amount> {
    const SQL: &str = include_str!("sql/held.sql");
    let of = params![account.as_str(), key.map(KeyId::get)];
    let held = one(connection, SQL, of, |mut cells| cells.sum())?;
    Ok(saturated(held.unwrap_or_default()))
}
