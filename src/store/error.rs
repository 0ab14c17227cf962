//! Errors of stores.

use std::error::Error as StdError;

#[cfg(feature = "postgres")]
use crate::model::Refusal;

/// A store could not do its part.
#[derive(Debug, thiserror::Error)]
#[error("the store {}: {source}", if *transient { "is not available" } else { "failed" })]
pub struct StoreError {
    transient: bool,
    source: Box<dyn StdError + Send + Sync>,
}

impl StoreError {
    /// The store is locked, down or out of reach: another attempt may succeed.
    pub fn unavailable(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { transient: true, source: source.into() }
    }

    /// The store answered something it never should: another attempt will not help.
    pub fn failed(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { transient: false, source: source.into() }
    }

    /// Whether another attempt may succeed.
    pub const fn is_transient(&self) -> bool {
        self.transient
    }
}

/// A posting inside a transaction of the application's was not accepted.
#[cfg(feature = "postgres")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostingError {
    /// The ledger refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store could not do its part: roll the transaction back.
    #[error(transparent)]
    Store(#[from] StoreError),
}
