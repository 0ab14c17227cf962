//! Builds an [`IntrospectionVerifier`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::cache::Cache;
use super::{ClientCredentials, Form, IntrospectionVerifier, Shared};
use crate::identity::build::{VerifierBuildError, check_time, issuer_url};
use crate::identity::claims::ClaimRules;
use crate::identity::fetch::Fetcher;
use crate::model::Subject;
use crate::model::clock::Clock;

/// Builds an [`IntrospectionVerifier`]; it begins with [`IntrospectionVerifier::builder`].
#[must_use = "a builder does nothing until `build`"]
pub struct IntrospectionVerifierBuilder {
    endpoint: String,
    client: ClientCredentials,
    form: Form,
    claims: ClaimRules,
    allow_loopback: bool,
    timeout: Duration,
    cache_for: Duration,
    max_concurrent: usize,
    clock: Clock,
}

impl IntrospectionVerifierBuilder {
    pub(super) fn new(issuer: String, endpoint: String, client: ClientCredentials) -> Self {
        Self {
            endpoint,
            client,
            form: Form::Prefixes(Vec::new()),
            claims: ClaimRules { any_audience: true, ..ClaimRules::new(issuer, false) },
            allow_loopback: false,
            timeout: Duration::from_secs(5),
            cache_for: Duration::ZERO,
            max_concurrent: 32,
            clock: Clock::system(),
        }
    }

    /// Decides about credentials that begin so. Several calls add to each other.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        match &mut self.form {
            Form::Prefixes(prefixes) => prefixes.push(prefix),
            Form::Predicate(_) => self.form = Form::Prefixes(vec![prefix]),
        }
        self
    }

    /// Decides about the credentials for which `accepts` says so, in place of prefixes.
    ///
    /// It is called for each request, before anything is verified.
    pub fn accept_if(mut self, accepts: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.form = Form::Predicate(Box::new(accepts));
        self
    }

    /// Accepts only tokens for this audience: `aud` in the answer is it, or contains it. Several calls
    /// accept each. Default: any audience, because the issuer knows who asks.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.claims.any_audience = false;
        self.claims.audiences.push(audience.into());
        self
    }

    /// Sets the members of the answer that hold scopes, as
    /// [`JwtVerifierBuilder::scope_claims`](crate::identity::JwtVerifierBuilder::scope_claims).
    pub fn scope_claims<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.claims.scope_claims = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sends the client's credentials in the form (`client_secret_post`) in place of HTTP Basic.
    pub fn client_secret_post(mut self) -> Self {
        self.client.are_in_form = true;
        self
    }

    /// Uses the answer about a valid token again for this long, and never after its `exp`. Default: not
    /// at all; up to 5 minutes.
    ///
    /// A token that is revoked at the issuer is accepted for that long. At most 10,000 answers are
    /// kept. An answer that a token is not valid is never kept.
    pub fn cache_for(mut self, time: Duration) -> Self {
        self.cache_for = time;
        self
    }

    /// Sets how many questions are under way at once; others wait. Default: 32; 1 to 1,024.
    pub fn max_concurrent(mut self, questions: usize) -> Self {
        self.max_concurrent = questions;
        self
    }

    /// Sets for how long an answer is waited for, with the time in the queue. Default: 5 seconds; 10
    /// milliseconds to 1 minute.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = time;
        self
    }

    /// Accepts an `http` URL of this machine, for an issuer beside the service and for tests.
    pub fn allow_loopback_http(mut self) -> Self {
        self.allow_loopback = true;
        self
    }

    /// Sets the clock. Default: the machine's.
    pub fn clock(mut self, clock: impl Into<Clock>) -> Self {
        self.clock = clock.into();
        self
    }

    /// Builds the verifier. It sends nothing.
    ///
    /// # Errors
    ///
    /// [`VerifierBuildError`] where an option cannot be used.
    pub fn build(self) -> Result<IntrospectionVerifier, VerifierBuildError> {
        Subject::new(self.claims.issuer.as_str(), "any").map_err(|_| VerifierBuildError::Issuer)?;
        if matches!(&self.form, Form::Prefixes(prefixes) if prefixes.is_empty()) {
            return Err(VerifierBuildError::NoForm);
        }
        let timeout = (Duration::from_millis(10), Duration::from_secs(60));
        check_time("timeout", self.timeout, timeout, "10 milliseconds to 1 minute")?;
        let kept = (Duration::ZERO, Duration::from_secs(300));
        check_time("cache_for", self.cache_for, kept, "at most 5 minutes")?;
        if !(1..=1_024).contains(&self.max_concurrent) {
            return Err(VerifierBuildError::OutOfRange {
                option: "max_concurrent",
                given: self.max_concurrent.to_string(),
                accepted: "1 to 1,024",
            });
        }
        let endpoint = issuer_url(&self.endpoint, self.allow_loopback)?;
        let fetcher = Fetcher::new(&endpoint, self.timeout)?;
        Ok(IntrospectionVerifier(Arc::new(Shared {
            endpoint,
            client: self.client,
            form: self.form,
            claims: self.claims,
            fetcher,
            timeout: self.timeout,
            cache_for: self.cache_for,
            cache: Cache::default(),
            places: Semaphore::new(self.max_concurrent),
            clock: self.clock,
        })))
    }
}

/// Shows the issuer alone, because a secret is in it.
impl fmt::Debug for IntrospectionVerifierBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntrospectionVerifierBuilder")
            .field("issuer", &self.claims.issuer)
            .finish_non_exhaustive()
    }
}
