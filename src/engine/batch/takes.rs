//! What requests take from rate limits that all processes share, batched into one query.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::options::{BatchOptions, MIN_TIMEOUT};
use crate::engine::metrics::{Counted, QueueMetrics, StoreCalls};
use crate::ledger::{Quota, RateId, Take, Taken};
use crate::model::Refusal;
use crate::store::Store;

/// The most requests in one query.
const BATCH: usize = 512;

/// The rates of a lineage.
pub(crate) type Rates = Vec<(RateId, Quota)>;

#[derive(Debug)]
pub(super) struct TakeBatcher {
    queue: mpsc::Sender<Waiting>,
    metrics: QueueMetrics,
}

#[derive(Debug)]
struct Waiting {
    rates: Rates,
    deadline: Instant,
    answer: oneshot::Sender<Result<Taken, Refusal>>,
    _queued: Counted,
}

impl TakeBatcher {
    pub(super) fn start(
        store: Arc<dyn Store>,
        options: BatchOptions,
        metrics: QueueMetrics,
        takes: StoreCalls,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(options.max_queue.max(1));
        tokio::spawn(run(store, options, waiting, metrics.clone(), takes));
        Self { queue, metrics }
    }

    /// Takes a request from all these rates, or from none.
    pub(super) async fn take(&self, rates: Rates, within: Duration) -> Result<Taken, Refusal> {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + within.max(MIN_TIMEOUT);
        let waiting = Waiting { rates, deadline, answer, _queued: self.metrics.depth.enter() };
        if let Err(mpsc::error::TrySendError::Full(waiting)) = self.queue.try_send(waiting) {
            let permit =
                timeout(within, self.queue.reserve()).await.map_err(|_| Refusal::UNAVAILABLE)?;
            permit.map_err(|_| Refusal::UNAVAILABLE)?.send(waiting);
        }
        answered.await.map_err(|_| Refusal::UNAVAILABLE)?
    }
}

async fn run(
    store: Arc<dyn Store>,
    options: BatchOptions,
    mut queue: mpsc::Receiver<Waiting>,
    metrics: QueueMetrics,
    calls: StoreCalls,
) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        // Other requests that are ready join the batch.
        yield_now().await;
        while batch.len() < BATCH
            && let Ok(waiting) = queue.try_recv()
        {
            batch.push(waiting);
        }
        let now = Instant::now();
        batch.retain(|waiting| !waiting.answer.is_closed());
        batch
            .extract_if(.., |waiting| waiting.deadline <= now)
            .for_each(|waiting| drop(waiting.answer.send(Err(Refusal::UNAVAILABLE))));
        if batch.is_empty() {
            continue;
        }
        metrics.batch(batch.len());
        let mut groups: HashMap<Rates, Vec<_>> = HashMap::new();
        for Waiting { rates, answer, _queued, .. } in batch.drain(..) {
            groups.entry(rates).or_default().push((answer, _queued));
        }
        let (takes, answers): (Vec<_>, Vec<_>) = groups
            .into_iter()
            .map(|(limits, answers)| (Take { limits, requests: count(&answers) }, answers))
            .unzip();
        match options.call_store(&calls, || store.take(&takes)).await {
            Ok(taken) => {
                for (taken, answers) in taken.iter().zip(answers) {
                    shared_out(taken, answers.len())
                        .zip(answers)
                        .for_each(|(taken, (answer, _))| drop(answer.send(Ok(taken))));
                }
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "agentkey could not count rate limits; their requests are answered with 503"
                );
                let answers = answers.into_iter().flatten();
                answers.for_each(|(answer, _)| drop(answer.send(Err(Refusal::UNAVAILABLE))));
            }
        }
    }
}

pub(super) fn count<T>(requests: &[T]) -> u32 {
    u32::try_from(requests.len()).unwrap_or(u32::MAX)
}

/// Returns what each of so many requests took, of what they took together.
pub(super) fn shared_out(taken: &Taken, requests: usize) -> impl Iterator<Item = Taken> + '_ {
    let granted = usize::try_from(taken.granted).unwrap_or(usize::MAX);
    (0..requests).map(move |at| Taken { granted: u32::from(at < granted), ..taken.clone() })
}
