//! Credentials of other issuers: turns them into [subjects](Subject).
//!
//! A [`Verifier`] gets what a client sent where it is no token of this crate, and says who it is.
//! What the subject may do and spend is in the ledger.

mod first_seen;
mod verifier;
mod verifiers;

pub use verifier::{Verified, Verifier, VerifyError, VerifyFuture};

pub use crate::model::{InvalidSubject, Subject};
pub(crate) use verifiers::{Identified, Verifiers};
