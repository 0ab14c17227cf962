//! Opening and ending sessions.

use std::time::Duration;

use jiff::Timestamp;

use super::jwt::TokenSecret;
use super::signing_key::SigningKey;
use super::state::SessionState;
use crate::engine::agent_keys::AgentKeys;
use crate::engine::error::Error;
#[cfg(feature = "self-serve")]
use crate::ledger::CallerRules;
use crate::ledger::{KeyChange, KeyDraft, LeftOut, NewToken, Rules};
use crate::model::key::Expiry;
use crate::model::{
    Amount, Budget, ChangeError, Key, KeyId, Lineage, Metadata, Refusal, ScopeSet, SessionId, Token,
};

/// A session to be opened.
///
/// ```
/// use agentkey::{Amount, ScopeSet};
/// use agentkey::session::NewSession;
/// use std::time::Duration;
///
/// let session = NewSession::new()
///     .scopes(ScopeSet::parse(["read"])?)
///     .ttl(Duration::from_secs(900))
///     .spend_cap(Amount::cents(50));
/// # let _ = session; Ok::<(), agentkey::model::ScopeError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a `NewSession` is opened by `AgentKeys::open_session`"]
pub struct NewSession {
    scopes: Option<ScopeSet>,
    ttl: Option<Duration>,
    spend_cap: Option<Amount>,
    name: String,
}

impl NewSession {
    /// Returns a session with the scopes of its parent, for an hour, without a cap of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the session that a request asks for.
    #[cfg(feature = "self-serve")]
    pub(crate) fn of_request(
        scopes: Option<ScopeSet>,
        ttl: Option<Duration>,
        spend_cap: Option<Amount>,
    ) -> Self {
        Self { scopes, ttl, spend_cap, name: String::new() }
    }

    /// Sets what the session may do. Default: what its parent may do.
    pub fn scopes(mut self, scopes: ScopeSet) -> Self {
        self.scopes = Some(scopes);
        self
    }

    /// Sets how long the session lasts. Default: an hour, or the nearest time that is allowed.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets the most that the session may spend. Default: what its parent has left.
    ///
    /// A charge that would cross it is refused, and ends the session. With a cap of zero, the first
    /// charge does.
    pub fn spend_cap(mut self, cap: Amount) -> Self {
        self.spend_cap = Some(cap);
        self
    }

    /// Sets the name for people. Default: empty.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
}

/// A session that was just opened, with its token, which is never shown again.
#[derive(Debug)]
#[non_exhaustive]
pub struct OpenedSession {
    /// The id of the session.
    pub session_id: SessionId,
    /// The record of its key.
    pub key: Key,
    /// The secret: a signed JWT.
    pub token: Token,
    /// The instant from which the session is refused.
    pub expires_at: Timestamp,
    /// What the session may do.
    pub scopes: ScopeSet,
    /// The most that the session may spend, if it has a cap of its own.
    pub spend_cap: Option<Amount>,
}

impl AgentKeys {
    /// Opens a session: a child of the key `parent`, with a signed token and an end.
    ///
    /// [`Builder::sessions`](crate::Builder::sessions) has to be set. A session that would outlive
    /// its parent ends with it.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where a field is out of bounds or beyond the parent's, or the parent is not in
    /// force or a session itself. [`Error::Refused`] with [`Refusal::Misconfigured`] where sessions
    /// are not set up. [`Error::Store`] where the store does not answer.
    pub async fn open_session(
        &self,
        parent: KeyId,
        new: NewSession,
    ) -> Result<OpenedSession, Error> {
        self.open_session_by(parent, new, &self.rules()).await
    }

    /// Opens a session for a caller that is not the application's own code.
    #[cfg(feature = "self-serve")]
    pub(crate) async fn open_session_as(
        &self,
        caller: CallerRules,
        parent: KeyId,
        new: NewSession,
    ) -> Result<OpenedSession, Error> {
        let rules = Rules { caller: Some(caller), ..self.rules() };
        self.open_session_by(parent, new, &rules).await
    }

    /// Checks how long a session may last.
    #[cfg(feature = "self-serve")]
    pub(crate) fn check_session_ttl(&self, ttl: Option<Duration>) -> Result<(), Error> {
        Ok(allowed_ttl(self.session_state()?, ttl).map(drop)?)
    }

    async fn open_session_by(
        &self,
        parent: KeyId,
        new: NewSession,
        rules: &Rules,
    ) -> Result<OpenedSession, Error> {
        let state = self.session_state()?;
        let ttl = allowed_ttl(state, new.ttl)?;
        if new.spend_cap.is_some_and(Amount::is_negative) {
            return Err(ChangeError::invalid("spend_cap", "must not be negative").into());
        }
        let lineage = self.find_by_id(parent).await?.ok_or(ChangeError::UnknownKey(parent))?;
        // A caller's request is completed under the store's lock.
        let (scopes, budget) = (new.scopes.is_none(), new.spend_cap.is_none());
        let left_out = match rules.caller {
            Some(_) => LeftOut { scopes, budget, expiry: false },
            None => LeftOut::default(),
        };
        let admin_scope = rules.admin_scope.as_ref();
        let scopes = new.scopes.unwrap_or_else(|| lineage.scopes(admin_scope));
        let ring = state.loaded().await?;
        let secret = TokenSecret::generate()?;
        let draft = KeyDraft {
            account: lineage.account_id().clone(),
            parent: Some(parent),
            name: new.name,
            scopes,
            budget: new.spend_cap.map_or(Budget::unlimited(), Budget::lifetime),
            rate_limit: None,
            allowed_cidrs: None,
            delegated_by: None,
            metadata: Metadata::default(),
            expiry: Expiry::Within(ttl),
            left_out,
        };
        let prefix = Key::SESSION_PREFIX.to_owned();
        let token = NewToken { hash: secret.hash(), prefix, start: String::new() };
        let change = KeyChange::Create { draft, token };
        let key = self.change_key_by(&change, rules).await?;
        let token = Token::from_session(state.sign(&ring, &key, secret)?);
        Ok(OpenedSession {
            session_id: SessionId::new(key.id),
            token,
            expires_at: key.expires_at.unwrap_or(Timestamp::MAX),
            scopes: key.scopes.clone(),
            spend_cap: key.spend_cap().map(|cap| cap.amount),
            key,
        })
    }

    /// Returns a session, in force or not.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] where the store does not answer.
    pub async fn session(&self, id: SessionId) -> Result<Option<Lineage>, Error> {
        Ok(self.find_by_id(id.key()).await?.filter(|lineage| lineage.key().is_session()))
    }

    /// Ends a session, as [`revoke`](Self::revoke) does. Another key is unknown here.
    ///
    /// # Errors
    ///
    /// As for [`revoke`](Self::revoke).
    pub async fn end_session(&self, id: SessionId, reason: Option<&str>) -> Result<Key, Error> {
        self.session(id).await?.ok_or(ChangeError::UnknownKey(id.key()))?;
        self.revoke(id.key(), reason).await
    }

    /// Adds a signing key to those of the store, and returns its `kid`.
    ///
    /// It signs after five minutes, when every process has read it. Keys whose sessions have all ended
    /// are deleted, so no session is cut off.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where the application has set [keys of its
    /// own](crate::session::Sessions::signing_keys). [`Error::Store`] where the store does not answer.
    pub async fn rotate_signing_key(&self) -> Result<String, Error> {
        let kid = self.session_state()?.rotate().await?;
        tracing::info!(kid, "agentkey added a signing key for sessions");
        Ok(kid)
    }

    /// Reads the signing keys of the store now. Every process does so once in 30 seconds.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] where the store does not answer.
    pub async fn reload_signing_keys(&self) -> Result<(), Error> {
        Ok(self.session_state()?.reload().await?)
    }

    /// Replaces the [keys of the application](crate::session::Sessions::signing_keys) in this process.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where the keys are kept in the store.
    pub fn set_signing_keys(
        &self,
        signing: SigningKey,
        accepted: impl IntoIterator<Item = SigningKey>,
    ) -> Result<(), Error> {
        let keys: Vec<_> = std::iter::once(signing).chain(accepted).collect();
        Ok(self.session_state()?.replace(&keys)?)
    }

    fn session_state(&self) -> Result<&SessionState, Refusal> {
        self.inner().sessions.as_deref().ok_or_else(|| {
            tracing::error!("sessions are off: set `Builder::sessions`");
            Refusal::Misconfigured
        })
    }
}

fn allowed_ttl(state: &SessionState, ttl: Option<Duration>) -> Result<Duration, ChangeError> {
    const DEFAULT: Duration = Duration::from_secs(60 * 60);
    let (min, max) = (state.options.min_ttl, state.options.max_ttl);
    let ttl = ttl.unwrap_or(DEFAULT.clamp(min, max));
    if (min..=max).contains(&ttl) {
        return Ok(ttl);
    }
    let (min, max) = (min.as_secs_f64(), max.as_secs_f64());
    Err(ChangeError::invalid("ttl_seconds", format!("must be from {min} to {max}")))
}
