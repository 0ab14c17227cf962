//! The figures of a charge: what was added and held, and what of it is to be charged.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::hold::OnInterrupt;
use crate::engine::batch::ChargePermit;
use crate::engine::renewals::RenewalKey;
use crate::ledger::IdempotencyClaim;
use crate::model::{Amount, Note, PostingId};

#[derive(Debug, Default)]
pub(super) struct ChargeTotals {
    /// Handles alive.
    pub(super) handles: usize,
    /// Whether the response has ended, or nobody waits for it any more.
    pub(super) ended: bool,
    pub(super) detached: bool,
    pub(super) interrupted: bool,
    pub(super) on_interrupt: OnInterrupt,
    pub(super) added: Amount,
    /// What was charged for holds beyond what had been added: what is added later counts against it.
    pub(super) ahead: Amount,
    pub(super) holds: Vec<ChargeHold>,
    /// Payments sent and not answered.
    pub(super) unanswered: Vec<PostingId>,
    /// The claim, while this request has it.
    pub(super) claim: Option<IdempotencyClaim>,
    pub(super) replay_taken: bool,
    pub(super) note: Note,
    /// What the lineage had left at the last posting, accepted or refused, once there was one.
    pub(super) remaining: Option<Option<Amount>>,
    /// Whoever waits for the last handle to go.
    pub(super) waiting: Option<Waker>,
    pub(super) permit: Option<Arc<ChargePermit>>,
    pub(super) renewal: Option<RenewalKey>,
    /// Another layer, further in, has the request's charge, and tells what is left.
    pub(super) superseded: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ChargeHold {
    pub(super) id: PostingId,
    pub(super) amount: Amount,
    pub(super) ttl: Duration,
    pub(super) answered: bool,
    /// It ran out: the money is not set aside any more.
    pub(super) over: bool,
}

impl ChargeTotals {
    /// What is to be charged now. Work that cannot be metered is charged its whole hold even where that has run out; once,
    /// since what is held from then on is for work that goes on.
    pub(super) fn take_cost(&mut self) -> Amount {
        let (added, interrupted) = (std::mem::take(&mut self.added), std::mem::take(&mut self.interrupted));
        let cost = added.saturating_sub(self.ahead).max(Amount::ZERO);
        self.ahead = self.ahead.saturating_sub(added).max(Amount::ZERO);
        match self.on_interrupt {
            OnInterrupt::WholeHold if interrupted => {
                let whole = cost.max(sum(self.holds.iter().filter(|hold| hold.answered)));
                self.ahead = self.ahead.saturating_add(whole.saturating_sub(cost));
                whole
            }
            OnInterrupt::WholeHold | OnInterrupt::Added => cost,
        }
    }

    /// What a posting from now on says, and under which claim.
    pub(super) fn note_and_claim(&self) -> (Note, Option<IdempotencyClaim>) {
        (self.note.clone(), self.claim.clone())
    }

    /// The holds that set money aside.
    pub(super) fn live(&self) -> impl Iterator<Item = &ChargeHold> {
        self.holds.iter().filter(|hold| hold.answered && !hold.over)
    }

    pub(super) fn held(&self) -> Amount {
        sum(self.live())
    }

    pub(super) fn shortest_ttl(&self) -> Option<Duration> {
        self.live().map(|hold| hold.ttl).min()
    }

    pub(super) fn run_out(&mut self, over: &[PostingId]) {
        self.holds.iter_mut().filter(|hold| over.contains(&hold.id)).for_each(|hold| hold.over = true);
    }
}

fn sum<'a>(holds: impl Iterator<Item = &'a ChargeHold>) -> Amount {
    holds.fold(Amount::ZERO, |sum, hold| sum.saturating_add(hold.amount))
}
