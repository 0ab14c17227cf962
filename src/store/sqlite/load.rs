//! Filling a book with what postings need, under the lock.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use jiff::Timestamp;
use serde::Serialize;
use sqlx::sqlite::SqliteConnection;

use super::decode::{Cells, account_columns, entry_columns, hold_columns, key_columns, rows};
use super::error::corrupt;
use super::rows::Rows;
use super::usage;
use crate::KeyId;
use crate::ledger::{Book, Needs};
use crate::store::stored_key::KeyRow;

/// Loads what `needs` names and ends the holds of its accounts that have run out.
pub(super) async fn book(connection: &mut SqliteConnection, needs: &Needs, now: Timestamp) -> sqlx::Result<Book> {
    let mut book = Book::new();
    records(connection, &mut book, needs, now).await?;
    let keys: BTreeSet<_> = needs.keys.iter().copied().chain(book.row_keys()).collect();
    lineages(connection, &mut book, &keys).await?;
    for account in &needs.accounts {
        book.expire(account);
    }
    Ok(book)
}

/// Opens accounts, and adds their live holds that have run out, and the holds, claims and entries that are named, with
/// the entries that those claims name: four questions, asked at once.
async fn records(
    connection: &mut SqliteConnection,
    book: &mut Book,
    needs: &Needs,
    now: Timestamp,
) -> sqlx::Result<()> {
    const ACCOUNTS: &str = rows!(
        "SELECT json_array(",
        account_columns!(),
        ") AS j FROM json_each(?1) w CROSS JOIN agentkey_accounts a ON a.id = w.value",
    );
    const HOLDS: &str = rows!(
        "SELECT json_array(",
        hold_columns!(),
        ") AS j FROM json_each(?1) w CROSS JOIN agentkey_accounts a ON a.id = w.value",
        " CROSS JOIN agentkey_holds h ON h.account_id = a.id",
        " WHERE h.state = 'live' AND h.expires_at <= max(?5, a.changed_at)",
        " UNION ALL SELECT json_array(",
        hold_columns!(),
        ") AS j FROM json_each(?2) w CROSS JOIN agentkey_holds h ON h.id = unhex(w.value)",
    );
    const CLAIMS: &str = rows!(
        "SELECT json_array(c.key_id, c.idempotency_key, hex(c.fingerprint), hex(c.owner), c.in_flight_until, \
         CASE WHEN c.entry IS NOT NULL THEN hex(c.entry) END) AS j",
        " FROM json_each(?3) w CROSS JOIN agentkey_claims c",
        " ON c.key_id = w.value ->> 0 AND c.idempotency_key = w.value ->> 1",
    );
    const ENTRIES: &str = rows!(
        "SELECT json_array(",
        entry_columns!(),
        ", coalesce((SELECT -sum(r.amount) FROM agentkey_entries r WHERE r.refunds = e.id), 0))",
        " AS j FROM (SELECT unhex(value) AS id FROM json_each(?4)",
        " UNION SELECT c.entry FROM json_each(?3) w CROSS JOIN agentkey_claims c",
        " ON c.key_id = w.value ->> 0 AND c.idempotency_key = w.value ->> 1 WHERE c.entry IS NOT NULL) w",
        " CROSS JOIN agentkey_entries e ON e.id = w.id",
    );
    static SQL: LazyLock<String> = LazyLock::new(|| format!("SELECT ({ACCOUNTS}), ({HOLDS}), ({CLAIMS}), ({ENTRIES})"));
    let claims: Vec<_> = needs.claims.iter().map(|(key, claim)| (key, &**claim)).collect();
    let query = sqlx::query(SQL.as_str())
        .bind(json(&needs.accounts)?)
        .bind(json(&needs.holds.iter().map(|id| Hex(*id.as_bytes())).collect::<Vec<_>>())?)
        .bind(json(&claims)?)
        .bind(json(&needs.entries.iter().map(|id| Hex(*id.as_bytes())).collect::<Vec<_>>())?)
        .bind(now.as_microsecond());
    let [accounts, holds, claims, entries] = Rows::fetch_each(connection, query).await?;
    for row in accounts.read()? {
        let (account, last) = Cells::of(&row).account()?;
        book.open(account, last, now);
    }
    for row in holds.read()? {
        book.add_hold(Cells::of(&row).hold()?);
    }
    for row in claims.read()? {
        book.add_claim(Cells::of(&row).claim()?);
    }
    for row in entries.read()? {
        book.add_entry(Cells::of(&row).entry_row()?);
    }
    Ok(())
}

/// Adds keys and all their ancestors. Every key is there once, so a circle of parents ends by itself.
async fn lineages(connection: &mut SqliteConnection, book: &mut Book, ids: &BTreeSet<KeyId>) -> sqlx::Result<()> {
    const SQL: &str = rows!(
        "WITH RECURSIVE chain (id) AS (SELECT value FROM json_each(?1) UNION ",
        "SELECT k.parent_id FROM chain c CROSS JOIN agent_keys k ON k.id = c.id WHERE k.parent_id IS NOT NULL) ",
        "SELECT json_array(",
        key_columns!(),
        ") AS j FROM chain c CROSS JOIN agent_keys k ON k.id = c.id",
        " LEFT JOIN agentkey_balances b ON b.key_id = k.id",
    );
    if ids.is_empty() {
        return Ok(());
    }
    for row in Rows::fetch(connection, sqlx::query(SQL).bind(json(ids)?)).await?.read()? {
        let Some(KeyRow { mut key, is_behind }) = Cells::of(&row).key_or_stand_in()? else { continue };
        match book.now(&key.account).filter(|_| is_behind) {
            Some(now) => {
                key.balance.since = key.budget.period.window(key.anchor, now).start;
                key.balance.spent = usage::spent_by_key(connection, key.id, key.balance.since).await?;
                book.add_recounted(key);
            }
            None => book.add_key(key),
        }
    }
    Ok(())
}

pub(super) type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// A list of rows, as one parameter.
pub(super) fn json(rows: &(impl Serialize + ?Sized)) -> sqlx::Result<String> {
    serde_json::to_string(rows).map_err(corrupt)
}

/// Bytes as `unhex` reads them.
pub(super) struct Hex<const N: usize>(pub(super) [u8; N]);

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<const N: usize> std::fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
