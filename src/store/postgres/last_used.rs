//! When keys were last used.

use std::collections::HashMap;

use jiff::Timestamp;

use super::decode::{Cells, ReadCells};
use super::error::Result;
use super::inner::Inner;
use super::types::Instant;
use crate::model::KeyId;

impl Inner {
    pub(super) async fn record_last_used(&self, used: &[(KeyId, Timestamp)]) -> Result<()> {
        let (keys, times): (Vec<_>, Vec<_>) =
            used.iter().map(|(key, at)| (key.get(), Instant(*at))).unzip();
        let query = self.sql.record_last_used.query().bind(keys).bind(times);
        self.connections.fetch(query).await.map(drop)
    }

    pub(super) async fn last_used(&self, keys: &[KeyId]) -> Result<Vec<Option<Timestamp>>> {
        let query =
            self.sql.last_used.query().bind(keys.iter().map(|key| key.get()).collect::<Vec<_>>());
        let mut used = HashMap::new();
        for row in &self.connections.fetch(query).await? {
            let mut cells = Cells::new(row);
            used.insert(cells.key_id()?, cells.instant()?);
        }
        Ok(keys.iter().map(|key| used.get(key).copied()).collect())
    }
}
