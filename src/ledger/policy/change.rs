//! A change of a key: what it loads, who may make it, and what it writes.

use std::time::Duration;

use super::create::KeyDraft;
use super::load::{Load, Loaded};
use super::revoke::revoke;
use super::rules::Rules;
use super::tokens::{NewToken, end_grace};
use super::writes::KeyWrite;
use crate::ledger::caller::{Ask, Caller};
use crate::ledger::events;
use crate::ledger::subjects::NewSubject;
use crate::model::{ChangeError, KeyId, KeyPatch, Lineage};

/// A change of one key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum KeyChange {
    /// Creates a key.
    Create {
        /// The fields of the key.
        draft: KeyDraft,
        /// Its token.
        token: NewToken,
    },
    /// Creates the key of a subject. If the subject has one, that stays as it is.
    EnsureSubject {
        /// The fields of the key.
        draft: KeyDraft,
        /// Whom it is for.
        subject: NewSubject,
    },
    /// Changes a key.
    Update {
        /// The key.
        key: KeyId,
        /// The changes.
        patch: KeyPatch,
    },
    /// Gives a key another token.
    Rotate {
        /// The key.
        key: KeyId,
        /// The new token.
        token: NewToken,
        /// How long the old token still works.
        grace: Duration,
    },
    /// Ends the tokens of a key that were rotated away and are still in their grace.
    EndGrace {
        /// The key.
        key: KeyId,
    },
    /// Revokes a key, and with it its descendants.
    Revoke {
        /// The key.
        key: KeyId,
        /// Why.
        reason: Option<String>,
    },
}

impl KeyChange {
    /// Returns what [`decide`](Self::decide) needs.
    pub fn load(&self) -> Load<'_> {
        match self {
            Self::Create { draft, .. } | Self::EnsureSubject { draft, .. } => draft.load(),
            Self::Update { key, .. }
            | Self::Rotate { key, .. }
            | Self::EndGrace { key }
            | Self::Revoke { key, .. } => Load::Lineage(*key),
        }
    }

    /// Returns the caller whose lineage is loaded too, because it is not in `lineage`.
    pub fn load_caller(&self, lineage: Option<&Lineage>, rules: &Rules) -> Option<KeyId> {
        let Caller::Key(caller) = rules.caller.as_ref()?.caller else { return None };
        let is_member = lineage.is_some_and(|it| it.keys().any(|key| key.id == caller));
        (!is_member).then_some(caller)
    }

    /// Returns the key whose children in force are counted.
    pub fn count_children(&self, rules: &Rules) -> Option<KeyId> {
        match self {
            Self::Create { draft, .. } if rules.caller.is_some() => draft.parent,
            _ => None,
        }
    }

    /// Returns the key whose descendants are counted, which are revoked with it.
    pub fn count_descendants(&self) -> Option<KeyId> {
        match self {
            Self::Revoke { key, .. } => Some(*key),
            _ => None,
        }
    }

    /// Returns the key whose tokens in their grace are counted, which are ended.
    pub fn count_in_grace(&self) -> Option<KeyId> {
        match self {
            Self::EndGrace { key } => Some(*key),
            _ => None,
        }
    }

    /// Decides by what was loaded.
    ///
    /// # Errors
    ///
    /// [`ChangeError::UnknownKey`] where there is no such key. [`ChangeError::Invalid`] where a
    /// field is out of bounds or outside the parent's. [`ChangeError::NotInForce`] where the parent
    /// is not in force, or the key is revoked. [`ChangeError::Refused`] where the caller may not
    /// make the change.
    pub fn decide(&self, loaded: &Loaded, rules: &Rules) -> Result<KeyWrite, ChangeError> {
        let lineage = loaded.lineage.as_ref();
        if let Some(caller) = &rules.caller {
            let target = self.target().map(|key| lineage.ok_or(ChangeError::UnknownKey(key)));
            let (target, admin) = (target.transpose()?, rules.admin_scope.as_ref());
            caller.check(self.ask(), target, loaded.caller.as_ref(), admin)?;
            if let (Caller::Account(own), Self::Create { draft, .. }) = (&caller.caller, self)
                && draft.account != *own
            {
                return Err(ChangeError::UnknownAccount(draft.account.clone()));
            }
        }
        let mut write = self.decide_for(loaded, lineage, rules)?;
        if let Some((_, event)) = &mut write.record {
            let lineages: Vec<_> = lineage.into_iter().chain(&loaded.caller).collect();
            event.origin = rules.origin.clone();
            event.origin.actor =
                events::actor(&rules.origin.actor, rules.caller.as_ref(), &lineages);
        }
        Ok(write)
    }

    fn decide_for(
        &self,
        loaded: &Loaded,
        lineage: Option<&Lineage>,
        rules: &Rules,
    ) -> Result<KeyWrite, ChangeError> {
        let found = |key: &KeyId| lineage.ok_or(ChangeError::UnknownKey(*key));
        match self {
            Self::Create { draft, token } => {
                let parent = draft.parent(lineage)?;
                let now = parent.map_or(loaded.time, Lineage::at);
                draft.create(token, parent, loaded.children, rules, now)
            }
            Self::EnsureSubject { draft, subject } => {
                let parent = draft.parent(lineage)?;
                let now = parent.map_or(loaded.time, Lineage::at);
                subject.create(draft, parent, rules, now)
            }
            Self::Update { key, patch } => patch.update(found(key)?, rules),
            Self::Rotate { key, token, grace } => token.rotate(found(key)?, *grace),
            Self::EndGrace { key } => Ok(end_grace(found(key)?, loaded.in_grace)),
            Self::Revoke { key, reason } => {
                revoke(found(key)?, reason.as_deref(), loaded.descendants)
            }
        }
    }

    /// Returns the key that is changed, or that a new key is minted from.
    fn target(&self) -> Option<KeyId> {
        match self {
            Self::Create { draft, .. } | Self::EnsureSubject { draft, .. } => draft.parent,
            Self::Update { key, .. }
            | Self::Rotate { key, .. }
            | Self::EndGrace { key }
            | Self::Revoke { key, .. } => Some(*key),
        }
    }

    fn ask(&self) -> Ask {
        match self {
            Self::Create { .. } | Self::EnsureSubject { .. } => Ask::Mint,
            Self::Update { patch, .. } => match patch.is_disabled {
                None => Ask::Narrow,
                Some(true) => Ask::Disable,
                Some(false) => Ask::Enable,
            },
            Self::Rotate { .. } => Ask::Rotate,
            Self::EndGrace { .. } => Ask::EndGrace,
            Self::Revoke { .. } => Ask::Revoke,
        }
    }
}
