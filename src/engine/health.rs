//! Health: whether this process can serve requests now.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::engine::agent_keys::AgentKeys;
use crate::model::TokenHash;
use crate::store::{StoreError, unwinding};

/// Whether a process can serve requests now, and how much of it is in use.
///
/// Its serialised form has no secret and no text of an error in it, so that a route may serve it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Health {
    ready: bool,
    /// Whether the store answers look-ups.
    pub can_read: bool,
    /// Whether the store takes postings.
    pub can_write: bool,
    /// Whether a shutdown has begun, so that new charges are refused.
    pub is_shutting_down: bool,
    /// How many look-ups wait for the store.
    pub waiting_lookups: usize,
    /// How many postings other than settles wait for the store.
    pub waiting_postings: usize,
    /// How many of each may wait: see [`Builder::max_queue`](crate::Builder::max_queue).
    pub max_queue: usize,
    /// How many charges are open, without those that have given their place back.
    pub open_charges: usize,
    /// How many may be open: see [`Builder::max_open_charges`](crate::Builder::max_open_charges).
    pub max_open_charges: usize,
    /// How many settles are not committed.
    pub settle_backlog: usize,
    /// How long the oldest of them waits; `None` where there is none. At
    /// [`settle_timeout`](crate::Builder::settle_timeout) it is lost.
    #[serde(rename = "oldest_settle_age_seconds", with = "seconds")]
    pub oldest_settle_age: Option<Duration>,
}

impl Health {
    /// Returns whether requests may be sent to this process: the store answers and takes postings, no
    /// shutdown has begun, and there is room for another posting and another charge.
    pub const fn is_ready(&self) -> bool {
        self.ready
    }

    const fn judged(mut self) -> Self {
        self.ready = self.can_read
            && self.can_write
            && !self.is_shutting_down
            && self.waiting_postings < self.max_queue
            && self.open_charges < self.max_open_charges;
        self
    }
}

/// Serialises a duration as seconds with a fraction.
mod seconds {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        age: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        age.map(|age| age.as_secs_f64()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<f64>::deserialize(deserializer)?;
        seconds.map(|it| Duration::try_from_secs_f64(it).map_err(D::Error::custom)).transpose()
    }
}

impl AgentKeys {
    /// Asks whether this process can serve requests now. It is for a readiness probe.
    ///
    /// It looks a token up that no key has, by the queue of the look-ups of requests, and asks the store
    /// whether it takes postings: an SQLite file gives its lock, and a PostgreSQL server is neither a
    /// standby nor read-only. It writes nothing, and takes no longer than a look-up may:
    /// [`request_timeout`](crate::Builder::request_timeout), and at least a second. Where the store
    /// fails, the log says why.
    ///
    /// Do not restart a process that is not ready: it waits for its store, and its settles with it.
    ///
    /// ```
    /// use agentkey::{AgentKeys, MemoryStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = AgentKeys::new(MemoryStore::new())?;
    /// let health = keys.health().await;
    /// assert!(health.is_ready());
    /// assert_eq!((health.open_charges, health.settle_backlog), (0, 0));
    ///
    /// keys.shutdown().await;
    /// assert!(!keys.health().await.is_ready());
    /// # Ok(()) }
    /// ```
    pub async fn health(&self) -> Health {
        let inner = self.inner();
        // It has a space, so no token is it.
        let no_token = TokenHash::digest("agentkey health");
        let (found, writable) = tokio::join!(inner.batches.find(no_token), self.check_writable());
        if let Err(error) = &writable {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "agentkey is not ready, because the store takes no postings"
            );
        }
        let (waiting_lookups, waiting_postings) = inner.batches.waiting();
        let (open_charges, max_open_charges, is_shutting_down) = inner.open_charges.places();
        let (settle_backlog, oldest_settle_age) = inner.metrics.settles.oldest();
        let health = Health {
            ready: false,
            can_read: found.is_ok(),
            can_write: writable.is_ok(),
            is_shutting_down,
            waiting_lookups,
            waiting_postings,
            max_queue: inner.options.batches.max_queue,
            open_charges,
            max_open_charges,
            settle_backlog,
            oldest_settle_age,
        };
        health.judged()
    }

    async fn check_writable(&self) -> Result<(), StoreError> {
        let inner = self.inner();
        let call = async {
            let asked = unwinding(|| inner.store().check_writable());
            let late = |_| Err(StoreError::unavailable("the store did not answer in time"));
            timeout(inner.options.batches.timeout(), asked).await.unwrap_or_else(late)
        };
        inner.metrics.store.read.observe(call).await
    }
}
