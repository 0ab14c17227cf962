//! Look-ups by token, batched into one query.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use std::vec;

use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::options::{BatchOptions, MIN_TIMEOUT};
use super::takes::{Rates, count, shared_out};
use crate::engine::metrics::{Counted, QueueMetrics, StoreCalls};
use crate::ledger::{Take, Taken};
use crate::model::{Refusal, TokenHash};
use crate::store::{BoxFuture, Found, FoundAndTaken, Store, StoreResult};

/// The most look-ups in one query.
const BATCH: usize = 512;

/// What was found, and what was taken with it.
type LookupResult = Result<(Option<Arc<Found>>, Option<Taken>), Refusal>;

#[derive(Debug)]
pub(super) struct LookupBatcher {
    queue: mpsc::Sender<Lookup>,
    metrics: QueueMetrics,
}

#[derive(Debug)]
struct Lookup {
    hash: TokenHash,
    /// What the request takes from rate limits in the same query, if the store can do both.
    rates: Option<Rates>,
    deadline: Instant,
    answer: oneshot::Sender<LookupResult>,
    _queued: Counted,
}

impl Lookup {
    fn reply(self, answer: LookupResult) {
        let _ = self.answer.send(answer);
    }
}

impl LookupBatcher {
    pub(super) fn start(
        store: Arc<dyn Store>,
        options: BatchOptions,
        metrics: QueueMetrics,
        finds: StoreCalls,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(options.max_queue.max(1));
        tokio::spawn(run(store, options, waiting, metrics.clone(), finds));
        Self { queue, metrics }
    }

    /// Returns how many look-ups wait for the next query.
    pub(super) fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    pub(super) async fn find(
        &self,
        hash: TokenHash,
        rates: Option<Rates>,
        within: Duration,
    ) -> LookupResult {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + within.max(MIN_TIMEOUT);
        let _queued = self.metrics.depth.enter();
        let lookup = Lookup { hash, rates, deadline, answer, _queued };
        if let Err(mpsc::error::TrySendError::Full(lookup)) = self.queue.try_send(lookup) {
            let permit =
                timeout(within, self.queue.reserve()).await.map_err(|_| Refusal::UNAVAILABLE)?;
            permit.map_err(|_| Refusal::UNAVAILABLE)?.send(lookup);
        }
        answered.await.map_err(|_| Refusal::UNAVAILABLE)?
    }
}

async fn run(
    store: Arc<dyn Store>,
    options: BatchOptions,
    mut waiting: mpsc::Receiver<Lookup>,
    metrics: QueueMetrics,
    finds: StoreCalls,
) {
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
        let takes = takes_of(&batch);
        metrics.batch(batch.len());
        match options.call_store(&finds, || find(&*store, &hashes, &takes)).await {
            Ok((found, taken)) => {
                let mut shares = shares(takes, taken);
                let mut lookups = batch.drain(..).peekable();
                for (hash, found) in hashes.iter().zip(found) {
                    let found = found.map(Arc::new);
                    while let Some(lookup) = lookups.next_if(|lookup| lookup.hash == *hash) {
                        let share = lookup.rates.as_ref().and_then(|rates| shares.get_mut(rates));
                        let taken = share.and_then(Iterator::next);
                        lookup.reply(Ok((found.clone(), taken)));
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

/// Looks up, and takes from rate limits if there is something to take.
fn find<'a>(store: &'a dyn Store, hashes: &'a [TokenHash], takes: &'a [Take]) -> FindFuture<'a> {
    match takes {
        [] => Box::pin(async { Ok((store.find(hashes).await?, None)) }),
        takes => store.find_and_take(hashes, takes),
    }
}

type FindFuture<'a> = BoxFuture<'a, StoreResult<FoundAndTaken>>;

/// Returns what the look-ups of a batch take, requests with the same rates together.
fn takes_of(batch: &[Lookup]) -> Vec<Take> {
    let mut groups: HashMap<&Rates, Vec<()>> = HashMap::new();
    for rates in batch.iter().filter_map(|lookup| lookup.rates.as_ref()) {
        groups.entry(rates).or_default().push(());
    }
    let take = |(rates, requests): (&Rates, Vec<()>)| Take {
        limits: rates.clone(),
        requests: count(&requests),
    };
    groups.into_iter().map(take).collect()
}

/// Returns for each take what its requests have, one after the other.
fn shares(takes: Vec<Take>, taken: Option<Vec<Taken>>) -> HashMap<Rates, vec::IntoIter<Taken>> {
    let share = |(take, taken): (Take, Taken)| {
        let requests = usize::try_from(take.requests).unwrap_or(usize::MAX);
        (take.limits, shared_out(&taken, requests).collect::<Vec<_>>().into_iter())
    };
    takes.into_iter().zip(taken.into_iter().flatten()).map(share).collect()
}
