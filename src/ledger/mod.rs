//! Where money is decided, and nowhere else: pure functions over loaded state, the same for every store.
//!
//! A store locks the accounts, loads a [`Book`], lets it [`post`](Book::post), and writes back what
//! [`changes`](Book::take_writes) say. It never computes a figure of its own.
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

pub use book::{BalanceRow, Book, EntryRow, HoldRow, HoldState, IdempotencyRow, Needs, WriteSet};
pub use policy::{AccountWrite, Event, KeyChange, KeyDraft, KeyRecord, KeyWrite, Load, MAX_DEPTH, NewToken, Rules};
pub use posting::{Action, Fingerprint, IdempotencyClaim, IdempotencyKey, OnExpiry, Outcome, Posted, Posting};
