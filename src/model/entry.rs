//! Entries: the lines of the ledger, with the labels that a handler set.

use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::labels::is_text;
use crate::model::origin::fits_label;
use crate::model::{
    AccountId, Amount, ChangeError, Difference, EntryId, KeyId, LabelError, Labels,
};

/// One line of the ledger. Entries are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Entry {
    /// The id of the entry, which is that of the posting that made it.
    pub id: EntryId,
    /// The account that it belongs to.
    pub account: AccountId,
    /// The key that was charged. Its ancestors and its account count the entry too. `None` where
    /// the account itself was adjusted.
    pub key: Option<KeyId>,
    /// The human on whose behalf the key acts, as the key's record says when the entry is read.
    #[serde(default)]
    pub delegated_by: Option<String>,
    /// The kind of posting that made it.
    pub kind: EntryKind,
    /// The amount charged. It is negative for a refund and for a top-up.
    #[serde(rename = "amount_cents")]
    pub amount: Amount,
    /// When it was written.
    pub at: Timestamp,
    /// The instant that decides in which windows it counts: `at`, or for a refund that of the
    /// refunded entry.
    pub counts_at: Timestamp,
    /// The entry that this one refunds.
    pub refunds: Option<EntryId>,
    /// The labels and the reference that the handler set.
    #[serde(flatten)]
    pub note: Note,
}

impl Entry {
    /// Returns an entry that is written at `at` and counts then, without a refunded entry and a
    /// note.
    ///
    /// A store sets those that it has.
    pub fn stored(
        id: EntryId,
        account: AccountId,
        key: impl Into<Option<KeyId>>,
        kind: EntryKind,
        amount: Amount,
        at: Timestamp,
    ) -> Self {
        Self {
            id,
            account,
            key: key.into(),
            delegated_by: None,
            kind,
            amount,
            at,
            counts_at: at,
            refunds: None,
            note: Note::default(),
        }
    }
}

/// The kind of posting that made an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EntryKind {
    /// The end of a charge: what its work cost.
    Settle,
    /// A known price, charged at once.
    Pay,
    /// Money given back.
    Refund,
    /// A hold that expired and was charged whole, as
    /// [`OnExpiry::Charge`](crate::http::OnExpiry::Charge) says.
    Expiry,
    /// What an adopted or imported key had spent in its window before.
    Opening,
    /// A top-up or a correction by the application. Its reason is the label [`Note::REASON`].
    Adjust,
}

impl EntryKind {
    /// Returns its name, as stores keep it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Settle => "settle",
            Self::Pay => "pay",
            Self::Refund => "refund",
            Self::Expiry => "expiry",
            Self::Opening => "opening",
            Self::Adjust => "adjust",
        }
    }
}

impl FromStr for EntryKind {
    type Err = UnknownEntryKind;

    /// Reads the name that [`as_str`](Self::as_str) returns.
    fn from_str(name: &str) -> Result<Self, UnknownEntryKind> {
        [Self::Settle, Self::Pay, Self::Refund, Self::Expiry, Self::Opening, Self::Adjust]
            .into_iter()
            .find(|kind| kind.as_str() == name)
            .ok_or(UnknownEntryKind)
    }
}

/// The error of a text that is not the name of a kind of entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a kind of entry is `settle`, `pay`, `refund`, `expiry`, `opening` or `adjust`")]
pub struct UnknownEntryKind;

/// What a handler says about a charge: labels to sum usage by, and a reference of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Note {
    /// Labels such as `route` and `model`.
    pub labels: Labels,
    /// The application's own reference, such as an order number.
    pub reference: Option<String>,
}

impl Note {
    /// Returns a note with these labels and this reference.
    pub const fn new(labels: Labels, reference: Option<String>) -> Self {
        Self { labels, reference }
    }
}

impl Note {
    /// The label that holds the reason of an adjustment.
    pub const REASON: &str = "reason";
    /// The reason of an entry by which [`AgentKeys::mend_balance`](crate::AgentKeys::mend_balance) says
    /// what it has set. Its labels `figure`, `period`, `from_cents` and `to_cents` have the rest.
    pub const RECONCILED: &str = "reconciled";
    /// The label that holds the route of the request, unless the handler has set another one.
    pub const ROUTE: &str = "route";
    /// The label that holds the id of the request, unless the handler has set another one.
    pub const REQUEST_ID: &str = "request_id";

    const MAX_REFERENCE: usize = 255;

    /// Returns the note of an adjustment.
    pub(crate) fn adjusting(reason: &str, reference: Option<&str>) -> Result<Self, ChangeError> {
        let invalid = |field, reason: String| ChangeError::Invalid { field, reason };
        let mut note = Self::default();
        if reason.trim().is_empty() || !is_text(reason, Self::MAX_REFERENCE) {
            let accepted = "is 1 to 255 characters, not all of them blank and none of them a control character";
            return Err(invalid("reason", accepted.to_owned()));
        }
        note.labels.set(Self::REASON, reason);
        if let Some(reference) = reference {
            note.set_reference(reference)
                .map_err(|error| invalid("reference", error.to_string()))?;
        }
        Ok(note)
    }

    /// Returns the note of the entry that mends a figure of a balance.
    pub(crate) fn reconciling(difference: &Difference) -> Self {
        let cents = |amount: Amount| match serde_json::to_value(amount) {
            Ok(Value::String(cents)) => cents,
            cents => cents.unwrap_or_default().to_string(),
        };
        let mut note = Self::default();
        note.labels.set(Self::REASON, Self::RECONCILED);
        note.labels.set("figure", difference.figure.as_str());
        if let Some(period) = difference.figure.period() {
            note.labels.set("period", period.as_str());
        }
        note.labels.set("from_cents", &cents(difference.stored));
        note.labels.set("to_cents", &cents(difference.computed));
        note
    }

    /// Sets the labels of the request, its route and its id, unless the handler has set them.
    pub(crate) fn set_request(&mut self, route: Option<&str>, request_id: Option<&str>) {
        if let Some(route) = route.filter(|route| fits_label(route))
            && self.labels.get(Self::ROUTE).is_none()
        {
            self.labels.set(Self::ROUTE, route);
        }
        if let Some(request_id) = request_id
            && self.labels.get(Self::REQUEST_ID).is_none()
        {
            self.labels.set(Self::REQUEST_ID, request_id);
        }
    }

    /// Sets the reference.
    ///
    /// # Errors
    ///
    /// [`LabelError::Reference`] where it is empty, over 255 characters, or has a control
    /// character.
    pub fn set_reference(&mut self, reference: impl Into<String>) -> Result<(), LabelError> {
        let reference = reference.into();
        if reference.is_empty() || !is_text(&reference, Self::MAX_REFERENCE) {
            return Err(LabelError::Reference);
        }
        self.reference = Some(reference);
        Ok(())
    }
}
