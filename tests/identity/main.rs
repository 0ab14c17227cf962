//! Verifiers of other issuers' credentials, with issuers behind real sockets.
#![cfg(feature = "oidc")]

mod builders;
mod forgeries;
mod introspection;
mod issuers;
mod properties;
mod recorded;
mod support;
