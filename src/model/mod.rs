//! Values and records: keys, accounts, amounts, periods, tokens, refusals.
//!
//! This floor has no I/O, no async and no HTTP.

mod amount;
mod budget;
mod change_error;
mod cidrs;
pub(crate) mod clock;
mod entry;
mod event;
mod holder;
mod id;
mod import;
pub(crate) mod key;
mod labels;
mod lineage;
mod metadata;
mod open_hold;
mod origin;
mod period;
mod price;
mod rate_limit;
mod reconciled;
mod record_json;
mod refusal;
pub(crate) mod request_json;
mod scope;
#[cfg(feature = "sessions")]
mod session_id;
mod signing_key;
mod subject;
mod token;
mod validity;

pub use amount::{Amount, AmountError};
pub use budget::{Balance, Budget, BudgetError, Limit, Spent};
pub use change_error::ChangeError;
pub use cidrs::{Cidrs, CidrsError};
pub use clock::{Clock, ManualClock};
pub use entry::{Entry, EntryKind, Note, UnknownEntryKind};
pub use event::{Event, EventKind, UnknownEventKind};
pub use holder::Holder;
pub use id::{AccountId, EntryId, InvalidId, KeyId, PostingId};
pub use import::{Imported, KeyImport, Opening};
pub use key::{Account, Grace, Key, KeyPatch, NewKey};
pub use labels::{LabelError, Labels};
pub use lineage::Lineage;
pub use metadata::{Metadata, MetadataError};
pub use open_hold::OpenHold;
pub use origin::{Actor, Origin};
pub use period::{Period, PeriodError, Window};
pub use price::{TokenPrice, TokenUsage};
pub use rate_limit::{RateLimit, RateLimitError};
pub use reconciled::{Difference, Figure, Reconciled};
pub use refusal::{BlockedBy, FieldError, MissingScope, Refusal, Shortfall};
pub use scope::{Scope, ScopeError, ScopeSet};
#[cfg(feature = "sessions")]
pub use session_id::SessionId;
#[doc(hidden)]
pub use signing_key::StoredSigningKey;
pub use subject::{InvalidSubject, Subject};
pub use token::{Token, TokenError, TokenHash, TokenPrefix};
pub use validity::{Validity, ValidityError};
