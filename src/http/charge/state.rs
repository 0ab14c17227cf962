//! The state of a charge, shared by its handles and the guard on its response.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::hold::OnInterrupt;
use super::totals::{ChargeHold, ChargeTotals};
use crate::engine::agent_keys::Inner;
use crate::engine::batch::Settling;
use crate::engine::open_charges::CutOff;
use crate::engine::renewals::{Renew, RenewalKey};
use crate::http::options::HttpOptions;
use crate::ledger::{Action, IdempotencyClaim, IdempotencyKey, OnExpiry, Outcome, Posted, Posting};
use crate::model::{Amount, Entry, EntryId, LabelError, Lineage, Refusal};
use crate::store::{BoxFuture, Found};

/// The most that one settle charges. A thousand such charges still leave room in an account for
/// others.
const MAX_COST: Amount = Amount::micros(i64::MAX / 1_024);

/// The state of a charge.
pub(crate) struct ChargeState {
    keys: Arc<Inner>,
    found: Arc<Found>,
    http: Arc<HttpOptions>,
    /// The client's `Idempotency-Key`, or why it is not valid.
    claim: Result<Option<IdempotencyKey>, Refusal>,
    /// Whether the charge is not of a request, so that no response ends it.
    is_outside: bool,
    /// The charge that the request repeats, if any. It is set once the charge was begun.
    begun: OnceCell<Option<Box<Replayed>>>,
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

    fn totals(&self) -> MutexGuard<'_, ChargeTotals> {
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

    /// Begins the charge, once per request: checks that something is left, and opens the claim.
    pub(super) async fn begin(self: &Arc<Self>) -> Result<(), Refusal> {
        if let Ok(Some(_)) = &self.claim {
            let totals = self.totals();
            if totals.ended && totals.claim.is_none() {
                // The claim ended with the response. Nothing more may be charged under it, or
                // beside it.
                return Err(Refusal::InFlight);
            }
        }
        self.take_permit()?;
        self.begun.get_or_try_init(|| self.open()).await.map(drop)
    }

    fn take_permit(self: &Arc<Self>) -> Result<(), Refusal> {
        let mut totals = self.totals();
        if totals.permit.is_none() {
            let charge: Weak<Self> = Arc::downgrade(self);
            let permit = self.keys.open_charges.open(self.lineage().account_id(), charge)?;
            totals.permit = Some(Arc::new(permit));
        }
        Ok(())
    }

    async fn open(self: &Arc<Self>) -> Result<Option<Box<Replayed>>, Refusal> {
        let claim = self.claim.clone()?;
        // The figures of the look-up suffice to let work begin, because each hold or payment is
        // checked by the store. They do not suffice for a refusal, because they may be old. Outside of
        // a request, the look-up may be long ago.
        let something_left = self.lineage().remaining().is_none_or(Amount::is_positive);
        if claim.is_none() && something_left && !self.is_outside {
            return Ok(None);
        }
        let ttl = self.keys.options.hold_ttl.min(self.keys.options.max_hold_age);
        let mut posting = self.posting(Action::Open { claim: claim.clone(), ttl });
        // An earlier attempt may have been accepted and its answer lost. This is the same attempt,
        // sent again.
        if let Some(first) = &self.totals().claim {
            posting.id = first.owner;
        }
        let opened = claim.map(|claim| IdempotencyClaim::new(claim.key, posting.id));
        {
            let mut totals = self.totals();
            totals.claimed_at = opened.as_ref().map(|_| Instant::now());
            totals.claim = opened;
        }
        let posted = self.submit(posting).await;
        match posted.map(|posted| posted.outcome) {
            Ok(Outcome::Claimed { entry, refunded }) => {
                self.totals().claim = None;
                Ok(Some(Box::new(Replayed { entry: *entry, refunded })))
            }
            Ok(_) => {
                self.renew_later(ttl);
                Ok(None)
            }
            Err(refusal) => {
                // The attempt is in doubt and may own the claim. The settle ends the claim.
                if !matches!(refusal, Refusal::Unavailable { .. }) {
                    self.totals().claim = None;
                }
                Err(refusal)
            }
        }
    }

    pub(super) async fn hold(
        self: &Arc<Self>,
        amount: Amount,
        ttl: Option<Duration>,
        on_expiry: OnExpiry,
    ) -> Result<(), Refusal> {
        let ttl = ttl.unwrap_or(self.keys.options.hold_ttl).min(self.keys.options.max_hold_age);
        let posting = {
            let mut totals = self.totals();
            let (note, claim) = totals.note_and_claim()?;
            let posting = self.posting(Action::Hold { amount, ttl, on_expiry, note, claim });
            let hold = ChargeHold::new(posting.id, amount, ttl);
            totals.holds.push(hold);
            posting
        };
        let id = posting.id;
        match self.submit(posting).await {
            Ok(_) => {
                let mut totals = self.totals();
                let hold = totals.holds.iter_mut().find(|hold| hold.id == id);
                // Only a charge that was cut off has settled a hold without an answer.
                let hold = hold.ok_or(Refusal::UNAVAILABLE)?;
                hold.answered = true;
                hold.counted = Some(self.keys.metrics.open_holds.enter());
                drop(totals);
                self.renew_later(ttl);
                Ok(())
            }
            Err(refusal) => {
                if !matches!(refusal, Refusal::Unavailable { .. }) {
                    self.totals().holds.retain(|hold| hold.id != id);
                }
                Err(refusal)
            }
        }
    }

    pub(super) async fn pay(&self, amount: Amount) -> Result<(EntryId, Option<Amount>), Refusal> {
        let posting = {
            let mut totals = self.totals();
            let (note, claim) = totals.note_and_claim()?;
            let posting = self.posting(Action::Pay { amount, note, claim });
            totals.unanswered.push(posting.id);
            posting
        };
        let id = posting.id;
        let posted = self.submit(posting).await;
        let mut totals = self.totals();
        if posted.is_ok() && !totals.unanswered.contains(&id) {
            // The charge was cut off, and its settle takes the payment back.
            return Err(Refusal::UNAVAILABLE);
        }
        if !matches!(posted, Err(Refusal::Unavailable { .. })) {
            totals.unanswered.retain(|payment| *payment != id);
        }
        if posted.is_ok() {
            totals.charged = totals.charged.saturating_add(amount);
        }
        if let (Some(claim), Ok(_)) = (&mut totals.claim, &posted) {
            claim.paid.push(id);
        }
        posted.map(|posted| (id.into(), posted.remaining))
    }

    /// Posts what was added so far and ends the holds, waits for the commit, and returns the entry
    /// if there was a cost. The last handle ends the charge, unless its response still runs.
    pub(super) async fn settle_now(self: &Arc<Self>) -> Result<Option<EntryId>, Refusal> {
        let sent = {
            let mut totals = self.totals();
            let is_final = totals.ended && totals.handles == 1;
            // If the charge was cut off, most of it was sent by that.
            [totals.cut_off_settle.take(), self.settle(&mut totals, is_final)]
        };
        let mut entry = None;
        for settling in sent.into_iter().flatten() {
            let posted = settling.await.map_err(|_| Refusal::UNAVAILABLE).flatten();
            let posted = posted.inspect_err(|_| self.not_settled())?;
            self.settled(&posted);
            if let Outcome::Settled { entry: Some(posted) } = posted.outcome {
                entry = Some(posted);
            }
        }
        Ok(entry)
    }

    /// Records that a payment was given back.
    pub(super) fn refunded(&self, amount: Amount) {
        let mut totals = self.totals();
        totals.charged = totals.charged.saturating_sub(amount);
    }

    pub(super) async fn post(&self, action: Action) -> Result<Posted, Refusal> {
        self.submit(self.posting(action)).await
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

    fn posting(&self, action: Action) -> Posting {
        let lineage = self.lineage();
        Posting::new(lineage.account_id().clone(), lineage.id(), action)
    }

    async fn submit(&self, posting: Posting) -> Result<Posted, Refusal> {
        let posted = self.keys.batches.post(posting).await;
        match &posted {
            Ok(posted) => self.settled(posted),
            Err(Refusal::BudgetExceeded(shortfall)) => {
                self.totals().remaining = Some(Some(shortfall.remaining));
            }
            Err(_) => {}
        }
        posted
    }
}

/// The actions of the guard.
impl ChargeState {
    pub(super) fn has_handles(&self) -> bool {
        self.totals().handles > 0
    }

    pub(super) fn is_cut_off(&self) -> bool {
        self.totals().cut_off
    }

    /// Returns whether the charge was cut off. If not, the task is woken for it, and if `handles` is
    /// set, when the last handle is gone.
    pub(super) fn watch(&self, cx: &Context<'_>, handles: bool) -> bool {
        // A waker is foreign code, and may own a handle. It is cloned and dropped without the lock.
        let mut waker = Some(cx.waker().clone());
        let mut totals = self.totals();
        if !totals.cut_off {
            std::mem::swap(&mut totals.waker, &mut waker);
            totals.wake_without_handles = handles;
        }
        let cut_off = totals.cut_off;
        drop(totals);
        cut_off
    }

    /// Returns the settle that shutdown has sent.
    pub(super) fn take_cut_off_settle(&self) -> Option<Settling> {
        self.totals().cut_off_settle.take()
    }

    /// Settles what was added so far, when no handle is left while the response continues.
    ///
    /// The claim stays until the response has ended. So do holds that may be charged whole if the
    /// response is cut short.
    pub(super) fn settle_early(self: &Arc<Self>) -> Option<Settling> {
        let mut totals = self.totals();
        let may_be_whole =
            totals.on_interrupt == OnInterrupt::WholeHold && !totals.holds.is_empty();
        if may_be_whole { None } else { self.settle(&mut totals, false) }
    }

    pub(super) fn interrupt(&self) {
        self.totals().interrupted = true;
    }

    /// Ends the charge with its response, and settles it. A detached charge with a handle stays
    /// open.
    pub(super) fn end(self: &Arc<Self>) -> Option<Settling> {
        let waker; // dropped without the lock, as above
        let mut totals = self.totals();
        waker = totals.waker.take();
        totals.ended = true;
        if totals.handles > 0 && totals.detached {
            // The response may have been cut short, but the detached work was not.
            totals.interrupted = false;
            return None;
        }
        let is_final = totals.handles == 0;
        let settling = self.settle(&mut totals, is_final);
        drop(totals);
        drop(waker);
        settling
    }

    pub(super) fn settled(&self, posted: &Posted) {
        self.totals().remaining = Some(posted.remaining);
    }

    /// Records that a settle failed.
    pub(super) fn not_settled(&self) {
        self.totals().settle_failed = true;
    }

    /// Returns what was charged so far, with settles that are sent; `None` where one failed.
    pub(super) fn charged(&self) -> Option<Amount> {
        let totals = self.totals();
        (!totals.settle_failed).then_some(totals.charged)
    }

    /// Sends a settle, and returns its answer if the end of the response has to wait for it.
    ///
    /// It needs no runtime and does not wait, so it works in a destructor.
    ///
    /// A settle that is not final keeps what is in flight: unanswered postings, and the claim. The
    /// claim is bound to what is charged until then.
    fn settle(self: &Arc<Self>, totals: &mut ChargeTotals, is_final: bool) -> Option<Settling> {
        // Without a permit, no charge has begun, or its final settle was sent. A charge that was cut
        // off may have cost that was added after it.
        if totals.permit.is_none() && !totals.cut_off {
            return None;
        }
        let total = totals.take_cost();
        let cost = total.min(MAX_COST);
        totals.charged = totals.charged.saturating_add(cost);
        if total > cost {
            tracing::error!(
                key = %self.lineage().id(),
                cost_micros = total.as_micros(),
                charged_micros = cost.as_micros(),
                "agentkey capped a charge at the maximum; correct the handler that added so much, then adjust the key"
            );
        }
        let (holds, kept): (Vec<_>, Vec<_>) =
            totals.holds.drain(..).partition(|hold| is_final || hold.answered);
        totals.holds = kept;
        let (mut void, mut permit) = (Vec::new(), totals.permit.clone());
        let kept = totals.claim.as_ref().filter(|_| !is_final && !cost.is_zero());
        let mut claim = kept.map(|claim| IdempotencyClaim { is_kept: true, ..claim.clone() });
        if is_final {
            void = std::mem::take(&mut totals.unanswered);
            claim = totals.claim.take();
            permit = totals.permit.take();
            if let Some(renewal) = totals.renewal.take() {
                self.keys.renewals.remove(renewal);
            }
        }
        if holds.is_empty() && void.is_empty() && claim.is_none() && cost.is_zero() {
            return None;
        }
        // Postings in doubt are undone when the store is back. The client waits for that only if
        // there is a cost.
        let in_doubt = !void.is_empty()
            || holds.iter().any(|hold| !hold.answered)
            || self.begun.get().is_none();
        let awaited = !cost.is_zero() || !in_doubt;
        let holds = holds.into_iter().map(|hold| hold.id).collect();
        let posting =
            self.posting(Action::Settle { holds, void, cost, note: totals.note.clone(), claim });
        if let Some(kept) = totals.claim.as_mut().filter(|_| !cost.is_zero()) {
            kept.paid.push(posting.id);
        }
        Some(self.keys.batches.settle(posting, permit)).filter(|_| awaited)
    }
}

impl CutOff for ChargeState {
    fn cut_off(self: Arc<Self>) {
        let mut totals = self.totals();
        totals.interrupted = true;
        totals.cut_off_settle = self.settle(&mut totals, true);
        totals.cut_off = true;
        let waker = totals.waker.take();
        drop(totals);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// Renewals of the holds and of the claim.
impl ChargeState {
    /// Plans a renewal in time for something with this time to live, unless an earlier one is
    /// planned.
    fn renew_later(self: &Arc<Self>, ttl: Duration) {
        let mut totals = self.totals();
        let after = ttl / 3;
        if totals.renewal.is_some_and(|planned| planned.is_within(after)) {
            return;
        }
        if let Some(later) = totals.renewal.take() {
            self.keys.renewals.remove(later);
        }
        totals.renewal = Some(self.plan_renewal(after));
    }

    /// Renews the holds and the claim, and returns when to renew next.
    async fn renew_now(&self) -> Option<Duration> {
        let max_age = self.keys.options.max_hold_age;
        let (holds, claim, ttl) = {
            let totals = self.totals();
            (
                totals.live().map(|hold| hold.id).collect::<Vec<_>>(),
                totals.renewable_claim(max_age),
                totals.shortest_ttl().unwrap_or(self.keys.options.hold_ttl),
            )
        };
        if holds.is_empty() && claim.is_none() {
            return None;
        }
        let (mut claim, left) = claim.unzip();
        // A claim near its maximum age is renewed apart. The holds are younger, and live longer.
        if let Some(left) = left.flatten().filter(|left| *left < ttl) {
            let action =
                Action::Renew { holds: Vec::new(), ttl: left, max_age, claim: claim.take() };
            match self.post(action).await {
                Err(Refusal::Unavailable { retry_after }) => return Some(retry_after.min(ttl / 6)),
                _ if holds.is_empty() => return Some(ttl / 3),
                _ => {}
            }
        }
        let action = Action::Renew { holds: holds.clone(), ttl, max_age, claim };
        match self.post(action).await {
            Ok(Posted { outcome: Outcome::Renewed { over: expired, .. }, .. }) => {
                self.totals().mark_expired(&expired);
                Some(ttl / 3)
            }
            Ok(_) => None,
            Err(Refusal::Unavailable { retry_after }) => Some(retry_after.min(ttl / 6)),
            Err(Refusal::HoldExpired) => {
                self.totals().mark_expired(&holds);
                None
            }
            Err(refusal) => {
                let key = self.lineage().id();
                tracing::debug!(%refusal, %key, "agentkey could not renew the holds of a charge; they expire");
                None
            }
        }
    }

    fn plan_renewal(self: &Arc<Self>, after: Duration) -> RenewalKey {
        let charge: Weak<Self> = Arc::downgrade(self);
        self.keys.renewals.insert(charge, after)
    }

    fn renew_again(self: &Arc<Self>, after: Option<Duration>) {
        let mut totals = self.totals();
        if let Some(planned) = totals.renewal.take() {
            self.keys.renewals.remove(planned);
        }
        // A new hold may have a shorter life than the renewed ones, or may have come after all of
        // them expired.
        let soonest = totals.shortest_ttl().map(|ttl| ttl / 3);
        let after = after.filter(|_| soonest.is_some() || totals.claim.is_some());
        totals.renewal =
            after.into_iter().chain(soonest).min().map(|after| self.plan_renewal(after));
    }
}

impl Renew for ChargeState {
    fn renew(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let after = self.renew_now().await;
            self.renew_again(after);
        })
    }
}
