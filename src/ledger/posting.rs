//! Postings and their outcomes.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::model::{AccountId, Amount, Entry, EntryId, KeyId, Note, Origin, PostingId, Refusal};

/// One request to the ledger to change money.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Posting {
    /// The id of the posting. A second posting with it gets the first answer again and changes
    /// nothing.
    pub id: PostingId,
    /// The account that is charged, or whose key is charged.
    pub account: AccountId,
    /// The key that is charged. Only an adjustment of the account itself has none.
    pub key: Option<KeyId>,
    /// What the posting does.
    pub action: Action,
}

impl Posting {
    /// Returns a posting with a new id.
    pub fn new(account: AccountId, key: impl Into<Option<KeyId>>, action: Action) -> Self {
        Self { id: PostingId::new(), account, key: key.into(), action }
    }
}

/// What a posting does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Begins paid work. Accepted if every member of the lineage is in force and has something
    /// left.
    ///
    /// With a claim, the client's `Idempotency-Key` is bound to this posting from then on.
    Open {
        /// The client's `Idempotency-Key`.
        claim: Option<IdempotencyKey>,
        /// How long the claim refuses other requests without a renewal.
        ttl: Duration,
    },
    /// Sets money aside. Accepted if every member is in force and `spent + held + amount ≤ limit`.
    Hold {
        /// How much.
        amount: Amount,
        /// How long the hold lives without a renewal.
        ttl: Duration,
        /// What becomes of the hold when it expires.
        on_expiry: OnExpiry,
        /// The note of its entry, if the hold is charged when it expires.
        note: Note,
        /// The claim of the request, if it made one.
        claim: Option<IdempotencyClaim>,
    },
    /// Gives live holds, and a claim, more time. Accepted while the key is in force.
    Renew {
        /// The holds.
        holds: Vec<PostingId>,
        /// How long they live from now on.
        ttl: Duration,
        /// The maximum age of a hold.
        max_age: Duration,
        /// The claim.
        claim: Option<IdempotencyClaim>,
    },
    /// Ends holds and charges what the work cost. Always accepted.
    Settle {
        /// The holds. Those that are live end.
        holds: Vec<PostingId>,
        /// Payments in doubt, which are taken back.
        void: Vec<PostingId>,
        /// What the work cost.
        cost: Amount,
        /// The note of the entry.
        note: Note,
        /// The claim that ends here, unless it [is kept](IdempotencyClaim::is_kept).
        claim: Option<IdempotencyClaim>,
    },
    /// Checks as a hold does, and charges at once.
    Pay {
        /// How much.
        amount: Amount,
        /// The note of the entry.
        note: Note,
        /// The claim of the request, if it made one.
        claim: Option<IdempotencyClaim>,
    },
    /// Gives back what was charged. Accepted up to what the entry has left.
    Refund {
        /// The refunded entry.
        entry: EntryId,
        /// How much of it.
        amount: Amount,
    },
    /// Adjusts what was spent, as the application decides. Always accepted, unless it is zero.
    Adjust {
        /// A top-up if below zero, a correction if above.
        amount: Amount,
        /// The note of the entry.
        note: Note,
        /// Who adjusts, for the event.
        origin: Box<Origin>,
    },
    /// Counts what an imported key had spent before. Always accepted, unless it is zero.
    Opening {
        /// How much.
        amount: Amount,
    },
}

/// What becomes of a hold that expires before it is settled or renewed: its process died, or the
/// store was out of reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnExpiry {
    /// The hold ends, and its money can be spent again.
    #[default]
    Release,
    /// The hold is charged whole. A later settle takes that charge back and posts the real cost.
    ///
    /// An `Idempotency-Key` is not bound to such a charge. A retry of the client is charged for its
    /// own work.
    Charge,
}

/// A client's `Idempotency-Key`, with the request that it was sent with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdempotencyKey {
    /// The key that the client sent.
    pub key: Arc<str>,
    /// A digest of the method, path and query that it was sent with.
    pub fingerprint: Fingerprint,
}

/// A digest of the method, path and query of a request.
pub type Fingerprint = [u8; 32];

impl IdempotencyKey {
    /// Returns the `Idempotency-Key` of the request with this fingerprint.
    pub fn new(key: impl Into<Arc<str>>, fingerprint: Fingerprint) -> Self {
        Self { key: key.into(), fingerprint }
    }
}

/// A claim: an `Idempotency-Key` that an [`Action::Open`] has bound to its request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdempotencyClaim {
    /// The key that the client sent.
    pub key: Arc<str>,
    /// The id of the `Open` posting that owns the claim.
    pub owner: PostingId,
    /// The postings that were charged under it, in order.
    pub paid: Vec<PostingId>,
    /// Whether the claim stays after a settle, because the request may add more. It is
    /// still bound to what was charged.
    pub is_kept: bool,
}

impl IdempotencyClaim {
    /// Returns the claim on `key` that `owner` opened.
    pub fn new(key: impl Into<Arc<str>>, owner: PostingId) -> Self {
        Self { key: key.into(), owner, paid: Vec::new(), is_kept: false }
    }
}

/// The answer to an accepted posting.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Posted {
    /// What was done.
    pub outcome: Outcome,
    /// What the lineage has left afterwards; `None` where no member has a limit.
    pub remaining: Option<Amount>,
    /// How much more a settle cost than the lineage had left.
    pub debt: Amount,
    /// Whether the key is a session whose spending is above its cap, so that the session ends.
    pub ends_session: bool,
}

impl Posted {
    /// Returns an answer without debt.
    pub const fn new(outcome: Outcome, remaining: Option<Amount>) -> Self {
        Self { outcome, remaining, debt: Amount::ZERO, ends_session: false }
    }
}

/// What an accepted posting did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Paid work may begin.
    Opened,
    /// A request with this claim was charged before.
    Claimed {
        /// The entry by which the request was charged.
        entry: Box<Entry>,
        /// How much of it was refunded.
        refunded: Amount,
    },
    /// The money is set aside.
    Held {
        /// When the hold expires.
        until: Timestamp,
    },
    /// The live holds were renewed.
    Renewed {
        /// When the first of them expires; `None` where none is live.
        until: Option<Timestamp>,
        /// The holds that are not live any more.
        over: Vec<PostingId>,
    },
    /// The holds have ended.
    Settled {
        /// The entry of the cost, if there was a cost.
        entry: Option<EntryId>,
    },
    /// The price was charged.
    Paid {
        /// The entry of the price.
        entry: EntryId,
    },
    /// The money was given back.
    Refunded {
        /// The entry of the refund.
        entry: EntryId,
    },
    /// What was spent was adjusted, or an opening counts.
    Adjusted {
        /// The entry of the adjustment or the opening.
        entry: EntryId,
    },
}

/// What a posting came to.
pub type PostingResult = Result<Posted, Refusal>;
