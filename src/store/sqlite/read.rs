//! Keys and accounts, as they stand.

use jiff::Timestamp;
use sqlx::sqlite::SqliteConnection;

use super::decode::{Cells, account_columns, has_overdue, key_columns, rows};
use super::load::{Hex, json};
use super::rows::{Cell, Rows};
use super::write::micros;
use crate::store::behind::{Behind, Seen};
use crate::store::stored_key::KeyRow;
use crate::store::{Found, KeyQuery, KeysOf};
use crate::{Account, AccountId, Key, KeyId, Lineage, TokenHash};

/// No lineage is longer, whatever the rules say.
macro_rules! climb {
    () => {
        " UNION ALL SELECT c.place, k.parent_id, c.retires_at, c.depth + 1 FROM chain c \
         CROSS JOIN agent_keys k ON k.id = c.id WHERE k.parent_id IS NOT NULL AND c.depth < 64) "
    };
}

/// The rows of lineages: for each place the key, then its parent, and so on.
macro_rules! from_chain {
    () => {
        concat!(
            " FROM chain c CROSS JOIN agent_keys k ON k.id = c.id CROSS JOIN agentkey_accounts a ON a.id = k.account_id",
            " LEFT JOIN agentkey_balances b ON b.key_id = k.id",
        )
    };
}

/// This runs on every request: one statement for all of them.
pub(super) async fn find(
    connection: &mut SqliteConnection,
    hashes: &[TokenHash],
    now: Timestamp,
) -> sqlx::Result<Seen<Vec<Option<Found>>>> {
    const SQL: &str = rows!(
        "WITH RECURSIVE chain (place, id, retires_at, depth) AS (",
        "SELECT w.key, k.id, NULL, 0 FROM json_each(?1) w CROSS JOIN agent_keys k ON k.key_hash = w.value",
        " UNION ALL ",
        "SELECT w.key, t.key_id, t.retires_at, 0 FROM json_each(?1) w",
        " CROSS JOIN agentkey_retired_tokens t ON t.key_hash = w.value WHERE t.retires_at > ?2",
        climb!(),
        "SELECT json_array(c.place, c.depth, c.retires_at, 0, ",
        key_columns!(),
        ", ",
        account_columns!(),
        ") AS j",
        from_chain!(),
    );
    // Requests that come together often come with the same key.
    let mut wanted = hashes.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    let list: Vec<_> = wanted.iter().map(|hash| Hex(*hash.as_bytes())).collect();
    let rows = Rows::fetch(connection, sqlx::query(SQL).bind(json(&list)?).bind(micros(now))).await?;
    let rows = in_order(rows.read()?);
    let mut found: Vec<Option<Found>> = Vec::new();
    found.resize_with(wanted.len(), || None);
    let mut behind = Behind::default();
    for lineage in rows.chunk_by(|row, next| place(row).is_some_and(|place| Some(place) == self::place(next))) {
        let Some(first) = lineage.first() else { continue };
        let Some(slot) = place(first).and_then(|place| found.get_mut(place)) else { continue };
        let retires_at = member(first)?.0.retires_at;
        // By the account's own time, which does not go back when the clock does.
        let lineage = assemble(lineage, now, &mut behind)?;
        let lineage = lineage.filter(|lineage| retires_at.is_none_or(|end| end > lineage.at()));
        *slot = lineage.map(|lineage| Found::new(lineage, retires_at));
    }
    if wanted.len() != hashes.len() {
        let of = |hash| wanted.binary_search(hash).ok().and_then(|place| found.get(place)?.clone());
        return Ok(Seen { value: hashes.iter().map(of).collect(), behind });
    }
    let mut take = |hash| wanted.binary_search(hash).ok().and_then(|place| found.get_mut(place)?.take());
    Ok(Seen { value: hashes.iter().map(&mut take).collect(), behind })
}

/// The number of the policy in force. Triggers draw another with every change, whoever makes it.
pub(super) async fn policy(connection: &mut SqliteConnection) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar("SELECT version FROM agentkey_policy WHERE id = 0").fetch_optional(connection).await
}

/// The lineage of one key, at the account's own time.
pub(super) async fn lineage(
    connection: &mut SqliteConnection,
    key: KeyId,
    now: Timestamp,
) -> sqlx::Result<Seen<Option<Lineage>>> {
    const SQL: &str = rows!(
        "WITH RECURSIVE chain (place, id, retires_at, depth) AS (SELECT 0, ?1, NULL, 0",
        climb!(),
        "SELECT json_array(c.place, c.depth, c.retires_at, c.depth = 0 AND ",
        has_overdue!(),
        ", ",
        key_columns!(),
        ", ",
        account_columns!(),
        ") AS j",
        from_chain!(),
    );
    let rows = Rows::fetch(connection, sqlx::query(SQL).bind(key.get()).bind(micros(now))).await?;
    let rows = in_order(rows.read()?);
    let overdue = rows.first().map(|row| member(row)).transpose()?.is_some_and(|(key, _)| key.overdue);
    let mut behind = Behind::default();
    let value = assemble(&rows, now, &mut behind)?;
    for lineage in value.iter().filter(|_| overdue) {
        behind.add_account(lineage.account_id());
    }
    Ok(Seen { value, behind })
}

/// An account, not rolled to its time, which is told too.
pub(super) async fn account(
    connection: &mut SqliteConnection,
    id: &AccountId,
    now: Timestamp,
) -> sqlx::Result<Seen<Option<(Account, Timestamp)>>> {
    const SQL: &str = rows!(
        "SELECT json_array(",
        has_overdue!(),
        ", ",
        account_columns!(),
        ") AS j FROM agentkey_accounts a WHERE a.id = ?1",
    );
    let rows = Rows::fetch(connection, sqlx::query(SQL).bind(id.as_str()).bind(micros(now))).await?;
    let rows = rows.read()?;
    let Some(row) = rows.first() else { return Ok(Seen { value: None, behind: Behind::default() }) };
    let mut cells = Cells::of(row);
    let overdue: bool = cells.read()?;
    let (account, last) = cells.account()?;
    let mut behind = Behind::default();
    if overdue {
        behind.add_account(id);
    }
    Ok(Seen { value: Some((account, now.max(last))), behind })
}

pub(super) async fn keys(
    connection: &mut SqliteConnection,
    query: &KeyQuery,
    now: Timestamp,
) -> sqlx::Result<Seen<Vec<Key>>> {
    macro_rules! listing {
        ($of:literal) => {
            rows!(
                "SELECT json_array(",
                has_overdue!(),
                ", a.changed_at, ",
                key_columns!(),
                ") AS j FROM agent_keys k CROSS JOIN agentkey_accounts a ON a.id = k.account_id",
                " LEFT JOIN agentkey_balances b ON b.key_id = k.id",
                " WHERE ",
                $of,
                " = ?1 AND k.id > ?3 ORDER BY k.id LIMIT ?4",
            )
        };
    }
    let listing = match &query.of {
        KeysOf::Account(account) => sqlx::query(listing!("k.account_id")).bind(account.as_str()),
        KeysOf::Parent(parent) => sqlx::query(listing!("k.parent_id")).bind(parent.get()),
    };
    let after = query.after.map_or(i64::MIN, KeyId::get);
    let listing = listing.bind(micros(now)).bind(after).bind(query.limit);
    let mut seen = Seen { value: Vec::new(), behind: Behind::default() };
    let rows = Rows::fetch(connection, listing).await?;
    for row in rows.read()? {
        let mut cells = Cells::of(&row);
        let overdue: bool = cells.read()?;
        let at = now.max(cells.instant()?);
        let Some(KeyRow { mut key, is_behind }) = cells.key()? else { continue };
        if overdue {
            seen.behind.add_account(&key.account);
        }
        if is_behind {
            seen.behind.add_key(&key);
        }
        key.roll(at);
        seen.value.push(key);
    }
    seen.value.sort_unstable_by_key(|key| key.id);
    Ok(seen)
}

/// Some accounts in which holds have run out, those first that wait longest.
pub(super) async fn overdue(connection: &mut SqliteConnection, now: Timestamp) -> sqlx::Result<Behind> {
    const SQL: &str = rows!(
        "SELECT json_array(a.id) AS j",
        " FROM agentkey_holds h CROSS JOIN agentkey_accounts a ON a.id = h.account_id",
        " WHERE h.state = 'live' AND h.expires_at <= ?1 GROUP BY a.id ORDER BY min(h.expires_at) LIMIT 100",
    );
    let rows = Rows::fetch(connection, sqlx::query(SQL).bind(micros(now))).await?;
    let accounts = rows.read()?;
    let accounts = accounts.iter().map(|row| Cells::of(row).account_id()).collect::<sqlx::Result<_>>()?;
    Ok(Behind { accounts, keys: Vec::new() })
}

/// Lineages one after the other, each from its key up.
fn in_order(mut rows: Vec<Vec<Cell<'_>>>) -> Vec<Vec<Cell<'_>>> {
    let number = |cell: Option<&Cell<'_>>| match cell {
        Some(Cell::Integer(number)) => *number,
        _ => i64::MAX,
    };
    rows.sort_unstable_by_key(|row| (number(row.first()), number(row.get(1))));
    rows
}

fn place(row: &[Cell<'_>]) -> Option<usize> {
    Cells::of(row).read::<i64>().ok().and_then(|place| usize::try_from(place).ok())
}

/// A row of a lineage, but for its key and its account.
struct Member {
    depth: i64,
    retires_at: Option<Timestamp>,
    overdue: bool,
}

/// What a row says first; the cells that follow are those of the key and the account.
fn member<'r>(row: &'r [Cell<'r>]) -> sqlx::Result<(Member, Cells<'r>)> {
    let mut cells = Cells::of(row);
    let _place: i64 = cells.read()?;
    let member = Member { depth: cells.read()?, retires_at: cells.maybe_instant()?, overdue: cells.read()? };
    Ok((member, cells))
}

/// Puts a lineage together. One that does not climb from the key to a root, step by step and in one account, is
/// none: nothing is known of what the missing member allows.
fn assemble(rows: &[Vec<Cell<'_>>], now: Timestamp, behind: &mut Behind) -> sqlx::Result<Option<Lineage>> {
    let mut keys: Vec<Key> = Vec::with_capacity(rows.len());
    let mut last = None;
    for (row, step) in rows.iter().zip(0_i64..) {
        let (member, mut cells) = member(row)?;
        let Some(KeyRow { key, is_behind }) = cells.key()?.filter(|_| member.depth == step) else { return Ok(None) };
        if keys.last().is_some_and(|child| child.parent != Some(key.id) || child.account != key.account) {
            return Ok(None);
        }
        if is_behind {
            behind.add_key(&key);
        }
        keys.push(key);
        last = Some(cells);
    }
    let reaches_root = keys.last().is_some_and(|last| last.parent.is_none());
    let Some(mut root) = last.filter(|_| reaches_root) else { return Ok(None) };
    let (account, changed_at) = root.account()?;
    let mut keys = keys.into_iter();
    Ok(keys.next().map(|key| Lineage::new(key, keys.collect(), account, now.max(changed_at))))
}
