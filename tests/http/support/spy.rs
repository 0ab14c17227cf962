//! A store that records its calls, and fails when a test says so.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentkey::ledger::{
    AccountChange, Action, ImportDraft, KeyChange, NewSigningKey, Posted, Posting, Rules, Take,
    Taken,
};
use agentkey::model::{
    Account, Entry, Event, Holder, Lineage, OpenHold, Origin, Reconciled, StoredSigningKey,
    TokenHash,
};
use agentkey::store::{AccountQuery, Cursor, EventQuery, Store, Usage};
use agentkey::store::{BoxFuture, ChangeResult, Found, ImportResult, KeyQuery, StoreResult, Width};
use agentkey::store::{Prunable, PruneCutoffs, PruneStep, PrunedStep};
use agentkey::{AccountId, EntryId, EntryQuery, Key, KeyId, Refusal, StoreError, UsageQuery};
use jiff::Timestamp;
use tokio::sync::watch;

/// Stands before a store.
#[derive(Debug)]
pub(crate) struct SpyStore {
    store: Box<dyn Store>,
    spy: Arc<Spy>,
}

/// What the tests see of it.
#[derive(Debug)]
pub(crate) struct Spy {
    finds: AtomicUsize,
    lineages: AtomicUsize,
    polls: watch::Sender<usize>,
    posted: watch::Sender<Vec<Posting>>,
    faults: watch::Sender<Faults>,
    revocations: watch::Sender<usize>,
    uses: Mutex<Vec<(KeyId, Timestamp)>>,
    closed: Mutex<bool>,
}

type Which = Arc<dyn Fn(&Posting) -> bool + Send + Sync>;

/// What goes wrong from now on.
#[derive(Clone, Default)]
pub(crate) struct Faults {
    pub(crate) finds: Fault,
    pub(crate) takes: Fault,
    pub(crate) posts: Fault,
    pub(crate) signing_keys: Fault,
    pub(crate) revocations: Fault,
    /// The refusals of this key are never accepted.
    pub(crate) refusals_of: Option<KeyId>,
    /// Only batches with such a posting fail.
    pub(crate) only: Option<Which>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// It cannot be reached.
    Down,
    /// It does its work, and the answer is lost.
    LoseAnswer,
    /// It fails, and will fail again.
    Broken,
    Panic,
    /// It does nothing until the fault ends, and then its work.
    Hang,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faults({:?}, {:?})", self.finds, self.posts)
    }
}

impl Faults {
    pub(crate) fn posts(fault: Fault) -> Self {
        Self { posts: fault, ..Self::default() }
    }

    pub(crate) fn finds(fault: Fault) -> Self {
        Self { finds: fault, ..Self::default() }
    }

    pub(crate) fn only(mut self, which: impl Fn(&Posting) -> bool + Send + Sync + 'static) -> Self {
        self.only = Some(Arc::new(which));
        self
    }

    fn of_change(&self, change: &KeyChange) -> Fault {
        let is_revocation = matches!(change, KeyChange::Revoke { .. });
        if is_revocation { self.revocations } else { Fault::None }
    }

    fn of(&self, postings: &[Posting]) -> Fault {
        let concerned =
            self.only.as_ref().is_none_or(|only| postings.iter().any(|posting| only(posting)));
        if concerned { self.posts } else { Fault::None }
    }
}

pub(crate) fn on(store: Box<dyn Store>) -> (SpyStore, Arc<Spy>) {
    let spy = Arc::new(Spy {
        finds: AtomicUsize::new(0),
        lineages: AtomicUsize::new(0),
        polls: watch::Sender::default(),
        posted: watch::Sender::default(),
        faults: watch::Sender::default(),
        revocations: watch::Sender::default(),
        uses: Mutex::default(),
        closed: Mutex::new(false),
    });
    (SpyStore { store, spy: spy.clone() }, spy)
}

impl Spy {
    /// How many token hashes were looked up.
    pub(crate) fn finds(&self) -> usize {
        self.finds.load(Ordering::SeqCst)
    }

    /// How often lineages were read by the ids of their keys.
    #[cfg(feature = "self-serve")]
    pub(crate) fn lineages(&self) -> usize {
        self.lineages.load(Ordering::SeqCst)
    }

    /// Waits until the policy has been polled once more from now on.
    pub(crate) async fn polled(&self) {
        let mut polls = self.polls.subscribe();
        // One may be on its way that was asked before.
        let wanted = *polls.borrow() + 2;
        super::soon(polls.wait_for(|polls| *polls >= wanted)).await.unwrap();
    }

    /// How many such postings arrived at the store, retries included.
    pub(crate) fn count(&self, which: impl Fn(&Posting) -> bool) -> usize {
        self.posted.borrow().iter().filter(|posting| which(posting)).count()
    }

    /// Waits until as many such postings have arrived at the store, whatever became of them.
    pub(crate) async fn arrived(&self, times: usize, which: impl Fn(&Posting) -> bool) {
        let mut posted = self.posted.subscribe();
        let enough =
            |posted: &Vec<Posting>| posted.iter().filter(|posting| which(posting)).count() >= times;
        super::soon(posted.wait_for(enough)).await.unwrap();
    }

    /// How many revocations arrived at the store.
    #[cfg(feature = "sessions")]
    pub(crate) fn revocations(&self) -> usize {
        *self.revocations.borrow()
    }

    /// Waits until as many revocations have arrived at the store, whatever became of them.
    #[cfg(feature = "sessions")]
    pub(crate) async fn revoked(&self, times: usize) {
        let mut revocations = self.revocations.subscribe();
        super::soon(revocations.wait_for(|count| *count >= times)).await.unwrap();
    }

    /// The uses of keys that were written.
    pub(crate) fn uses(&self) -> Vec<(KeyId, Timestamp)> {
        self.uses.lock().unwrap().clone()
    }

    pub(crate) fn set(&self, faults: Faults) {
        self.faults.send_replace(faults);
    }

    /// All is well again.
    pub(crate) fn mend(&self) {
        self.set(Faults::default());
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.lock().unwrap()
    }

    async fn pass(&self, fault: impl Fn(&Faults) -> Fault) -> StoreResult<Fault> {
        let mut faults = self.faults.subscribe();
        let fault = fault(&faults.wait_for(|faults| fault(faults) != Fault::Hang).await.unwrap());
        match fault {
            Fault::Down => Err(StoreError::unavailable("SECRET: down")),
            Fault::Broken => Err(StoreError::failed("SECRET: broken")),
            Fault::Panic => panic!("SECRET: the store panics"),
            fault => Ok(fault),
        }
    }
}

impl Store for SpyStore {
    fn find<'a>(
        &'a self,
        hashes: &'a [TokenHash],
    ) -> BoxFuture<'a, StoreResult<Vec<Option<Found>>>> {
        self.spy.finds.fetch_add(hashes.len(), Ordering::SeqCst);
        Box::pin(async move {
            self.spy.pass(|faults| faults.finds).await?;
            self.store.find(hashes).await
        })
    }

    fn post<'a>(
        &'a self,
        postings: &'a [Posting],
    ) -> BoxFuture<'a, StoreResult<Vec<Result<Posted, Refusal>>>> {
        self.spy.posted.send_modify(|posted| posted.extend_from_slice(postings));
        Box::pin(async move {
            let fault = self.spy.pass(|faults| faults.of(postings)).await?;
            let answers = self.store.post(postings).await?;
            match fault {
                Fault::LoseAnswer => Err(StoreError::unavailable("SECRET: the answer is lost")),
                _ => Ok(answers),
            }
        })
    }

    fn change_key<'a>(
        &'a self,
        change: &'a KeyChange,
        rules: &'a Rules,
    ) -> BoxFuture<'a, ChangeResult<Key>> {
        let is_revocation = matches!(change, KeyChange::Revoke { .. });
        self.spy.revocations.send_modify(|count| *count += usize::from(is_revocation));
        Box::pin(async move {
            self.spy.pass(|faults| faults.of_change(change)).await?;
            self.store.change_key(change, rules).await
        })
    }

    fn import_keys<'a>(
        &'a self,
        imports: &'a [ImportDraft],
        rules: &'a Rules,
    ) -> BoxFuture<'a, StoreResult<Vec<ImportResult>>> {
        self.store.import_keys(imports, rules)
    }

    fn change_account<'a>(
        &'a self,
        account: &'a AccountId,
        change: AccountChange,
        origin: &'a Origin,
    ) -> BoxFuture<'a, ChangeResult<Account>> {
        self.store.change_account(account, change, origin)
    }

    fn lineages<'a>(
        &'a self,
        keys: &'a [KeyId],
    ) -> BoxFuture<'a, StoreResult<Vec<Option<Lineage>>>> {
        self.spy.lineages.fetch_add(1, Ordering::SeqCst);
        self.store.lineages(keys)
    }

    fn account<'a>(
        &'a self,
        account: &'a AccountId,
    ) -> BoxFuture<'a, StoreResult<Option<Account>>> {
        self.store.account(account)
    }

    fn accounts<'a>(&'a self, query: &'a AccountQuery) -> BoxFuture<'a, StoreResult<Vec<Account>>> {
        self.store.accounts(query)
    }

    fn open_holds(&self, limit: u32) -> BoxFuture<'_, StoreResult<Vec<OpenHold>>> {
        self.store.open_holds(limit)
    }

    fn keys<'a>(&'a self, query: &'a KeyQuery) -> BoxFuture<'a, StoreResult<Vec<Key>>> {
        self.store.keys(query)
    }

    fn entries<'a>(
        &'a self,
        query: &'a EntryQuery,
    ) -> BoxFuture<'a, StoreResult<Vec<(Cursor, Entry)>>> {
        self.store.entries(query)
    }

    fn events<'a>(
        &'a self,
        query: &'a EventQuery,
    ) -> BoxFuture<'a, StoreResult<Vec<(Cursor, Event)>>> {
        self.store.events(query)
    }

    fn record_refusals<'a>(&'a self, refusals: &'a [Event]) -> BoxFuture<'a, StoreResult<()>> {
        let rejected = self.spy.faults.borrow().refusals_of;
        if refusals.iter().any(|event| rejected.is_some() && event.key == rejected) {
            return Box::pin(std::future::ready(Err(StoreError::failed("an event is rejected"))));
        }
        self.store.record_refusals(refusals)
    }

    fn entry(&self, id: EntryId) -> BoxFuture<'_, StoreResult<Option<Entry>>> {
        self.store.entry(id)
    }

    fn usage<'a>(&'a self, query: &'a UsageQuery) -> BoxFuture<'a, StoreResult<Vec<Usage>>> {
        self.store.usage(query)
    }

    fn sweep(&self) -> BoxFuture<'_, StoreResult<usize>> {
        self.store.sweep()
    }

    fn record_last_used<'a>(
        &'a self,
        uses: &'a [(KeyId, Timestamp)],
    ) -> BoxFuture<'a, StoreResult<()>> {
        Box::pin(async move {
            self.spy.uses.lock().unwrap().extend_from_slice(uses);
            self.store.record_last_used(uses).await
        })
    }

    fn last_used<'a>(
        &'a self,
        keys: &'a [KeyId],
    ) -> BoxFuture<'a, StoreResult<Vec<Option<Timestamp>>>> {
        self.store.last_used(keys)
    }

    fn try_find_cached(&self, hash: &TokenHash, max_staleness: Option<Duration>) -> Option<Found> {
        self.store.try_find_cached(hash, max_staleness)
    }

    fn peek(&self, hash: &TokenHash) -> Option<Found> {
        self.store.peek(hash)
    }

    fn take<'a>(&'a self, takes: &'a [Take]) -> BoxFuture<'a, StoreResult<Vec<Taken>>> {
        Box::pin(async move {
            self.spy.pass(|faults| faults.takes).await?;
            self.store.take(takes).await
        })
    }

    fn poll_policy_version(&self) -> BoxFuture<'_, StoreResult<()>> {
        Box::pin(async {
            self.spy.pass(|faults| faults.finds).await?;
            self.store.poll_policy_version().await?;
            self.spy.polls.send_modify(|polls| *polls += 1);
            Ok(())
        })
    }

    fn now(&self) -> Timestamp {
        self.store.now()
    }

    fn signing_keys<'a>(
        &'a self,
        new: Option<&'a NewSigningKey>,
    ) -> BoxFuture<'a, StoreResult<Vec<StoredSigningKey>>> {
        Box::pin(async move {
            self.spy.pass(|faults| faults.signing_keys).await?;
            self.store.signing_keys(new).await
        })
    }

    fn prune<'a>(&'a self, step: &'a PruneStep) -> BoxFuture<'a, StoreResult<PrunedStep>> {
        self.store.prune(step)
    }

    fn prunable(&self, cutoffs: PruneCutoffs) -> BoxFuture<'_, StoreResult<Prunable>> {
        self.store.prunable(cutoffs)
    }

    fn width(&self) -> Width {
        self.store.width()
    }

    fn bind_subject<'a>(
        &'a self,
        subject: &'a agentkey::model::Subject,
    ) -> BoxFuture<'a, StoreResult<bool>> {
        self.store.bind_subject(subject)
    }

    fn claim_first_seen(
        &self,
        claim: agentkey::ledger::FirstSeenClaim,
    ) -> BoxFuture<'_, StoreResult<bool>> {
        self.store.claim_first_seen(claim)
    }

    fn release_first_seen(
        &self,
        claim: agentkey::ledger::FirstSeenClaim,
    ) -> BoxFuture<'_, StoreResult<()>> {
        self.store.release_first_seen(claim)
    }

    fn reconcile<'a>(
        &'a self,
        holder: &'a Holder,
    ) -> BoxFuture<'a, StoreResult<Option<Reconciled>>> {
        self.store.reconcile(holder)
    }

    fn mend<'a>(
        &'a self,
        holder: &'a Holder,
        origin: &'a Origin,
    ) -> BoxFuture<'a, StoreResult<Option<Reconciled>>> {
        self.store.mend(holder, origin)
    }

    fn check_writable(&self) -> BoxFuture<'_, StoreResult<()>> {
        Box::pin(async {
            self.spy.pass(|faults| faults.of(&[])).await?;
            self.store.check_writable().await
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        // The store stays open, so that the tests can look into its books.
        *self.spy.closed.lock().unwrap() = true;
        Box::pin(std::future::ready(()))
    }
}

pub(crate) fn is_open(posting: &Posting) -> bool {
    matches!(posting.action, Action::Open { .. })
}

pub(crate) fn is_hold(posting: &Posting) -> bool {
    matches!(posting.action, Action::Hold { .. })
}

pub(crate) fn is_pay(posting: &Posting) -> bool {
    matches!(posting.action, Action::Pay { .. })
}

pub(crate) fn is_settle(posting: &Posting) -> bool {
    matches!(posting.action, Action::Settle { .. })
}
