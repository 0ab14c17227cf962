//! The state of sessions: the signing keys that this process has read.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::jwt::{self, TokenSecret};
use super::options::Sessions;
use super::ring::{KeyRing, PUBLISHED};
use super::signing_key::SigningKey;
use crate::engine::error::Error;
use crate::ledger::NewSigningKey;
use crate::model::{ChangeError, Key, Refusal, SessionId, StoredSigningKey, TokenError, TokenHash};
use crate::store::{Store, StoreError, unwinding};

/// The `kid`s of keys that are made here begin with this.
const KID: &str = "agentkey-";
const RELOAD: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct SessionState {
    pub(super) options: Sessions,
    store: Arc<dyn Store>,
    /// The longest wait for the store.
    timeout: Duration,
    /// `None` until the keys of the store are read.
    ring: RwLock<Option<Arc<KeyRing>>>,
    /// Only one request reads them.
    loading: tokio::sync::Mutex<()>,
}

impl SessionState {
    pub(crate) fn new(options: Sessions, store: Arc<dyn Store>, timeout: Duration) -> Self {
        let ring = options.keys.as_deref().map(KeyRing::of_application).map(Arc::new);
        Self {
            options,
            store,
            timeout,
            ring: RwLock::new(ring),
            loading: tokio::sync::Mutex::default(),
        }
    }

    /// Returns whether a text is a token that a key of this service may have signed.
    pub(crate) fn is_own(&self, text: &str) -> bool {
        jwt::kid_of(text).is_some_and(|kid| match self.has_own_keys() {
            true => self.ring().is_some_and(|ring| ring.named(&kid).next().is_some()),
            false => kid.starts_with(KID),
        })
    }

    /// Verifies a token; `None` if the keys have to be read first.
    pub(crate) fn try_verify(&self, text: &str) -> Option<Result<TokenHash, Refusal>> {
        let ring = self.ring()?;
        match self.verify_with(&ring, text) {
            // A key may have signed it that was not read.
            Err(Refusal::InvalidKey) if ring.is_stale(self.store.now()) => None,
            verified => Some(verified),
        }
    }

    /// Verifies a token, after it has read the keys where that is needed.
    pub(crate) async fn verify(&self, text: &str) -> Result<TokenHash, Refusal> {
        if let Some(verified) = self.try_verify(text) {
            return verified;
        }
        let ring = self.loaded().await.map_err(|error| Refusal::from(Error::from(error)))?;
        self.verify_with(&ring, text)
    }

    fn verify_with(&self, ring: &KeyRing, text: &str) -> Result<TokenHash, Refusal> {
        jwt::verify(&self.options.service, ring, text, self.store.now())
    }

    /// Signs the token of a session that was just made.
    pub(super) fn sign(
        &self,
        ring: &KeyRing,
        key: &Key,
        secret: TokenSecret,
    ) -> Result<Zeroizing<String>, Refusal> {
        let signing = ring.signing(self.options.algorithm, key.created_at);
        let life = (key.created_at, key.expires_at.unwrap_or(Timestamp::MAX));
        let id = SessionId::new(key.id);
        let token =
            signing.map(|signing| jwt::sign(&self.options.service, signing, id, secret, life));
        token.and_then(Result::ok).ok_or_else(|| {
            tracing::error!("agentkey has no key that signs sessions");
            Refusal::Misconfigured
        })
    }

    /// Returns the keys, after it has read them where that is needed.
    pub(super) async fn loaded(&self) -> Result<Arc<KeyRing>, StoreError> {
        let current = || self.ring().filter(|ring| !ring.is_stale(self.store.now()));
        if let Some(ring) = current() {
            return Ok(ring);
        }
        let load = async {
            let _loading = self.loading.lock().await;
            if let Some(ring) = current() {
                return Ok(ring);
            }
            let new = self.new_key(true).map_err(StoreError::failed)?;
            self.exchange(Some(&new)).await
        };
        self.in_time(load).await
    }

    /// Reads the keys again, once per interval.
    pub(crate) async fn keep_loaded(self: Arc<Self>) {
        loop {
            tokio::time::sleep(RELOAD).await;
            if let Err(error) = self.reload().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "agentkey could not read the signing keys of sessions, and tries again"
                );
            }
        }
    }

    /// Reads the keys of the store again, if they were read before.
    pub(super) async fn reload(&self) -> Result<(), StoreError> {
        if !self.has_own_keys() && self.ring().is_some() {
            let reload = async {
                let _loading = self.loading.lock().await;
                self.exchange(None).await
            };
            self.in_time(reload).await?;
        }
        Ok(())
    }

    /// Adds a key to those of the store.
    pub(super) async fn rotate(&self) -> Result<String, Error> {
        if self.has_own_keys() {
            let reason = "are the application's own; set others with `set_signing_keys`";
            return Err(ChangeError::invalid("signing_keys", reason).into());
        }
        // The first key exists before the second, so that it goes on signing.
        self.loaded().await?;
        let new = self.new_key(false)?;
        let add = async {
            let _loading = self.loading.lock().await;
            self.exchange(Some(&new)).await
        };
        self.in_time(add).await?;
        Ok(new.key.kid)
    }

    pub(super) fn replace(&self, keys: &[SigningKey]) -> Result<(), ChangeError> {
        if !self.has_own_keys() {
            let reason = "are kept in the store; change them with `rotate_signing_key`";
            return Err(ChangeError::invalid("signing_keys", reason));
        }
        self.set_ring(KeyRing::of_application(keys));
        Ok(())
    }

    /// Returns whether the keys are the application's.
    fn has_own_keys(&self) -> bool {
        self.options.keys.is_some()
    }

    fn ring(&self) -> Option<Arc<KeyRing>> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_ring(&self, ring: KeyRing) -> Arc<KeyRing> {
        let ring = Arc::new(ring);
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Some(ring.clone());
        ring
    }

    /// Limits the wait for the store: a call that hangs must not keep the keys from being read again.
    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        timeout(self.timeout, call).await.unwrap_or_else(|_| {
            Err(StoreError::unavailable("the signing keys were not read in time"))
        })
    }

    async fn exchange(&self, new: Option<&NewSigningKey>) -> Result<Arc<KeyRing>, StoreError> {
        let read_at = self.store.now();
        let stored = unwinding(|| self.store.signing_keys(new)).await?;
        Ok(self.set_ring(KeyRing::of_store(&stored, read_at)))
    }

    fn new_key(&self, only_if_missing: bool) -> Result<NewSigningKey, TokenError> {
        let (mut secret, mut id) = (Zeroizing::new(vec![0; 32]), [0; 8]);
        getrandom::fill(&mut secret).map_err(|_| TokenError::Random)?;
        getrandom::fill(&mut id).map_err(|_| TokenError::Random)?;
        let key = StoredSigningKey {
            kid: format!("{KID}{:016x}", u64::from_be_bytes(id)),
            algorithm: self.options.algorithm.as_str().to_owned(),
            secret,
            created_at: self.store.now(),
        };
        // After this time, every session has ended that the key before it has signed.
        let keep = PUBLISHED.saturating_mul(2).saturating_add(self.options.max_ttl);
        Ok(NewSigningKey { key, only_if_missing, keep })
    }
}
