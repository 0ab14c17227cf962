//! When keys were last used.

use std::collections::HashMap;

use jiff::Timestamp;
use sqlx::sqlite::SqliteConnection;

use super::decode::{Cells, rows};
use super::load::json;
use super::rows::Rows;
use super::write::{micros, run};
use crate::KeyId;

pub(super) async fn note(connection: &mut SqliteConnection, uses: &[(KeyId, Timestamp)]) -> sqlx::Result<()> {
    let list: Vec<_> = uses.iter().map(|(key, at)| (key, micros(*at))).collect();
    let query = sqlx::query(
        "INSERT INTO agentkey_uses (key_id, used_at) SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true \
         ON CONFLICT (key_id) DO UPDATE SET used_at = max(used_at, excluded.used_at)",
    );
    run(connection, query.bind(json(&list)?)).await
}

pub(super) async fn last(connection: &mut SqliteConnection, keys: &[KeyId]) -> sqlx::Result<Vec<Option<Timestamp>>> {
    const SQL: &str = rows!(
        "SELECT json_array(u.key_id, u.used_at) AS j FROM json_each(?1) w CROSS JOIN agentkey_uses u ON u.key_id = w.value"
    );
    let rows = Rows::fetch(connection, sqlx::query(SQL).bind(json(keys)?)).await?;
    let mut uses = HashMap::new();
    for row in rows.read()? {
        let mut cells = Cells::of(&row);
        uses.insert(cells.key_id()?, cells.instant()?);
    }
    Ok(keys.iter().map(|key| uses.get(key).copied()).collect())
}
