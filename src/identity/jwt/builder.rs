//! Builds a [`JwtVerifier`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::algorithm::JwtAlgorithm;
use super::jwk::Key;
use super::key_set::KeySet;
use super::remote::{Endpoint, RemoteKeys, Schedule};
use super::{JwtVerifier, Keys, Rules};
use crate::identity::build::{VerifierBuildError, check_time, issuer_url};
use crate::identity::claims::ClaimRules;
use crate::identity::fetch::Fetcher;
use crate::model::Subject;
use crate::model::clock::Clock;

/// The longest leeway.
const MAX_LEEWAY: Duration = Duration::from_secs(300);
/// The shortest secret for HMAC: the length of the shortest hash (RFC 7518 §3.2).
const MIN_SECRET_LEN: usize = 32;
/// The pause after a fetch that failed, unless the cooldown is shorter.
const RETRY: Duration = Duration::from_secs(5);

/// Builds a [`JwtVerifier`]; it begins with [`JwtVerifier::discover`] and its like.
#[must_use = "a builder does nothing until `build`"]
pub struct JwtVerifierBuilder {
    source: Source,
    algorithms: Option<Vec<JwtAlgorithm>>,
    typ: Option<String>,
    claims: ClaimRules,
    allow_loopback: bool,
    schedule: Schedule,
    clock: Clock,
}

/// Where the keys come from.
pub(super) enum Source {
    Jwks(String),
    JwksUrl(String),
    MetadataUrl(String),
    /// `None` where it is too short.
    Secret(Option<Key>),
}

impl Source {
    pub(super) fn secret(secret: &[u8]) -> Self {
        Self::Secret((secret.len() >= MIN_SECRET_LEN).then(|| Key::secret(secret)))
    }
}

impl JwtVerifierBuilder {
    pub(super) fn new(issuer: String, source: Source) -> Self {
        Self {
            source,
            algorithms: None,
            typ: None,
            claims: ClaimRules::new(issuer, true),
            allow_loopback: false,
            schedule: Schedule {
                refresh_every: Duration::from_secs(600),
                cooldown: Duration::from_secs(30),
                retry: RETRY,
                stale_for: Duration::from_secs(3_600),
                timeout: Duration::from_secs(5),
            },
            clock: Clock::system(),
        }
    }

    /// Accepts tokens for this audience: `aud` is it, or contains it. Several calls accept each.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.claims.audiences.push(audience.into());
        self
    }

    /// Accepts tokens *without* `aud` whose claim `client_id` is this one, for issuers whose access
    /// tokens have no `aud`, as those of Amazon Cognito. Several calls accept each.
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.claims.client_ids.push(client_id.into());
        self
    }

    /// Accepts tokens for any audience: where every token of the issuer is for this service.
    pub fn without_audience(mut self) -> Self {
        self.claims.any_audience = true;
        self
    }

    /// Requires that a claim is this value, such as `token_use` to be `access` with Amazon Cognito.
    pub fn require_claim(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.claims.required.push((name.into(), value.into()));
        self
    }

    /// Requires this `typ` in the header, such as `at+jwt` for access tokens of RFC 9068. Default: any.
    pub fn header_type(mut self, typ: impl Into<String>) -> Self {
        self.typ = Some(typ.into());
        self
    }

    /// Sets the algorithms that are accepted. Default: each with a public key, or `HS256` for a secret.
    ///
    /// A key is only used for the algorithms of its type, whatever is set here.
    pub fn algorithms(mut self, algorithms: impl IntoIterator<Item = JwtAlgorithm>) -> Self {
        self.algorithms = Some(algorithms.into_iter().collect());
        self
    }

    /// Sets the claims that hold scopes, of which the first one present is read: a text of names with
    /// spaces between them, or an array. Default: `scope`. Microsoft Entra and Okta send `scp`.
    ///
    /// A name that is no scope is left out, and anything else means no scope at all.
    pub fn scope_claims<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.claims.scope_claims = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets for how long after `exp` a token is accepted, up to 5 minutes. Default: not at all.
    ///
    /// It counts into [`Verified::expires_at`](crate::identity::Verified::expires_at).
    pub fn expiry_leeway(mut self, leeway: Duration) -> Self {
        self.claims.expiry_leeway = leeway;
        self
    }

    /// Sets for how long before `nbf` and `iat` a token is accepted, up to 5 minutes, because clocks
    /// differ. Default: one minute.
    pub fn start_leeway(mut self, leeway: Duration) -> Self {
        self.claims.start_leeway = leeway;
        self
    }

    /// Sets after how long fetched keys are fetched again, while the old ones are used. Default: 10
    /// minutes; 1 second to 1 day.
    pub fn refresh_every(mut self, time: Duration) -> Self {
        self.schedule.refresh_every = time;
        self
    }

    /// Sets the least time between two fetches. Default: 30 seconds; 1 second to 1 hour.
    ///
    /// A token with an unknown `kid` causes a fetch, and so does one without a `kid` that no key
    /// signed. Within the cooldown it is refused instead. After a fetch that failed, the next one may
    /// come after 5 seconds.
    pub fn cooldown(mut self, time: Duration) -> Self {
        self.schedule.cooldown = time;
        self.schedule.retry = time.min(RETRY);
        self
    }

    /// Sets for how long fetched keys are used while the issuer does not answer. Default: 1 hour; up
    /// to 7 days. It counts from the last fetch.
    ///
    /// It also bounds how long a key is accepted after the issuer has removed it. While requests come,
    /// [`refresh_every`](Self::refresh_every) is that bound.
    pub fn stale_for(mut self, time: Duration) -> Self {
        self.schedule.stale_for = time;
        self
    }

    /// Sets for how long a fetch may take. Default: 5 seconds; 10 milliseconds to 1 minute.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.schedule.timeout = time;
        self
    }

    /// Accepts `http` URLs of this machine, for an issuer beside the service and for tests.
    pub fn allow_loopback_http(mut self) -> Self {
        self.allow_loopback = true;
        self
    }

    /// Sets the clock. Default: the machine's.
    pub fn clock(mut self, clock: impl Into<Clock>) -> Self {
        self.clock = clock.into();
        self
    }

    /// Builds the verifier. It fetches nothing.
    ///
    /// # Errors
    ///
    /// [`VerifierBuildError`] where an option cannot be used.
    pub fn build(self) -> Result<JwtVerifier, VerifierBuildError> {
        let Self { source, algorithms, typ, claims, allow_loopback, schedule, clock } = self;
        Subject::new(claims.issuer.as_str(), "any").map_err(|_| VerifierBuildError::Issuer)?;
        if !claims.any_audience && claims.audiences.is_empty() && claims.client_ids.is_empty() {
            return Err(VerifierBuildError::NoAudience);
        }
        check_times(&claims, &schedule)?;
        let is_secret = matches!(source, Source::Secret(_));
        let default =
            if is_secret { &[JwtAlgorithm::Hs256][..] } else { &JwtAlgorithm::ASYMMETRIC };
        let algorithms = algorithms.unwrap_or_else(|| default.to_vec());
        let fetched = |endpoint: fn(reqwest::Url) -> Endpoint, url: &str| {
            let url = issuer_url(url, allow_loopback)?;
            let fetcher = Fetcher::new(&url, schedule.timeout)?;
            let (issuer, endpoint) = (claims.issuer.clone(), endpoint(url));
            let (schedule, clock) = (schedule.clone(), clock.clone());
            let keys = RemoteKeys::new(issuer, endpoint, allow_loopback, fetcher, schedule, clock);
            Ok(Keys::Fetched(keys))
        };
        let keys = match source {
            Source::Jwks(jwks) => Keys::Given(given(&claims.issuer, &jwks)?),
            Source::JwksUrl(url) => fetched(Endpoint::Keys, &url)?,
            Source::MetadataUrl(url) => fetched(Endpoint::Metadata, &url)?,
            Source::Secret(key) => {
                Keys::Given(KeySet::of_secret(key.ok_or(VerifierBuildError::Secret)?))
            }
        };
        Ok(JwtVerifier(Arc::new(Rules { keys, algorithms, typ, claims, clock })))
    }
}

/// Shows the issuer alone, because a secret may be in it.
impl fmt::Debug for JwtVerifierBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtVerifierBuilder")
            .field("issuer", &self.claims.issuer)
            .finish_non_exhaustive()
    }
}

fn given(issuer: &str, jwks: &str) -> Result<KeySet, VerifierBuildError> {
    let keys = KeySet::parse(issuer, jwks.as_bytes())
        .map_err(|error| VerifierBuildError::Keys(error.to_string()))?;
    match keys.is_empty() {
        true => Err(VerifierBuildError::Keys("none of them can be used".to_owned())),
        false => Ok(keys),
    }
}

fn check_times(claims: &ClaimRules, schedule: &Schedule) -> Result<(), VerifierBuildError> {
    let seconds = |from, to| (Duration::from_secs(from), Duration::from_secs(to));
    let timeout = (Duration::from_millis(10), Duration::from_secs(60));
    let leeway = (Duration::ZERO, MAX_LEEWAY);
    check_time("expiry_leeway", claims.expiry_leeway, leeway, "at most 5 minutes")?;
    check_time("start_leeway", claims.start_leeway, leeway, "at most 5 minutes")?;
    let (refresh_every, cooldown) = (schedule.refresh_every, schedule.cooldown);
    check_time("refresh_every", refresh_every, seconds(1, 86_400), "1 second to 1 day")?;
    check_time("cooldown", cooldown, seconds(1, 3_600), "1 second to 1 hour")?;
    check_time("timeout", schedule.timeout, timeout, "10 milliseconds to 1 minute")?;
    let stale = (refresh_every, Duration::from_secs(7 * 86_400));
    check_time("stale_for", schedule.stale_for, stale, "`refresh_every` to 7 days")
}
