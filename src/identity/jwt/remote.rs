//! The keys of an issuer that publishes them: fetched, cached and refreshed.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Url;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::key_set::{Finding, KeySet};
use super::token::Token;
use crate::identity::build::issuer_url;
use crate::identity::claims::invalid;
use crate::identity::fetch::{FetchError, Fetcher};
use crate::identity::verifier::VerifyError;
use crate::model::clock::Clock;

/// The most bytes of a key set: 10,000 RSA keys are fewer.
const MAX_KEYS_LEN: usize = 8 * 1024 * 1024;
/// The most bytes of a discovery document.
const MAX_METADATA_LEN: usize = 256 * 1024;

/// Where the keys are.
#[derive(Clone, Debug)]
pub(super) enum Endpoint {
    Keys(Url),
    /// The document of OpenID Connect Discovery 1.0 §4 or RFC 8414 §3, which says where the keys are.
    Metadata(Url),
}

/// When keys are fetched, and how long they are used.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    pub(super) refresh_every: Duration,
    /// The least time between two fetches.
    pub(super) cooldown: Duration,
    /// The same after a fetch that failed.
    pub(super) retry: Duration,
    pub(super) stale_for: Duration,
    pub(super) timeout: Duration,
}

/// The keys of one issuer. Clones share them.
#[derive(Clone)]
pub(super) struct RemoteKeys(Arc<Shared>);

struct Shared {
    issuer: String,
    endpoint: Endpoint,
    allow_loopback: bool,
    fetcher: Fetcher,
    schedule: Schedule,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last keys that were fetched, and when their fetch began.
    keys: Option<(Arc<KeySet>, Timestamp)>,
    /// When the last fetch began.
    attempted_at: Option<Timestamp>,
    has_failed: bool,
    /// Closed when the fetch has ended.
    in_flight: Option<watch::Receiver<()>>,
}

impl RemoteKeys {
    pub(super) fn new(
        issuer: String,
        endpoint: Endpoint,
        allow_loopback: bool,
        fetcher: Fetcher,
        schedule: Schedule,
        clock: Clock,
    ) -> Self {
        let state = Mutex::default();
        let shared = Shared { issuer, endpoint, allow_loopback, fetcher, schedule, clock, state };
        Self(Arc::new(shared))
    }

    /// Checks that the issuer signed a token.
    ///
    /// Keys that are known are used at once. A token that they do not decide waits for one fetch,
    /// unless there was one within the cooldown.
    pub(super) async fn check(&self, token: &Token<'_>) -> Result<(), VerifyError> {
        match self.usable_keys().map(|keys| keys.find(token)) {
            Some(Finding::Signed) => return Ok(()),
            Some(Finding::Forged) => return Err(invalid("its signature is wrong")),
            Some(Finding::Unknown) | None => {}
        }
        if let Some(mut fetch) = self.fetch_unless_recent() {
            // It is closed at the end, and never sent to.
            while fetch.changed().await.is_ok() {}
        }
        match self.usable_keys().map(|keys| keys.find(token)) {
            Some(Finding::Signed) => Ok(()),
            Some(Finding::Forged) => Err(invalid("its signature is wrong")),
            Some(Finding::Unknown) if !self.state().has_failed => {
                Err(invalid("no key of its issuer signed it"))
            }
            Some(Finding::Unknown) | None => Err(VerifyError::Unavailable {
                reason: format!("the keys of {} cannot be fetched", self.0.issuer),
                retry_after: self.0.schedule.retry,
            }),
        }
    }

    /// Returns the keys unless they are too old, and has them refreshed where they are due.
    fn usable_keys(&self) -> Option<Arc<KeySet>> {
        let (keys, fetched_at) = self.state().keys.clone()?;
        let age = since(fetched_at, self.0.clock.now());
        if age >= self.0.schedule.refresh_every {
            self.fetch_unless_recent();
        }
        (age < self.0.schedule.stale_for).then_some(keys)
    }

    /// Begins a fetch, unless one is under way or there was one too recently. Returns the one that is
    /// under way.
    fn fetch_unless_recent(&self) -> Option<watch::Receiver<()>> {
        let now = self.0.clock.now();
        let mut state = self.state();
        if let Some(fetch) = state.in_flight.as_ref().filter(|fetch| fetch.has_changed().is_ok()) {
            return Some(fetch.clone());
        }
        let schedule = &self.0.schedule;
        let pause = if state.has_failed { schedule.retry } else { schedule.cooldown };
        // An attempt in the future is one before the clock was set back.
        let is_recent = |at: Timestamp| at <= now && since(at, now) < pause;
        if state.attempted_at.is_some_and(is_recent) {
            return None;
        }
        let runtime = Handle::try_current().ok()?;
        let (end, fetch) = watch::channel(());
        state.attempted_at = Some(now);
        state.in_flight = Some(fetch.clone());
        drop(state);
        // A task of its own, which no client that leaves can end.
        let shared = self.clone();
        runtime.spawn(async move {
            shared.fetch(now).await;
            drop(end);
        });
        Some(fetch)
    }

    async fn fetch(&self, now: Timestamp) {
        let timeout = self.0.schedule.timeout;
        let fetched = tokio::time::timeout(timeout, self.0.fetch()).await;
        let fetched = fetched.unwrap_or_else(|_| {
            Err(FetchError::Unreadable(format!("it did not answer within {timeout:?}")))
        });
        let mut state = self.state();
        state.has_failed = fetched.is_err();
        match fetched {
            Ok(keys) => state.keys = Some((Arc::new(keys), now)),
            Err(error) => {
                drop(state);
                tracing::warn!(issuer = self.0.issuer, %error, "the keys of an issuer are not fetched");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    async fn fetch(&self) -> Result<KeySet, FetchError> {
        let url = match &self.endpoint {
            Endpoint::Keys(url) => url.clone(),
            Endpoint::Metadata(url) => self.keys_url(url).await?,
        };
        let body = self.fetcher.get(&url, MAX_KEYS_LEN).await?;
        let issuer = self.issuer.clone();
        // A large set takes a while, in which the runtime's threads serve others.
        let parsed = tokio::task::spawn_blocking(move || KeySet::parse(&issuer, &body)).await;
        let unreadable =
            |error: &dyn fmt::Display| FetchError::Unreadable(format!("its keys: {error}"));
        let keys =
            parsed.map_err(|error| unreadable(&error))?.map_err(|error| unreadable(&error))?;
        match keys.is_empty() {
            true => Err(unreadable(&"none of them can be used")),
            false => Ok(keys),
        }
    }

    async fn keys_url(&self, metadata: &Url) -> Result<Url, FetchError> {
        #[derive(Deserialize)]
        struct Metadata {
            issuer: String,
            jwks_uri: String,
        }
        let body = self.fetcher.get(metadata, MAX_METADATA_LEN).await?;
        let unreadable = |reason: String| FetchError::Unreadable(format!("its metadata: {reason}"));
        let metadata: Metadata =
            serde_json::from_slice(&body).map_err(|error| unreadable(error.to_string()))?;
        if metadata.issuer != self.issuer {
            return Err(unreadable("they are of another issuer".to_owned()));
        }
        issuer_url(&metadata.jwks_uri, self.allow_loopback)
            .map_err(|error| unreadable(error.to_string()))
    }
}

/// Returns how long ago `at` was. An instant in the future is now.
fn since(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(at)).unwrap_or_default()
}
