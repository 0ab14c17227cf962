//! Group commit: concurrent look-ups are batched into one query, and concurrent postings into one
//! commit.
//!
//! While a batch is in flight, requests queue up for the next one. There is no timer, so an idle
//! queue answers at once.
//!
//! An account is always in the same queue, so its postings keep their order. A posting is answered
//! after the commit of its batch. If the batch fails, each posting is tried by itself.

mod commits;
mod lookups;
pub(crate) mod options;
mod policy_poller;
pub(crate) mod takes;

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::engine::metrics::Metrics;
use crate::engine::open_charges::ChargePermit;
use crate::ledger::{Posted, Posting, Taken};
use crate::model::{AccountId, Refusal, TokenHash};
use crate::store::{Found, Store};

use commits::{CommitQueue, Job, Permit};
use lookups::LookupBatcher;
use options::BatchOptions;
use policy_poller::PolicyPoller;
use takes::{Rates, TakeBatcher};

/// The batches of look-ups and of postings.
#[derive(Debug)]
pub(crate) struct Batches {
    lookups: Vec<LookupBatcher>,
    postings: Vec<CommitQueue>,
    takes: TakeBatcher,
    waiting: Arc<Semaphore>,
    options: BatchOptions,
    store: Arc<dyn Store>,
    metrics: Metrics,
    /// Set where look-ups may be served from the store's cache.
    poller: Option<PolicyPoller>,
}

/// The answer to a settle. The settle is posted even if this is dropped.
///
/// The queue limits the wait for it. A timer here would need a runtime, and a charge may end on a
/// thread without one.
pub(crate) type Settling = oneshot::Receiver<Result<Posted, Refusal>>;

impl Batches {
    /// Starts the queues on the current runtime. Their tasks end when the queues are dropped and
    /// empty.
    pub(crate) fn start(store: &Arc<dyn Store>, options: BatchOptions, metrics: &Metrics) -> Self {
        let width = store.width();
        let Metrics { lookups, takes, store: calls, .. } = metrics;
        let lookups =
            || LookupBatcher::start(store.clone(), options, lookups.clone(), calls.find.clone());
        let postings = || CommitQueue::start(store.clone(), options, metrics);
        let poller = |max_staleness| {
            PolicyPoller::start(store.clone(), options, max_staleness, calls.poll.clone())
        };
        Self {
            lookups: (0..width.lookups.max(1)).map(|_| lookups()).collect(),
            postings: (0..width.postings.max(1)).map(|_| postings()).collect(),
            takes: TakeBatcher::start(store.clone(), options, takes.clone(), calls.take.clone()),
            waiting: Arc::new(Semaphore::new(options.max_queue)),
            options,
            store: store.clone(),
            metrics: metrics.clone(),
            poller: options.max_staleness.map(poller),
        }
    }

    /// Returns the key with this token hash, if the store can and may answer from its cache.
    pub(crate) fn try_find_cached(&self, hash: &TokenHash) -> Option<Arc<Found>> {
        let max_staleness = self.options.max_staleness;
        let found =
            catch_unwind(AssertUnwindSafe(|| self.store.try_find_cached(hash, max_staleness)))
                .ok()?;
        found.map(Arc::new)
    }

    /// Returns the key with this token hash, as the store has it now.
    pub(crate) async fn find(&self, hash: TokenHash) -> Result<Option<Arc<Found>>, Refusal> {
        Ok(self.find_and_take(hash, None).await?.0)
    }

    /// Returns the key with this token hash, and what was taken from rates that all processes share, if
    /// the store has taken it in the same query.
    pub(crate) async fn find_and_take(
        &self,
        hash: TokenHash,
        rates: Option<Rates>,
    ) -> Result<(Option<Arc<Found>>, Option<Taken>), Refusal> {
        let found = timeout(self.options.timeout(), self.look_up(hash, rates)).await;
        found.unwrap_or(Err(Refusal::UNAVAILABLE))
    }

    /// Takes a request from rates that all processes share: from all of them, or from none.
    pub(crate) async fn take(&self, rates: Rates) -> Result<Taken, Refusal> {
        let taken = self.takes.take(rates, self.options.request_timeout);
        timeout(self.options.timeout(), taken).await.unwrap_or(Err(Refusal::UNAVAILABLE))
    }

    /// Returns the key with this token hash as the store has cached it, whether it is still valid or
    /// not.
    pub(crate) fn peek(&self, hash: &TokenHash) -> Option<Found> {
        catch_unwind(AssertUnwindSafe(|| self.store.peek(hash))).ok()?
    }

    async fn look_up(
        &self,
        hash: TokenHash,
        rates: Option<Rates>,
    ) -> Result<(Option<Arc<Found>>, Option<Taken>), Refusal> {
        // Any byte of a hash distributes well. Equal hashes are in one queue, so they are read
        // once.
        let batcher =
            pick(&self.lookups, u64::from(hash.as_bytes()[0])).ok_or(Refusal::UNAVAILABLE)?;
        batcher.find(hash, rates, self.options.request_timeout).await
    }

    /// Posts, and waits for the answer.
    ///
    /// Dropping the future before the posting was sent withdraws it. After that, the posting may
    /// still take effect.
    pub(crate) async fn post(&self, posting: Posting) -> Result<Posted, Refusal> {
        let queue = self.queue_of(&posting.account).ok_or(Refusal::UNAVAILABLE)?;
        let begun = Instant::now();
        let queued = self.metrics.postings.queue.depth.enter();
        let deadline = begun + self.options.request_timeout;
        let permit = match self.waiting.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => timeout_at(deadline, self.waiting.clone().acquire_owned())
                .await
                .map_err(|_| Refusal::UNAVAILABLE)?
                .map_err(|_| Refusal::UNAVAILABLE)?,
        };
        let (answer, answered) = oneshot::channel();
        queue.send(Job::new(posting, answer, deadline, Permit::Waiting(permit), queued))?;
        // An attempt that began in time may end late.
        let answered = timeout_at(begun + self.options.timeout(), answered).await;
        answered.map_err(|_| Refusal::UNAVAILABLE)?.map_err(|_| Refusal::UNAVAILABLE)?
    }

    /// Sends a settle. Postings that were sent before are decided before it. The charge stays open
    /// until the settle is answered.
    ///
    /// It needs no runtime and does not wait, so it works in a destructor.
    pub(crate) fn settle(&self, posting: Posting, permit: Option<Arc<ChargePermit>>) -> Settling {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + self.options.settle_timeout;
        if let Some(queue) = self.queue_of(&posting.account) {
            // A closed queue logs the settle.
            let queued = self.metrics.postings.queue.depth.enter();
            let permit = Permit::Charge(permit, self.metrics.settles.enter());
            let _ = queue.send(Job::new(posting, answer, deadline, permit, queued));
        }
        answered
    }

    /// Waits until no posting other than a settle waits, and refuses new ones.
    pub(crate) async fn drain(&self) {
        self.poller.iter().for_each(PolicyPoller::stop);
        let count = u32::try_from(self.options.max_queue).unwrap_or(u32::MAX);
        let all = self.waiting.acquire_many(count).await;
        // The semaphore is closed before its permits are released, so no request takes one in
        // between.
        self.waiting.close();
        drop(all);
    }

    /// Returns how many look-ups and how many postings other than settles wait.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let lookups = self.lookups.iter().map(LookupBatcher::waiting).sum();
        let permits = self.waiting.available_permits();
        (lookups, self.options.max_queue.saturating_sub(permits))
    }

    fn queue_of(&self, account: &AccountId) -> Option<&CommitQueue> {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        pick(&self.postings, hasher.hash_one(account))
    }
}

fn pick<T>(queues: &[T], by: u64) -> Option<&T> {
    let index = by.checked_rem(queues.len() as u64)?;
    queues.get(usize::try_from(index).ok()?)
}
