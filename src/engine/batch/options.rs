//! Limits of the queues and of the wait for the store.

use std::time::Duration;

use tokio::time::timeout;

use crate::engine::metrics::StoreCalls;
use crate::store::{BoxFuture, StoreError, StoreResult, unwinding};

/// Limits of the queues and of the wait for the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchOptions {
    /// The most look-ups, and the most postings other than settles, that may wait at once.
    pub(crate) max_queue: usize,
    /// How long a look-up or a posting is tried, and how long one call of the store may take.
    pub(crate) request_timeout: Duration,
    /// How long a settle is tried.
    pub(crate) settle_timeout: Duration,
    /// The maximum age of a policy that a look-up may serve from the store's cache, if it may.
    pub(crate) max_staleness: Option<Duration>,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            max_queue: 8_192,
            request_timeout: Duration::from_secs(5),
            settle_timeout: Duration::from_secs(30),
            max_staleness: None,
        }
    }
}

impl BatchOptions {
    /// Calls the store. A call that takes too long is an error, but it may still take effect.
    pub(super) async fn call_store<'a, T>(
        &self,
        calls: &StoreCalls,
        call: impl FnOnce() -> BoxFuture<'a, StoreResult<T>>,
    ) -> StoreResult<T> {
        let call = async {
            let answer = timeout(self.timeout(), unwinding(call)).await;
            let late = || StoreError::unavailable("the store did not answer in time");
            answer.unwrap_or_else(|_| Err(late()))
        };
        calls.observe(call).await
    }

    /// Returns how long one call of the store may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.request_timeout.max(MIN_TIMEOUT)
    }
}

/// The minimum timeout of one call of the store.
pub(super) const MIN_TIMEOUT: Duration = Duration::from_secs(1);
