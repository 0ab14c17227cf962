//! Charging a request: hold before the work, settle what it really cost when the response has ended.
//!
//! A handler takes a [`Charge`], sets money aside, works, and says what it cost. It never posts the end of the
//! charge itself: when the handler has returned and the last handle is gone, or the body of the response has ended,
//! errored or been dropped, the guard that rides on the response settles. The client does not see the end of the response before that is
//! committed.
//!
//! | What happens | What is charged | When |
//! |---|---|---|
//! | the handler returns, no handle is left | what was added | before the response head |
//! | the body holds a handle | what was added | before the client sees the end of the body |
//! | disconnect, panic, the layer's future dropped, body error | what was added, or the whole hold: [`OnInterrupt`] | at once |
//! | the last handle is gone while the body goes on | what was added | at once; at the end where a whole hold may be charged |
//! | the same, and the client leaves then | what was added | at once |
//! | a handle outlives the body | what was added, and what it adds later | at the end of the body, and when it is gone |
//! | the same, after [`Charge::detach`] | what was added | when the last handle is gone; the hold stays until then |
//! | the process is killed | holds, as their [`OnExpiry`] says; what was only added is lost | when they run out |

pub(crate) mod guard;
mod hold;
pub(crate) mod state;
mod totals;

use std::sync::Arc;

use crate::http::charge::state::ChargeState;
use crate::http::context::KeyContext;
use crate::http::rejection::Rejection;
use crate::ledger::{Action, Outcome, Posted};
use crate::model::{Amount, Entry, EntryId, EntryKind, KeyId, Refusal};

pub use hold::{Hold, OnInterrupt};

/// What a request is charged. Clones are one charge; move one into a streaming body and go on adding.
///
/// In a handler it is an extractor. Taking it is refused with 402 when the key has nothing left, and with 409 when
/// the client repeats an `Idempotency-Key`; see [`Replayable`] for the other way to answer that.
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
}

impl Charge {
    /// The charge of the request that `context` belongs to, as the extractor takes it. Begin it before the response is
    /// returned: the guard does not wait for a charge that begins in a body.
    ///
    /// # Errors
    ///
    /// When the key has nothing left, the client repeats an `Idempotency-Key`, or the store does not answer.
    pub async fn begin(context: &KeyContext) -> Result<Self, Rejection> {
        let charge = Self::begin_replayable(context).await?;
        match charge.state.replayed() {
            Some(first) => Err(charge.error(Refusal::AlreadyCharged(first.entry.id))),
            None => Ok(charge),
        }
    }

    async fn begin_replayable(context: &KeyContext) -> Result<Self, Rejection> {
        let charge = Self::handle(context.charge_state().clone());
        charge.state.begin().await.map_err(|refusal| charge.error(refusal))?;
        Ok(charge)
    }

    fn handle(state: Arc<ChargeState>) -> Self {
        state.take_handle();
        Self { state }
    }

    /// Which key is charged.
    pub fn key(&self) -> KeyId {
        self.state.lineage().id()
    }

    /// Sets money aside before work is done; again sets more aside. Its time to live is renewed for as long as the
    /// charge lives, up to the [longest age](crate::Builder::max_hold_age).
    ///
    /// # Errors
    ///
    /// [`Refusal::BudgetExceeded`] when a member of the lineage has not so much left; nothing is set aside then.
    pub async fn hold(&self, hold: impl Into<Hold>) -> Result<(), Rejection> {
        let Hold { amount, ttl, on_expiry } = hold.into();
        self.refuse_replay()?;
        self.state.hold(amount, ttl, on_expiry).await.map_err(|refusal| self.error(refusal))
    }

    /// Adds cost that was incurred. Never refused: what goes beyond the holds and the limit is posted as debt, and
    /// new work is refused from then on. A negative amount counts as zero. More than 9 billion units at once is no
    /// price: so much is charged, and the rest is logged as an error.
    ///
    /// It is posted when the charge ends. A killed process loses it; where that matters, hold with
    /// [`OnExpiry::Charge`].
    pub fn add(&self, cost: Amount) {
        self.state.add(cost);
    }

    /// Says what the work has cost so far, in place of all that was added: for a stream that is metered by estimate
    /// until its real usage is known. As with [`add`](Self::add), a negative amount counts as zero. What was posted
    /// already, when a handle outlived its response, stays posted.
    pub fn set_cost(&self, cost: Amount) {
        self.state.set_cost(cost);
    }

    /// The payment that this request repeats, behind [`Replayable`]: for a handler that answers from its own records
    /// rather than by [`pay`](Self::pay).
    pub fn replayed(&self) -> Option<Receipt> {
        self.state.replayed().map(|first| self.receipt(&first.entry))
    }

    /// Charges a known price at once. Money that was set aside by this charge is not used for it.
    ///
    /// Dropping the future takes the payment back when the charge ends. Under an `Idempotency-Key`, a request pays
    /// the client once: a replay is refused, or gets the first receipt (see [`Replayable`]).
    ///
    /// # Errors
    ///
    /// As for [`hold`](Self::hold).
    pub async fn pay(&self, amount: Amount) -> Result<Receipt, Rejection> {
        if let Some(first) = self.state.replayed() {
            return self.replay(&first.entry, amount).map_err(|refusal| self.error(refusal));
        }
        let (entry, remaining) = self.state.pay(amount).await.map_err(|refusal| self.error(refusal))?;
        Ok(Receipt { entry, amount, remaining, replayed: false })
    }

    /// Gives back a payment of this request, or of the one it repeats, in part or whole. After
    /// [`Refusal::Unavailable`] it may have taken effect all the same.
    ///
    /// # Errors
    ///
    /// [`Refusal::RefundTooLarge`] when the payment has not so much left.
    pub async fn refund(&self, receipt: &Receipt, amount: Amount) -> Result<EntryId, Rejection> {
        let action = Action::Refund { entry: receipt.entry, amount };
        match self.state.post(action).await {
            Ok(Posted { outcome: Outcome::Refunded { entry }, .. }) => Ok(entry),
            Ok(_) => Err(self.error(Refusal::Misconfigured)),
            Err(refusal) => Err(self.error(refusal)),
        }
    }

    /// Labels what is charged from now on, such as with its `route` or `model`, to sum usage by.
    ///
    /// # Errors
    ///
    /// When the name or value is too long, or there are 16 labels already.
    pub fn label(&self, name: impl Into<String>, value: impl Into<String>) -> Result<(), Rejection> {
        self.state.label(name.into(), value.into()).map_err(|error| self.error(Refusal::InvalidLabel(error)))
    }

    /// The host's own reference for what is charged from now on, such as an order number. A replay under the same
    /// `Idempotency-Key` with another reference is refused as a conflict.
    ///
    /// # Errors
    ///
    /// When it is not 1 to 255 characters, or has a control character.
    pub fn reference(&self, reference: impl Into<String>) -> Result<(), Rejection> {
        self.state.set_reference(reference.into()).map_err(|error| self.error(Refusal::InvalidLabel(error)))
    }

    /// What to charge if the request is cut short. Default: what was added.
    pub fn on_interrupt(&self, policy: OnInterrupt) {
        self.state.on_interrupt(policy);
    }

    /// Keeps the holds beyond the end of the response, until the last handle is gone: for work that goes on in a
    /// background task.
    pub fn detach(&self) {
        self.state.detach();
    }

    /// What is set aside by this charge and not yet settled.
    pub fn held(&self) -> Amount {
        self.state.held()
    }

    /// What was added and not yet settled.
    pub fn added(&self) -> Amount {
        self.state.added()
    }

    fn refuse_replay(&self) -> Result<(), Rejection> {
        match self.state.replayed() {
            Some(first) => Err(self.error(Refusal::AlreadyCharged(first.entry.id))),
            None => Ok(()),
        }
    }

    /// The receipt of the first request's payment, if this one asks for the same. It is given once.
    fn replay(&self, first: &Entry, amount: Amount) -> Result<Receipt, Refusal> {
        if first.amount != amount || first.note.reference != self.state.reference() {
            return Err(Refusal::Conflict);
        }
        if !self.state.take_replay() {
            return Err(Refusal::AlreadyCharged(first.id));
        }
        Ok(self.receipt(first))
    }

    fn receipt(&self, first: &Entry) -> Receipt {
        Receipt { entry: first.id, amount: first.amount, remaining: self.state.remaining(), replayed: true }
    }

    fn error(&self, refusal: Refusal) -> Rejection {
        Rejection::new(refusal, self.state.http().clone())
    }
}

impl Clone for Charge {
    fn clone(&self) -> Self {
        Self::handle(self.state.clone())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.state.drop_handle(std::thread::panicking());
    }
}

/// A [`Charge`] whose payment may be the answer to a repeated request.
///
/// Taken instead of `Charge`, it lets a request through whose `Idempotency-Key` was charged by a payment before, of
/// which nothing was refunded. Then [`Charge::pay`] charges nothing and returns the first receipt with [`replayed`](Receipt::replayed) set, if
/// amount and [reference](Charge::reference) are the same; anything else is refused with 409. A payment that its own
/// request refunded whole bought nothing: the client may try again, and pays anew. Work that a handler does on a replay
/// is work: what it [adds](Charge::add) is charged. Method, path and query are compared, as the layer sees them (under
/// axum's `nest`, put it on the outermost router); the body is not: it is the reference that tells purchases apart.
///
/// ```
/// use agentkey::{Amount, Rejection, Replayable};
///
/// async fn purchase(Replayable(charge): Replayable) -> Result<String, Rejection> {
///     let receipt = charge.pay(Amount::cents(499)).await?;
///     Ok(if receipt.replayed { "bought before".into() } else { "bought".into() })
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Replayable(pub Charge);

impl Replayable {
    /// The charge of the request that `context` belongs to, as the extractor takes it.
    ///
    /// # Errors
    ///
    /// As for [`Charge::begin`], but for a repeated request that was charged by a payment.
    pub async fn begin(context: &KeyContext) -> Result<Self, Rejection> {
        let charge = Charge::begin_replayable(context).await?;
        match charge.state.replayed() {
            // What was given back, if only in part, is no proof of a purchase.
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
    /// What the lineage has left; `None` where nothing limits it.
    pub remaining: Option<Amount>,
    /// Whether an earlier request with the same `Idempotency-Key` paid it.
    pub replayed: bool,
}
