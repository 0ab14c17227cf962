//! Why a verifier cannot be built, and the checks that verifiers share.

use std::time::Duration;

use reqwest::Url;

/// Why a verifier cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifierBuildError {
    /// An option is out of its range.
    #[error("{option} is {given}, and must be {accepted}")]
    OutOfRange {
        /// The name of the setter.
        option: &'static str,
        /// The value that was set.
        given: String,
        /// The accepted range.
        accepted: &'static str,
    },
    /// The issuer is empty, longer than 255 bytes, or has control characters.
    #[error("an issuer has 1 to 255 bytes without control characters")]
    Issuer,
    /// A URL is not accepted.
    #[error("{url}: {reason}")]
    Url {
        /// The URL, without what may be a password in it.
        url: String,
        /// What is accepted.
        reason: &'static str,
    },
    /// Neither an audience nor a client id was given.
    #[error(
        "say for whom tokens are: by `audience`, by `client_id` where the issuer sends no `aud`, or by \
         `without_audience`"
    )]
    NoAudience,
    /// Nothing says which credentials the verifier decides about.
    #[error(
        "say which credentials are opaque tokens of this issuer: by `prefix`, or by `accept_if`"
    )]
    NoForm,
    /// A key set is not a JSON object with an array `keys`, or has no key that can be used.
    #[error("the key set cannot be used: {0}")]
    Keys(String),
    /// The secret for HMAC is too short.
    #[error("a secret for HMAC has at least 32 bytes")]
    Secret,
    /// TLS cannot be set up, such as without certificates of authorities on this machine.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// Reads a URL of an issuer: `https`, or `http` of this machine where the host allows that.
pub(super) fn issuer_url(text: &str, allow_loopback: bool) -> Result<Url, VerifierBuildError> {
    let refused = |url: &str, reason| Err(VerifierBuildError::Url { url: url.to_owned(), reason });
    let Ok(url) = Url::parse(text) else {
        return refused("the URL", "it is no absolute URL");
    };
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return refused(
            url.host_str().unwrap_or_default(),
            "a user, password or fragment is in it",
        );
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if allow_loopback && is_loopback(&url) => Ok(url),
        _ => refused(
            url.as_str(),
            "only https is accepted, and http of this machine with `allow_loopback_http`",
        ),
    }
}

/// Returns whether a URL leads to this machine, by an address or by the name `localhost`.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Checks that a time is in its range.
pub(super) fn check_time(
    option: &'static str,
    given: Duration,
    (min, max): (Duration, Duration),
    accepted: &'static str,
) -> Result<(), VerifierBuildError> {
    match (min..=max).contains(&given) {
        true => Ok(()),
        false => {
            Err(VerifierBuildError::OutOfRange { option, given: format!("{given:?}"), accepted })
        }
    }
}
