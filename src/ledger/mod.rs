//! The decisions: pure functions over loaded state, the same for every store. Money is decided here
//! and nowhere else.
//!
//! A store locks the accounts and loads a [`Book`]. [`Book::post`] decides each posting, and the
//! store writes what [`Book::take_writes`] returns. A store never computes a figure of its own.
//!
//! This module is for stores. It is hidden, and may change in every version before 1.0.
//!
//! | Action | Accepted when | Effect |
//! |---|---|---|
//! | [`Open`](Action::Open) | every member is in force and has something left; the claim is free | the claim is taken |
//! | [`Hold`](Action::Hold) | every member is in force and `spent + held + amount ≤ limit`; the claim is still owned | `held += amount` along the lineage |
//! | [`Renew`](Action::Renew) | the key is in force, a hold is live, its age is under the maximum | a later expiry |
//! | [`Settle`](Action::Settle) | always | live holds end, `spent += cost` along the lineage, an entry |
//! | [`Pay`](Action::Pay) | as `Hold` | `spent += amount` along the lineage, an entry |
//! | [`Refund`](Action::Refund) | not more than the entry has left | `spent −= amount` if the entry's window is current, an entry |
//! | [`Adjust`](Action::Adjust) | always, unless it is zero | `spent += amount`, which may be negative, along the lineage, an entry |
//! | [`Opening`](Action::Opening) | always, unless it is zero | `spent += amount` along the lineage, an entry |

mod book;
mod caller;
mod checks;
mod events;
mod policy;
mod posting;
mod rate;
mod reconcile;
mod rollup;
mod signing_keys;
mod subjects;

pub use book::{BalanceRow, Book, EntryRow, HoldRow, HoldState, IdempotencyRow, Needs, WriteSet};
pub use caller::{Caller, CallerRules, Ceiling, LeftOut, MintRules, Minting};
pub(crate) use events::actor_of;
pub use policy::{
    AccountChange, AccountWrite, ImportDraft, ImportWrite, KeyChange, KeyDraft, KeyRecord,
    KeyWrite, Load, Loaded, MAX_DEPTH, NewToken, Rules,
};
pub use posting::{
    Action, Fingerprint, IdempotencyClaim, IdempotencyKey, OnExpiry, Outcome, Posted, Posting,
    PostingResult,
};
pub use rate::{Quota, RateId, Take, Taken};
pub(crate) use rate::{decide_rate, rate_time};
pub use reconcile::Recount;
pub use rollup::{Rollup, day_start, roll_up};
pub use signing_keys::{NewSigningKey, SigningKeysWrite};
pub use subjects::{ActClaim, FirstSeenClaim, NewSubject};
