//! Options of sessions.

use std::time::Duration;

use super::jwt::Service;
use super::signing_key::{SessionAlgorithm, SigningKey};

/// The options of sessions, for [`Builder::sessions`](crate::Builder::sessions).
///
/// Without [`signing_keys`](Self::signing_keys), a signing key is made once and kept in the store, for
/// all processes.
///
/// ```
/// use agentkey::session::Sessions;
/// use std::time::Duration;
///
/// let sessions = Sessions::new()
///     .audience("https://api.example.com")
///     .ttl(Duration::from_secs(60), Duration::from_secs(3_600));
/// # let _ = sessions;
/// ```
#[derive(Clone, Debug)]
#[must_use = "`Sessions` take effect through `Builder::sessions`"]
pub struct Sessions {
    pub(super) service: Service,
    pub(super) algorithm: SessionAlgorithm,
    /// The application's own keys, the one that signs first.
    pub(super) keys: Option<Vec<SigningKey>>,
    pub(crate) min_ttl: Duration,
    pub(crate) max_ttl: Duration,
}

impl Sessions {
    /// Returns the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the keys of the application: one that signs, and others whose tokens are accepted too.
    ///
    /// To change the key, let every process accept the new one, then let every process sign with it.
    /// Drop the old one when the sessions have ended that it signed.
    pub fn signing_keys(
        mut self,
        signing: SigningKey,
        accepted: impl IntoIterator<Item = SigningKey>,
    ) -> Self {
        self.keys = Some(std::iter::once(signing).chain(accepted).collect());
        self
    }

    /// Sets the algorithm of the keys that are made and kept in the store. Default: `EdDSA`.
    pub fn algorithm(mut self, algorithm: SessionAlgorithm) -> Self {
        self.algorithm = algorithm;
        self
    }

    /// Sets the `iss` of tokens. Default: `agentkey`. A token with another one is refused.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.service.issuer = issuer.into();
        self
    }

    /// Sets the `aud` of tokens. Default: `agentkey`. A token with another one is refused.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.service.audience = audience.into();
        self
    }

    /// Sets how long a session may last. Default: from a minute to 24 hours. From 1 s to 366 days.
    ///
    /// A session never outlives its parent.
    pub fn ttl(mut self, min: Duration, max: Duration) -> Self {
        (self.min_ttl, self.max_ttl) = (min, max);
        self
    }
}

impl Default for Sessions {
    fn default() -> Self {
        let name = || "agentkey".to_owned();
        Self {
            service: Service { issuer: name(), audience: name() },
            algorithm: SessionAlgorithm::default(),
            keys: None,
            min_ttl: Duration::from_secs(60),
            max_ttl: Duration::from_secs(24 * 60 * 60),
        }
    }
}
