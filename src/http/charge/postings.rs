//! The postings of a charge while it is open: its claim, holds and payments.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::state::{ChargeState, Replayed};
use super::totals::ChargeHold;
use crate::ledger::{Action, IdempotencyClaim, OnExpiry, Outcome, Posted, Posting};
use crate::model::{Amount, EntryId, Refusal};

impl ChargeState {
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
            let note = self.labelled(note);
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
            let note = self.labelled(note);
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

    pub(super) async fn post(&self, action: Action) -> Result<Posted, Refusal> {
        self.submit(self.posting(action)).await
    }

    pub(super) fn posting(&self, action: Action) -> Posting {
        let lineage = self.lineage();
        Posting::new(lineage.account_id().clone(), lineage.id(), action)
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
