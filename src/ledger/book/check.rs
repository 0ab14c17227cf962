//! What a decision is checked against: earlier postings, the lineage, its budgets, and the idempotency key.

use jiff::Timestamp;

use super::{Book, EntryRow, IdempotencyRow};
use crate::ledger::posting::{Action, IdempotencyClaim, Posting};
use crate::model::{
    Account, AccountId, Amount, Balance, BlockedBy, Budget, EntryId, EntryKind, Key, KeyId, Limit,
    Period, Refusal, Shortfall,
};

impl Book {
    /// Returns whether this posting was accepted before.
    ///
    /// An id that another posting has is a conflict. The caller must not take the answer to that
    /// posting for its own. A refund is the same if it refunds the same entry, whichever key the
    /// posting names.
    pub(super) fn was_accepted(&self, posting: &Posting, kind: EntryKind) -> Result<bool, Refusal> {
        let Some(EntryRow { entry, .. }) = self.entries.get(&posting.id.into()) else {
            return Ok(false);
        };
        let is_same = match &posting.action {
            Action::Refund { entry: refunded, .. } => entry.refunds == Some(*refunded),
            _ => entry.key == posting.key,
        };
        let is_same = is_same && entry.kind == kind && entry.account == posting.account;
        is_same.then_some(true).ok_or(Refusal::PostingConflict)
    }

    /// Checks that every key of the lineage is loaded and in force, and returns the key to charge.
    pub(super) fn check_in_force(
        &self,
        posting: &Posting,
        now: Timestamp,
    ) -> Result<KeyId, Refusal> {
        self.check_lineage(posting, |key| key.check_active(now))
    }

    /// Checks that every key of the lineage is loaded and passes `check`, and returns the key to
    /// charge.
    pub(super) fn check_lineage(
        &self,
        posting: &Posting,
        check: impl Fn(&Key) -> Result<(), Refusal>,
    ) -> Result<KeyId, Refusal> {
        let mut next = posting.key;
        for id in self.path(posting.key) {
            let key = self
                .keys
                .get(&id)
                .filter(|key| key.account == posting.account)
                .ok_or(Refusal::InvalidKey)?;
            check(key)?;
            next = key.parent;
        }
        // A lineage without its root is broken: what its ancestors allow is unknown.
        posting.key.filter(|_| next.is_none()).ok_or(Refusal::InvalidKey)
    }

    pub(super) fn check_budget(
        &self,
        posting: &Posting,
        amount: Amount,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        // The member that refused first, and its limit that resets last.
        let mut blocked: Option<(BlockedBy, Period, Option<Timestamp>)> = None;
        let mut resets_at = Some(now);
        self.for_each_member(&posting.account, posting.key, now, |by, budget, anchor, balance| {
            for limit in budget.binding().filter(|limit| !limit.fits(balance, amount)) {
                // A new window does not help where the amount is above the limit itself.
                let end = limit.period.window(anchor, now).end;
                let end = end.filter(|_| amount <= limit.amount);
                resets_at = resets_at.zip(end).map(|(latest, end)| latest.max(end));
                match &mut blocked {
                    None => blocked = Some((by, limit.period, end)),
                    Some((first, period, last)) if *first == by && is_later(end, *last) => {
                        (*period, *last) = (limit.period, end);
                    }
                    Some(_) => {}
                }
            }
        });
        let Some((blocked_by, period, _)) = blocked else { return Ok(()) };
        let own = posting.key.and_then(|key| self.keys.get(&key)).map(|key| {
            let balance = rolled(key.anchor, key.balance, now);
            let refused = key.budget.limits().find(|limit| limit.period == period);
            let limit = refused
                .filter(|_| blocked_by == BlockedBy::Key)
                .or_else(|| key.budget.limits().min_by_key(|limit| limit.remaining(&balance)));
            let spent = limit.and_then(|limit| balance.spent_in(limit.period));
            (limit.map(|limit| limit.amount), spent.unwrap_or(balance.spent()), balance.held)
        });
        let (limit, spent, held) = own.unwrap_or((None, Amount::ZERO, Amount::ZERO));
        Err(Refusal::BudgetExceeded(Box::new(Shortfall {
            limit,
            spent,
            held,
            remaining: self
                .lineage_remaining(&posting.account, posting.key, now)
                .unwrap_or(Amount::ZERO),
            required: amount,
            period,
            resets_at,
            blocked_by,
            at: now,
            ends_session: self
                .session_cap(posting.key)
                .is_some_and(|(cap, balance)| !cap.fits(balance, amount)),
        })))
    }

    /// Returns whether the key is a session that has spent more than its cap. A session has no
    /// descendants, and its cap is for its whole life.
    pub(super) fn is_session_over_cap(&self, key: Option<KeyId>) -> bool {
        self.session_cap(key).is_some_and(|(cap, balance)| {
            balance.spent_in(cap.period).is_some_and(|spent| spent > cap.amount)
        })
    }

    /// Returns the cap of a session that is not revoked, and what counts towards it.
    fn session_cap(&self, key: Option<KeyId>) -> Option<(Limit, &Balance)> {
        let session = self.keys.get(&key?).filter(|key| key.revoked_at.is_none())?;
        session.spend_cap().map(|cap| (cap, &session.balance))
    }

    pub(super) fn lineage_remaining(
        &self,
        account: &AccountId,
        key: Option<KeyId>,
        now: Timestamp,
    ) -> Option<Amount> {
        let mut least: Option<Amount> = None;
        self.for_each_member(account, key, now, |_, budget, _, balance| {
            least = least.into_iter().chain(budget.remaining(balance)).min();
        });
        least
    }

    /// Calls `visit` with each member of the lineage that is of the account, rolled to `now`. The
    /// key is first, the account last.
    pub(super) fn for_each_member(
        &self,
        account: &AccountId,
        key: Option<KeyId>,
        now: Timestamp,
        mut visit: impl FnMut(BlockedBy, &Budget, Timestamp, &Balance),
    ) {
        let mut by = BlockedBy::Key;
        let of_account = |id| self.keys.get(id).filter(|key| key.account == *account);
        for key in self.path(key).iter().filter_map(of_account) {
            visit(by, &key.budget, key.anchor, &rolled(key.anchor, key.balance, now));
            by = BlockedBy::Ancestor;
        }
        if let Some(Account { budget, created_at, balance, .. }) = self.account(account) {
            visit(BlockedBy::Account, budget, *created_at, &rolled(*created_at, *balance, now));
        }
    }

    pub(super) fn is_given_back(&self, entry: EntryId) -> bool {
        let row = self.entries.get(&entry);
        row.is_some_and(|row| row.refunded.is_positive() && row.refunded >= row.entry.amount)
    }

    /// Returns the claim, if this attempt still owns it.
    ///
    /// If another request took the claim over, this attempt counts as dead. It may neither pay nor
    /// begin work.
    pub(super) fn claim_of(
        &self,
        posting: &Posting,
        claim: Option<&IdempotencyClaim>,
    ) -> Result<Option<IdempotencyRow>, Refusal> {
        claim.map(|claim| self.owned_claim(posting.key, claim).ok_or(Refusal::InFlight)).transpose()
    }

    pub(super) fn owned_claim(
        &self,
        key: Option<KeyId>,
        claim: &IdempotencyClaim,
    ) -> Option<IdempotencyRow> {
        self.claims.get(&(key?, claim.key.clone())).filter(|row| row.owner == claim.owner).cloned()
    }
}

/// Returns whether an end of a window is later; none is the latest.
fn is_later(end: Option<Timestamp>, than: Option<Timestamp>) -> bool {
    than.is_some_and(|than| end.is_none_or(|end| end > than))
}

/// Returns a balance as it is at `now`.
pub(super) fn rolled(anchor: Timestamp, mut balance: Balance, now: Timestamp) -> Balance {
    balance.roll(anchor, now);
    balance
}
