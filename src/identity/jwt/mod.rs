//! Tokens that an issuer signed (JWT, RFC 7519).

mod algorithm;
mod builder;
mod jwk;
mod key_set;
mod remote;
mod token;

use std::fmt;
use std::sync::Arc;

pub use algorithm::JwtAlgorithm;
pub use builder::JwtVerifierBuilder;
use key_set::{Finding, KeySet};
use remote::RemoteKeys;
use token::Token;

use super::claims::{ClaimRules, invalid};
use super::verifier::{Verified, Verifier, VerifyError, VerifyFuture};
use crate::model::clock::Clock;

/// Verifies the signed tokens (JWT) of one issuer. Clones share its keys.
///
/// The issuer's keys are given ([`from_jwks`](Self::from_jwks)), or fetched when the first token comes
/// ([`from_jwks_url`](Self::from_jwks_url), [`discover`](Self::discover)). What is fetched is kept and
/// refreshed. One fetch is under way at most, and a token whose key is known waits for none.
///
/// It checks the form, the algorithm, the signature, `iss`, `aud` or `client_id`, `nbf`, `iat` and
/// `exp`, and reads `sub` and `scope`. A token of more than 16 KB is refused, and so are repeated
/// members, `crit`, and an algorithm that the key is not for.
///
/// ```
/// use agentkey::identity::{JwtVerifier, Verifier, VerifyError};
/// use agentkey::model::ManualClock;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // The key of RFC 8037, appendix A.
/// const KEYS: &str =
///     r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
/// let verifier = JwtVerifier::from_jwks("https://issuer.example", KEYS)
///     .audience("https://api.example.com")
///     .build()?;
///
/// // A token of another issuer is not this verifier's to decide, and it verifies none.
/// assert!(!verifier.accepts("e30.eyJpc3MiOiJodHRwczovL290aGVyLmV4YW1wbGUifQ.c2ln"));
/// let refused = verifier.verify("e30.eyJpc3MiOiJodHRwczovL290aGVyLmV4YW1wbGUifQ.c2ln").await;
/// assert!(matches!(refused, Err(VerifyError::Invalid(_))));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct JwtVerifier(Arc<Rules>);

struct Rules {
    keys: Keys,
    algorithms: Vec<JwtAlgorithm>,
    typ: Option<String>,
    claims: ClaimRules,
    clock: Clock,
}

enum Keys {
    Given(KeySet),
    Fetched(RemoteKeys),
}

impl JwtVerifier {
    /// Returns the builder of a verifier with these keys: a JWK set (RFC 7517 §5).
    pub fn from_jwks(issuer: impl Into<String>, jwks: impl Into<String>) -> JwtVerifierBuilder {
        JwtVerifierBuilder::new(issuer.into(), builder::Source::Jwks(jwks.into()))
    }

    /// Returns the builder of a verifier that fetches the keys from a URL.
    pub fn from_jwks_url(issuer: impl Into<String>, url: impl Into<String>) -> JwtVerifierBuilder {
        JwtVerifierBuilder::new(issuer.into(), builder::Source::JwksUrl(url.into()))
    }

    /// Returns the builder of a verifier that finds the keys by OpenID Connect Discovery 1.0: the
    /// document `/.well-known/openid-configuration` below the issuer says where they are.
    pub fn discover(issuer: impl Into<String>) -> JwtVerifierBuilder {
        let issuer = issuer.into();
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        Self::from_metadata_url(issuer, url)
    }

    /// Returns the builder of a verifier that finds the keys by a metadata document at another place,
    /// such as `/.well-known/oauth-authorization-server` (RFC 8414 §3).
    ///
    /// The `issuer` in the document has to be this one.
    pub fn from_metadata_url(
        issuer: impl Into<String>,
        url: impl Into<String>,
    ) -> JwtVerifierBuilder {
        JwtVerifierBuilder::new(issuer.into(), builder::Source::MetadataUrl(url.into()))
    }

    /// Returns the builder of a verifier for tokens that are signed by a shared secret, of 32 bytes or
    /// more. It accepts [`JwtAlgorithm::Hs256`], unless
    /// [`algorithms`](JwtVerifierBuilder::algorithms) says another.
    pub fn from_secret(issuer: impl Into<String>, secret: &[u8]) -> JwtVerifierBuilder {
        JwtVerifierBuilder::new(issuer.into(), builder::Source::secret(secret))
    }

    async fn judge(&self, credential: &str) -> Result<Verified, VerifyError> {
        let rules = &*self.0;
        let token = Token::parse(credential)?;
        if !rules.algorithms.contains(&token.algorithm) {
            return Err(invalid("its algorithm is not accepted"));
        }
        if !rules.typ.as_deref().is_none_or(|typ| is_media_type(token.typ.as_deref(), typ)) {
            return Err(invalid("it is of another type"));
        }
        match &rules.keys {
            Keys::Given(keys) if keys.find(&token) == Finding::Signed => {}
            Keys::Given(_) => return Err(invalid("no key of its issuer signed it")),
            Keys::Fetched(keys) => keys.check(&token).await?,
        }
        rules.claims.judge(token.claims()?, rules.clock.now())
    }
}

impl Verifier for JwtVerifier {
    fn accepts(&self, credential: &str) -> bool {
        token::unverified_issuer(credential).is_some_and(|issuer| issuer == self.0.claims.issuer)
    }

    fn verify<'a>(&'a self, credential: &'a str) -> VerifyFuture<'a> {
        Box::pin(async move {
            if !self.accepts(credential) {
                // So that no other issuer's tokens make this one's keys be fetched.
                return Err(invalid("it is no token of this issuer"));
            }
            self.judge(credential).await
        })
    }
}

impl fmt::Debug for JwtVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtVerifier").field("issuer", &self.0.claims.issuer).finish_non_exhaustive()
    }
}

/// Compares a `typ`, which is a media type whose `application/` may be left out (RFC 7515 §4.1.9).
fn is_media_type(typ: Option<&str>, expected: &str) -> bool {
    let short = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.strip_prefix("application/").map(str::to_owned).unwrap_or(name)
    };
    typ.is_some_and(|typ| short(typ) == short(expected))
}
