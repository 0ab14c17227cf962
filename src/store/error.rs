//! Errors of stores.

use std::error::Error as StdError;

#[cfg(feature = "postgres")]
use crate::model::Refusal;

/// An error of a store. Its [`source`](std::error::Error::source) says what went wrong, and how to correct it.
#[derive(Debug, thiserror::Error)]
#[error("the store {}", if *transient { "is not available" } else { "failed" })]
pub struct StoreError {
    transient: bool,
    source: Box<dyn StdError + Send + Sync>,
}

impl StoreError {
    /// Builds the error of a store that is locked, down or out of reach. Another attempt may succeed.
    pub fn unavailable(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { transient: true, source: source.into() }
    }

    /// Builds the error of a store that gave an unusable answer. Another attempt will not help.
    pub fn failed(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { transient: false, source: source.into() }
    }

    /// Returns whether another attempt may succeed.
    pub const fn is_transient(&self) -> bool {
        self.transient
    }
}

/// A posting inside a transaction of the application was not accepted.
#[cfg(feature = "postgres")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostingError {
    /// The ledger refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed: roll the transaction back.
    #[error(transparent)]
    Store(#[from] StoreError),
}
