//! Policy changes, each with its event in one transaction.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::connection::Open;
use super::decode::ReadCells;
use super::error::Result;
use super::statement::{one, run};
use super::transaction::{Written, in_write_transaction};
use super::validator::Cache;
use super::write::{json, micros};
use super::{post, read, usage, write};
use crate::ledger::{
    AccountChange, AccountWrite, Action, BalanceRow, ImportDraft, ImportWrite, KeyChange,
    KeyRecord, KeyWrite, Load, Loaded, Posting, Rules,
};
use crate::model::{
    Account, AccountId, Amount, ChangeError, Clock, Imported, Key, KeyId, Lineage, Origin,
    ScopeSet, Spent, Subject, TokenHash,
};
use crate::store::ImportResult;
use crate::store::key_row::stored_rate_limit;
use crate::store::records::more_limits;
use crate::store::stale::ReadResult;

type ChangeOutcome<T> = Result<std::result::Result<T, ChangeError>>;

/// Changes a key. Also a refused change ends the holds that have expired.
pub(super) fn change_key(
    open: &mut Open,
    cache: &Cache,
    clock: &Clock,
    change: &KeyChange,
    rules: &Rules,
) -> ChangeOutcome<Key> {
    in_write_transaction(open, cache, |connection, _| {
        let now = clock.now();
        if let KeyChange::EnsureSubject { subject, .. } = change
            && let Some(id) = key_of(connection, &subject.subject.digest())?
        {
            let found = current(connection, now, || read::lineage(connection, id, now))?;
            let key = subject.check_found(id, found.as_ref().map(Lineage::key));
            return Ok((key, Written::default()));
        }
        let (lineage, time, account) = load(connection, change.load(), now)?;
        let caller = match change.load_caller(lineage.as_ref(), rules) {
            Some(id) => current(connection, now, || read::lineage(connection, id, now))?,
            None => None,
        };
        let children = match change.count_children(rules) {
            Some(parent) => read::children_in_force(connection, parent, now)?,
            None => 0,
        };
        let descendants = match change.count_descendants() {
            Some(key) => read::descendants(connection, key)?,
            None => 0,
        };
        let in_grace = match change.count_in_grace() {
            Some(key) => read::in_grace(connection, key, now)?,
            None => 0,
        };
        let loaded = Loaded { lineage, caller, children, descendants, in_grace, time };
        let changed = match change.decide(&loaded, rules) {
            Ok(write) => Ok(write_key(connection, write)?),
            Err(refused) => Err(refused),
        };
        Ok((changed, Written { policy: account.into_iter().collect(), ..Written::default() }))
    })
}

/// Imports keys.
pub(super) fn import_keys(
    open: &mut Open,
    cache: &Cache,
    clock: &Clock,
    imports: &[ImportDraft],
    rules: &Rules,
) -> Result<Vec<ImportResult>> {
    in_write_transaction(open, cache, |connection, _| {
        let now = clock.now();
        let (mut answers, mut openings) = (Vec::with_capacity(imports.len()), Vec::new());
        let mut policy = Vec::new();
        for import in imports {
            if let Some(known) = key_of(connection, &import.token.hash)? {
                answers.push(Ok(Imported::Known(known)));
                continue;
            }
            let (parent, time, account) = load(connection, import.load(), now)?;
            policy.extend(account);
            answers.push(match import.decide(parent.as_ref(), time, rules) {
                Ok(ImportWrite { write, spent }) => {
                    let key = write_key(connection, write)?;
                    let opening = Action::Opening { amount: spent };
                    let opening = Posting::new(key.account.clone(), key.id, opening);
                    openings.extend((!spent.is_zero()).then_some(opening));
                    Ok(Imported::New(key.id))
                }
                Err(refused) => Err(refused),
            });
        }
        let index_rows = post::post_openings(connection, now, &openings)?;
        Ok((answers, Written { policy, index_rows, ..Written::default() }))
    })
}

/// Returns the key that has a token, or had it before a rotation.
fn key_of(connection: &Connection, hash: &TokenHash) -> Result<Option<KeyId>> {
    const SQL: &str = include_str!("sql/key_of_any_token.sql");
    one(connection, SQL, [hash.to_string()], |mut cells| cells.key_id())
}

/// Creates or changes an account.
pub(super) fn change_account(
    open: &mut Open,
    cache: &Cache,
    clock: &Clock,
    id: &AccountId,
    change: AccountChange,
    origin: &Origin,
) -> ChangeOutcome<Account> {
    in_write_transaction(open, cache, |connection, _| {
        let now = clock.now();
        let current = account(connection, id, now)?;
        let changed = match AccountWrite::decide(id, change, current, now, origin) {
            Ok(write) => Ok(write_account(connection, write)?),
            Err(refused) => Err(refused),
        };
        Ok((changed, Written { policy: vec![id.clone()], ..Written::default() }))
    })
}

/// Loads what a change is decided by, and the account.
fn load(
    connection: &Connection,
    load: Load<'_>,
    now: Timestamp,
) -> Result<(Option<Lineage>, Timestamp, Option<AccountId>)> {
    match load {
        Load::Lineage(id) => {
            let lineage = current(connection, now, || read::lineage(connection, id, now))?;
            let account = lineage.as_ref().map(|lineage| lineage.account_id().clone());
            Ok((lineage, now, account))
        }
        Load::Time(id) => {
            let time = account(connection, id, now)?.map_or(now, |(_, at)| at);
            Ok((None, time, Some(id.clone())))
        }
    }
}

/// Reads a value, after it brought what is stale up to date.
fn current<T>(
    connection: &Connection,
    now: Timestamp,
    read: impl Fn() -> Result<ReadResult<T>>,
) -> Result<T> {
    let result = read()?;
    if result.stale.is_empty() {
        return Ok(result.value);
    }
    post::expire_holds_in(connection, now, result.stale)?;
    Ok(read()?.value)
}

/// Returns an account rolled to its time, and that time.
fn account(
    connection: &Connection,
    id: &AccountId,
    now: Timestamp,
) -> Result<Option<(Account, Timestamp)>> {
    current(connection, now, || read::account(connection, id, now))
}

fn write_key(connection: &Connection, write: KeyWrite) -> Result<Key> {
    const REVOKE: &str = "UPDATE agent_keys SET revoked_at = ?2, revoked_reason = ?3 WHERE id = ?1";
    const END_GRACE: &str = "DELETE FROM agentkey_retired_tokens WHERE key_id = ?1";
    let KeyWrite { mut key, at, record } = write;
    let Some((record, mut event)) = record else { return Ok(key) };
    touch(connection, &key.account, at)?;
    match record {
        KeyRecord::Insert(hash) => {
            key.id = insert_key(connection, &key, &hash)?;
            event.set_new_key(key.id);
            write_anchor(connection, &key)?;
        }
        KeyRecord::Update { before, recount } => {
            for window in recount {
                usage::recount_key(connection, &mut key, window)?;
            }
            // A key without entries gets no balance: it may still be deleted.
            if !before.balance.counts(&key.budget) && !key.balance.is_zero() {
                write::balance(connection, &BalanceRow::of(&key))?;
            }
            update_key(connection, &before, &key)?;
        }
        KeyRecord::Rotate { hash, retires_at } => {
            rotate_token(connection, &key, &hash, retires_at, at)?
        }
        KeyRecord::EndGrace => run(connection, END_GRACE, params![key.id.get()]).map(drop)?,
        KeyRecord::Revoke => {
            let row = params![key.id.get(), micros(at), key.revoked_reason];
            run(connection, REVOKE, row).map(drop)?;
        }
    }
    write::events(connection, [&event])?;
    Ok(key)
}

fn write_account(connection: &Connection, write: AccountWrite) -> Result<Account> {
    let AccountWrite { mut account, at, recount, event } = write;
    let Some(event) = event else { return Ok(account) };
    for window in recount {
        let amount = usage::spent_by_account(connection, &account.id, window.since)?;
        account.balance.set_spent(Spent { amount, ..window });
    }
    write::account(connection, &account, at)?;
    write::events(connection, [&event])?;
    Ok(account)
}

fn insert_key(connection: &Connection, key: &Key, hash: &TokenHash) -> Result<KeyId> {
    const SQL: &str = include_str!("sql/insert_key.sql");
    let row = params![
        key.account.as_str(),
        key.parent.map(KeyId::get),
        key.name,
        key.prefix,
        key.start,
        hash.to_string(),
        scopes(&key.scopes)?,
        key.budget.limit.map(Amount::as_micros),
        key.budget.period.as_str(),
        more_limits(&key.budget),
        micros(key.created_at),
        key.expires_at.map(micros),
        key.delegated_by,
        key.metadata.stored(),
        key.disabled_at.map(micros),
        stored_rate_limit(key.rate_limit.as_ref()),
        key.allowed_cidrs.as_ref().map(json).transpose()?,
        key.subject.as_ref().map(Subject::issuer),
        key.subject.as_ref().map(Subject::id),
    ];
    run(connection, SQL, row)?;
    Ok(KeyId::new(connection.last_insert_rowid()))
}

/// Writes the instant from which the windows of a new key are counted, if it is not the key's creation.
fn write_anchor(connection: &Connection, key: &Key) -> Result<()> {
    const SQL: &str = "UPDATE agentkey_balances SET anchor = ?2 WHERE key_id = ?1";
    if key.anchor == key.created_at {
        return Ok(());
    }
    write::balance(connection, &BalanceRow::of(key))?;
    run(connection, SQL, params![key.id.get(), micros(key.anchor)]).map(drop)
}

fn update_key(connection: &Connection, before: &Key, key: &Key) -> Result<()> {
    const SQL: &str = include_str!("sql/update_key.sql");
    let row = params![
        key.id.get(),
        key.name,
        scopes(&key.scopes)?,
        key.budget.limit.map(Amount::as_micros),
        key.budget.period.as_str(),
        more_limits(&key.budget),
        key.expires_at.map(micros),
        key.disabled_at.map(micros),
        key.metadata.stored(),
        before.metadata != key.metadata,
        stored_rate_limit(key.rate_limit.as_ref()),
        key.allowed_cidrs.as_ref().map(json).transpose()?,
        before.allowed_cidrs != key.allowed_cidrs,
    ];
    run(connection, SQL, row).map(drop)
}

/// Replaces a token. No token that was retired before outlives the one that is retired now.
fn rotate_token(
    connection: &Connection,
    key: &Key,
    hash: &TokenHash,
    retires_at: Timestamp,
    now: Timestamp,
) -> Result<()> {
    const SHORTEN: &str =
        "UPDATE agentkey_retired_tokens SET retires_at = min(retires_at, ?2) WHERE key_id = ?1";
    const RETIRE: &str = include_str!("sql/retire_token.sql");
    const REPLACE: &str =
        "UPDATE agent_keys SET key_hash = ?2, prefix = ?3, start = ?4 WHERE id = ?1";
    const DELETE: &str = "DELETE FROM agentkey_retired_tokens WHERE key_hash = ?3 OR key_id = ?1 AND retires_at <= ?2";
    let (id, hash) = (key.id.get(), hash.to_string());
    run(connection, SHORTEN, params![id, micros(retires_at)])?;
    run(connection, RETIRE, params![id, hash, micros(retires_at)])?;
    run(connection, REPLACE, params![id, hash, key.prefix, key.start])?;
    run(connection, DELETE, params![id, micros(now), hash]).map(drop)
}

/// Marks an account as changed at `at`; makes it where there is none.
fn touch(connection: &Connection, id: &AccountId, at: Timestamp) -> Result<()> {
    const SQL: &str =
        "UPDATE agentkey_accounts SET version = version + 1, changed_at = ?2 WHERE id = ?1";
    match run(connection, SQL, params![id.as_str(), micros(at)])? {
        0 => write::account(connection, &Account::new(id.clone(), at), at),
        _ => Ok(()),
    }
}

/// Returns the scopes as a JSON array; `None`, stored as NULL, is unrestricted.
fn scopes(scopes: &ScopeSet) -> Result<Option<String>> {
    (!scopes.is_unrestricted()).then(|| json(scopes)).transpose()
}
