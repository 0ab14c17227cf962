//! Policy changes as pure functions. A store loads, these functions decide, and the store writes
//! the result.

mod accounts;
mod change;
mod create;
mod expiry;
mod import;
mod load;
mod revoke;
mod rules;
mod subjects;
mod tokens;
mod update;
mod writes;

pub use accounts::{AccountChange, AccountWrite};
pub use change::KeyChange;
pub use create::KeyDraft;
pub use import::{ImportDraft, ImportWrite};
pub use load::{Load, Loaded};
pub use rules::{MAX_DEPTH, Rules};
pub use tokens::NewToken;
pub use writes::{KeyRecord, KeyWrite};
