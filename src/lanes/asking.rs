//! How a lane asks its store: from a task, or from a thread of its own where the store works in the thread that asks.
//!
//! Every change of threads costs a wake-up, and where processors sleep in between that is more than the batch itself.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::LaneOptions;
use crate::Store;
use crate::ledger::{Posted, Posting};
use crate::store::{BoxFuture, Found, StoreError, StoreResult, catching, unwinding};
use crate::{Refusal, TokenHash};

/// A store, and how it is asked.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    store: Arc<dyn Store>,
    pub(super) options: LaneOptions,
    /// Whether this thread is the lane's own, and may be blocked.
    pub(super) in_thread: bool,
}

/// A lane that was started.
#[derive(Debug)]
pub(super) struct Started {
    /// Nothing ever comes; it is closed when the lane's thread has ended.
    end: Option<Mutex<mpsc::Receiver<Infallible>>>,
}

impl Started {
    /// Waits until the lane's thread has ended, for so long at most. A lane of a runtime ends with that.
    pub(super) fn wait(&mut self, time: Duration) {
        if let Some(end) = &mut self.end {
            let end = end.get_mut().unwrap_or_else(PoisonError::into_inner);
            let _ = end.recv_timeout(time);
        }
    }
}

impl Asking {
    pub(super) fn new(store: &Arc<dyn Store>, options: LaneOptions) -> Self {
        Self { store: store.clone(), options, in_thread: false }
    }

    /// Starts a lane on the current runtime. It ends when nobody can send to it any more, and it is empty.
    pub(super) fn start<L>(self, lane: impl FnOnce(Self) -> L) -> Started
    where
        L: Future<Output = ()> + Send + 'static,
    {
        let runtime = Handle::current();
        if self.store.blocking().is_some() {
            let (sender, lane_of_thread) = mpsc::channel::<L>();
            let (running, end) = mpsc::channel();
            let run = {
                let runtime = runtime.clone();
                move || {
                    lane_of_thread.into_iter().for_each(|lane| runtime.block_on(lane));
                    drop(running);
                }
            };
            match thread::Builder::new().name("agentkey-lane".into()).spawn(run) {
                Ok(_) => {
                    drop(sender.send(lane(Self { in_thread: true, ..self })));
                    return Started { end: Some(Mutex::new(end)) };
                }
                Err(error) => {
                    tracing::warn!(%error, "no thread for a lane of agentkey: it shares those of the runtime")
                }
            }
        }
        runtime.spawn(lane(self));
        Started { end: None }
    }

    /// Lets time pass before the store is asked again. A thread sleeps: it may outlive its runtime, and the timers of that.
    pub(super) async fn pause(&self, time: Duration) {
        if self.in_thread {
            thread::sleep(time);
        } else {
            sleep(time).await;
        }
    }

    pub(super) async fn find(&self, hashes: &[TokenHash]) -> StoreResult<Vec<Option<Found>>> {
        match self.store.blocking().filter(|_| self.in_thread) {
            Some(store) => catching(|| store.blocking_find(hashes)),
            None => self.options.ask(|| self.store.find(hashes)).await,
        }
    }

    pub(super) async fn post(&self, postings: &[Posting]) -> StoreResult<Vec<Result<Posted, Refusal>>> {
        match self.store.blocking().filter(|_| self.in_thread) {
            Some(store) => catching(|| store.blocking_post(postings)),
            None => self.options.ask(|| self.store.post(postings)).await,
        }
    }
}

impl LaneOptions {
    /// Asks the store; one that says nothing for too long is not available. What it was asked may still take effect.
    pub(super) async fn ask<'a, T>(&self, call: impl FnOnce() -> BoxFuture<'a, StoreResult<T>>) -> StoreResult<T> {
        let answer = timeout(self.patience(), unwinding(call)).await;
        answer.unwrap_or_else(|_| Err(StoreError::unavailable("the store does not answer")))
    }
}
