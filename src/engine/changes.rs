//! Changes of keys: creating, changing, rotating and revoking them.

use crate::engine::agent_keys::AgentKeys;
use crate::engine::created::Created;
use crate::engine::error::Error;
#[cfg(feature = "self-serve")]
use crate::ledger::CallerRules;
use crate::ledger::{KeyChange, KeyDraft, NewToken, Rules};
use crate::model::key::Owner;
use crate::model::{AccountId, ChangeError, Grace, Key, KeyId, KeyPatch, NewKey, Token};

impl AgentKeys {
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
        let rules = Rules { caller: Some(caller), ..self.rules() };
        self.change_key_by(change, &rules).await
    }

    pub(super) async fn change_key(&self, change: KeyChange) -> Result<Key, Error> {
        self.change_key_by(&change, &self.rules()).await
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
}
