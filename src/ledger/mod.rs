//! Where money is decided, and nowhere else: pure functions over loaded state, the same for every store.
//!
//! A store locks the accounts, loads a [`Book`], lets it [`post`](Book::post), and writes back what
//! [`changes`](Book::take_changes) say. It never computes a figure of its own.
//!
//! | Action | Accepted when | Effect |
//! |---|---|---|
//! | [`Open`](Action::Open) | every member in force, with something left; the claim is free | the claim is taken |
//! | [`Hold`](Action::Hold) | every member in force and `spent + held + amount ≤ limit`; the claim still held | `held += amount` along the lineage |
//! | [`Renew`](Action::Renew) | the key in force, a hold still lives, its age under the maximum | a later expiry |
//! | [`Settle`](Action::Settle) | always | the holds still present go, `spent += cost` along the lineage, an entry |
//! | [`Pay`](Action::Pay) | as `Hold` | `spent += amount` along the lineage, an entry |
//! | [`Refund`](Action::Refund) | not more than the entry has left | `spent −= amount` where the entry's window is current, an entry |
//! | [`Adjust`](Action::Adjust) | always, unless it is zero | `spent += amount`, which may be negative, along the lineage, an entry |

mod book;
mod policy;
mod posting;

use jiff::Timestamp;

use crate::{Amount, Balance, Budget, Key, Refusal};

pub use book::{BalanceRow, Book, Changes, ClaimRow, EntryRow, HoldRow, HoldState, Needs};
pub use policy::{
    AccountWrite, ChangeError, Event, KeyChange, KeyDraft, KeyRecord, KeyWrite, Load, MAX_DEPTH, NewToken, Rules,
};
pub use posting::{Action, Claim, ClaimRef, Fingerprint, OnExpiry, Outcome, Posted, Posting};

/// Starts the window that is current at `now`, if the balance still counts an earlier one. Holds stay.
pub(crate) fn roll(budget: &Budget, anchor: Timestamp, balance: &mut Balance, now: Timestamp) {
    let start = budget.period.window(anchor, now).start;
    if balance.since < start {
        balance.since = start;
        balance.spent = Amount::ZERO;
    }
}

/// Limit − spent − held, not below zero; `None` where there is no limit.
pub(crate) fn remaining(budget: &Budget, balance: &Balance) -> Option<Amount> {
    let limit = budget.limit?;
    Some(limit.saturating_sub(balance.spent).saturating_sub(balance.held).max(Amount::ZERO))
}

/// Whether `amount` more still fits: `spent + held + amount ≤ limit`, where no limit means the largest amount.
pub(crate) fn fits(budget: &Budget, balance: &Balance, amount: Amount) -> bool {
    let total = balance.spent.checked_add(balance.held).and_then(|used| used.checked_add(amount));
    total.is_some_and(|total| total <= budget.limit.unwrap_or(Amount::MAX))
}

/// Whether a key is in force at `now`.
pub(crate) fn standing(key: &Key, now: Timestamp) -> Result<(), Refusal> {
    if key.revoked_at.is_some() {
        Err(Refusal::RevokedKey)
    } else if key.expires_at.is_some_and(|at| at <= now) {
        Err(Refusal::ExpiredKey)
    } else {
        Ok(())
    }
}
