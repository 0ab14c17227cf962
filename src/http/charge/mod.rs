//! Charges: hold money before the work, and settle what it cost when the response has ended.
//!
//! A handler takes a [`Charge`], sets money aside, works, and adds what the work cost. It never
//! posts the end of the charge itself: a guard on the response does.
//!
//! The guard settles when the handler has returned and no handle is left. If the body holds a
//! handle, the guard settles when the body has ended, failed or been dropped. The client sees the
//! end of the response after that commit.
//!
//! | What happens | What is charged | When |
//! |---|---|---|
//! | the handler returns, no handle is left | what was added | before the response head |
//! | the body holds a handle | what was added | before the client sees the end of the body |
//! | disconnect, panic, the layer's future dropped, body error | what was added, or the whole hold: [`OnInterrupt`] | at once |
//! | the last handle is gone while the body continues | what was added | at once; at the end where a whole hold may be charged |
//! | the same, and the client leaves then | what was added | at once |
//! | a handle outlives the body | what was added, and what it adds later | at the end of the body, and when it is gone |
//! | the same, after [`Charge::detach`] | what was added | when the last handle is gone; the hold stays until then |
//! | [`AgentKeys::shutdown_within`](crate::AgentKeys::shutdown_within) reaches its bound | what was added, or the whole hold | before the 503, or before the client sees the error of the body |
//! | [outside of a request](crate::AgentKeys::charge): `settle`, or the last handle is gone | what was added | at once |
//! | the process is killed | holds, as their [`OnExpiry`](crate::http::OnExpiry) says; what was only added is lost | when they expire |

pub(crate) mod guard;
mod hold;
mod postings;
mod renewal;
mod settle;
pub(crate) mod state;
mod totals;

use std::sync::Arc;

use crate::http::charge::state::ChargeState;
use crate::http::context::KeyContext;
use crate::http::options::HttpOptions;
use crate::http::rejection::Rejection;
use crate::ledger::{Action, Outcome, Posted};
use crate::model::{Amount, Entry, EntryId, EntryKind, KeyId, Refusal};

pub use hold::{Hold, OnInterrupt};

/// The charge of a request. Clones are handles to the same charge: move one into a streaming body
/// and go on adding.
///
/// In a handler it is an extractor. It refuses with 402 if the key has nothing left, and with 409
/// if the client repeats an `Idempotency-Key`. [`Replayable`] answers a repeated request in another
/// way.
///
/// A request has one charge, for all that take it: a middleware, [`RequireBudget`](crate::RequireBudget)
/// and the handler, also with a second [`AgentKeyLayer`](crate::AgentKeyLayer) between them, as long
/// as both layers find the same key.
///
/// ```
/// use agentkey::{Amount, Charge, Rejection};
/// use agentkey::model::{TokenPrice, TokenUsage};
///
/// const PRICE: TokenPrice = TokenPrice::new(Amount::units(3), Amount::units(15));
///
/// async fn chat(charge: Charge) -> Result<String, Rejection> {
///     charge.hold(Amount::cents(5)).await?; // refused here: 402 before any work is done
///     let (answer, usage) = ("hello".to_owned(), TokenUsage::new(12, 3));
///     charge.label("model", "small-1")?;
///     charge.add(PRICE.cost(usage)); // what it really cost; the rest of the hold goes back
///     Ok(answer)
/// }
/// ```
#[derive(Debug)]
pub struct Charge {
    state: Arc<ChargeState>,
    http: Arc<HttpOptions>,
}

impl Charge {
    /// Begins the charge of the request that `context` belongs to, as the extractor does.
    ///
    /// Begin it before the response is returned: the guard does not wait for a charge that begins
    /// in a body.
    ///
    /// # Errors
    ///
    /// [`Refusal::BudgetExceeded`] where the key has nothing left. [`Refusal::AlreadyCharged`],
    /// [`Refusal::InFlight`] or [`Refusal::Conflict`] where the client repeats an
    /// `Idempotency-Key`. [`Refusal::Unavailable`] where the store does not answer.
    pub async fn begin(context: &KeyContext) -> Result<Self, Rejection> {
        let charge = Self::begin_replayable(context).await?;
        match charge.state.replayed() {
            Some(first) => Err(charge.error(Refusal::AlreadyCharged(first.entry.id))),
            None => Ok(charge),
        }
    }

    async fn begin_replayable(context: &KeyContext) -> Result<Self, Rejection> {
        let charge = Self::handle(context.charge_state().to_begin(), context.http().clone());
        charge.state.begin().await.map_err(|refusal| charge.error(refusal))?;
        Ok(charge)
    }

    fn handle(state: Arc<ChargeState>, http: Arc<HttpOptions>) -> Self {
        state.take_handle();
        Self { state, http }
    }

    /// Returns the id of the charged key.
    pub fn key(&self) -> KeyId {
        self.state.lineage().id()
    }

    /// Sets money aside before work is done. A second call sets more aside.
    ///
    /// The hold is renewed while the charge lives, up to the [maximum
    /// age](crate::Builder::max_hold_age).
    ///
    /// # Errors
    ///
    /// [`Refusal::BudgetExceeded`] where a member of the lineage has less left; then nothing is set
    /// aside. [`Refusal::AlreadyCharged`] on a replay. [`Refusal::Unavailable`] where the store
    /// does not answer.
    pub async fn hold(&self, hold: impl Into<Hold>) -> Result<(), Rejection> {
        let Hold { amount, ttl, on_expiry } = hold.into();
        self.refuse_replay()?;
        self.state.hold(amount, ttl, on_expiry).await.map_err(|refusal| self.error(refusal))
    }

    /// Adds cost that was incurred. It is never refused.
    ///
    /// Cost beyond the holds and the limit is posted as debt, and new work is refused from then on.
    /// A negative amount counts as zero. One settle charges at most 9 billion units; the rest is
    /// logged as an error.
    ///
    /// The cost is posted when the charge ends, and a killed process loses it. Where that matters,
    /// hold with [`OnExpiry::Charge`](crate::http::OnExpiry::Charge).
    pub fn add(&self, cost: Amount) {
        self.state.add(cost);
    }

    /// Sets what the work has cost so far, in place of all that was added.
    ///
    /// It is for a stream that is metered by estimate until its real usage is known. As with
    /// [`add`](Self::add), a negative amount counts as zero. Cost that was already posted, while a
    /// handle outlived its response, stays posted.
    pub fn set_cost(&self, cost: Amount) {
        self.state.set_cost(cost);
    }

    /// Returns the payment that this request repeats, behind [`Replayable`].
    ///
    /// It is for a handler that answers from its own records instead of by [`pay`](Self::pay). The
    /// [reference](Self::reference) has to be set before.
    ///
    /// # Errors
    ///
    /// [`Refusal::Conflict`] where the request repeats a payment with another reference.
    /// [`Refusal::AlreadyCharged`] where neither has a reference.
    pub fn replayed(&self) -> Result<Option<Receipt>, Rejection> {
        let Some(first) = self.state.replayed() else { return Ok(None) };
        self.check_reference(&first.entry).map_err(|refusal| self.error(refusal))?;
        Ok(Some(self.receipt(&first.entry)))
    }

    /// Charges a known price at once. It does not use the money that this charge has set aside.
    ///
    /// If the future is dropped, the payment is taken back when the charge ends. Under an
    /// `Idempotency-Key`, the client pays once: a replay is refused, or gets the first receipt (see
    /// [`Replayable`]).
    ///
    /// # Errors
    ///
    /// As for [`hold`](Self::hold).
    pub async fn pay(&self, amount: Amount) -> Result<Receipt, Rejection> {
        if let Some(first) = self.state.replayed() {
            return self.replay(&first.entry, amount).map_err(|refusal| self.error(refusal));
        }
        let (entry, remaining) =
            self.state.pay(amount).await.map_err(|refusal| self.error(refusal))?;
        Ok(Receipt { entry, amount, remaining, replayed: false })
    }

    /// Gives back a payment of this request, or of the one it repeats, in part or whole.
    ///
    /// After [`Refusal::Unavailable`] the refund is in doubt: it may have taken effect.
    ///
    /// # Errors
    ///
    /// [`Refusal::RefundTooLarge`] where the payment has less left. [`Refusal::Unavailable`] where
    /// the store does not answer.
    pub async fn refund(&self, receipt: &Receipt, amount: Amount) -> Result<EntryId, Rejection> {
        let action = Action::Refund { entry: receipt.entry, amount };
        match self.state.post(action).await {
            Ok(Posted { outcome: Outcome::Refunded { entry }, .. }) => {
                self.state.refunded(amount);
                Ok(entry)
            }
            Ok(_) => Err(self.error(Refusal::Misconfigured)),
            Err(refusal) => Err(self.error(refusal)),
        }
    }

    /// Sets a label, such as `route` or `model`, of what is charged from now on.
    ///
    /// # Errors
    ///
    /// [`Refusal::InvalidLabel`] where the name or value is too long, or there are 16 labels
    /// already.
    pub fn label(
        &self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<(), Rejection> {
        self.state
            .label(name.into(), value.into())
            .map_err(|error| self.error(Refusal::InvalidLabel(error)))
    }

    /// Sets the application's own reference, such as an order number, of what is charged from now
    /// on.
    ///
    /// A replay under the same `Idempotency-Key` with another reference is refused as a conflict.
    /// Without a reference, no replay gets a receipt (see [`Replayable`]).
    ///
    /// # Errors
    ///
    /// [`Refusal::InvalidLabel`] where it is not 1 to 255 characters, or has a control character.
    pub fn reference(&self, reference: impl Into<String>) -> Result<(), Rejection> {
        self.state
            .set_reference(reference.into())
            .map_err(|error| self.error(Refusal::InvalidLabel(error)))
    }

    /// Sets what is charged if the request is cut short. Default: what was added.
    pub fn on_interrupt(&self, policy: OnInterrupt) {
        self.state.on_interrupt(policy);
    }

    /// Keeps the holds after the end of the response, until the last handle is gone: for work in a
    /// background task.
    pub fn detach(&self) {
        self.state.detach();
    }

    /// Posts what was added so far, ends the holds, and waits for the commit. Returns the entry;
    /// `None` where there was no cost.
    ///
    /// It is the end of a charge [outside of a request](crate::AgentKeys::charge), if this is its
    /// last handle. Otherwise the charge goes on, and what is added later has an entry of its own. In
    /// a request it is not needed, because the response settles and waits.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unavailable`] where the charge could not be posted for
    /// [`settle_timeout`](crate::Builder::settle_timeout). It is then logged, and
    /// [`AgentKeys::settle_as`](crate::AgentKeys::settle_as) posts it.
    pub async fn settle(self) -> Result<Option<EntryId>, Rejection> {
        self.state.settle_now().await.map_err(|refusal| self.error(refusal))
    }

    /// Returns what this charge has set aside and not yet settled.
    pub fn held(&self) -> Amount {
        self.state.held()
    }

    /// Returns what was added and not yet settled.
    pub fn added(&self) -> Amount {
        self.state.added()
    }

    fn refuse_replay(&self) -> Result<(), Rejection> {
        match self.state.replayed() {
            Some(first) => Err(self.error(Refusal::AlreadyCharged(first.entry.id))),
            None => Ok(()),
        }
    }

    /// Returns the receipt of the first request's payment, once, if this request asks for the same.
    fn replay(&self, first: &Entry, amount: Amount) -> Result<Receipt, Refusal> {
        if first.amount != amount {
            return Err(Refusal::Conflict);
        }
        self.check_reference(first)?;
        if !self.state.take_replay() {
            return Err(Refusal::AlreadyCharged(first.id));
        }
        Ok(self.receipt(first))
    }

    /// Checks that this request names what the first one paid for. Without a reference, nothing
    /// tells two purchases of the same price apart.
    fn check_reference(&self, first: &Entry) -> Result<(), Refusal> {
        let reference = self.state.reference();
        if first.note.reference != reference {
            return Err(Refusal::Conflict);
        }
        reference.map(drop).ok_or(Refusal::AlreadyCharged(first.id))
    }

    fn receipt(&self, first: &Entry) -> Receipt {
        Receipt {
            entry: first.id,
            amount: first.amount,
            remaining: self.state.remaining(),
            replayed: true,
        }
    }

    fn error(&self, refusal: Refusal) -> Rejection {
        self.state.refused(&refusal);
        Rejection::new(refusal, self.http.clone())
    }
}

impl Clone for Charge {
    fn clone(&self) -> Self {
        Self::handle(self.state.clone(), self.http.clone())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.state.drop_handle(std::thread::panicking());
    }
}

/// A [`Charge`] whose payment may be the answer to a repeated request.
///
/// Unlike `Charge`, it lets a request through whose `Idempotency-Key` was charged by a payment, if
/// nothing of that was refunded. Then [`Charge::pay`] charges nothing and returns the first
/// receipt, with [`replayed`](Receipt::replayed) set.
///
/// The handler has to name what is bought, by [`Charge::reference`], before it pays. Both requests
/// must have the same amount and the same reference; otherwise the second is refused with 409. The
/// body is not compared, so a replay without a reference gets no receipt: it is refused with 409,
/// `already_charged`.
///
/// - A payment that its own request refunded whole bought nothing: the client may try again, and
///   pays again.
/// - What a handler [adds](Charge::add) during a replay is charged.
/// - Method, path and query are compared, under axum's `nest` the whole path.
///
/// ```
/// # #[cfg(feature = "axum")] mod shop {
/// use agentkey::{Amount, Rejection, Replayable};
/// use axum::extract::Path;
///
/// async fn purchase(
///     Path(item): Path<String>,
///     Replayable(charge): Replayable,
/// ) -> Result<String, Rejection> {
///     charge.reference(item)?;
///     let receipt = charge.pay(Amount::cents(499)).await?;
///     Ok(if receipt.replayed { "bought before".into() } else { "bought".into() })
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Replayable(pub Charge);

impl Replayable {
    /// Begins the charge of the request that `context` belongs to, as the extractor does.
    ///
    /// # Errors
    ///
    /// As for [`Charge::begin`], except that a request is let through if it repeats a payment.
    pub async fn begin(context: &KeyContext) -> Result<Self, Rejection> {
        let charge = Charge::begin_replayable(context).await?;
        match charge.state.replayed() {
            // A refund, even in part, means that the entry is no proof of a purchase.
            Some(first) if first.entry.kind != EntryKind::Pay || first.refunded.is_positive() => {
                Err(charge.error(Refusal::AlreadyCharged(first.entry.id)))
            }
            _ => Ok(Self(charge)),
        }
    }
}

/// The proof of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Its entry in the ledger.
    pub entry: EntryId,
    /// What was paid.
    pub amount: Amount,
    /// What the lineage has left; `None` where no member has a limit.
    pub remaining: Option<Amount>,
    /// Whether an earlier request with the same `Idempotency-Key` paid it.
    pub replayed: bool,
}
