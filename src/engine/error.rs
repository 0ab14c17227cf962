//! Errors of the handle.

use crate::engine::build_error::BuildError;
use crate::model::{ChangeError, Refusal, TokenError};
#[cfg(feature = "postgres")]
use crate::store::PostingError;
use crate::store::StoreError;

/// Why a call of [`AgentKeys`](crate::AgentKeys) failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A policy change was not made.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The ledger refused, or the store did not answer a look-up or a posting.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There were no random bytes for a token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The handle cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl Error {
    /// Returns the refusal that a client gets for the error.
    ///
    /// An error that the client cannot correct is [`Refusal::Unavailable`] or
    /// [`Refusal::Misconfigured`], without its details.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Change(error) => error.clone().into(),
            Self::Refused(refusal) => refusal.clone(),
            Self::Store(error) if error.is_transient() => Refusal::UNAVAILABLE,
            Self::Store(_) | Self::Token(_) | Self::Build(_) => Refusal::Misconfigured,
        }
    }

    /// Logs an error whose refusal says nothing of its cause.
    pub(crate) fn log(&self) {
        match self {
            Self::Change(_) | Self::Refused(_) => {}
            Self::Store(_) | Self::Token(_) | Self::Build(_) => tracing::error!(
                error = self as &dyn std::error::Error,
                code = self.refusal().code(),
                "agentkey answers a request with an error of the store or of the set-up"
            ),
        }
    }
}

impl From<Error> for Refusal {
    /// Logs what the refusal keeps from the client.
    fn from(error: Error) -> Self {
        error.log();
        error.refusal()
    }
}

#[cfg(feature = "postgres")]
impl From<PostingError> for Error {
    fn from(error: PostingError) -> Self {
        match error {
            PostingError::Refused(refusal) => refusal.into(),
            PostingError::Store(error) => error.into(),
        }
    }
}
