//! Look-ups by token, many in one question.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::{LEAST_PATIENCE, LaneOptions, UNAVAILABLE};
use crate::store::{Found, StoreError};
use crate::{Refusal, Store, TokenHash};

/// At most so many look-ups in one question.
const BATCH: usize = 512;

type Answer = Result<Option<Arc<Found>>, Refusal>;

#[derive(Debug)]
pub(super) struct LookupLane(mpsc::Sender<Lookup>);

#[derive(Debug)]
struct Lookup {
    hash: TokenHash,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
}

impl LookupLane {
    pub(super) fn start(store: Arc<dyn Store>, options: LaneOptions) -> Self {
        let (sender, waiting) = mpsc::channel(options.queue.max(1));
        tokio::spawn(run(store, options, waiting));
        Self(sender)
    }

    pub(super) async fn find(&self, hash: TokenHash, within: Duration) -> Answer {
        let (answer, answered) = oneshot::channel();
        let lookup = Lookup { hash, deadline: Instant::now() + within.max(LEAST_PATIENCE), answer };
        if let Err(mpsc::error::TrySendError::Full(lookup)) = self.0.try_send(lookup) {
            let place = timeout(within, self.0.reserve()).await.map_err(|_| UNAVAILABLE)?;
            place.map_err(|_| UNAVAILABLE)?.send(lookup);
        }
        answered.await.map_err(|_| UNAVAILABLE)?
    }
}

async fn run(store: Arc<dyn Store>, options: LaneOptions, mut waiting: mpsc::Receiver<Lookup>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        batch.retain(|lookup| !lookup.answer.is_closed());
        let mut askers: HashMap<TokenHash, Vec<oneshot::Sender<Answer>>> = HashMap::with_capacity(batch.len());
        let now = Instant::now();
        for Lookup { hash, deadline, answer } in batch.drain(..) {
            match deadline > now {
                true => askers.entry(hash).or_default().push(answer),
                // Behind a store that does not answer, those who came first have waited long enough for all.
                false => drop(answer.send(Err(UNAVAILABLE))),
            }
        }
        let hashes: Vec<_> = askers.keys().copied().collect();
        if hashes.is_empty() {
            continue;
        }
        match options.ask(|| store.find(&hashes)).await {
            Ok(found) => {
                for (hash, found) in hashes.iter().zip(found) {
                    let answer = Ok(found.map(Arc::new));
                    askers.remove(hash).into_iter().flatten().for_each(|asker| drop(asker.send(answer.clone())));
                }
            }
            Err(error) => refuse(&error, askers),
        }
    }
}

fn refuse(error: &StoreError, askers: HashMap<TokenHash, Vec<oneshot::Sender<Answer>>>) {
    tracing::error!(%error, "agentkey could not look keys up; the requests are answered with 503");
    askers.into_values().flatten().for_each(|asker| drop(asker.send(Err(UNAVAILABLE))));
}
