//! How much may wait for the store, and for how long.

use std::time::Duration;

use tokio::time::timeout;

use crate::store::{BoxFuture, StoreError, StoreResult, unwinding};

/// How much may wait, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchOptions {
    /// Look-ups, and postings other than settles, that may wait at once.
    pub(crate) max_queue: usize,
    /// Charges that may be open at once.
    pub(crate) max_open_charges: usize,
    /// For how long a look-up or a posting is tried, and for how long the store is waited for at a time.
    pub(crate) request_timeout: Duration,
    /// For how long a settle is tried.
    pub(crate) settle_timeout: Duration,
    /// How old the policy of a look-up may be that is answered from the store's cache, if any is.
    pub(crate) max_staleness: Option<Duration>,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            max_queue: 8_192,
            max_open_charges: 65_536,
            request_timeout: Duration::from_secs(5),
            settle_timeout: Duration::from_secs(30),
            max_staleness: None,
        }
    }
}

impl BatchOptions {
    /// Asks the store; one that says nothing for too long is not available. What it was asked may still take effect.
    pub(super) async fn ask<'a, T>(&self, call: impl FnOnce() -> BoxFuture<'a, StoreResult<T>>) -> StoreResult<T> {
        let answer = timeout(self.timeout(), unwinding(call)).await;
        answer.unwrap_or_else(|_| Err(StoreError::unavailable("the store does not answer")))
    }

    pub(super) fn timeout(&self) -> Duration {
        self.request_timeout.max(MIN_TIMEOUT)
    }
}

/// How long a store may always take to answer.
pub(super) const MIN_TIMEOUT: Duration = Duration::from_secs(1);
