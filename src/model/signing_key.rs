//! The keys that sign the tokens of sessions, as a store keeps them.

use std::fmt;

use jiff::Timestamp;
use zeroize::Zeroizing;

/// A signing key that a store keeps.
#[derive(Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct StoredSigningKey {
    pub kid: String,
    /// The name of its algorithm in the header of a token.
    pub algorithm: String,
    pub secret: Zeroizing<Vec<u8>>,
    pub created_at: Timestamp,
}

/// Shows everything but the secret.
impl fmt::Debug for StoredSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredSigningKey")
            .field("kid", &self.kid)
            .field("algorithm", &self.algorithm)
            .field("created_at", &self.created_at)
            .finish_non_exhaustive()
    }
}
