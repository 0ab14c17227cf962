//! Why a call of the handle failed.

use crate::engine::build_error::BuildError;
use crate::model::{ChangeError, Refusal, TokenError};
#[cfg(feature = "postgres")]
use crate::store::PostingError;
use crate::store::StoreError;

/// Why the host's own call did not do what it asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was asked for cannot be.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The ledger refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No random bytes could be had for a token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The store could not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The handle cannot be built as it was asked to be.
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl Error {
    /// Returns the refusal that says the same to a client. What a client cannot mend is
    /// [`Refusal::Unavailable`] or [`Refusal::Misconfigured`], and its details stay out of it.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Change(error) => error.clone().into(),
            Self::Refused(refusal) => refusal.clone(),
            Self::Store(error) if error.is_transient() => Refusal::UNAVAILABLE,
            Self::Store(_) | Self::Token(_) | Self::Build(_) => Refusal::Misconfigured,
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
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
