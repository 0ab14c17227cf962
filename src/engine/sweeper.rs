//! What is done once per interval.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::last_used::LastUsed;
use crate::engine::metrics::StoreCalls;
use crate::engine::refusals::Refusals;
use crate::store::{Store, unwinding};

/// What is done once per interval.
pub(super) struct Sweeper {
    pub(super) store: Arc<dyn Store>,
    pub(super) last_used: Arc<LastUsed>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) calls: StoreCalls,
}

impl Sweeper {
    /// Ends expired holds in accounts without requests, and writes when keys were last used and what
    /// they were refused.
    pub(super) async fn run(self, interval: Duration) {
        let Self { store, last_used, refusals, calls } = self;
        loop {
            tokio::time::sleep(interval).await;
            last_used.write(&*store).await;
            refusals.write(&*store).await;
            match calls.observe(unwinding(|| store.sweep())).await {
                Ok(0) => {}
                Ok(holds) => tracing::debug!(holds, "agentkey ended expired holds"),
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "agentkey could not end expired holds; the next sweep tries again"
                ),
            }
        }
    }
}
