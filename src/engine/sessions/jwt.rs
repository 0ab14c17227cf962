//! The token of a session: a JWT, signed and verified.
//!
//! `jsonwebtoken` reads and writes the header, and `ring` signs. The functions of `jsonwebtoken` that
//! sign are not used: they panic where the application's dependencies enable both or neither of its
//! cryptographic features.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::{Header, decode_header};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::ring::KeyRing;
use super::signing_key::SigningKey;
use crate::model::{Refusal, SessionId, TokenError, TokenHash};

/// A longer text is no token of ours.
const MAX_LEN: usize = 2_048;

/// What every token of a service says of it.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) issuer: String,
    pub(super) audience: String,
}

/// What a token says.
#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    /// The random part. A holder of the signing key alone cannot guess it.
    jti: String,
    iat: i64,
    exp: i64,
}

/// The random part of a token.
pub(super) struct TokenSecret(Zeroizing<String>);

impl TokenSecret {
    pub(super) fn generate() -> Result<Self, TokenError> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut_slice()).map_err(|_| TokenError::Random)?;
        Ok(Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()))))
    }

    /// Returns the hash by which a store finds the session.
    ///
    /// The space keeps it apart from the hashes of tokens, which have none.
    pub(super) fn hash(&self) -> TokenHash {
        TokenHash::digest(&Zeroizing::new(format!("agentkey session {}", *self.0)))
    }
}

/// Signs the token of a session.
pub(super) fn sign(
    service: &Service,
    key: &SigningKey,
    session: SessionId,
    secret: TokenSecret,
    (opened_at, expires_at): (Timestamp, Timestamp),
) -> Result<Zeroizing<String>, serde_json::Error> {
    let header =
        Header { kid: Some(key.kid().to_owned()), ..Header::new(key.algorithm().in_header()) };
    let claims = Claims {
        iss: service.issuer.clone(),
        aud: service.audience.clone(),
        sub: session.to_string(),
        jti: secret.0.to_string(),
        iat: opened_at.as_second(),
        exp: ceiling(expires_at),
    };
    let mut token = Zeroizing::new(String::with_capacity(MAX_LEN));
    URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(&header)?, &mut token);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(Zeroizing::new(serde_json::to_vec(&claims)?), &mut token);
    let signature = key.sign(token.as_bytes());
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}

/// Returns the `kid` of a text that has the form of a signed JWT.
pub(super) fn kid_of(text: &str) -> Option<String> {
    let has_form = text.len() <= MAX_LEN && text.starts_with("eyJ") && text.split('.').count() == 3;
    has_form.then(|| decode_header(text).ok()?.kid).flatten()
}

/// Verifies a token with a key that it names, and returns the hash of its session.
///
/// # Errors
///
/// [`Refusal::ExpiredKey`] where a token of ours has expired; else [`Refusal::InvalidKey`].
pub(super) fn verify(
    service: &Service,
    ring: &KeyRing,
    text: &str,
    now: Timestamp,
) -> Result<TokenHash, Refusal> {
    verified(service, ring, text).map_or(Err(Refusal::InvalidKey), |claims| {
        match claims.exp <= now.as_second() {
            true => Err(Refusal::ExpiredKey),
            false => Ok(TokenSecret(Zeroizing::new(claims.jti)).hash()),
        }
    })
}

fn verified(service: &Service, ring: &KeyRing, text: &str) -> Option<Claims> {
    let header = decode_header(text).ok().filter(|_| text.len() <= MAX_LEN)?;
    let kid = header.kid.as_deref().filter(|_| header.crit.is_none())?;
    let (message, signature) = text.rsplit_once('.')?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    // The key says how it signs. What the token says of it is only compared.
    let has_signed = |key: &SigningKey| {
        header.alg == key.algorithm().in_header() && key.verifies(message.as_bytes(), &signature)
    };
    if !ring.named(kid).any(has_signed) {
        return None;
    }
    let claims: Claims = insecure_decode_claims(text).ok()?;
    (claims.iss == service.issuer && claims.aud == service.audience).then_some(claims)
}

/// Returns the first whole second that is not before `at`: no token ends before its session.
fn ceiling(at: Timestamp) -> i64 {
    at.as_microsecond().div_euclid(1_000_000)
        + i64::from(at.as_microsecond().rem_euclid(1_000_000) != 0)
}
