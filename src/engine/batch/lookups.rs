//! Look-ups by token, batched into one query.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::options::{BatchOptions, MIN_TIMEOUT};
use crate::model::{Refusal, TokenHash};
use crate::store::{Found, Store};

/// The most look-ups in one query.
const BATCH: usize = 512;

type LookupResult = Result<Option<Arc<Found>>, Refusal>;

#[derive(Debug)]
pub(super) struct LookupBatcher(mpsc::Sender<Lookup>);

#[derive(Debug)]
struct Lookup {
    hash: TokenHash,
    deadline: Instant,
    answer: oneshot::Sender<LookupResult>,
}

impl Lookup {
    fn reply(self, answer: LookupResult) {
        let _ = self.answer.send(answer);
    }
}

impl LookupBatcher {
    pub(super) fn start(store: Arc<dyn Store>, options: BatchOptions) -> Self {
        let (sender, waiting) = mpsc::channel(options.max_queue.max(1));
        tokio::spawn(run(store, options, waiting));
        Self(sender)
    }

    pub(super) async fn find(&self, hash: TokenHash, within: Duration) -> LookupResult {
        let (answer, answered) = oneshot::channel();
        let lookup = Lookup { hash, deadline: Instant::now() + within.max(MIN_TIMEOUT), answer };
        if let Err(mpsc::error::TrySendError::Full(lookup)) = self.0.try_send(lookup) {
            let permit =
                timeout(within, self.0.reserve()).await.map_err(|_| Refusal::UNAVAILABLE)?;
            permit.map_err(|_| Refusal::UNAVAILABLE)?.send(lookup);
        }
        answered.await.map_err(|_| Refusal::UNAVAILABLE)?
    }
}

async fn run(store: Arc<dyn Store>, options: BatchOptions, mut waiting: mpsc::Receiver<Lookup>) {
    let mut batch = Vec::new();
    let mut hashes = Vec::new();
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        // Other requests that are ready join the batch: a query costs more than ten look-ups in it.
        yield_now().await;
        while batch.len() < BATCH
            && let Ok(lookup) = waiting.try_recv()
        {
            batch.push(lookup);
        }
        let now = Instant::now();
        batch.retain(|lookup| !lookup.answer.is_closed());
        // While the store does not answer, look-ups pass their deadline in the queue.
        batch
            .extract_if(.., |lookup| lookup.deadline <= now)
            .for_each(|lookup| lookup.reply(Err(Refusal::UNAVAILABLE)));
        if batch.is_empty() {
            continue;
        }
        // Concurrent requests often have the same key.
        batch.sort_unstable_by_key(|lookup| lookup.hash);
        hashes.clear();
        hashes.extend(batch.iter().map(|lookup| lookup.hash));
        hashes.dedup();
        match options.call_store(|| store.find(&hashes)).await {
            Ok(found) => {
                let mut lookups = batch.drain(..).peekable();
                for (hash, found) in hashes.iter().zip(found) {
                    let found = found.map(Arc::new);
                    while let Some(lookup) = lookups.next_if(|lookup| lookup.hash == *hash) {
                        lookup.reply(Ok(found.clone()));
                    }
                }
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "agentkey could not look up keys; their requests are answered with 503"
                );
                batch.drain(..).for_each(|lookup| lookup.reply(Err(Refusal::UNAVAILABLE)));
            }
        }
    }
}
