//! The verifiers of a layer, and the keys of the subjects that they verify.

use std::future::Future;
use std::sync::Arc;

use super::first_seen::FirstSeen;
use super::verifier::{Verified, Verifier, VerifyError};
use crate::engine::agent_keys::Inner;
use crate::model::{NewKey, Refusal};
use crate::store::Found;

/// The verifiers of a layer, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verifiers {
    verifiers: Vec<Arc<dyn Verifier>>,
    first_seen: Option<Arc<FirstSeen>>,
}

/// The key of a credential.
pub(crate) struct Identified {
    /// The key. Its lineage allows no more than the credential.
    pub(crate) found: Arc<Found>,
    /// What the credential says, where another issuer made it.
    pub(crate) verified: Option<Arc<Verified>>,
}

impl Verifiers {
    pub(crate) fn add(&mut self, verifier: Arc<dyn Verifier>) {
        self.verifiers.push(verifier);
    }

    pub(crate) fn on_first_seen<F>(&mut self, hook: impl Fn(Verified) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<NewKey, Refusal>> + Send + 'static,
    {
        self.first_seen = Some(Arc::new(FirstSeen::new(hook)));
    }

    /// Returns the verifier that decides about a credential.
    pub(crate) fn accepting(&self, credential: &str) -> Option<&Arc<dyn Verifier>> {
        self.verifiers.iter().find(|verifier| verifier.accepts(credential))
    }

    /// Verifies a credential, and returns the key of its subject; `None` where it has none.
    ///
    /// # Errors
    ///
    /// [`Refusal::InvalidKey`], [`Refusal::ExpiredKey`] or [`Refusal::Unavailable`] as the verifier
    /// says, or the refusal of the hook.
    pub(crate) async fn identify(
        &self,
        keys: &Arc<Inner>,
        verifier: &dyn Verifier,
        credential: &str,
    ) -> Result<Option<Identified>, Refusal> {
        let verified = verifier.verify(credential).await.map_err(refusal)?;
        if verified.expires_at.is_some_and(|at| at <= keys.now()) {
            return Err(Refusal::ExpiredKey);
        }
        let verified = Arc::new(verified);
        let mut found = keys.look_up_subject(&verified.subject).await?;
        if found.is_none()
            && let Some(first_seen) = &self.first_seen
        {
            first_seen.make(keys, &verified).await?;
            found = keys.look_up_subject(&verified.subject).await?;
        }
        found.map(|found| Identified::new(found, verified)).transpose()
    }
}

impl Identified {
    /// Returns the key of a token.
    pub(crate) fn by_token(found: Arc<Found>) -> Self {
        Self { found, verified: None }
    }

    fn new(found: Arc<Found>, verified: Arc<Verified>) -> Result<Self, Refusal> {
        // The time of an account may be ahead of this process.
        if verified.expires_at.is_some_and(|at| at <= found.lineage.at()) {
            return Err(Refusal::ExpiredKey);
        }
        let found = match &verified.scopes {
            None => found,
            scopes => {
                let Found { lineage, retires_at } = Arc::unwrap_or_clone(found);
                Arc::new(Found::new(lineage.narrowed(scopes.as_ref()), retires_at))
            }
        };
        Ok(Self { found, verified: Some(verified) })
    }
}

fn refusal(error: VerifyError) -> Refusal {
    match error {
        VerifyError::Invalid(reason) => {
            tracing::debug!(reason, "agentkey refused a credential of another issuer");
            Refusal::InvalidKey
        }
        VerifyError::Expired => {
            tracing::debug!("agentkey refused a credential of another issuer, which has expired");
            Refusal::ExpiredKey
        }
        VerifyError::Unavailable { reason, retry_after } => {
            tracing::warn!(
                reason,
                "agentkey could not verify a credential; its request is answered with 503"
            );
            Refusal::Unavailable { retry_after }
        }
    }
}
