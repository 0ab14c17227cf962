//! The state of a charge, shared by its handles and the guard on its response.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::sync::OnceCell;

use super::hold::OnInterrupt;
use super::totals::ChargeTotals;
use crate::engine::agent_keys::Inner;
use crate::http::options::HttpOptions;
use crate::ledger::IdempotencyKey;
use crate::model::{Amount, Entry, LabelError, Lineage, Note, Origin, Refusal};
use crate::store::Found;

/// The state of a charge.
pub(crate) struct ChargeState {
    pub(super) keys: Arc<Inner>,
    found: Arc<Found>,
    http: Arc<HttpOptions>,
    /// The client's `Idempotency-Key`, or why it is not valid.
    pub(super) claim: Result<Option<IdempotencyKey>, Refusal>,
    /// Whether the charge is not of a request, so that no response ends it.
    pub(super) is_outside: bool,
    /// The charge that the request repeats, if any. It is set once the charge was begun.
    pub(super) begun: OnceCell<Option<Box<Replayed>>>,
    totals: Mutex<ChargeTotals>,
}

/// The charge that a request repeats.
#[derive(Clone, Debug)]
pub(super) struct Replayed {
    pub(super) entry: Entry,
    pub(super) refunded: Amount,
}

impl ChargeState {
    pub(crate) fn new(
        keys: Arc<Inner>,
        found: Arc<Found>,
        http: Arc<HttpOptions>,
        claim: Result<Option<IdempotencyKey>, Refusal>,
    ) -> Self {
        let (begun, totals) = (OnceCell::new(), Mutex::default());
        Self { keys, found, http, claim, is_outside: false, begun, totals }
    }

    /// Returns the state of a charge outside of a request. Its last handle settles it.
    pub(crate) fn outside(keys: Arc<Inner>, found: Arc<Found>) -> Self {
        let totals = Mutex::new(ChargeTotals { ended: true, ..ChargeTotals::default() });
        Self { is_outside: true, totals, ..Self::new(keys, found, Arc::default(), Ok(None)) }
    }

    /// Returns the state of a charge that begins now. A request has one charge; outside of a request,
    /// each is its own, so that a context may be kept.
    pub(super) fn to_begin(self: &Arc<Self>) -> Arc<Self> {
        match self.is_outside {
            true => Arc::new(Self::outside(self.keys.clone(), self.found.clone())),
            false => self.clone(),
        }
    }

    pub(crate) fn lineage(&self) -> &Lineage {
        &self.found.lineage
    }

    pub(crate) fn http(&self) -> &Arc<HttpOptions> {
        &self.http
    }

    pub(crate) fn keys(&self) -> &Arc<Inner> {
        &self.keys
    }

    /// Returns what the lineage has left, as far as this request knows.
    pub(crate) fn remaining(&self) -> Option<Amount> {
        self.posted_remaining().unwrap_or_else(|| self.lineage().remaining())
    }

    /// Returns what the lineage had left at the last posting of this request, if it has posted.
    pub(crate) fn posted_remaining(&self) -> Option<Option<Amount>> {
        self.totals().remaining
    }

    /// Returns whether a request with this key and `Idempotency-Key` that came here through another
    /// layer is the same request, which still runs.
    pub(crate) fn is_of(
        &self,
        keys: &Arc<Inner>,
        found: &Found,
        claim: &Result<Option<IdempotencyKey>, Refusal>,
    ) -> bool {
        Arc::ptr_eq(&self.keys, keys)
            && self.lineage().id() == found.lineage.id()
            && sent(&self.claim) == sent(claim)
            && !self.totals().ended
    }

    /// Returns whether the response says what is left.
    pub(crate) fn shows_remaining(&self) -> bool {
        let totals = self.totals();
        (self.http.remaining_header || totals.shows_remaining) && !totals.superseded
    }

    /// Records that an inner layer of the same request says what is left.
    pub(crate) fn show_remaining(&self) {
        self.totals().shows_remaining = true;
    }

    pub(crate) fn supersede(&self) {
        self.totals().superseded = true;
    }

    /// Returns the charge that this request repeats.
    pub(super) fn replayed(&self) -> Option<&Replayed> {
        self.begun.get()?.as_deref()
    }

    pub(super) fn take_replay(&self) -> bool {
        !std::mem::replace(&mut self.totals().replay_taken, true)
    }

    /// Returns a note with the labels of the request.
    pub(super) fn labelled(&self, mut note: Note) -> Note {
        if let Some(origin) = self.http.origin() {
            origin.label(&mut note);
        }
        note
    }

    /// Counts a refusal that no response tells, because the charge is not of a request.
    pub(super) fn refused(&self, refusal: &Refusal) {
        if self.is_outside {
            self.keys.record_refusal(refusal, self.lineage(), Origin::new);
        }
    }

    pub(super) fn totals(&self) -> MutexGuard<'_, ChargeTotals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the `Idempotency-Key` that the client sent; `None` where it is not valid.
fn sent(claim: &Result<Option<IdempotencyKey>, Refusal>) -> Option<Option<&str>> {
    Some(claim.as_ref().ok()?.as_ref().map(|claim| &*claim.key))
}

impl fmt::Debug for ChargeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = self.totals();
        f.debug_struct("ChargeState")
            .field("key", &self.lineage().id())
            .field("added", &totals.added)
            .field("held", &totals.held())
            .finish_non_exhaustive()
    }
}

/// The actions of handles.
impl ChargeState {
    pub(super) fn take_handle(&self) {
        self.totals().handles += 1;
    }

    pub(super) fn drop_handle(self: &Arc<Self>, panicking: bool) {
        let mut totals = self.totals();
        totals.handles -= 1;
        totals.interrupted |= panicking;
        if totals.handles > 0 {
            return;
        }
        if totals.ended {
            // No response waits for this settle. If it fails, the commit queue logs it.
            drop(self.settle(&mut totals, true));
        }
        let waker = if totals.wake_without_handles { totals.waker.take() } else { None };
        drop(totals);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Records that a payment was given back.
    pub(super) fn refunded(&self, amount: Amount) {
        let mut totals = self.totals();
        totals.charged = totals.charged.saturating_sub(amount);
    }

    pub(super) fn add(&self, cost: Amount) {
        let mut totals = self.totals();
        totals.added = totals.added.saturating_add(cost.max(Amount::ZERO));
    }

    pub(super) fn set_cost(&self, cost: Amount) {
        self.totals().added = cost.max(Amount::ZERO);
    }

    pub(super) fn label(&self, name: String, value: String) -> Result<(), LabelError> {
        self.totals().note.labels.insert(name, value)
    }

    pub(super) fn set_reference(&self, reference: String) -> Result<(), LabelError> {
        self.totals().note.set_reference(reference)
    }

    pub(super) fn reference(&self) -> Option<String> {
        self.totals().note.reference.clone()
    }

    pub(super) fn on_interrupt(&self, policy: OnInterrupt) {
        self.totals().on_interrupt = policy;
    }

    pub(super) fn detach(&self) {
        self.totals().detached = true;
    }

    pub(super) fn held(&self) -> Amount {
        self.totals().held()
    }

    pub(super) fn added(&self) -> Amount {
        self.totals().added
    }
}
