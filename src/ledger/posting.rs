//! What is asked of the ledger, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::model::{AccountId, Amount, Entry, EntryId, KeyId, Note, PostingId};

/// One change asked of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Posting {
    /// Names the attempt: sent again, it answers as it did when it was accepted, and changes nothing.
    pub id: PostingId,
    /// The account that is charged, or whose key is.
    pub account: AccountId,
    /// The key that is charged. Only an adjustment of the account itself has none.
    pub key: Option<KeyId>,
    /// What is to be done.
    pub action: Action,
}

impl Posting {
    /// A posting with a new id.
    pub fn new(account: AccountId, key: impl Into<Option<KeyId>>, action: Action) -> Self {
        Self { id: PostingId::new(), account, key: key.into(), action }
    }
}

/// What a posting does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Begins paid work: accepted when every member of the lineage is in force and has something left. With a
    /// claim, the client's `Idempotency-Key` is bound to this posting from then on.
    Open {
        /// The client's `Idempotency-Key`.
        claim: Option<IdempotencyKey>,
        /// For how long the claim keeps others out without being renewed.
        ttl: Duration,
    },
    /// Sets money aside: accepted when every member is in force and `spent + held + amount ≤ limit`.
    Hold {
        /// How much.
        amount: Amount,
        /// For how long, without being renewed.
        ttl: Duration,
        /// What becomes of it when it runs out.
        on_expiry: OnExpiry,
        /// What its entry says if it is charged when it runs out.
        note: Note,
        /// The claim under which there is work to do.
        claim: Option<IdempotencyClaim>,
    },
    /// Gives holds that still live, and a claim, more time: accepted while the key is in force.
    Renew {
        /// The holds.
        holds: Vec<PostingId>,
        /// For how long from now on.
        ttl: Duration,
        /// The age that no hold gets over.
        max_age: Duration,
        /// The claim.
        claim: Option<IdempotencyClaim>,
    },
    /// Replaces holds by what the work cost. Always accepted.
    Settle {
        /// The holds; those still present go.
        holds: Vec<PostingId>,
        /// Payments whose answer nobody got: they are taken back.
        void: Vec<PostingId>,
        /// What the work cost.
        cost: Amount,
        /// What the entry says.
        note: Note,
        /// The claim that ends here, unless it [is kept](IdempotencyClaim::is_kept).
        claim: Option<IdempotencyClaim>,
    },
    /// Checks as a hold does, and charges at once.
    Pay {
        /// How much.
        amount: Amount,
        /// What the entry says.
        note: Note,
        /// The claim that pays.
        claim: Option<IdempotencyClaim>,
    },
    /// Gives back what was charged: accepted up to what the entry has left.
    Refund {
        /// Which entry.
        entry: EntryId,
        /// How much of it.
        amount: Amount,
    },
    /// Adjusts what was spent, by the host's word alone. Always accepted, unless it is zero.
    Adjust {
        /// Below zero it is a top-up, above zero a correction.
        amount: Amount,
        /// What the entry says.
        note: Note,
    },
}

/// What becomes of a hold that runs out before it is settled or renewed: its process died, or lost the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnExpiry {
    /// The money is free again.
    #[default]
    Release,
    /// The hold is charged whole. A settle that comes later takes that back and posts the real cost. An
    /// `Idempotency-Key` is not bound to such a charge: what the client sends again is charged for its own work.
    Charge,
}

/// A client's `Idempotency-Key`, and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdempotencyKey {
    /// What the client sent.
    pub key: Arc<str>,
    /// A digest of the method and path it was sent with.
    pub fingerprint: Fingerprint,
}

/// A digest of the method and path of a request.
pub type Fingerprint = [u8; 32];

impl IdempotencyKey {
    /// A claim on `key` for the request with this fingerprint.
    pub fn new(key: impl Into<Arc<str>>, fingerprint: Fingerprint) -> Self {
        Self { key: key.into(), fingerprint }
    }
}

/// A claim that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdempotencyClaim {
    /// What the client sent.
    pub key: Arc<str>,
    /// The `Open` posting that it is bound to.
    pub owner: PostingId,
    /// What was paid under it, in order.
    pub paid: Vec<PostingId>,
    /// Whether it goes on beyond a settle, since the request may add more. It is bound to what was charged all the same.
    pub is_kept: bool,
}

impl IdempotencyClaim {
    /// The claim on `key` that `owner` opened.
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
    /// What the lineage has left after it; `None` where no member has a limit.
    pub remaining: Option<Amount>,
}

impl Posted {
    /// An answer.
    pub const fn new(outcome: Outcome, remaining: Option<Amount>) -> Self {
        Self { outcome, remaining }
    }
}

/// What an accepted posting did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Paid work may begin.
    Opened,
    /// The claim was charged before.
    Claimed {
        /// By this entry.
        entry: Box<Entry>,
        /// What was given back of it.
        refunded: Amount,
    },
    /// The money is set aside until then.
    Held {
        /// When the hold runs out.
        until: Timestamp,
    },
    /// The holds that still lived run out then.
    Renewed {
        /// When the first of them runs out; `None` where none lived.
        until: Option<Timestamp>,
        /// Those that live no more.
        over: Vec<PostingId>,
    },
    /// The holds are gone; `entry` is there when the work cost something.
    Settled {
        /// The entry of the cost.
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
    /// What was spent was adjusted.
    Adjusted {
        /// The entry of the adjustment.
        entry: EntryId,
    },
}
