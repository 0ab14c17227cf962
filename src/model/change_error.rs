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
    /// The key, or an ancestor, is revoked, expired or disabled.
    #[error(transparent)]
    NotInForce(Refusal),
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

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::UnknownKey(_) => Self::UnknownKey,
            ChangeError::UnknownAccount(_) => Self::UnknownAccount,
            // Not 401: the credential of the request is another key's, and its client would throw that away.
            ChangeError::NotInForce(_) => Self::NotInForce,
            ChangeError::Invalid { field, reason } => Self::InvalidField { field, reason },
            // The names of the application's tables and constraints are not for clients.
            ChangeError::TableRule { .. } => Self::InvalidField {
                field: "key",
                reason: "is not what the application's rules for keys allow".to_owned(),
            },
        }
    }
}
