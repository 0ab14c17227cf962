//! The end of a charge: its settles, and what the guard watches for.

use std::sync::Arc;
use std::task::{Context, Waker};

use super::hold::OnInterrupt;
use super::state::ChargeState;
use super::totals::ChargeTotals;
use crate::engine::batch::Settling;
use crate::engine::open_charges::CutOff;
use crate::ledger::{Action, IdempotencyClaim, Outcome, Posted};
use crate::model::{Amount, EntryId, Note, Refusal};

/// The most that one settle charges. A thousand such charges still leave room in an account for
/// others.
const MAX_COST: Amount = Amount::micros(i64::MAX / 1_024);

impl ChargeState {
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
    pub(super) fn settle(
        self: &Arc<Self>,
        totals: &mut ChargeTotals,
        is_final: bool,
    ) -> Option<Settling> {
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
        // A settle without a cost writes no entry.
        let note = match cost.is_zero() {
            true => Note::default(),
            false => self.labelled(totals.note.clone()),
        };
        let posting = self.posting(Action::Settle { holds, void, cost, note, claim });
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
