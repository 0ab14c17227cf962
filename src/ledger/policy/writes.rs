//! What a store writes for a change of a key.

use jiff::Timestamp;

use crate::model::{Event, Key, Spent, TokenHash};

/// What a store writes for a change of a key, in one transaction.
#[derive(Clone, Debug)]
pub struct KeyWrite {
    /// The key after the change. The store sets the id of a new one.
    pub key: Key,
    /// The instant of the change.
    pub at: Timestamp,
    /// The part of the key's record to write, and its event. `None`: nothing changed, and nothing
    /// is written.
    ///
    /// Before that, the store creates the account if it is missing, and marks it as changed at
    /// `at`.
    pub record: Option<(KeyRecord, Event)>,
}

/// The part of a key's record that is written.
#[derive(Clone, Debug)]
pub enum KeyRecord {
    /// A new row, with this token.
    Insert(TokenHash),
    /// Name, scopes, budget, rate limit, ranges of addresses, expiry, metadata and whether it is
    /// disabled.
    Update {
        /// The key before the change.
        before: Box<Key>,
        /// See [`AccountWrite::recount`](crate::ledger::AccountWrite::recount).
        recount: Vec<Spent>,
    },
    /// The token. Tokens that were retired before end no later than the one that is retired now.
    Rotate {
        /// The hash of the new token.
        hash: TokenHash,
        /// When the old token ends.
        retires_at: Timestamp,
    },
    /// The tokens that were retired, all of which end.
    EndGrace,
    /// `revoked_at` and `revoked_reason`.
    Revoke,
}
