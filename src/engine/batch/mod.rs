//! Group commit: look-ups and postings wait in lanes, and what arrives while a batch is in flight forms the next.
//!
//! There is no timer, so an idle lane answers at once. An account is always in the same lane, so its postings keep
//! their order: a settle that is sent behind a hold is decided behind it. A posting is answered after the commit of
//! its batch; where the batch fails, each posting stands for itself.

mod commits;
mod lookups;
pub(crate) mod options;
mod policy_poller;

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::ledger::{Posted, Posting};
use crate::model::{AccountId, Refusal, TokenHash};
use crate::store::{Found, Store};

use commits::{CommitQueue, Job, Permit};
use lookups::LookupBatcher;
use options::BatchOptions;
use policy_poller::PolicyPoller;

/// The way to the store.
#[derive(Debug)]
pub(crate) struct Batches {
    lookups: Vec<LookupBatcher>,
    postings: Vec<CommitQueue>,
    waiting: Arc<Semaphore>,
    charges: Arc<Semaphore>,
    options: BatchOptions,
    store: Arc<dyn Store>,
    /// Where look-ups may be answered from the store's cache.
    poller: Option<PolicyPoller>,
}

/// A settle on its way. Dropped or not, it arrives. The lane bounds the wait for it: a timer here would need a
/// runtime, and a charge may end on a thread that has none.
pub(crate) type Settling = oneshot::Receiver<Result<Posted, Refusal>>;

/// The right to have a charge open: keeps a place for its settle.
pub(crate) type ChargePermit = OwnedSemaphorePermit;

impl Batches {
    /// Starts the lanes on the current runtime. The tasks end when the lanes are dropped and empty.
    pub(crate) fn start(store: &Arc<dyn Store>, options: BatchOptions) -> Self {
        let width = store.width();
        let poller = |max_staleness| PolicyPoller::start(store.clone(), options, max_staleness);
        Self {
            lookups: (0..width.lookups.max(1)).map(|_| LookupBatcher::start(store.clone(), options)).collect(),
            postings: (0..width.postings.max(1)).map(|_| CommitQueue::start(store.clone(), options)).collect(),
            waiting: Arc::new(Semaphore::new(options.max_queue)),
            charges: Arc::new(Semaphore::new(options.max_open_charges)),
            options,
            store: store.clone(),
            poller: options.max_staleness.map(poller),
        }
    }

    /// The key with this token hash, where the store can answer from its cache, and may.
    pub(crate) fn try_find_cached(&self, hash: &TokenHash) -> Option<Arc<Found>> {
        let max_staleness = self.options.max_staleness;
        let found = catch_unwind(AssertUnwindSafe(|| self.store.try_find_cached(hash, max_staleness))).ok()?;
        found.map(Arc::new)
    }

    /// The key with this token hash, as the store has it now.
    pub(crate) async fn find(&self, hash: TokenHash) -> Result<Option<Arc<Found>>, Refusal> {
        let found = timeout(self.options.timeout(), self.look_up(hash)).await;
        found.unwrap_or(Err(Refusal::UNAVAILABLE))
    }

    async fn look_up(&self, hash: TokenHash) -> Result<Option<Arc<Found>>, Refusal> {
        // Any byte of a hash is as good as another to choose by; equal hashes meet in one lane and are asked once.
        let lane = pick(&self.lookups, u64::from(hash.as_bytes()[0])).ok_or(Refusal::UNAVAILABLE)?;
        lane.find(hash, self.options.request_timeout).await
    }

    /// Puts a posting to the ledger and waits for the answer. Dropping the wait before the posting was sent takes it
    /// back; later it may still take effect.
    pub(crate) async fn post(&self, posting: Posting) -> Result<Posted, Refusal> {
        let lane = self.lane(&posting.account).ok_or(Refusal::UNAVAILABLE)?;
        let begun = Instant::now();
        let deadline = begun + self.options.request_timeout;
        let place = match self.waiting.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => timeout_at(deadline, self.waiting.clone().acquire_owned())
                .await
                .map_err(|_| Refusal::UNAVAILABLE)?
                .map_err(|_| Refusal::UNAVAILABLE)?,
        };
        let (answer, answered) = oneshot::channel();
        lane.send(Job::new(posting, answer, deadline, Permit::Waiting(place)))?;
        // An attempt that began in time may end late.
        let answered = timeout_at(begun + self.options.timeout(), answered).await;
        answered.map_err(|_| Refusal::UNAVAILABLE)?.map_err(|_| Refusal::UNAVAILABLE)?
    }

    /// A place for a settle, without which no charge begins.
    pub(crate) fn open_charge(&self) -> Result<ChargePermit, Refusal> {
        self.charges.clone().try_acquire_owned().map_err(|_| Refusal::UNAVAILABLE)
    }

    /// Sends a settle. It needs no runtime and no wait, so it works in a destructor, and what was sent before is
    /// decided before it.
    pub(crate) fn settle(&self, posting: Posting, place: Option<Arc<ChargePermit>>) -> Settling {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + self.options.settle_timeout;
        if let Some(lane) = self.lane(&posting.account) {
            // A lane that has closed logs what it is given.
            let _ = lane.send(Job::new(posting, answer, deadline, Permit::Charge(place)));
        }
        answered
    }

    /// Waits until no charge is open and no posting waits any more, and lets none come again.
    pub(crate) async fn drain(&self) {
        self.poller.iter().for_each(PolicyPoller::stop);
        for (places, count) in [(&self.charges, self.options.max_open_charges), (&self.waiting, self.options.max_queue)]
        {
            // Closed before they are given back, so that nobody takes one in between.
            let all = places.acquire_many(u32::try_from(count).unwrap_or(u32::MAX)).await;
            places.close();
            drop(all);
        }
    }

    fn lane(&self, account: &AccountId) -> Option<&CommitQueue> {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        pick(&self.postings, hasher.hash_one(account))
    }
}

fn pick<T>(lanes: &[T], by: u64) -> Option<&T> {
    let index = by.checked_rem(lanes.len() as u64)?;
    lanes.get(usize::try_from(index).ok()?)
}
