//! Decisions: the effect of postings on a book.

use std::time::Duration;

use jiff::Timestamp;

use super::{Book, EntryRow, HoldRow, HoldState, IdempotencyRow};
use crate::ledger::events;
use crate::ledger::posting::{
    Action, IdempotencyClaim, IdempotencyKey, OnExpiry, Outcome, Posted, Posting,
};
use crate::model::clock::later;
use crate::model::{
    AccountId, Amount, Entry, EntryId, EntryKind, KeyId, Note, Origin, PostingId, Refusal,
    Shortfall,
};

/// Decides postings.
impl Book {
    /// Ends the loaded holds of `account` that have expired: each is released, or charged whole.
    pub fn expire(&mut self, account: &AccountId) {
        let Some(now) = self.accounts.get(account).map(|open| open.now) else { return };
        let mut expired: Vec<_> =
            self.expired(account, now).map(|hold| (hold.expires_at, hold.id)).collect();
        expired.sort_unstable();
        for (_, id) in expired {
            self.expire_hold(id, now);
        }
    }

    fn expire_hold(&mut self, id: PostingId, now: Timestamp) {
        let Some(hold) = self.holds.get(&id) else { return };
        let HoldRow { on_expiry, key, account, amount, note, path, .. } = hold.clone();
        match on_expiry {
            OnExpiry::Release => self.end_hold(id, HoldState::Ended),
            OnExpiry::Charge => {
                self.end_hold(id, HoldState::Charged);
                let mut entry =
                    Entry::stored(id.into(), account, key, EntryKind::Expiry, amount, now);
                entry.note = note;
                self.charge(&path, entry);
                self.add_event(id.into(), &path, events::of_charged_hold);
            }
        }
    }

    /// Decides one posting, and applies it if it is accepted. Call [`expire`](Self::expire) first.
    ///
    /// # Errors
    ///
    /// [`Refusal`] where the posting is denied. Then nothing is changed.
    pub fn post(&mut self, posting: &Posting) -> Result<Posted, Refusal> {
        let now = self.accounts.get(&posting.account).ok_or(Refusal::InvalidKey)?.now;
        let mut debt = Amount::ZERO;
        let outcome = match &posting.action {
            Action::Open { claim, ttl } => self.open_charge(posting, claim.as_ref(), *ttl, now)?,
            Action::Hold { amount, ttl, on_expiry, note, claim } => self.hold(
                posting,
                *amount,
                later(now, *ttl),
                *on_expiry,
                note,
                claim.as_ref(),
                now,
            )?,
            Action::Renew { holds, ttl, max_age, claim } => {
                self.renew(posting, holds, *ttl, *max_age, claim.as_ref(), now)?
            }
            // Only an adjustment may have no key.
            Action::Settle { .. } if posting.key.is_none() => return Err(Refusal::InvalidKey),
            Action::Settle { holds, void, cost, note, claim } => {
                let (outcome, beyond) =
                    self.settle(posting, holds, void, *cost, note, claim.as_ref(), now);
                debt = beyond;
                outcome
            }
            Action::Pay { amount, note, claim } => {
                self.pay(posting, *amount, note, claim.as_ref(), now)?
            }
            Action::Refund { entry, amount } => self.refund(posting, *entry, *amount, now)?,
            Action::Adjust { amount, note, origin } => {
                self.adjust(posting, EntryKind::Adjust, *amount, note, Some(origin), now)?
            }
            Action::Opening { amount } => {
                self.adjust(posting, EntryKind::Opening, *amount, &Note::default(), None, now)?
            }
        };
        Ok(Posted {
            outcome,
            remaining: self.lineage_remaining(&posting.account, posting.key, now),
            debt,
            ends_session: self.is_session_over_cap(posting.key),
        })
    }

    fn open_charge(
        &mut self,
        posting: &Posting,
        claim: Option<&IdempotencyKey>,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<Outcome, Refusal> {
        let row = posting
            .key
            .zip(claim)
            .and_then(|(key, claim)| self.claims.get(&(key, claim.key.clone())));
        if row.is_some_and(|row| row.owner == posting.id) {
            return Ok(Outcome::Opened);
        }
        let key = self.check_in_force(posting, now)?;
        if let (Some(claim), Some(row)) = (claim, row) {
            let running = row.in_flight_until.is_some_and(|until| until > now);
            if running || row.entry.is_some() {
                if row.claim.fingerprint != claim.fingerprint {
                    return Err(Refusal::Conflict);
                }
                let charged =
                    row.entry.and_then(|entry| self.entries.get(&entry)).filter(|_| !running);
                let Some(EntryRow { entry, refunded }) = charged else {
                    return Err(Refusal::InFlight);
                };
                return Ok(Outcome::Claimed { entry: entry.clone().into(), refunded: *refunded });
            }
        }
        // Any amount has to be left, though none is asked for.
        self.check_budget(posting, Amount::micros(1), now).map_err(|refusal| match refusal {
            Refusal::BudgetExceeded(shortfall) => {
                Refusal::BudgetExceeded(Shortfall { required: Amount::ZERO, ..*shortfall }.into())
            }
            refusal => refusal,
        })?;
        if let Some(claim) = claim {
            self.insert_claim(IdempotencyRow {
                key,
                claim: claim.clone(),
                owner: posting.id,
                in_flight_until: Some(later(now, ttl)),
                entry: None,
            });
            self.touched.accounts.insert(posting.account.clone());
        }
        Ok(Outcome::Opened)
    }

    #[allow(clippy::too_many_arguments)]
    fn hold(
        &mut self,
        posting: &Posting,
        amount: Amount,
        expires_at: Timestamp,
        on_expiry: OnExpiry,
        note: &Note,
        claim: Option<&IdempotencyClaim>,
        now: Timestamp,
    ) -> Result<Outcome, Refusal> {
        if let Some(existing) = self.holds.get(&posting.id) {
            let lives = existing.state == HoldState::Live && existing.expires_at > now;
            return if lives {
                Ok(Outcome::Held { until: existing.expires_at })
            } else {
                Err(Refusal::HoldExpired)
            };
        }
        let amount = amount.non_negative().map_err(|_| Refusal::NegativeAmount)?;
        let key = self.check_in_force(posting, now)?;
        self.claim_of(posting, claim)?;
        self.check_budget(posting, amount, now)?;
        let path = self.path(key);
        self.each_member(&posting.account, &path, now, |balance| {
            balance.held = balance.held.saturating_add(amount);
        });
        self.holds.insert(
            posting.id,
            HoldRow {
                id: posting.id,
                account: posting.account.clone(),
                key,
                path,
                amount,
                created_at: now,
                expires_at,
                on_expiry,
                note: note.clone(),
                state: HoldState::Live,
            },
        );
        self.live.insert(posting.id);
        self.touched.new_holds.insert(posting.id);
        Ok(Outcome::Held { until: expires_at })
    }

    fn renew(
        &mut self,
        posting: &Posting,
        holds: &[PostingId],
        ttl: Duration,
        max_age: Duration,
        claim: Option<&IdempotencyClaim>,
        now: Timestamp,
    ) -> Result<Outcome, Refusal> {
        // Work that runs goes on while its key is disabled.
        self.check_lineage(posting, |key| key.check_not_ended(now))?;
        let mut renewed: Option<Timestamp> = None;
        let mut over = Vec::new();
        for id in holds {
            let hold = self.holds.get_mut(id).filter(|hold| {
                hold.account == posting.account
                    && hold.state == HoldState::Live
                    && hold.expires_at > now
            });
            let Some(hold) = hold else {
                over.push(*id);
                continue;
            };
            let until = later(now, ttl).min(later(hold.created_at, max_age)).max(hold.expires_at);
            renewed = Some(renewed.map_or(until, |first| first.min(until)));
            if until > hold.expires_at {
                hold.expires_at = until;
                self.touch_hold(*id);
                self.touched.accounts.insert(posting.account.clone());
            }
        }
        if let Some(row) = claim.and_then(|claim| self.owned_claim(posting.key, claim))
            && let Some(until) = row.in_flight_until
        {
            // A renewal of a hold with a short life does not shorten the claim.
            self.insert_claim(IdempotencyRow {
                in_flight_until: Some(later(now, ttl).max(until)),
                ..row
            });
            self.touched.accounts.insert(posting.account.clone());
        } else if renewed.is_none() {
            return Err(Refusal::HoldExpired);
        }
        Ok(Outcome::Renewed { until: renewed, over })
    }

    #[allow(clippy::too_many_arguments)]
    fn settle(
        &mut self,
        posting: &Posting,
        holds: &[PostingId],
        void: &[PostingId],
        cost: Amount,
        note: &Note,
        claim: Option<&IdempotencyClaim>,
        now: Timestamp,
    ) -> (Outcome, Amount) {
        let id = EntryId::from(posting.id);
        if self.entries.contains_key(&id) {
            return (Outcome::Settled { entry: Some(id) }, Amount::ZERO);
        }
        // The hold or payment that this settle undoes may still be in flight. Under an optimistic
        // lock its write must conflict, so the account counts as changed.
        if !void.is_empty() || holds.iter().any(|hold| !self.holds.contains_key(hold)) {
            self.touched.accounts.insert(posting.account.clone());
        }
        for hold in holds {
            match self
                .holds
                .get(hold)
                .filter(|row| row.account == posting.account)
                .map(|row| row.state)
            {
                Some(HoldState::Live) => self.end_hold(*hold, HoldState::Ended),
                Some(HoldState::Charged) => self.take_back((*hold).into(), now),
                Some(HoldState::Ended) | None => {}
            }
        }
        for payment in void.iter().map(|payment| EntryId::from(*payment)) {
            if self.entries.get(&payment).is_some_and(|row| row.entry.account == posting.account) {
                self.take_back(payment, now);
            }
        }
        let cost = cost.max(Amount::ZERO);
        let entry = (!cost.is_zero()).then_some(id);
        let mut debt = Amount::ZERO;
        if entry.is_some() {
            let left = self.lineage_remaining(&posting.account, posting.key, now);
            debt = left.map_or(debt, |left| cost.saturating_sub(left).max(debt));
            let mut entry = Entry::stored(
                id,
                posting.account.clone(),
                posting.key,
                EntryKind::Settle,
                cost,
                now,
            );
            entry.note = note.clone();
            let mut path = self.path(posting.key);
            if path.is_empty() {
                // The key was deleted while it held money. Its ancestors are still charged.
                let own = holds.iter().filter_map(|hold| self.holds.get(hold));
                path = own
                    .filter(|hold| hold.account == posting.account)
                    .flat_map(|hold| hold.path.clone())
                    .collect();
                path.sort_unstable();
                path.dedup();
            }
            self.charge(&path, entry);
        }
        if let Some(claim) = claim
            && let Some(row) = self.owned_claim(posting.key, claim)
        {
            // A payment that was given back whole, by a void or a refund, bought nothing. The
            // client may try again.
            let paid = claim
                .paid
                .iter()
                .map(|paid| EntryId::from(*paid))
                .filter(|paid| self.entries.contains_key(paid));
            let is_void =
                |entry: &EntryId| void.iter().any(|payment| EntryId::from(*payment) == *entry);
            let mut bought = row.entry.into_iter().chain(paid).filter(|entry| !is_void(entry));
            let bought = bought.find(|entry| !self.is_given_back(*entry)).or(entry);
            let in_flight_until = row.in_flight_until.filter(|_| claim.is_kept);
            if bought.is_some() || claim.is_kept {
                self.insert_claim(IdempotencyRow { in_flight_until, entry: bought, ..row });
            } else {
                self.remove_claim(&row);
            }
            self.touched.accounts.insert(posting.account.clone());
        }
        (Outcome::Settled { entry }, debt)
    }

    fn pay(
        &mut self,
        posting: &Posting,
        amount: Amount,
        note: &Note,
        claim: Option<&IdempotencyClaim>,
        now: Timestamp,
    ) -> Result<Outcome, Refusal> {
        let id = EntryId::from(posting.id);
        if self.was_accepted(posting, EntryKind::Pay)? {
            return Ok(Outcome::Paid { entry: id });
        }
        let amount = amount.non_negative().map_err(|_| Refusal::NegativeAmount)?;
        self.check_in_force(posting, now)?;
        let claim = self.claim_of(posting, claim)?;
        self.check_budget(posting, amount, now)?;
        let mut entry =
            Entry::stored(id, posting.account.clone(), posting.key, EntryKind::Pay, amount, now);
        entry.note = note.clone();
        let path = self.path(posting.key);
        self.charge(&path, entry);
        // A payment replaces a settle as the claim's entry.
        let is_settle =
            |entry| self.entries.get(&entry).is_some_and(|row| row.entry.kind == EntryKind::Settle);
        if let Some(row) = claim.filter(|row| row.entry.is_none_or(is_settle)) {
            self.insert_claim(IdempotencyRow { entry: Some(id), ..row });
        }
        Ok(Outcome::Paid { entry: id })
    }

    fn refund(
        &mut self,
        posting: &Posting,
        of: EntryId,
        amount: Amount,
        now: Timestamp,
    ) -> Result<Outcome, Refusal> {
        let id = EntryId::from(posting.id);
        if self.was_accepted(posting, EntryKind::Refund)? {
            return Ok(Outcome::Refunded { entry: id });
        }
        let amount = amount.non_negative().map_err(|_| Refusal::NegativeAmount)?;
        let row = self.entries.get(&of).ok_or(Refusal::UnknownEntry)?;
        let is_charge = !matches!(row.entry.kind, EntryKind::Refund | EntryKind::Adjust);
        if row.entry.account != posting.account || !is_charge {
            return Err(Refusal::UnknownEntry);
        }
        let left = row.entry.amount.saturating_sub(row.refunded);
        if amount > left {
            return Err(Refusal::RefundTooLarge { left });
        }
        self.give_back(id, of, amount, now);
        Ok(Outcome::Refunded { entry: id })
    }

    #[allow(clippy::too_many_arguments)]
    fn adjust(
        &mut self,
        posting: &Posting,
        kind: EntryKind,
        amount: Amount,
        note: &Note,
        origin: Option<&Origin>,
        now: Timestamp,
    ) -> Result<Outcome, Refusal> {
        let id = EntryId::from(posting.id);
        if self.was_accepted(posting, kind)? {
            return Ok(Outcome::Adjusted { entry: id });
        }
        if amount.is_zero() {
            return Err(Refusal::ZeroAdjustment);
        }
        let is_of_account =
            |key: KeyId| self.keys.get(&key).is_some_and(|key| key.account == posting.account);
        if !posting.key.is_none_or(is_of_account) {
            return Err(Refusal::InvalidKey);
        }
        let mut entry = Entry::stored(id, posting.account.clone(), posting.key, kind, amount, now);
        entry.note = note.clone();
        let path = self.path(posting.key);
        self.charge(&path, entry);
        if let Some(origin) = origin {
            self.add_event(id, &path, |entry, keys| events::of_adjustment(entry, keys, origin));
        }
        Ok(Outcome::Adjusted { entry: id })
    }
}
