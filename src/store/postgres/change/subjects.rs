//! The keys of subjects.

use uuid::Uuid;

use super::PolicyTransaction;
use crate::ledger::FirstSeenClaim;
use crate::model::{KeyId, Subject};
use crate::store::postgres::connection::{Query, Statements};
use crate::store::postgres::error::Result;
use crate::store::postgres::inner::Inner;
use crate::store::postgres::step::first;
use crate::store::postgres::types::Instant;

impl Inner {
    /// Binds a subject to the row that the application has for it. Returns whether the subject has a key.
    pub(in crate::store::postgres) async fn bind_subject(&self, subject: &Subject) -> Result<bool> {
        let Some(bind) = self.bind(subject) else { return Ok(false) };
        let work = async |statements: &mut Statements<'_>| {
            statements.run(bind).await?;
            self.key_id_of_subject(statements, subject).await
        };
        Ok(self.connections.pooled(work).await?.is_some())
    }

    /// Builds the query that binds a subject; `None` where no row of the application is of its issuer.
    fn bind(&self, subject: &Subject) -> Option<Query<'static>> {
        self.schema.columns.default_issuer.as_ref().filter(|issuer| *issuer == subject.issuer())?;
        let query = self.sql.bind_subject.query().bind(subject.digest().to_string());
        Some(query.bind(subject.issuer().to_owned()).bind(subject.id().to_owned()))
    }

    async fn key_id_of_subject(
        &self,
        statements: &mut Statements<'_>,
        subject: &Subject,
    ) -> Result<Option<KeyId>> {
        let query = self.sql.subject_key.query().bind(subject.digest().to_string());
        Ok(first(&statements.fetch(query).await?, None::<i64>)?.map(KeyId::new))
    }

    /// Takes or renews a claim. Returns whether its owner has it now.
    pub(in crate::store::postgres) async fn claim_first_seen(
        &self,
        claim: &FirstSeenClaim,
    ) -> Result<bool> {
        let lease = i64::try_from(claim.lease.as_micros()).unwrap_or(i64::MAX);
        let query = self.sql.claim_first_seen.query().bind(claim.subject.to_string());
        let query = query.bind(Uuid::from_bytes(*claim.owner.as_bytes())).bind(lease);
        let query = query.bind(self.set_time());
        let work = async |statements: &mut Statements<'_>| statements.fetch(query).await;
        Ok(!self.connections.pooled(work).await?.is_empty())
    }

    /// Ends a claim, and those whose leases have ended.
    pub(in crate::store::postgres) async fn release_first_seen(
        &self,
        claim: &FirstSeenClaim,
    ) -> Result<()> {
        let query = self.sql.release_first_seen.query().bind(claim.subject.to_string());
        let query = query.bind(Uuid::from_bytes(*claim.owner.as_bytes())).bind(self.set_time());
        self.connections
            .pooled(async |statements: &mut Statements<'_>| statements.run(query).await)
            .await
    }

    fn set_time(&self) -> Option<Instant> {
        self.clock.set().map(Instant)
    }
}

impl PolicyTransaction<'_, '_, '_> {
    /// Returns the key that a subject has: the one that was made for it, or the application's own row for it.
    pub(super) async fn key_of_subject(&mut self, subject: &Subject) -> Result<Option<KeyId>> {
        if let Some(bind) = self.inner.bind(subject) {
            self.statements.run(bind).await?;
        }
        self.inner.key_id_of_subject(self.statements, subject).await
    }
}
