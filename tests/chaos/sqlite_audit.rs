//! Whether the tables of an SQLite file agree with each other and with what was acknowledged, by plain SQL.

use std::collections::HashSet;

use rusqlite::Connection;

use crate::invariants::{self, CHARGES, Charges, MEMBERS, OVERSPENT, WRONG_FIGURES};

/// Every hold whose path is not the lineage of its key.
const WRONG_PATHS: &str = "paths AS (SELECT key_id, group_concat(member, ' ' ORDER BY member) AS path FROM up GROUP BY 1) \
    SELECT format('hold %s has the path %s', hex(h.id), h.path) FROM agentkey_holds h JOIN paths p USING (key_id) \
    WHERE (SELECT group_concat(value, ' ' ORDER BY value) FROM json_each(h.path)) <> p.path";

/// Every entry that an index has passed by.
const NOT_INDEXED: &str = "WITH of_key AS (SELECT e.number FROM agentkey_entries e \
    JOIN agentkey_index_parts p ON p.part = e.key_id & 15 AND e.number <= p.last EXCEPT \
    SELECT e.number FROM agentkey_entries e JOIN agentkey_entries_of_key i USING (key_id, seq, number)), \
    of_account AS (SELECT e.number FROM agentkey_entries e \
    JOIN agentkey_index_parts p ON p.part = 16 + (e.account_part & 15) AND e.number <= p.last EXCEPT \
    SELECT e.number FROM agentkey_entries e JOIN agentkey_entries_of_account i USING (account_id, seq, number)) \
    SELECT format('entry %s is not in the index by key', number) FROM of_key UNION ALL \
    SELECT format('entry %s is not in the index by account', number) FROM of_account";

/// Panics where the file is damaged.
pub(crate) fn integrity(connection: &Connection) {
    let found: Vec<String> = rows(connection, "PRAGMA integrity_check", |row| row.get(0));
    assert_eq!(found, ["ok"]);
}

/// Panics where the tables do not agree with each other.
pub(crate) fn figures(connection: &Connection) {
    let checks = [WRONG_FIGURES, OVERSPENT, WRONG_PATHS].map(|check| format!("{MEMBERS}, {check}"));
    for check in checks.iter().map(String::as_str).chain([NOT_INDEXED]) {
        invariants::none(&rows::<String>(connection, check, |row| row.get(0)));
    }
}

/// What all references were charged.
pub(crate) fn charges(connection: &Connection) -> Charges {
    rows(connection, CHARGES, |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))
        .into_iter()
        .collect()
}

/// Panics where one of these entries is not there.
pub(crate) fn entries(connection: &Connection, ids: &[String]) {
    let there: HashSet<_> = rows(connection, "SELECT id FROM agentkey_entries", |row| row.get(0))
        .into_iter()
        .map(|id| uuid::Uuid::from_bytes(id).to_string())
        .collect();
    invariants::entries(&there, ids);
}

fn rows<T>(
    connection: &Connection,
    sql: &str,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Vec<T> {
    connection
        .prepare(sql)
        .unwrap()
        .query_map([], read)
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap()
}
