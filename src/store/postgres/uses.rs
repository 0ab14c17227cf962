//! When keys were last used.

use std::collections::HashMap;

use jiff::Timestamp;

use super::connection::Connection;
use super::decode::{Cells, ReadCells};
use super::error::Result;
use super::layout::Layout;
use super::names::Sql;
use super::types::Instant;
use crate::KeyId;

pub(super) struct Uses {
    note: Sql,
    last: Sql,
}

impl Uses {
    pub(super) fn new(layout: &Layout) -> Self {
        Self {
            // In the order of the keys, so that processes that write the same ones wait and do not deadlock.
            note: layout.sql(
                "INSERT INTO {uses} AS u (key_id, used_at) SELECT w.key_id, w.used_at \
                 FROM unnest($1::int8[], $2::timestamptz[]) w (key_id, used_at) ORDER BY w.key_id \
                 ON CONFLICT (key_id) DO UPDATE SET used_at = greatest(u.used_at, excluded.used_at)",
            ),
            last: layout.sql("SELECT u.key_id, u.used_at FROM {uses} u WHERE u.key_id = ANY($1::int8[])"),
        }
    }
}

pub(super) async fn note(connection: &mut Connection<'_>, texts: &Uses, uses: &[(KeyId, Timestamp)]) -> Result<()> {
    let (keys, times): (Vec<_>, Vec<_>) = uses.iter().map(|(key, at)| (key.get(), Instant(*at))).unzip();
    connection.fetch(texts.note.query().bind(keys).bind(times)).await.map(drop)
}

pub(super) async fn last(
    connection: &mut Connection<'_>,
    texts: &Uses,
    keys: &[KeyId],
) -> Result<Vec<Option<Timestamp>>> {
    let ids: Vec<_> = keys.iter().map(|key| key.get()).collect();
    let mut uses = HashMap::new();
    for row in &connection.fetch(texts.last.query().bind(ids)).await? {
        let mut cells = Cells::of(row);
        uses.insert(cells.key_id()?, cells.instant()?);
    }
    Ok(keys.iter().map(|key| uses.get(key).copied()).collect())
}
