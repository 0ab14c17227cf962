//! `AgentKeys`: the handle through which the application's own code reaches keys and money.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
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
use crate::engine::renewals::Renewals;
#[cfg(feature = "sessions")]
use crate::engine::sessions::{Sessions, state::SessionState};
#[cfg(feature = "self-serve")]
use crate::ledger::CallerRules;
use crate::ledger::{AccountChange, KeyChange, KeyDraft, LeftOut, NewToken, Rules};
use crate::model::key::Owner;
use crate::model::{
    Account, AccountId, Budget, ChangeError, Grace, Key, KeyId, KeyPatch, Lineage, NewKey, Refusal,
    Token, TokenHash,
};
use crate::store::{AccountQuery, Found, KeyQuery, Store, StoreResult, unwinding};

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
    inner: Arc<Inner>,
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
    #[cfg(feature = "sessions")]
    pub(crate) sessions: Option<Arc<SessionState>>,
    tasks: Vec<AbortHandle>,
}

/// A key that was just created or rotated, with its token, which is never shown again.
///
/// Its serialised form contains the secret: it is the answer that shows the token once.
#[derive(Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Created {
    /// The record.
    pub key: Key,
    /// The secret.
    #[serde(with = "exposed")]
    pub token: Token,
}

/// Serialises a token with its secret, for the one answer that shows it.
mod exposed {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::model::Token;

    pub(super) fn serialize<S: Serializer>(
        token: &Token,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(token.expose())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Token, D::Error> {
        Token::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
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
        let sweeps = metrics.store.sweep.clone();
        let sweeping =
            tokio::spawn(sweep(store.clone(), last_used.clone(), options.sweep_interval, sweeps));
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
                #[cfg(feature = "sessions")]
                sessions,
                tasks,
            }),
        })
    }

    pub(crate) fn from_inner(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Creates a key. Its token is in the answer and nowhere else.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where a field is out of bounds or outside the parent's, or the parent is
    /// not in force. [`Error::Store`] where the store does not answer.
    pub async fn create(&self, new: NewKey) -> Result<Created, Error> {
        let (account, parent) = self.owner_of(&new).await?;
        let prefix = new.prefix.as_ref().unwrap_or(&self.inner.options.prefix);
        let token = Token::generate(prefix)?;
        let draft = KeyDraft::new(account, parent, new);
        let change = KeyChange::Create { draft, token: NewToken::from_token(&token) };
        Ok(Created { key: self.change_key(change).await?, token })
    }

    /// Returns the account of a new key, and its parent.
    pub(super) async fn owner_of(&self, new: &NewKey) -> Result<(AccountId, Option<KeyId>), Error> {
        match &new.owner {
            Owner::Account(account) => Ok((account.clone(), None)),
            Owner::Parent(parent) => {
                let lineage = self.find_by_id(*parent).await?;
                let lineage = lineage.ok_or(ChangeError::UnknownKey(*parent))?;
                Ok((lineage.account_id().clone(), Some(*parent)))
            }
        }
    }

    /// Creates an account with a ceiling over all its keys together, and returns it.
    ///
    /// An account that exists is returned as it is: every instance may call this when it starts.
    /// Its ceiling is changed by [`set_account_budget`](Self::set_account_budget) alone. An account
    /// that its first key has created has no ceiling.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where the limit is negative; [`Error::Store`] where the store does not
    /// answer.
    pub async fn ensure_account(
        &self,
        account: AccountId,
        budget: Budget,
    ) -> Result<Account, Error> {
        self.change_account(&account, AccountChange::Ensure(budget)).await
    }

    /// Sets the ceiling of an account. What its keys have spent and hold stays.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where the limit is negative, or there is no such account; [`Error::Store`]
    /// where the store does not answer.
    pub async fn set_account_budget(
        &self,
        account: &AccountId,
        budget: Budget,
    ) -> Result<Account, Error> {
        self.change_account(account, AccountChange::SetBudget(budget)).await
    }

    /// Returns an account, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] where the store does not answer.
    pub async fn account(&self, account: &AccountId) -> Result<Option<Account>, Error> {
        self.with_store(|store| store.account(account)).await
    }

    /// Returns a page of accounts, in the order of their ids.
    ///
    /// In an adopted table, an account is there from its first charge, or from its first change
    /// through this crate.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where the limit of the query is not 1 to 1,000; [`Error::Store`] where the
    /// store does not answer.
    pub async fn accounts(&self, query: &AccountQuery) -> Result<Page<Account, AccountId>, Error> {
        let limit = page_limit(query.limit)?;
        let query = AccountQuery { limit: limit + 1, ..query.clone() };
        let items = self.with_store(|store| store.accounts(&query)).await?;
        Ok(Page::cut(items, limit, |account| account.id.clone()))
    }

    /// Returns a stream of accounts over all pages. The limit of the query is the size of a page.
    ///
    /// The stream ends with the first error.
    ///
    /// ```
    /// use agentkey::store::AccountQuery;
    /// use agentkey::{AgentKeys, Budget, MemoryStore};
    /// use futures_util::TryStreamExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = AgentKeys::new(MemoryStore::new())?;
    /// keys.ensure_account("acme".parse()?, Budget::unlimited()).await?;
    /// let accounts: Vec<_> = keys.account_stream(AccountQuery::all()).try_collect().await?;
    /// assert_eq!(accounts[0].id.as_str(), "acme");
    /// # Ok(()) }
    /// ```
    pub fn account_stream(&self, query: AccountQuery) -> PageStream<Account, AccountId> {
        let keys = self.clone();
        PageStream::new(query.after.clone(), move |after| {
            let (keys, query) = (keys.clone(), AccountQuery { after, ..query.clone() });
            Box::pin(async move { keys.accounts(&query).await })
        })
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

    /// Changes a key. The change is in force from the next request on.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where a field is out of bounds or outside the parent's, or the key is
    /// revoked. [`Error::Store`] where the store does not answer.
    pub async fn update(&self, key: KeyId, patch: KeyPatch) -> Result<Key, Error> {
        self.change_key(KeyChange::Update { key, patch }).await
    }

    /// Disables a key and its descendants, which are refused from the next request on, until it is
    /// [enabled](Self::enable) again.
    ///
    /// Its money and its holds stay, and charges that run go on.
    ///
    /// # Errors
    ///
    /// As for [`update`](Self::update).
    pub async fn disable(&self, key: KeyId) -> Result<Key, Error> {
        self.update(key, KeyPatch::new().disabled(true)).await
    }

    /// Enables a key that was disabled. One that is not stays as it is.
    ///
    /// # Errors
    ///
    /// As for [`update`](Self::update).
    pub async fn enable(&self, key: KeyId) -> Result<Key, Error> {
        self.update(key, KeyPatch::new().disabled(false)).await
    }

    /// Gives a key another token. Its id, policy, balance and children stay.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where there is no such key, or it is revoked; [`Error::Store`] where the
    /// store does not answer.
    pub async fn rotate(&self, key: KeyId, grace: Grace) -> Result<Created, Error> {
        let old = self.find_by_id(key).await?.ok_or(ChangeError::UnknownKey(key))?;
        let own: Option<crate::model::TokenPrefix> = old.key().prefix.parse().ok();
        let token = Token::generate(own.as_ref().unwrap_or(&self.inner.options.prefix))?;
        let change = KeyChange::Rotate { key, token: NewToken::from_token(&token), grace: grace.0 };
        Ok(Created { key: self.change_key(change).await?, token })
    }

    /// Ends the tokens of a key that were rotated away and are still in their [`Grace`]. They are
    /// refused from the next request on; the key and its current token stay.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where there is no such key; [`Error::Store`] where the store does not answer.
    pub async fn end_grace(&self, key: KeyId) -> Result<Key, Error> {
        self.change_key(KeyChange::EndGrace { key }).await
    }

    /// Revokes a key and its descendants, which are refused from the next request on. A second
    /// revocation changes nothing.
    ///
    /// The key keeps the `reason`, of up to 255 characters: [`Key::revoked_reason`].
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where there is no such key, or the reason is too long; [`Error::Store`]
    /// where the store does not answer.
    pub async fn revoke(&self, key: KeyId, reason: Option<&str>) -> Result<Key, Error> {
        self.change_key(KeyChange::Revoke { key, reason: reason.map(str::to_owned) }).await
    }

    /// Revokes a key as [`revoke`](Self::revoke) does, if it is of this account.
    ///
    /// It is for an id that a client names: no key of another account is revoked.
    ///
    /// # Errors
    ///
    /// As for [`revoke`](Self::revoke). A key of another account is unknown.
    pub async fn revoke_in(
        &self,
        account: &AccountId,
        key: KeyId,
        reason: Option<&str>,
    ) -> Result<Key, Error> {
        // The account of a key never changes.
        let found = self.find_by_id(key).await?.filter(|found| found.account_id() == account);
        found.ok_or(ChangeError::UnknownKey(key))?;
        self.revoke(key, reason).await
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

    /// Waits until every open charge is posted, refuses new ones, and closes the store.
    ///
    /// Call it after the server has shut down gracefully. It has no time limit: it waits for each
    /// [`Charge`](crate::Charge) that the application keeps, and so for each response that streams.
    /// [`shutdown_within`](Self::shutdown_within) has a limit.
    pub async fn shutdown(&self) {
        self.inner.open_charges.close().await;
        self.inner.batches.drain().await;
        self.close_store().await;
    }

    /// Does what [`shutdown`](Self::shutdown) does, and ends the charges that are still open at the
    /// bound.
    ///
    /// At the bound, each open charge is settled:
    ///
    /// - It is charged what was added, or the whole hold where
    ///   [`OnInterrupt`](crate::http::OnInterrupt) says so.
    /// - A response without a head becomes a 503, and the body of a response ends with an error. So
    ///   the client sees that the response was cut off.
    /// - A hold or a payment that its handles still ask for is refused as unavailable. What they
    ///   still add is posted if the store is open, and otherwise logged, for
    ///   [`settle_as`](Self::settle_as).
    ///
    /// It returns when these settles are answered: at once while the store works, and after
    /// [`settle_timeout`](crate::Builder::settle_timeout) while it does not. Charges that could not
    /// be posted are logged.
    ///
    /// Call it when the server begins its graceful shutdown, which waits for the bodies that are
    /// ended here. New charges are refused with 503 from the call on.
    ///
    /// ```
    /// # #[cfg(feature = "axum")] mod serving {
    /// use std::time::Duration;
    ///
    /// async fn serve(app: axum::Router, keys: agentkey::AgentKeys) -> std::io::Result<()> {
    ///     let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    ///     let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    ///     let server = axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) });
    ///     let server = tokio::spawn(async { server.await });
    ///
    ///     tokio::signal::ctrl_c().await?;
    ///     drop(stop); // the server accepts no more connections
    ///     keys.shutdown_within(Duration::from_secs(20)).await;
    ///     // A client that does not read keeps its connection, and so the server.
    ///     drop(tokio::time::timeout(Duration::from_secs(5), server).await);
    ///     Ok(())
    /// }
    /// # }
    /// ```
    pub async fn shutdown_within(&self, bound: Duration) {
        let Inner { open_charges, batches, options, .. } = &*self.inner;
        if timeout(bound, open_charges.close()).await.is_err() {
            open_charges.cut_off();
            open_charges.close().await;
        }
        batches.drain().await;
        // A store that hangs must not keep the process.
        if timeout(options.batches.timeout(), self.close_store()).await.is_err() {
            tracing::warn!("agentkey could not close the store in time");
        }
    }

    async fn close_store(&self) {
        self.inner.stop_tasks();
        self.inner.last_used.write(&*self.inner.store).await;
        self.inner.store.close().await;
    }

    /// Creates a key for a caller that is not the application's own code.
    #[cfg(feature = "self-serve")]
    pub(crate) async fn create_as(
        &self,
        caller: CallerRules,
        draft: KeyDraft,
    ) -> Result<Created, Error> {
        let token = Token::generate(&self.inner.options.prefix)?;
        let change = KeyChange::Create { draft, token: NewToken::from_token(&token) };
        Ok(Created { key: self.change_key_as(caller, &change).await?, token })
    }

    /// Gives a key another token for a caller. `old` is the key as it was read before.
    #[cfg(feature = "self-serve")]
    pub(crate) async fn rotate_as(
        &self,
        caller: CallerRules,
        old: &Key,
        grace: Grace,
    ) -> Result<Created, Error> {
        let own: Option<crate::model::TokenPrefix> = old.prefix.parse().ok();
        let token = Token::generate(own.as_ref().unwrap_or(&self.inner.options.prefix))?;
        let (key, new) = (old.id, NewToken::from_token(&token));
        let change = KeyChange::Rotate { key, token: new, grace: grace.0 };
        Ok(Created { key: self.change_key_as(caller, &change).await?, token })
    }

    /// Changes a key for a caller that is not the application's own code.
    #[cfg(feature = "self-serve")]
    pub(crate) async fn change_key_as(
        &self,
        caller: CallerRules,
        change: &KeyChange,
    ) -> Result<Key, Error> {
        let rules = Rules { caller: Some(caller), ..self.inner.rules.clone() };
        self.change_key_by(change, &rules).await
    }

    async fn change_account(
        &self,
        account: &AccountId,
        change: AccountChange,
    ) -> Result<Account, Error> {
        let changed = self.change_store(|store| store.change_account(account, change)).await??;
        if let AccountChange::SetBudget(_) = change {
            tracing::info!(%account, "agentkey set the ceiling of an account");
        }
        Ok(changed)
    }

    async fn change_key(&self, change: KeyChange) -> Result<Key, Error> {
        self.change_key_by(&change, &self.inner.rules).await
    }

    pub(crate) async fn change_key_by(
        &self,
        change: &KeyChange,
        rules: &Rules,
    ) -> Result<Key, Error> {
        let key = self.change_store(|store| store.change_key(change, rules)).await??;
        let done = match change {
            KeyChange::Create { .. } => "created",
            KeyChange::EnsureSubject { .. } => "ensured",
            KeyChange::Update { .. } => "updated",
            KeyChange::Rotate { .. } => "rotated",
            KeyChange::EndGrace { .. } => "ended the grace of",
            KeyChange::Revoke { .. } => "revoked",
        };
        let parent = key.parent.map(tracing::field::display);
        tracing::info!(key = %key.id, account = %key.account, parent, "agentkey {done} a key");
        Ok(key)
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

impl KeyDraft {
    /// Returns a draft of a key with this owner, whatever owner `new` has.
    pub(crate) fn new(account: AccountId, parent: Option<KeyId>, new: NewKey) -> Self {
        Self {
            account,
            parent,
            name: new.name,
            scopes: new.scopes,
            budget: new.budget,
            rate_limit: new.rate_limit,
            allowed_cidrs: new.allowed_cidrs,
            delegated_by: new.delegated_by,
            metadata: new.metadata,
            expiry: new.expiry,
            left_out: LeftOut::default(),
        }
    }
}

impl NewToken {
    fn from_token(token: &Token) -> Self {
        Self {
            hash: token.hash(),
            prefix: token.prefix().to_owned(),
            start: token.start().to_owned(),
        }
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

    pub(crate) fn has_foreign_tokens(&self) -> bool {
        self.store.has_foreign_tokens()
    }

    fn stop_tasks(&self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop_tasks();
    }
}

/// Ends expired holds in accounts without requests, and writes when keys were last used, once per
/// interval.
async fn sweep(
    store: Arc<dyn Store>,
    last_used: Arc<LastUsed>,
    interval: Duration,
    sweeps: StoreCalls,
) {
    loop {
        tokio::time::sleep(interval).await;
        last_used.write(&*store).await;
        match sweeps.observe(unwinding(|| store.sweep())).await {
            Ok(0) => {}
            Ok(holds) => tracing::debug!(holds, "agentkey ended expired holds"),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "agentkey could not end expired holds; the next sweep tries again"
            ),
        }
    }
}
