//! The figures of a charge: what was added and held, and how much of it is to be charged.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use super::hold::OnInterrupt;
use crate::engine::batch::Settling;
use crate::engine::metrics::Counted;
use crate::engine::open_charges::ChargePermit;
use crate::engine::renewals::RenewalKey;
use crate::ledger::IdempotencyClaim;
use crate::model::{Amount, Note, PostingId, Refusal};

#[derive(Debug, Default)]
pub(super) struct ChargeTotals {
    /// The number of handles.
    pub(super) handles: usize,
    /// Whether the response has ended or was dropped.
    pub(super) ended: bool,
    pub(super) detached: bool,
    pub(super) interrupted: bool,
    /// Whether shutdown has ended the charge. Its handles may still add to it.
    pub(super) cut_off: bool,
    /// The settle that shutdown has sent, if the end of the response has to wait for it.
    pub(super) cut_off_settle: Option<Settling>,
    pub(super) on_interrupt: OnInterrupt,
    pub(super) added: Amount,
    /// What was charged so far: what was settled and paid, less what was refunded.
    pub(super) charged: Amount,
    /// Whether a settle failed, so that it is not known what was charged.
    pub(super) settle_failed: bool,
    /// What was charged for whole holds beyond what had been added. Later cost counts against it.
    pub(super) prepaid: Amount,
    pub(super) holds: Vec<ChargeHold>,
    /// The payments that were sent and are not answered.
    pub(super) unanswered: Vec<PostingId>,
    /// The claim, while this request owns it.
    pub(super) claim: Option<IdempotencyClaim>,
    /// When the claim was opened.
    pub(super) claimed_at: Option<Instant>,
    pub(super) replay_taken: bool,
    pub(super) note: Note,
    /// What the lineage had left at the last posting, accepted or refused; `None` before the first.
    pub(super) remaining: Option<Option<Amount>>,
    /// The waker of the response, for when the charge is cut off.
    pub(super) waker: Option<Waker>,
    /// Whether the response also waits until the last handle is gone.
    pub(super) wake_without_handles: bool,
    pub(super) permit: Option<Arc<ChargePermit>>,
    pub(super) renewal: Option<RenewalKey>,
    /// Whether an inner layer has another key, and sends what that has left.
    pub(super) superseded: bool,
    /// Whether an inner layer with the same key sends what is left.
    pub(super) shows_remaining: bool,
}

#[derive(Debug)]
pub(super) struct ChargeHold {
    pub(super) id: PostingId,
    pub(super) amount: Amount,
    pub(super) ttl: Duration,
    pub(super) answered: bool,
    /// Counts the hold among the open ones, while it is live.
    pub(super) counted: Option<Counted>,
    /// The hold has expired, so its money is not set aside any more.
    pub(super) expired: bool,
}

impl ChargeHold {
    /// Returns a hold that is not answered yet.
    pub(super) fn new(id: PostingId, amount: Amount, ttl: Duration) -> Self {
        Self { id, amount, ttl, answered: false, counted: None, expired: false }
    }
}

impl ChargeTotals {
    /// Takes what is to be charged now.
    ///
    /// Work that cannot be metered is charged its whole hold, once, even if the hold has expired.
    /// Later holds are for work that continues.
    pub(super) fn take_cost(&mut self) -> Amount {
        let (added, interrupted) =
            (std::mem::take(&mut self.added), std::mem::take(&mut self.interrupted));
        let cost = added.saturating_sub(self.prepaid).max(Amount::ZERO);
        self.prepaid = self.prepaid.saturating_sub(added).max(Amount::ZERO);
        match self.on_interrupt {
            OnInterrupt::WholeHold if interrupted => {
                let whole = cost.max(sum(self.holds.iter().filter(|hold| hold.answered)));
                self.prepaid = self.prepaid.saturating_add(whole.saturating_sub(cost));
                whole
            }
            OnInterrupt::WholeHold | OnInterrupt::Added => cost,
        }
    }

    /// Returns the note and the claim of a hold or a payment from now on.
    ///
    /// A charge that was cut off is settled, so it begins nothing more.
    pub(super) fn note_and_claim(&self) -> Result<(Note, Option<IdempotencyClaim>), Refusal> {
        if self.cut_off {
            return Err(Refusal::UNAVAILABLE);
        }
        Ok((self.note.clone(), self.claim.clone()))
    }

    /// Returns the holds that set money aside.
    pub(super) fn live(&self) -> impl Iterator<Item = &ChargeHold> {
        self.holds.iter().filter(|hold| hold.answered && !hold.expired)
    }

    /// Returns the claim to renew, and how long it may live from now on; `None` for as long as the
    /// response runs.
    ///
    /// Behind the response, nothing tells a handle that was forgotten from work that goes on. So the
    /// claim then has the maximum age of a hold.
    pub(super) fn renewable_claim(
        &self,
        max_age: Duration,
    ) -> Option<(IdempotencyClaim, Option<Duration>)> {
        let claim = self.claim.clone()?;
        if !self.ended {
            return Some((claim, None));
        }
        let left = max_age.saturating_sub(self.claimed_at?.elapsed());
        (!left.is_zero()).then_some((claim, Some(left)))
    }

    pub(super) fn held(&self) -> Amount {
        sum(self.live())
    }

    pub(super) fn shortest_ttl(&self) -> Option<Duration> {
        self.live().map(|hold| hold.ttl).min()
    }

    pub(super) fn mark_expired(&mut self, expired: &[PostingId]) {
        self.holds.iter_mut().filter(|hold| expired.contains(&hold.id)).for_each(|hold| {
            hold.expired = true;
            hold.counted = None;
        });
    }
}

fn sum<'a>(holds: impl Iterator<Item = &'a ChargeHold>) -> Amount {
    holds.fold(Amount::ZERO, |sum, hold| sum.saturating_add(hold.amount))
}
