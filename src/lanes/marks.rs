//! The mark of a store that has to be asked for it: one question for all look-ups that wait for the answer.
//!
//! A look-up takes part in the first question that is put after it came, never in one under way: whatever was
//! acknowledged before it came, the answer knows of.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{LaneOptions, UNAVAILABLE};
use crate::store::{Mark, StoreError};
use crate::{Refusal, Store};

type Answer = Result<Option<Mark>, Refusal>;

/// It needs no bound of its own: who waits in it is a request that waits, and that the server bounds.
#[derive(Debug)]
pub(super) struct MarkLane(mpsc::UnboundedSender<oneshot::Sender<Answer>>);

impl MarkLane {
    pub(super) fn start(store: Arc<dyn Store>, options: LaneOptions) -> Self {
        let (sender, waiting) = mpsc::unbounded_channel();
        tokio::spawn(run(store, options, waiting));
        Self(sender)
    }

    /// The store's mark, if it has one.
    pub(super) async fn ask(&self) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.0.send(answer).map_err(|_| UNAVAILABLE)?;
        answered.await.map_err(|_| UNAVAILABLE)?
    }
}

async fn run(
    store: Arc<dyn Store>,
    options: LaneOptions,
    mut waiting: mpsc::UnboundedReceiver<oneshot::Sender<Answer>>,
) {
    let mut askers = Vec::new();
    while waiting.recv_many(&mut askers, usize::MAX).await > 0 {
        let answer = match options.ask(|| store.mark()).await {
            Ok(mark) => Ok(mark),
            Err(error) => failed(&error),
        };
        askers.drain(..).for_each(|asker| drop(asker.send(answer.clone())));
    }
}

/// A store that is not available would not be for the look-up either, so nobody waits for it twice.
fn failed(error: &StoreError) -> Answer {
    if error.is_transient() {
        tracing::error!(%error, "agentkey could not look keys up; the requests are answered with 503");
        return Err(UNAVAILABLE);
    }
    tracing::debug!(%error, "agentkey cannot answer look-ups from memory");
    Ok(None)
}
