//! Sessions: child keys with a signed token, a short life and a cap of their own.

mod jwt;
mod open;
mod options;
mod ring;
mod signing_key;
pub(crate) mod state;

pub use open::{NewSession, OpenedSession};
pub use options::Sessions;
pub use signing_key::{SessionAlgorithm, SigningKey, SigningKeyError};
