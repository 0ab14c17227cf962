//! Polls the policy version, for look-ups that are served from the store's cache.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::options::BatchOptions;
use crate::engine::metrics::StoreCalls;
use crate::store::Store;

/// The polling task, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct PolicyPoller(AbortHandle);

impl PolicyPoller {
    pub(super) fn start(
        store: Arc<dyn Store>,
        options: BatchOptions,
        max_staleness: Duration,
        polls: StoreCalls,
    ) -> Self {
        let interval = (max_staleness / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
        Self(tokio::spawn(run(store, options, interval, polls)).abort_handle())
    }

    pub(super) fn stop(&self) {
        self.0.abort();
    }
}

impl Drop for PolicyPoller {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn run(store: Arc<dyn Store>, options: BatchOptions, interval: Duration, polls: StoreCalls) {
    let mut is_down = false;
    loop {
        let polled = options.call_store(&polls, || store.poll_policy_version()).await;
        if let Some(error) = polled.as_ref().err().filter(|_| !is_down) {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "agentkey could not poll the policy version; look-ups go to the store until it can"
            );
        }
        is_down = polled.is_err();
        sleep(interval).await;
    }
}
