//! Charges outside of a request: for workers, webhooks, and services without the layers.

use std::net::IpAddr;
use std::sync::Arc;

use crate::engine::agent_keys::Inner;
use crate::engine::{AgentKeys, Error};
use crate::http::charge::Charge;
use crate::http::charge::state::ChargeState;
use crate::http::context::KeyContext;
use crate::http::limits::check_address;
use crate::http::rejection::Rejection;
use crate::identity::Verified;
use crate::model::{ChangeError, KeyId, Refusal, Subject, Token};
use crate::store::Found;

/// Checks that a key was found, is in force and may be used from an address, and records its use.
fn admit(
    keys: &Inner,
    found: Option<Arc<Found>>,
    address: Option<IpAddr>,
) -> Result<Arc<Found>, Refusal> {
    let found = found.ok_or(Refusal::InvalidKey)?;
    found.lineage.check_active()?;
    check_address(&found.lineage, address)?;
    keys.last_used.record(found.lineage.id(), found.lineage.at());
    Ok(found)
}

impl AgentKeys {
    /// Returns the key with this token, if it is in force: what
    /// [`AgentKeyLayer`](crate::AgentKeyLayer) does for a request.
    ///
    /// It does not check a scope: see [`KeyContext::allows`]. Nor does it charge: see
    /// [`charge`](Self::charge). It counts for no rate limit. A key that may be used from some addresses
    /// only is refused: see [`authorize_from`](Self::authorize_from).
    ///
    /// # Errors
    ///
    /// [`Refusal::InvalidKey`], [`Refusal::RevokedKey`], [`Refusal::ExpiredKey`],
    /// [`Refusal::DisabledKey`] or [`Refusal::AddressNotAllowed`], as for a request.
    /// [`Refusal::Unavailable`] where the store does not answer.
    pub async fn authorize(&self, token: &Token) -> Result<KeyContext, Rejection> {
        let found = self.look_up(token).await?;
        Ok(self.context(admit(self.inner(), found, None)?, None))
    }

    /// Returns the key with this token as [`authorize`](Self::authorize) does, if it may be used from
    /// this address.
    ///
    /// # Errors
    ///
    /// As for [`authorize`](Self::authorize).
    pub async fn authorize_from(
        &self,
        token: &Token,
        address: IpAddr,
    ) -> Result<KeyContext, Rejection> {
        let found = self.look_up(token).await?;
        Ok(self.context(admit(self.inner(), found, Some(address))?, None))
    }

    /// Returns the key with this id, if it is in force: for work that was queued with the id of its
    /// key, and not with the token. From where the key may be used is not asked.
    ///
    /// # Errors
    ///
    /// As for [`authorize`](Self::authorize), and [`Refusal::UnknownKey`] where there is no such
    /// key.
    pub async fn authorize_by_id(&self, key: KeyId) -> Result<KeyContext, Rejection> {
        let lineage =
            self.find_by_id(key).await?.ok_or(Error::from(ChangeError::UnknownKey(key)))?;
        let found = Arc::new(Found::new(lineage, None));
        found.lineage.check_active()?;
        self.inner().last_used.record(found.lineage.id(), found.lineage.at());
        Ok(self.context(found, None))
    }

    /// Returns the key of a subject, if it is in force: for a service that has verified who calls.
    ///
    /// It does not create one: see [`ensure_subject`](Self::ensure_subject). A key that may be used from
    /// some addresses only is refused.
    ///
    /// # Errors
    ///
    /// As for [`authorize`](Self::authorize). [`Refusal::InvalidKey`] where the subject has no key.
    pub async fn authorize_subject(&self, subject: &Subject) -> Result<KeyContext, Rejection> {
        let found = self.inner().look_up_subject(subject).await?;
        Ok(self.context(admit(self.inner(), found, None)?, None))
    }

    /// Begins a charge of a key outside of a request, or beside one.
    ///
    /// It is a [`Charge`] as in a handler, except that no response ends it.
    /// [`Charge::settle`] ends it and waits for the commit. If it is dropped, it is settled too,
    /// without a wait. Each call begins a charge of its own, and a context may be kept: whether the
    /// key is still in force and has something left is asked here.
    ///
    /// The charge has no `Idempotency-Key`, so work that is done twice is charged twice.
    ///
    /// ```
    /// use agentkey::{AgentKeys, Amount, Budget, MemoryStore, NewKey, Rejection, Token};
    ///
    /// async fn transcribe(keys: &AgentKeys, token: &Token) -> Result<(), Rejection> {
    ///     let key = keys.authorize(token).await?; // refused here if it is not in force
    ///     let charge = keys.charge(&key).await?; // and here if nothing is left
    ///     charge.hold(Amount::cents(50)).await?;
    ///     charge.label("job", "transcribe")?;
    ///     charge.add(Amount::cents(12)); // what the work cost
    ///     charge.settle().await?; // committed
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = AgentKeys::new(MemoryStore::new())?;
    /// let new = NewKey::new("acme".parse()?).budget(Budget::monthly(Amount::cents(60)));
    /// let created = keys.create(new).await?;
    ///
    /// transcribe(&keys, &created.token).await?;
    /// assert_eq!(keys.authorize(&created.token).await?.remaining(), Some(Amount::cents(48)));
    /// let refused = transcribe(&keys, &created.token).await.unwrap_err();
    /// assert_eq!(refused.refusal().code(), "budget_exceeded");
    /// # keys.shutdown().await;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Refusal::BudgetExceeded`] where the key has nothing left. [`Refusal::RevokedKey`],
    /// [`Refusal::ExpiredKey`] or [`Refusal::DisabledKey`] where it is not in force any more, or the
    /// credential of its context has expired.
    /// [`Refusal::Unavailable`] where the store does not answer, or too many charges [are
    /// open](crate::Builder::max_open_charges_per_account).
    pub async fn charge(&self, key: &KeyContext) -> Result<Charge, Rejection> {
        let verified = key.shared_verified().cloned();
        if verified.as_ref().and_then(|it| it.expires_at).is_some_and(|at| at <= self.inner().now())
        {
            return Err(Refusal::ExpiredKey.into());
        }
        Charge::begin(&self.context(key.found().clone(), verified)).await
    }

    /// Returns the context of a key, with a charge that no response ends.
    fn context(&self, found: Arc<Found>, verified: Option<Arc<Verified>>) -> KeyContext {
        let state = ChargeState::outside(self.inner().clone(), found.clone());
        KeyContext::new(found, Arc::new(state), Arc::default(), verified)
    }
}
