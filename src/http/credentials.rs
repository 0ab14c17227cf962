//! Credentials: reads the token of a request.

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};

use crate::model::{Refusal, Token, TokenHash};

/// The headers that may contain a token, in order. Default: `Authorization: Bearer`, then
/// `X-Api-Key`.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    sources: Vec<CredentialSource>,
    foreign: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum CredentialSource {
    Bearer,
    Header(HeaderName),
}

impl Default for Credentials {
    fn default() -> Self {
        let api_key = CredentialSource::Header(HeaderName::from_static("x-api-key"));
        Self { sources: vec![CredentialSource::Bearer, api_key], foreign: false }
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

    /// Returns the hash of the request's token. Malformed tokens are refused here, without a
    /// look-up.
    ///
    /// Every value that may be a token is marked as sensitive, which keeps it out of logs of
    /// headers. One pass over the headers costs less than a search for each source.
    pub(crate) fn read(&self, headers: &mut HeaderMap) -> Result<TokenHash, Refusal> {
        let mut credential: Option<&[u8]> = None;
        let mut is_ambiguous = false;
        for (name, value) in headers.iter_mut() {
            let Some(source) = self.sources.iter().find(|source| source.name() == name) else {
                continue;
            };
            value.set_sensitive(true);
            let Some(token) = source.token(value) else { continue };
            is_ambiguous |= credential.is_some_and(|first| first != token);
            credential = Some(token);
        }
        if is_ambiguous {
            return Err(Refusal::AmbiguousCredentials);
        }
        let text = std::str::from_utf8(credential.ok_or(Refusal::MissingKey)?)
            .map_err(|_| Refusal::InvalidKey)?;
        let hash = if self.foreign { Token::hash_foreign(text) } else { Token::hash_of(text) };
        hash.map_err(|_| Refusal::InvalidKey)
    }
}

impl CredentialSource {
    fn name(&self) -> &HeaderName {
        match self {
            Self::Bearer => &AUTHORIZATION,
            Self::Header(name) => name,
        }
    }

    /// Returns the token in a header's value. Schemes other than `Bearer` contain none.
    ///
    /// Schemes are case-insensitive (RFC 9110 §11.1).
    fn token<'a>(&self, value: &'a HeaderValue) -> Option<&'a [u8]> {
        let value = value.as_bytes().trim_ascii();
        match self {
            Self::Header(_) => Some(value),
            Self::Bearer => {
                let end = value.iter().position(u8::is_ascii_whitespace).unwrap_or(value.len());
                let (scheme, rest) = value.split_at(end);
                scheme.eq_ignore_ascii_case(b"bearer").then(|| rest.trim_ascii())
            }
        }
    }
}
