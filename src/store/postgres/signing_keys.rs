//! The keys that sign sessions.

use super::connection::Statements;
use super::decode::{Cells, ReadCells};
use super::error::Result;
use super::inner::Inner;
use super::types::Instant;
use crate::ledger::NewSigningKey;
use crate::model::StoredSigningKey;

impl Inner {
    /// Adds a key if that is decided, and returns all keys, oldest first.
    pub(super) async fn signing_keys(
        &self,
        new: Option<&NewSigningKey>,
    ) -> Result<Vec<StoredSigningKey>> {
        let work = async |statements: &mut Statements<'_>| {
            let Some(new) = new else { return self.read_signing_keys(statements).await };
            // Of processes that start together, one makes the first key.
            statements.run(self.sql.lock_signing_keys.query()).await?;
            let stored = self.read_signing_keys(statements).await?;
            let Some(write) = new.decide(&stored, self.clock.now()) else { return Ok(stored) };
            statements.run(self.sql.delete_signing_keys.query().bind(write.delete)).await?;
            let StoredSigningKey { kid, algorithm, secret, created_at } = write.insert;
            let insert = self.sql.insert_signing_key.query();
            let insert = insert.bind(kid).bind(algorithm).bind(secret.to_vec());
            statements.run(insert.bind(Instant(created_at))).await?;
            self.read_signing_keys(statements).await
        };
        self.connections.pooled(work).await
    }

    async fn read_signing_keys(
        &self,
        statements: &mut Statements<'_>,
    ) -> Result<Vec<StoredSigningKey>> {
        let rows = statements.fetch(self.sql.signing_keys.query()).await?;
        rows.iter().map(|row| Cells::new(row).signing_key()).collect()
    }
}
