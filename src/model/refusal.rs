//! Refusals: why a request or a posting is denied.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{Amount, EntryId, LabelError, Period, Scope, ScopeSet};

/// Why a request or a posting was denied. Every answer that denies a client something comes from
/// one of these.
///
/// A layer puts it into the extensions of the response, so that the application can count or map
/// it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The request has no credential.
    #[error("this route needs an API key")]
    MissingKey,
    /// The credential is malformed, or no key has it.
    #[error("the API key is not valid")]
    InvalidKey,
    /// `Authorization` is a token without a scheme.
    #[error("the Authorization header has no scheme; send Bearer, a space and the API key")]
    MissingScheme,
    /// The key, or an ancestor, was revoked.
    #[error("the API key was revoked")]
    RevokedKey,
    /// The key, or an ancestor, has expired.
    #[error("the API key has expired")]
    ExpiredKey,
    /// The key, or an ancestor, is disabled.
    #[error("the API key is disabled")]
    DisabledKey,
    /// The request has two different credentials.
    #[error("the request has two different credentials, {}; send one", locations(headers))]
    AmbiguousCredentials {
        /// The names of the headers that they are in, in lower case.
        headers: Box<[String; 2]>,
    },
    /// The `Idempotency-Key` header is malformed, or there are several.
    #[error(
        "Idempotency-Key must be sent once, as 1 to 255 visible ASCII characters without quotes and backslashes"
    )]
    InvalidIdempotencyKey,
    /// A member of the lineage may not be used from the client's address, or the address is not known.
    #[error("the API key may not be used from this address")]
    AddressNotAllowed,
    /// The lineage does not allow a scope that the route needs.
    #[error("the API key lacks the scope for this route")]
    InsufficientScope(Box<MissingScope>),
    /// The lineage does not have enough left.
    #[error("the budget does not cover this request")]
    BudgetExceeded(Box<Shortfall>),
    /// The `Idempotency-Key` was used for another request.
    #[error("the Idempotency-Key was used for another request")]
    Conflict,
    /// Another posting has the id of this one.
    #[error("another posting has this id")]
    PostingConflict,
    /// The `Idempotency-Key` was charged before, by this entry.
    #[error("the Idempotency-Key was charged already")]
    AlreadyCharged(EntryId),
    /// The first request with this `Idempotency-Key` is still running.
    #[error("a request with this Idempotency-Key is still running")]
    InFlight,
    /// The hold has expired or was settled, so it cannot be renewed.
    #[error("the hold is over")]
    HoldExpired,
    /// The key or account has no such entry.
    #[error("there is no such entry")]
    UnknownEntry,
    /// The refund is larger than what the entry has left.
    #[error("the refund is more than the entry has left")]
    RefundTooLarge {
        /// What the entry has left.
        left: Amount,
    },
    /// The amount is below zero.
    #[error("an amount must not be negative")]
    NegativeAmount,
    /// The adjustment is zero.
    #[error("an adjustment must not be zero")]
    ZeroAdjustment,
    /// A label or a reference is not valid.
    #[error("{0}")]
    InvalidLabel(LabelError),
    /// There is no such key.
    #[error("there is no such key")]
    UnknownKey,
    /// The key to be changed, its parent or an ancestor is revoked or expired. The credential of the request may be
    /// valid all the same.
    #[error("the key to be changed, or an ancestor of it, is revoked or expired")]
    NotInForce,
    /// There is no such account.
    #[error("there is no such account")]
    UnknownAccount,
    /// A field of a change is not valid.
    #[error("{field}: {reason}")]
    InvalidField {
        /// The name of the field.
        field: &'static str,
        /// What is wrong, and what is accepted.
        reason: String,
    },
    /// Fields of the request are not valid.
    #[error("the request is not valid: {}", first_of(.0))]
    InvalidRequest(Vec<FieldError>),
    /// The caller would give more than it has, or would widen a key.
    #[error("the request goes beyond what the caller may give: {}", first_of(.0))]
    BeyondCaller(Vec<FieldError>),
    /// There is no such thing, or it is not the caller's.
    #[error("there is nothing here that the caller may see")]
    NotFound,
    /// Keys of this service make no keys and no tokens.
    #[error("a key cannot make keys or tokens here; log in to the service to do that")]
    MintingDisabled,
    /// A session would make a key, a token or another session.
    #[error("a session makes no keys, tokens and sessions; use the key that opened it")]
    SessionKey,
    /// The token was rotated away, and is in its grace.
    #[error("the API key was rotated: this token may only read until it ends, so send the new one")]
    RetiringToken,
    /// A key would change itself.
    #[error("a key may show, rotate and revoke itself, and nothing else; its parent may change it")]
    OwnKey,
    /// The key would get more out of the account than its own subtree allows.
    #[error("a key may rotate and enable only itself and what was minted from it")]
    OutsideSubtree,
    /// The lineage has as many keys as the service allows.
    #[error(
        "a key that is minted from this one would be too deep: a lineage has at most {max} keys"
    )]
    TooDeep {
        /// The most keys that a lineage may have.
        max: usize,
    },
    /// The key has as many children in force as the service allows.
    #[error("the key has {max} children in force, which is the most; revoke one first")]
    TooManyChildren {
        /// The most children in force that a key may have.
        max: u64,
    },
    /// The application does not let this client sign up.
    #[error("{0}")]
    SignupRefused(String),
    /// Too many requests: of the key, of a member of its lineage, or of the client.
    #[error("there were too many requests; try again later")]
    RateLimited {
        /// How long the client should wait before it tries again.
        retry_after: Duration,
    },
    /// The route does not take the method.
    #[error("this route does not take this method")]
    MethodNotAllowed,
    /// The body of the request is too large.
    #[error("the body of the request has more than {max} bytes")]
    BodyTooLarge {
        /// The most bytes that a body may have.
        max: usize,
    },
    /// The body of the request is not JSON by its `Content-Type`.
    #[error("the body of the request must be JSON, with Content-Type: application/json")]
    UnsupportedMediaType,
    /// The body of the request is no form by its `Content-Type`.
    #[error(
        "the body of the request must be a form, with Content-Type: application/x-www-form-urlencoded"
    )]
    UnsupportedForm,
    /// The store did not answer. What was asked may or may not have taken effect.
    #[error("the key store is not available")]
    Unavailable {
        /// How long the client should wait before it tries again.
        retry_after: Duration,
    },
    /// The service is set up wrongly. The log says what is wrong and what to change.
    #[error("the service is misconfigured")]
    Misconfigured,
}

impl Refusal {
    /// The refusal for a store that does not answer.
    pub(crate) const UNAVAILABLE: Self = Self::Unavailable { retry_after: Duration::from_secs(1) };

    /// Returns the stable code of the refusal, as in the `error` member of a problem document.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::MissingKey => "missing_key",
            Self::InvalidKey | Self::MissingScheme => "invalid_key",
            Self::RevokedKey => "revoked_key",
            Self::ExpiredKey => "expired_key",
            Self::DisabledKey => "disabled_key",
            Self::AmbiguousCredentials { .. } => "ambiguous_credentials",
            Self::InvalidIdempotencyKey => "invalid_idempotency_key",
            Self::AddressNotAllowed => "address_not_allowed",
            Self::InsufficientScope(_) => "insufficient_scope",
            Self::BudgetExceeded(_) => "budget_exceeded",
            Self::Conflict | Self::PostingConflict => "conflict",
            Self::AlreadyCharged(_) => "already_charged",
            Self::InFlight => "in_flight",
            Self::HoldExpired => "hold_over",
            Self::UnknownEntry => "unknown_entry",
            Self::RefundTooLarge { .. } => "refund_too_large",
            Self::NegativeAmount => "negative_amount",
            Self::ZeroAdjustment => "zero_adjustment",
            Self::InvalidLabel(_) => "invalid_label",
            Self::UnknownKey => "unknown_key",
            Self::NotInForce => "not_in_force",
            Self::UnknownAccount => "unknown_account",
            Self::InvalidField { .. } => "invalid_field",
            Self::InvalidRequest(_) => "invalid_request",
            Self::BeyondCaller(_) => "beyond_caller",
            Self::NotFound => "not_found",
            Self::MintingDisabled => "minting_disabled",
            Self::SessionKey => "session_key",
            Self::RetiringToken => "retiring_token",
            Self::OwnKey => "own_key",
            Self::OutsideSubtree => "outside_subtree",
            Self::TooDeep { .. } => "too_deep",
            Self::TooManyChildren { .. } => "too_many_children",
            Self::SignupRefused(_) => "signup_refused",
            Self::RateLimited { .. } => "rate_limited",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::UnsupportedMediaType | Self::UnsupportedForm => "unsupported_media_type",
            Self::Unavailable { .. } => "unavailable",
            Self::Misconfigured => "misconfigured",
        }
    }
}

fn locations([first, second]: &[String; 2]) -> String {
    match first == second {
        true => format!("both in {first}"),
        false => format!("in {first} and {second}"),
    }
}

/// A field of a request, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FieldError {
    /// The name of the field, such as `budgets[0].limit_cents`; empty for the body as a whole.
    pub field: String,
    /// What is wrong, and what is accepted.
    pub detail: String,
}

impl FieldError {
    /// Returns an error of this field.
    pub fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), detail: detail.into() }
    }
}

fn first_of(errors: &[FieldError]) -> String {
    let Some(first) = errors.first() else { return String::new() };
    let more = match errors.len() {
        1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    let FieldError { field, detail } = first;
    let space = if field.is_empty() { "" } else { " " };
    format!("{field}{space}{detail}{more}")
}

/// The scopes that a route needs, and those that the lineage has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingScope {
    /// The scopes that the route needs.
    pub required: Vec<Scope>,
    /// The scopes that every member of the lineage allows.
    pub held: ScopeSet,
}

/// The figures of a refused hold or payment.
///
/// `limit`, `spent` and `held` are the key's own: of the limit that refused, if the key has refused;
/// else of the limit that has the least left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shortfall {
    /// The key's limit; `None` where the key itself has none.
    pub limit: Option<Amount>,
    /// What the key has spent in the window of that limit.
    pub spent: Amount,
    /// What the key's live holds set aside.
    pub held: Amount,
    /// What the whole lineage has left.
    pub remaining: Amount,
    /// The amount of the hold or payment. Zero where a charge began, which needs any amount to be
    /// left.
    pub required: Amount,
    /// The period of the limit that refused. Where several limits of a member did, it is the one
    /// that resets last.
    pub period: Period,
    /// When the last window that refused ends; `None` where waiting does not help.
    pub resets_at: Option<Timestamp>,
    /// The member of the lineage that refused.
    pub blocked_by: BlockedBy,
    /// When it was refused, by the store's clock.
    pub at: Timestamp,
    /// Whether the cap of a session refused, so that the session ends.
    pub(crate) ends_session: bool,
}

/// The member of a lineage that refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockedBy {
    /// The key itself.
    Key,
    /// An ancestor of the key.
    Ancestor,
    /// The account's ceiling.
    Account,
}

impl BlockedBy {
    /// Returns its name in a problem document.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Ancestor => "ancestor",
            Self::Account => "account",
        }
    }
}
