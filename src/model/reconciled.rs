//! What a reconciliation found: the figures of a balance that differ from the ledger.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{AccountId, Amount, Holder, KeyId, Period};

/// What a reconciliation found of one key, or of an account itself.
///
/// ```
/// use agentkey::model::Reconciled;
///
/// let found: Reconciled = serde_json::from_str(
///     r#"{"account": "acme", "key": 7, "differences": [
///         {"figure": "spent", "period": "month", "since": "2026-01-31T12:00:00Z", "stored_cents": 250, "computed_cents": 300},
///         {"figure": "held", "stored_cents": 5, "computed_cents": 0}]}"#,
/// )?;
/// assert!(!found.agrees());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reconciled {
    /// The account, or that of the key.
    pub account: AccountId,
    /// The key; `None` where it is the account itself.
    pub key: Option<KeyId>,
    /// The figures that differ. Empty where the balance agrees with the ledger.
    pub differences: Vec<Difference>,
}

impl Reconciled {
    /// Returns what was found of this key, or of this account itself.
    pub const fn new(account: AccountId, key: Option<KeyId>, differences: Vec<Difference>) -> Self {
        Self { account, key, differences }
    }

    /// Returns whose balance it is.
    pub fn holder(&self) -> Holder {
        self.key.map_or_else(|| Holder::Account(self.account.clone()), Holder::Key)
    }

    /// Returns whether no figure differs.
    pub fn agrees(&self) -> bool {
        self.differences.is_empty()
    }
}

/// A figure of a balance that differs from the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Difference {
    /// Which figure.
    #[serde(flatten)]
    pub figure: Figure,
    /// What the balance says.
    #[serde(rename = "stored_cents")]
    pub stored: Amount,
    /// What the entries, or the live holds, add up to.
    #[serde(rename = "computed_cents")]
    pub computed: Amount,
}

impl Difference {
    /// Returns a difference of a figure.
    pub const fn new(figure: Figure, stored: Amount, computed: Amount) -> Self {
        Self { figure, stored, computed }
    }
}

/// A figure of a balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "figure", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Figure {
    /// What was spent in the current window of a period.
    Spent {
        /// The period.
        period: Period,
        /// The start of the window; `None` where the period is a lifetime.
        since: Option<Timestamp>,
    },
    /// What live holds set aside.
    Held,
}

impl Figure {
    /// Returns its name, as JSON and the labels of an entry have it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Spent { .. } => "spent",
            Self::Held => "held",
        }
    }

    /// Returns the period that it is counted in; `None` for what is held.
    pub const fn period(&self) -> Option<Period> {
        match self {
            Self::Spent { period, .. } => Some(*period),
            Self::Held => None,
        }
    }
}
