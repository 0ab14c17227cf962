//! New keys.

use jiff::Timestamp;

use super::load::Load;
use super::rules::Rules;
use super::tokens::NewToken;
use super::writes::{KeyRecord, KeyWrite};
use crate::ledger::caller::LeftOut;
use crate::ledger::checks::{
    check_budget, check_budget_within, check_cidrs_within, check_delegator, check_expiry_within,
    check_name, check_rate_limit, check_scopes_within, inherit_delegator,
};
use crate::ledger::events;
use crate::model::key::Expiry;
use crate::model::{
    AccountId, Balance, Budget, ChangeError, Cidrs, EventKind, Key, KeyId, Lineage, Metadata,
    NewKey, RateLimit, ScopeSet,
};

/// A key to be created, whose account is loaded.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct KeyDraft {
    pub account: AccountId,
    pub parent: Option<KeyId>,
    pub name: String,
    pub scopes: ScopeSet,
    pub budget: Budget,
    pub rate_limit: Option<RateLimit>,
    pub allowed_cidrs: Option<Cidrs>,
    pub delegated_by: Option<String>,
    pub metadata: Metadata,
    pub(crate) expiry: Expiry,
    /// What a caller's request left out. The application's own code leaves nothing out.
    pub left_out: LeftOut,
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

    pub(super) fn load(&self) -> Load<'_> {
        self.parent.map_or(Load::Time(&self.account), Load::Lineage)
    }

    /// Returns the parent that was loaded, if the key is to have one. It is of the key's account.
    pub(super) fn parent<'l>(
        &self,
        loaded: Option<&'l Lineage>,
    ) -> Result<Option<&'l Lineage>, ChangeError> {
        let Some(id) = self.parent else { return Ok(None) };
        let parent = loaded.filter(|parent| *parent.account_id() == self.account);
        parent.map(Some).ok_or(ChangeError::UnknownKey(id))
    }

    pub(super) fn create(
        &self,
        token: &NewToken,
        parent: Option<&Lineage>,
        children: u64,
        rules: &Rules,
        now: Timestamp,
    ) -> Result<KeyWrite, ChangeError> {
        let expires_at = self.expiry.at(now)?;
        let key = self.key(token, parent, children, rules, now, expires_at)?;
        let kind = match key.is_session() {
            true => EventKind::SessionOpened,
            false => EventKind::KeyCreated,
        };
        let event = events::of_new_key(kind, &key, parent, now, events::fields(&key).into());
        Ok(KeyWrite { key, at: now, record: Some((KeyRecord::Insert(token.hash), event)) })
    }

    /// Returns the key, inside its parent.
    pub(super) fn key(
        &self,
        token: &NewToken,
        parent: Option<&Lineage>,
        children: u64,
        rules: &Rules,
        now: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> Result<Key, ChangeError> {
        let balance = Balance::empty(&self.budget, now, now);
        let mut key = Key::stored(KeyId::new(0), self.account.clone(), now, balance);
        key.parent = self.parent;
        key.name.clone_from(&self.name);
        key.scopes = self.scopes.clone();
        key.budget = self.budget;
        key.rate_limit = self.rate_limit;
        key.allowed_cidrs.clone_from(&self.allowed_cidrs);
        key.expires_at = expires_at;
        key.delegated_by.clone_from(&self.delegated_by);
        key.metadata = self.metadata.clone();
        token.set_on(&mut key);
        check_name(&key.name)?;
        check_budget(&key.budget)?;
        check_rate_limit(&key)?;
        if let Some(human) = &key.delegated_by {
            check_delegator(human)?;
        }
        if let Expiry::Within(_) = self.expiry {
            let latest = match &rules.caller {
                Some(caller) => caller.latest(parent, now)?,
                None => parent.and_then(Lineage::expires_at),
            };
            key.expires_at = key.expires_at.into_iter().chain(latest).min();
        }
        if let Some(caller) = &rules.caller {
            let of_handle = (rules.max_depth, rules.admin_scope.as_ref());
            caller.mint(&mut key, self.left_out, parent, children, of_handle, now)?;
            key.balance = Balance::empty(&key.budget, now, now);
        }
        if let Some(parent) = parent {
            if let Some((by, refusal)) = parent.inactive() {
                return Err(ChangeError::NotInForce { key: parent.id(), by, refusal });
            }
            if parent.key().is_session() {
                return Err(ChangeError::invalid("parent", "is a session, which makes no keys"));
            }
            if parent.depth() >= rules.max_depth {
                let reason = format!("a lineage has at most {} keys", rules.max_depth);
                return Err(ChangeError::invalid("parent", reason));
            }
            check_scopes_within(&key, parent, rules.admin_scope.as_ref())?;
            check_budget_within(&key, parent)?;
            check_cidrs_within(&key, parent)?;
            check_expiry_within(&key, parent)?;
            inherit_delegator(&mut key, parent)?;
        }
        Ok(key)
    }
}
