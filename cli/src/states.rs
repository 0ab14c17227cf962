//! Whether listed keys are in force.

use std::collections::HashMap;

use agentkey::jiff::Timestamp;
use agentkey::model::Lineage;
use agentkey::{Key, KeyId};

/// Whether a key is in force, by itself or by an ancestor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Active,
    Disabled,
    Expired,
    Revoked,
}

impl State {
    /// Returns the state of the key by itself.
    pub(crate) fn of(key: &Key, now: Timestamp) -> Self {
        if key.revoked_at.is_some() {
            Self::Revoked
        } else if key.expires_at.is_some_and(|at| at <= now) {
            Self::Expired
        } else if key.disabled_at.is_some() {
            Self::Disabled
        } else {
            Self::Active
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// The keys of a list that are not in force. A parent is listed before its children, because ids
/// grow.
#[derive(Default)]
pub(crate) struct States(HashMap<KeyId, (State, KeyId)>);

impl States {
    /// Returns the states of a list that starts below these keys.
    pub(crate) fn below(lineage: &Lineage) -> Self {
        let mut states = Self::default();
        let keys: Vec<_> = lineage.keys().collect();
        for key in keys.into_iter().rev() {
            states.of(key, lineage.at());
        }
        states
    }

    /// Returns the state of the next key of the list, and the ancestor that decides it.
    pub(crate) fn of(&mut self, key: &Key, now: Timestamp) -> (State, Option<KeyId>) {
        let inherited = key.parent.and_then(|parent| self.0.get(&parent).copied());
        let (state, by) = match (State::of(key, now), inherited) {
            (State::Active, Some((state, by))) => (state, by),
            (state, _) => (state, key.id),
        };
        if state != State::Active {
            self.0.insert(key.id, (state, by));
        }
        (state, Some(by).filter(|by| *by != key.id))
    }
}

/// Returns the state as a table shows it.
pub(crate) fn shown((state, by): (State, Option<KeyId>)) -> String {
    match by {
        Some(by) => format!("{} (by {by})", state.as_str()),
        None => state.as_str().to_owned(),
    }
}
