//! Credentials of other issuers: turns them into [subjects](Subject).
//!
//! A [`Verifier`] gets what a client sent where it is no token of this crate, and says who it is.
//! What the subject may do and spend is in the ledger.
//!
//! With the feature `oidc`, `JwtVerifier` verifies tokens that an issuer signed (RFC 7519), and
//! `IntrospectionVerifier` asks the issuer about opaque ones (RFC 7662).

#[cfg(feature = "oidc")]
mod build;
#[cfg(feature = "oidc")]
mod claims;
#[cfg(feature = "oidc")]
mod fetch;
mod first_seen;
#[cfg(feature = "oidc")]
mod introspection;
#[cfg(feature = "oidc")]
mod json;
#[cfg(feature = "oidc")]
mod jwt;
mod verifier;
mod verifiers;

#[cfg(feature = "oidc")]
pub use build::VerifierBuildError;
#[cfg(feature = "oidc")]
pub use introspection::{IntrospectionVerifier, IntrospectionVerifierBuilder};
#[cfg(feature = "oidc")]
pub use jwt::{JwtAlgorithm, JwtVerifier, JwtVerifierBuilder};
pub use verifier::{Verified, Verifier, VerifyError, VerifyFuture};

pub use crate::model::{InvalidSubject, Subject};
pub(crate) use verifiers::{Identified, Verifiers};
