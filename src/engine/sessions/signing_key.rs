//! The keys that sign the tokens of sessions.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::Algorithm;
use ring::hmac;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

/// How the tokens of sessions are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionAlgorithm {
    /// Ed25519: `EdDSA`, as RFC 8037 has it.
    #[default]
    EdDsa,
    /// HMAC with SHA-256: `HS256`. It is faster to verify.
    Hs256,
}

impl SessionAlgorithm {
    /// Returns its name in the header of a token.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
        }
    }

    pub(super) const fn in_header(self) -> Algorithm {
        match self {
            Self::EdDsa => Algorithm::EdDSA,
            Self::Hs256 => Algorithm::HS256,
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::EdDsa, Self::Hs256].into_iter().find(|algorithm| algorithm.as_str() == name)
    }
}

/// A key that signs the tokens of sessions, with the `kid` by which tokens name it. Clones are cheap.
///
/// ```
/// use agentkey::session::SigningKey;
///
/// # const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----";
/// // openssl genpkey -algorithm ed25519
/// let key = SigningKey::ed25519_pem("2026-11", PEM)?;
/// assert_eq!(key.kid(), "2026-11");
/// # Ok::<(), agentkey::session::SigningKeyError>(())
/// ```
#[derive(Clone)]
pub struct SigningKey {
    kid: Arc<str>,
    secret: Arc<Secret>,
}

enum Secret {
    Ed25519(Ed25519KeyPair),
    Hs256(hmac::Key),
}

impl SigningKey {
    const MAX_KID_LEN: usize = 64;
    const MIN_HS256_LEN: usize = 32;

    /// Returns the Ed25519 key with this private key of 32 bytes.
    ///
    /// # Errors
    ///
    /// [`SigningKeyError::Kid`] where the `kid` is not 1 to 64 letters, digits, `-`, `_`, `.` or `~`.
    pub fn ed25519(kid: &str, private_key: &[u8; 32]) -> Result<Self, SigningKeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(private_key);
        Self::new(kid, Secret::Ed25519(pair.map_err(|_| SigningKeyError::Ed25519)?))
    }

    /// Returns the Ed25519 key in a PEM text with `BEGIN PRIVATE KEY`, as `openssl genpkey -algorithm
    /// ed25519` prints it.
    ///
    /// # Errors
    ///
    /// [`SigningKeyError::Ed25519`] where the text is something else, and as
    /// [`ed25519`](Self::ed25519).
    pub fn ed25519_pem(kid: &str, pem: &str) -> Result<Self, SigningKeyError> {
        let body = pem
            .trim()
            .strip_prefix("-----BEGIN PRIVATE KEY-----")
            .and_then(|rest| rest.strip_suffix("-----END PRIVATE KEY-----"))
            .ok_or(SigningKeyError::Ed25519)?;
        let text: Zeroizing<String> =
            Zeroizing::new(body.chars().filter(|c| !c.is_ascii_whitespace()).collect());
        let der = STANDARD.decode(text.as_bytes()).map_err(|_| SigningKeyError::Ed25519)?;
        Self::ed25519_der(kid, &Zeroizing::new(der))
    }

    /// Returns the Ed25519 key in a PKCS#8 document.
    ///
    /// # Errors
    ///
    /// As [`ed25519_pem`](Self::ed25519_pem).
    pub fn ed25519_der(kid: &str, pkcs8: &[u8]) -> Result<Self, SigningKeyError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8);
        Self::new(kid, Secret::Ed25519(pair.map_err(|_| SigningKeyError::Ed25519)?))
    }

    /// Returns the HMAC key with these bytes.
    ///
    /// # Errors
    ///
    /// [`SigningKeyError::TooShort`] where there are fewer than 32 bytes, and as
    /// [`ed25519`](Self::ed25519).
    pub fn hs256(kid: &str, secret: &[u8]) -> Result<Self, SigningKeyError> {
        if secret.len() < Self::MIN_HS256_LEN {
            return Err(SigningKeyError::TooShort);
        }
        Self::new(kid, Secret::Hs256(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    fn new(kid: &str, secret: Secret) -> Result<Self, SigningKeyError> {
        let fits = (1..=Self::MAX_KID_LEN).contains(&kid.len())
            && kid.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte));
        if !fits {
            return Err(SigningKeyError::Kid);
        }
        Ok(Self { kid: kid.into(), secret: Arc::new(secret) })
    }

    /// Returns the id by which tokens name it.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Returns how it signs.
    pub fn algorithm(&self) -> SessionAlgorithm {
        match &*self.secret {
            Secret::Ed25519(_) => SessionAlgorithm::EdDsa,
            Secret::Hs256(_) => SessionAlgorithm::Hs256,
        }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &*self.secret {
            Secret::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Secret::Hs256(key) => hmac::sign(key, message).as_ref().to_vec(),
        }
    }

    /// Returns whether this key made the signature, in a time that does not depend on the answer.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &*self.secret {
            Secret::Ed25519(pair) => {
                let public = UnparsedPublicKey::new(&ED25519, pair.public_key());
                public.verify(message, signature).is_ok()
            }
            Secret::Hs256(key) => hmac::verify(key, message, signature).is_ok(),
        }
    }
}

/// Shows the `kid` and the algorithm, and no secret.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kid, algorithm) = (self.kid(), self.algorithm());
        f.debug_struct("SigningKey")
            .field("kid", &kid)
            .field("algorithm", &algorithm)
            .finish_non_exhaustive()
    }
}

/// Why bytes are no signing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SigningKeyError {
    /// The `kid` is not valid.
    #[error("a kid is 1 to 64 letters, digits, `-`, `_`, `.` or `~`")]
    Kid,
    /// It is no Ed25519 key.
    #[error(
        "this is not an Ed25519 private key in PKCS#8; `openssl genpkey -algorithm ed25519` makes one"
    )]
    Ed25519,
    /// The HMAC key is too short.
    #[error("a key for HS256 has at least 32 bytes")]
    TooShort,
}
