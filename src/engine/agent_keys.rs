//! `AgentKeys`: the handle through which the application's own code reaches keys and money.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::engine::batch::Batches;
use crate::engine::build_error::BuildError;
use crate::engine::error::Error;
use crate::engine::last_used::LastUsed;
use crate::engine::metrics::{Metrics, StoreCalls};
use crate::engine::open_charges::OpenCharges;
use crate::engine::options::Options;
use crate::engine::page::{Page, PageStream, page_limit};
use crate::engine::rate_limits::RateLimits;
use crate::engine::refusals::Refusals;
use crate::engine::renewals::Renewals;
#[cfg(feature = "sessions")]
use crate::engine::sessions::{Sessions, state::SessionState};
use crate::engine::sweeper::Sweeper;
use crate::ledger::Rules;
use crate::model::{Key, KeyId, Lineage, Origin, Refusal, Token, TokenHash};
use crate::store::{Found, KeyQuery, Store, StoreResult, unwinding};

/// The handle to the keys of a service. It creates, finds, changes and revokes keys, and
/// [`AgentKeyLayer`] looks keys up through it.
///
/// Clones are cheap and share one handle. It must be built inside a tokio runtime, which runs its
/// tasks.
///
/// ```
/// use agentkey::{AgentKeys, Amount, Budget, NewKey, ScopeSet};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # #[cfg(feature = "sqlite")] {
/// let keys = AgentKeys::in_memory().await?;
/// keys.ensure_account("acme".parse()?, Budget::monthly(Amount::units(100))).await?;
///
/// let created = keys
///     .create(
///         NewKey::new("acme".parse()?)
///             .name("crawler")
///             .scopes(ScopeSet::parse(["read", "proxy.*"])?)
///             .budget(Budget::monthly(Amount::units(20)))
///             .expires_in("30d".parse()?),
///     )
///     .await?;
/// println!("the token, shown once: {}", created.token.expose());
///
/// keys.revoke(created.key.id, None).await?;
/// keys.shutdown().await;
/// # }
/// # Ok(()) }
/// ```
///
/// [`AgentKeyLayer`]: crate::AgentKeyLayer
#[derive(Clone, Debug)]
pub struct AgentKeys {
    pub(super) inner: Arc<Inner>,
    /// Who acts through this handle.
    pub(super) origin: Arc<Origin>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    store: Arc<dyn Store>,
    pub(crate) batches: Batches,
    pub(crate) open_charges: Arc<OpenCharges>,
    pub(crate) renewals: Arc<Renewals>,
    pub(crate) rate_limits: RateLimits,
    pub(crate) options: Options,
    pub(crate) rules: Rules,
    pub(crate) last_used: Arc<LastUsed>,
    pub(crate) metrics: Metrics,
    pub(crate) refusals: Arc<Refusals>,
    #[cfg(feature = "sessions")]
    pub(crate) sessions: Option<Arc<SessionState>>,
    tasks: Vec<AbortHandle>,
}

impl AgentKeys {
    /// Starts the tasks of a handle on the current runtime.
    pub(crate) fn start(
        store: Arc<dyn Store>,
        options: Options,
        rules: Rules,
        #[cfg(feature = "sessions")] sessions: Option<Sessions>,
    ) -> Result<Self, BuildError> {
        tokio::runtime::Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        let metrics = Metrics::register();
        let batches = Batches::start(&store, options.batches, &metrics);
        let gauge = metrics.open_charges.clone();
        let open_charges =
            Arc::new(OpenCharges::new(options.open_charges, options.max_hold_age, gauge));
        let renewals = Arc::new(Renewals::default());
        let renewing = tokio::spawn(Renewals::run(renewals.clone()));
        let last_used = Arc::new(LastUsed::default());
        let refusals = Arc::new(Refusals::default());
        let sweeper = Sweeper {
            store: store.clone(),
            last_used: last_used.clone(),
            refusals: refusals.clone(),
            calls: metrics.store.sweep.clone(),
        };
        let sweeping = tokio::spawn(sweeper.run(options.sweep_interval));
        let mut tasks = vec![renewing.abort_handle(), sweeping.abort_handle()];
        tasks.extend(metrics.settles.keep_age().map(|task| tokio::spawn(task).abort_handle()));
        #[cfg(feature = "sessions")]
        let sessions = sessions.map(|sessions| {
            let state = SessionState::new(sessions, store.clone(), options.batches.timeout());
            let state = Arc::new(state);
            tasks.push(tokio::spawn(state.clone().keep_loaded()).abort_handle());
            state
        });
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                batches,
                open_charges,
                renewals,
                rate_limits: RateLimits::new(options.shared_rate_limits),
                options,
                rules,
                last_used,
                metrics,
                refusals,
                #[cfg(feature = "sessions")]
                sessions,
                tasks,
            }),
            origin: Arc::default(),
        })
    }

    pub(crate) fn from_inner(inner: Arc<Inner>) -> Self {
        Self { inner, origin: Arc::default() }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Returns the rules of a change through this handle.
    pub(crate) fn rules(&self) -> Rules {
        Rules { origin: (*self.origin).clone(), ..self.inner.rules.clone() }
    }

    /// Returns the key with this token, in force or not. See [`Lineage::check_active`].
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] where the token of a session is not valid or has expired. [`Error::Refused`] with [`Refusal::Unavailable`] where the store does not answer.
    pub async fn find(&self, token: &Token) -> Result<Option<Lineage>, Error> {
        Ok(self.look_up(token).await?.map(|found| found.lineage.clone()))
    }

    pub(crate) async fn look_up(&self, token: &Token) -> Result<Option<Arc<Found>>, Refusal> {
        let hash = match self.inner.is_session_token(token.expose()) {
            true => self.inner.verify_session(token.expose()).await?,
            false => token.hash(),
        };
        match self.inner.batches.try_find_cached(&hash) {
            Some(found) => Ok(Some(found)),
            None => self.inner.batches.find(hash).await,
        }
    }

    /// Returns the key with this id, in force or not.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] where the store does not answer.
    pub async fn find_by_id(&self, key: KeyId) -> Result<Option<Lineage>, Error> {
        self.with_store(|store| store.lineage(key)).await
    }

    /// Returns keys with their ancestors, each at the place of its id, in one look-up.
    #[cfg(feature = "self-serve")]
    pub(crate) async fn find_by_ids(&self, keys: &[KeyId]) -> Result<Vec<Option<Lineage>>, Error> {
        self.with_store(|store| store.lineages(keys)).await
    }

    /// Returns a page of keys: those of an account, or those minted directly from a key.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where the limit of the query is not 1 to 1,000; [`Error::Store`] where the
    /// store does not answer.
    pub async fn keys(&self, query: &KeyQuery) -> Result<Page<Key, KeyId>, Error> {
        let limit = page_limit(query.limit)?;
        let query = KeyQuery { limit: limit + 1, ..query.clone() };
        let items = self.with_store(|store| store.keys(&query)).await?;
        Ok(Page::cut(items, limit, |key| key.id))
    }

    /// Returns a stream of keys over all pages. The limit of the query is the size of a page.
    ///
    /// The stream ends with the first error.
    pub fn key_stream(&self, query: KeyQuery) -> PageStream<Key, KeyId> {
        let keys = self.clone();
        PageStream::new(query.after, move |after| {
            let (keys, query) = (keys.clone(), KeyQuery { after, ..query.clone() });
            Box::pin(async move { keys.keys(&query).await })
        })
    }

    /// Returns when an [`AgentKeyLayer`](crate::AgentKeyLayer) last let each key through, in the
    /// order of `keys`; `None` for never.
    ///
    /// The time is written once per [`sweep_interval`](crate::Builder::sweep_interval), so the last
    /// seconds may be missing. A killed process loses what it has not written.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] where the store does not answer.
    pub async fn last_used(&self, keys: &[KeyId]) -> Result<Vec<Option<Timestamp>>, Error> {
        self.with_store(|store| store.last_used(keys)).await
    }

    /// Changes something in the store.
    pub(super) async fn change_store<'a, T>(
        &'a self,
        call: impl FnOnce(&'a dyn Store) -> crate::store::BoxFuture<'a, StoreResult<T>>,
    ) -> Result<T, Error> {
        self.observe(&self.inner.metrics.store.change, call).await
    }

    /// Reads something from the store.
    pub(super) async fn with_store<'a, T>(
        &'a self,
        call: impl FnOnce(&'a dyn Store) -> crate::store::BoxFuture<'a, StoreResult<T>>,
    ) -> Result<T, Error> {
        self.observe(&self.inner.metrics.store.read, call).await
    }

    async fn observe<'a, T>(
        &'a self,
        calls: &StoreCalls,
        call: impl FnOnce(&'a dyn Store) -> crate::store::BoxFuture<'a, StoreResult<T>>,
    ) -> Result<T, Error> {
        Ok(calls.observe(unwinding(|| call(&*self.inner.store))).await?)
    }
}

#[cfg(feature = "sessions")]
impl Inner {
    /// Returns whether a text is to be verified as the token of a session.
    pub(crate) fn is_session_token(&self, text: &str) -> bool {
        self.sessions.as_ref().is_some_and(|sessions| sessions.is_own(text))
    }

    /// Verifies the token of a session, and returns the hash that it is looked up by; `None` if the
    /// signing keys are not read yet.
    pub(crate) fn try_verify_session(&self, text: &str) -> Option<Result<TokenHash, Refusal>> {
        self.sessions
            .as_ref()
            .map_or(Some(Err(Refusal::InvalidKey)), |state| state.try_verify(text))
    }

    /// Verifies the token of a session, and returns the hash that it is looked up by.
    pub(crate) async fn verify_session(&self, text: &str) -> Result<TokenHash, Refusal> {
        self.sessions.as_ref().ok_or(Refusal::InvalidKey)?.verify(text).await
    }
}

/// Without the feature, no token is one of a session.
#[cfg(not(feature = "sessions"))]
impl Inner {
    pub(crate) fn is_session_token(&self, _text: &str) -> bool {
        false
    }

    pub(crate) fn try_verify_session(&self, _text: &str) -> Option<Result<TokenHash, Refusal>> {
        Some(Err(Refusal::InvalidKey))
    }

    pub(crate) async fn verify_session(&self, _text: &str) -> Result<TokenHash, Refusal> {
        Err(Refusal::InvalidKey)
    }
}

impl Inner {
    pub(super) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Returns the present time of the store's clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.store.now()
    }

    /// Counts a refusal of a key for the audit trail.
    pub(crate) fn record_refusal(
        &self,
        refusal: &Refusal,
        lineage: &Lineage,
        origin: impl FnOnce() -> Origin,
    ) {
        self.refusals.record(refusal, lineage, self.store.now(), origin);
    }

    pub(crate) fn has_foreign_tokens(&self) -> bool {
        self.store.has_foreign_tokens()
    }

    fn stop_tasks(&self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }

    /// Stops the tasks, and waits until each has given back what it was writing. On a runtime that
    /// nothing drives any more, no task ends.
    pub(super) async fn end_tasks(&self) {
        self.stop_tasks();
        let ended = async {
            while !self.tasks.iter().all(AbortHandle::is_finished) {
                tokio::task::yield_now().await;
            }
        };
        if timeout(Duration::from_secs(1), ended).await.is_err() {
            tracing::warn!("agentkey could not stop its tasks in time");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop_tasks();
    }
}
