//! Errors of policy changes.

use crate::model::{AccountId, KeyId, Refusal};

/// Why a policy change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// No key has this id.
    #[error("there is no key {0}")]
    UnknownKey(KeyId),
    /// No account has this id.
    #[error("there is no account {0}")]
    UnknownAccount(AccountId),
    /// The key to be changed, or the parent of the new one, is revoked, expired or disabled, by itself
    /// or by an ancestor.
    #[error("key {key} {}{}", ancestor(*key, *by), state(refusal))]
    NotInForce {
        /// The key that the call named.
        key: KeyId,
        /// The key that is revoked, expired or disabled: the same, or an ancestor of it.
        by: KeyId,
        /// The refusal of its own requests: [`Refusal::RevokedKey`], [`Refusal::ExpiredKey`] or
        /// [`Refusal::DisabledKey`].
        refusal: Refusal,
    },
    /// The caller may not make the change. It is the refusal that the client gets.
    #[error(transparent)]
    Refused(Refusal),
    /// A field of the change is not valid.
    #[error("{field}: {reason}")]
    Invalid {
        /// The name of the field.
        field: &'static str,
        /// What is wrong, and what is accepted.
        reason: String,
    },
    /// A rule of the application's own table does not allow the key.
    #[error("the rule {rule:?} of {table} does not allow the key")]
    TableRule {
        /// The name of the constraint.
        rule: String,
        /// The table, with its schema.
        table: String,
    },
}

impl ChangeError {
    pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { field, reason: reason.into() }
    }
}

fn ancestor(key: KeyId, by: KeyId) -> String {
    if key == by { String::new() } else { format!("is not in force: its ancestor, key {by}, ") }
}

fn state(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::RevokedKey => "was revoked",
        Refusal::ExpiredKey => "has expired",
        Refusal::DisabledKey => "is disabled",
        _ => "is not in force",
    }
}

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::UnknownKey(_) => Self::UnknownKey,
            ChangeError::UnknownAccount(_) => Self::UnknownAccount,
            // Not 401: the credential of the request is another key's, and its client would throw that away.
            // Nor is the id of an ancestor for the client of another key.
            ChangeError::NotInForce { .. } => Self::NotInForce,
            ChangeError::Refused(refusal) => refusal,
            ChangeError::Invalid { field, reason } => Self::InvalidField { field, reason },
            // The names of the application's tables and constraints are not for clients.
            ChangeError::TableRule { .. } => Self::InvalidField {
                field: "key",
                reason: "is not what the application's rules for keys allow".to_owned(),
            },
        }
    }
}
