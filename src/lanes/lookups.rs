//! Look-ups by token, many in one question.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::cache::{Asked, Cache};
use super::{LEAST_PATIENCE, LaneOptions, UNAVAILABLE};
use crate::store::{Found, StoreError};
use crate::{Refusal, Store, TokenHash};

/// At most so many look-ups in one question.
const BATCH: usize = 512;

/// Whom a lane asks, and how.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) store: Arc<dyn Store>,
    pub(super) options: LaneOptions,
    pub(super) cache: Option<Arc<Cache>>,
}

type Askers = Vec<(oneshot::Sender<Answer>, Option<Asked>)>;
type Answer = Result<Option<Arc<Found>>, Refusal>;

#[derive(Debug)]
pub(super) struct LookupLane(mpsc::Sender<Lookup>);

#[derive(Debug)]
struct Lookup {
    hash: TokenHash,
    /// Set where the answer may be kept.
    asked: Option<Asked>,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
}

impl LookupLane {
    pub(super) fn start(asking: Asking) -> Self {
        let (sender, waiting) = mpsc::channel(asking.options.queue.max(1));
        tokio::spawn(run(asking, waiting));
        Self(sender)
    }

    pub(super) async fn find(&self, hash: TokenHash, asked: Option<Asked>, within: Duration) -> Answer {
        let (answer, answered) = oneshot::channel();
        let lookup = Lookup { hash, asked, deadline: Instant::now() + within.max(LEAST_PATIENCE), answer };
        if let Err(mpsc::error::TrySendError::Full(lookup)) = self.0.try_send(lookup) {
            let place = timeout(within, self.0.reserve()).await.map_err(|_| UNAVAILABLE)?;
            place.map_err(|_| UNAVAILABLE)?.send(lookup);
        }
        answered.await.map_err(|_| UNAVAILABLE)?
    }
}

async fn run(asking: Asking, mut waiting: mpsc::Receiver<Lookup>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        batch.retain(|lookup| !lookup.answer.is_closed());
        let mut askers: HashMap<TokenHash, Askers> = HashMap::with_capacity(batch.len());
        let now = Instant::now();
        for Lookup { hash, asked, deadline, answer } in batch.drain(..) {
            match deadline > now {
                true => askers.entry(hash).or_default().push((answer, asked)),
                // Behind a store that does not answer, those who came first have waited long enough for all.
                false => drop(answer.send(Err(UNAVAILABLE))),
            }
        }
        let hashes: Vec<_> = askers.keys().copied().collect();
        if hashes.is_empty() {
            continue;
        }
        match asking.options.ask(|| asking.store.find(&hashes)).await {
            Ok(found) => {
                for (hash, found) in hashes.iter().zip(found) {
                    let found = found.map(Arc::new);
                    let askers = askers.remove(hash).unwrap_or_default();
                    // The last one knew best what is in force.
                    let asked = askers.iter().rev().find_map(|(_, asked)| *asked);
                    if let (Some(cache), Some(found), Some(asked)) = (&asking.cache, &found, asked) {
                        cache.keep(*hash, found, asked);
                    }
                    askers.into_iter().for_each(|(asker, _)| drop(asker.send(Ok(found.clone()))));
                }
            }
            Err(error) => refuse(&error, askers),
        }
    }
}

fn refuse(error: &StoreError, askers: HashMap<TokenHash, Askers>) {
    tracing::error!(%error, "agentkey could not look keys up; the requests are answered with 503");
    askers.into_values().flatten().for_each(|(asker, _)| drop(asker.send(Err(UNAVAILABLE))));
}
