use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::model::{ScopeSet, Subject};

/// Verifies credentials of another issuer.
///
/// It is asked only for credentials that are no tokens of this crate. With several verifiers, the
/// first that [accepts](Self::accepts) a credential decides.
pub trait Verifier: fmt::Debug + Send + Sync + 'static {
    /// Returns whether this verifier decides about a credential: by its form and the issuer that it
    /// names, without trust in either.
    ///
    /// It is called for each request, so it does no I/O.
    fn accepts(&self, credential: &str) -> bool;

    /// Verifies a credential.
    ///
    /// # Errors
    ///
    /// [`VerifyError::Invalid`] where it is not valid (401), [`VerifyError::Expired`] where it has
    /// ended (401), and [`VerifyError::Unavailable`] where nobody can say (503).
    fn verify<'a>(&'a self, credential: &'a str) -> VerifyFuture<'a>;
}

/// The future of [`Verifier::verify`].
pub type VerifyFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Verified, VerifyError>> + Send + 'a>>;

/// What a verified credential says.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Verified {
    /// Who it is.
    pub subject: Subject,
    /// What this credential allows at most. `None` where it says nothing of scopes.
    pub scopes: Option<ScopeSet>,
    /// The instant from which the credential is refused.
    pub expires_at: Option<Timestamp>,
    /// All that the credential says: the claims of a JWT, or the answer of an introspection.
    pub claims: Map<String, Value>,
}

/// Why a credential was not verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It is not valid: forged, malformed, for another audience, not yet valid, or revoked.
    #[error("{0}")]
    Invalid(String),
    /// It was valid and has ended.
    #[error("the credential has expired")]
    Expired,
    /// The issuer did not answer, and nothing that is kept of it decides.
    #[error("{reason}")]
    Unavailable {
        /// What failed, for the log. It never contains the credential.
        reason: String,
        /// When a client should try again.
        retry_after: Duration,
    },
}

impl Verified {
    /// Returns what a credential without scopes, expiry and further claims says.
    pub fn new(subject: Subject) -> Self {
        Self { subject, scopes: None, expires_at: None, claims: Map::new() }
    }
}

/// Claims may hold personal data and secrets, so only the subject is shown.
impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified").field("subject", &self.subject).finish_non_exhaustive()
    }
}
