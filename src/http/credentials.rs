//! Credentials: reads the token of a request.

use std::sync::Arc;

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::identity::{Verifier, Verifiers};
use crate::model::{Refusal, Token, TokenError, TokenHash, TokenPrefix};

/// The headers that may contain a token, in order. Default: `Authorization: Bearer`, then
/// `X-Api-Key`.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    sources: Vec<CredentialSource>,
    foreign: bool,
    /// If there are any, credentials with another prefix do not count.
    prefixes: Vec<TokenPrefix>,
}

/// The credential of a request.
pub(crate) enum Credential {
    /// A token, by its hash.
    Token(TokenHash),
    /// The token of a session, which has to be verified.
    Session(Zeroizing<String>),
    /// What another issuer made, and the verifier that decides about it.
    Issued(Zeroizing<String>, Arc<dyn Verifier>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum CredentialSource {
    Bearer,
    Header(HeaderName),
}

impl Default for Credentials {
    fn default() -> Self {
        let api_key = CredentialSource::Header(HeaderName::from_static("x-api-key"));
        Self {
            sources: vec![CredentialSource::Bearer, api_key],
            foreign: false,
            prefixes: Vec::new(),
        }
    }
}

impl Credentials {
    /// Sets the headers. `Authorization` means its `Bearer` scheme.
    pub(crate) fn headers(&mut self, names: impl IntoIterator<Item = HeaderName>) {
        let source = |name| {
            if name == AUTHORIZATION {
                CredentialSource::Bearer
            } else {
                CredentialSource::Header(name)
            }
        };
        self.sources = names.into_iter().map(source).collect();
    }

    /// Sets whether tokens of any format are accepted.
    pub(crate) fn foreign(&mut self, foreign: bool) {
        self.foreign = foreign;
    }

    /// Sets the prefixes of the tokens that count.
    pub(crate) fn prefixes(&mut self, prefixes: impl IntoIterator<Item = TokenPrefix>) {
        self.prefixes = prefixes.into_iter().collect();
    }

    /// Returns whether a credential counts by its prefix. Tokens of sessions always do, and so does
    /// what a verifier accepts.
    fn counts(
        &self,
        token: &[u8],
        is_session: &impl Fn(&str) -> bool,
        verifiers: &Verifiers,
    ) -> bool {
        let prefix = token.iter().rposition(|byte| *byte == b'_').and_then(|end| token.get(..end));
        self.prefixes.is_empty()
            || self.prefixes.iter().any(|own| Some(own.as_str().as_bytes()) == prefix)
            || std::str::from_utf8(token)
                .is_ok_and(|text| is_session(text) || accepting(verifiers, text).is_some())
    }

    /// Returns the credential of a request. Malformed tokens are refused here, without a look-up.
    ///
    /// Every value that may be a token is marked as sensitive, which keeps it out of logs of
    /// headers. One pass over the headers costs less than a search for each source.
    pub(crate) fn read(
        &self,
        headers: &mut HeaderMap,
        is_session: impl Fn(&str) -> bool,
        verifiers: &Verifiers,
    ) -> Result<Credential, Refusal> {
        let mut credential: Option<(&HeaderName, &[u8])> = None;
        let mut ambiguous = None;
        // What the request is refused with if it has no other credential.
        let mut refusal = Refusal::MissingKey;
        for (name, value) in headers.iter_mut() {
            let Some(source) = self.sources.iter().find(|source| source.name() == name) else {
                continue;
            };
            value.set_sensitive(true);
            let counts = |token: &[u8]| self.counts(token, &is_session, verifiers);
            let token = match source.token(value).filter(|(token, _)| counts(token)) {
                Some((token, Ok(()))) => token,
                Some((_, Err(other))) => {
                    refusal = other;
                    continue;
                }
                None => continue,
            };
            match credential {
                Some((first, found)) if found != token => ambiguous = Some([first, name]),
                _ => credential = Some((name, token)),
            }
        }
        if let Some(names) = ambiguous {
            let headers = Box::new(names.map(|name| name.as_str().to_owned()));
            return Err(Refusal::AmbiguousCredentials { headers });
        }
        let (_, token) = credential.ok_or(refusal)?;
        let text = std::str::from_utf8(token).map_err(|_| Refusal::InvalidKey)?;
        if is_session(text) {
            return Ok(Credential::Session(Zeroizing::new(text.to_owned())));
        }
        if let Some(verifier) = accepting(verifiers, text) {
            return Ok(Credential::Issued(Zeroizing::new(text.to_owned()), verifier.clone()));
        }
        let hash = if self.foreign { Token::hash_foreign(text) } else { Token::hash_of(text) };
        hash.map(Credential::Token).map_err(|_| Refusal::InvalidKey)
    }
}

/// Returns the verifier that decides about a credential, unless that has the form of a token of
/// ours: such a token is not sent to another service, also if it was copied wrongly.
fn accepting<'v>(verifiers: &'v Verifiers, text: &str) -> Option<&'v Arc<dyn Verifier>> {
    let verifier = verifiers.accepting(text)?;
    matches!(Token::hash_of(text), Err(TokenError::Malformed)).then_some(verifier)
}

impl CredentialSource {
    fn name(&self) -> &HeaderName {
        match self {
            Self::Bearer => &AUTHORIZATION,
            Self::Header(name) => name,
        }
    }

    /// Returns the token in a header's value, or one that cannot be used and the refusal of a request that has no
    /// other. Schemes other than `Bearer` contain none.
    ///
    /// Schemes are case-insensitive (RFC 9110 §11.1).
    fn token<'a>(&self, value: &'a HeaderValue) -> Option<(&'a [u8], Result<(), Refusal>)> {
        let value = value.as_bytes().trim_ascii();
        let token = match self {
            Self::Header(_) => value,
            Self::Bearer => {
                let end = value.iter().position(u8::is_ascii_whitespace).unwrap_or(value.len());
                let (scheme, rest) = value.split_at(end);
                if !scheme.eq_ignore_ascii_case(b"bearer") {
                    return is_token(value).then_some((value, Err(Refusal::MissingScheme)));
                }
                rest.trim_ascii()
            }
        };
        // Clients whose setting is empty send such a header beside the one that is set.
        Some((token, if token.is_empty() { Err(Refusal::InvalidKey) } else { Ok(()) }))
    }
}

/// Returns whether a value is a token of ours: the checksum tells it from a scheme.
fn is_token(value: &[u8]) -> bool {
    std::str::from_utf8(value).is_ok_and(|text| Token::hash_of(text).is_ok())
}
