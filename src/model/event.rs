//! Events: the lines of the audit trail.

use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{AccountId, KeyId, Origin};

/// One line of the audit trail: what was done to a key or an account, when, and by whom.
///
/// Its serialised form is one JSON object, so that a stream of events is written as JSON lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// When it happened, by the store's clock. Of refusals, the start of their minute.
    pub at: Timestamp,
    /// The account.
    pub account: AccountId,
    /// The key that it is about; `None` where it is about the account itself.
    pub key: Option<KeyId>,
    /// The name of the key, as it was after the event.
    pub key_name: Option<String>,
    /// The chain of delegation: the key and its ancestors, key first.
    pub lineage: Vec<KeyId>,
    /// The human on whose behalf the key acted.
    pub delegated_by: Option<String>,
    /// What happened.
    pub kind: EventKind,
    /// Who did it, and by which request.
    #[serde(flatten)]
    pub origin: Origin,
    /// How many refusals the line stands for. 1 for every other kind.
    pub count: u64,
    /// More, by the kind: a JSON object, which never has a secret in it. `docs/audit.md` has its
    /// members.
    pub detail: Value,
}

impl Event {
    /// Returns an event of an account, by the application's own code. For stores.
    pub const fn new(at: Timestamp, account: AccountId, kind: EventKind, detail: Value) -> Self {
        Self {
            at,
            account,
            key: None,
            key_name: None,
            lineage: Vec::new(),
            delegated_by: None,
            kind,
            origin: Origin::new(),
            count: 1,
            detail,
        }
    }

    /// Sets the id of a new key, which only the store knows.
    pub(crate) fn set_new_key(&mut self, id: KeyId) {
        self.key = Some(id);
        self.lineage.insert(0, id);
    }

    /// Returns why requests were refused, if the event is about refusals: the code of the
    /// [`Refusal`](crate::Refusal).
    pub fn reason(&self) -> Option<&str> {
        match self.kind {
            EventKind::Refused => self.detail.get("reason").and_then(Value::as_str),
            _ => None,
        }
    }
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum EventKind {
    /// An account was created with a ceiling.
    AccountCreated,
    /// The ceiling of an account was changed.
    AccountUpdated,
    /// A key was created.
    KeyCreated,
    /// A key was imported.
    KeyImported,
    /// A key was changed.
    KeyUpdated,
    /// A key was disabled.
    KeyDisabled,
    /// A key was enabled.
    KeyEnabled,
    /// A key was given another token.
    KeyRotated,
    /// The grace of tokens that were rotated away was ended.
    KeyGraceEnded,
    /// A key was revoked, and its descendants with it.
    KeyRevoked,
    /// A subject was seen for the first time, and got a key.
    SubjectFirstSeen,
    /// A session was opened.
    SessionOpened,
    /// A session was ended, or ended itself at its spend cap.
    SessionEnded,
    /// What a key or an account has spent was adjusted.
    Adjusted,
    /// A figure of a balance that differed from the ledger was set to what the ledger says.
    BalanceReconciled,
    /// A hold was charged whole when it expired.
    HoldCharged,
    /// Requests were refused.
    Refused,
}

impl EventKind {
    pub(crate) const ALL: [Self; 17] = [
        Self::AccountCreated,
        Self::AccountUpdated,
        Self::KeyCreated,
        Self::KeyImported,
        Self::KeyUpdated,
        Self::KeyDisabled,
        Self::KeyEnabled,
        Self::KeyRotated,
        Self::KeyGraceEnded,
        Self::KeyRevoked,
        Self::SubjectFirstSeen,
        Self::SessionOpened,
        Self::SessionEnded,
        Self::Adjusted,
        Self::BalanceReconciled,
        Self::HoldCharged,
        Self::Refused,
    ];

    /// Returns its name in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccountCreated => "account.created",
            Self::AccountUpdated => "account.updated",
            Self::KeyCreated => "key.created",
            Self::KeyImported => "key.imported",
            Self::KeyUpdated => "key.updated",
            Self::KeyDisabled => "key.disabled",
            Self::KeyEnabled => "key.enabled",
            Self::KeyRotated => "key.rotated",
            Self::KeyGraceEnded => "key.grace_ended",
            Self::KeyRevoked => "key.revoked",
            Self::SubjectFirstSeen => "subject.first_seen",
            Self::SessionOpened => "session.opened",
            Self::SessionEnded => "session.ended",
            Self::Adjusted => "adjusted",
            Self::BalanceReconciled => "balance.reconciled",
            Self::HoldCharged => "hold.charged",
            Self::Refused => "refused",
        }
    }
}

impl FromStr for EventKind {
    type Err = UnknownEventKind;

    /// Reads the name that [`as_str`](Self::as_str) returns.
    fn from_str(name: &str) -> Result<Self, UnknownEventKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or(UnknownEventKind)
    }
}

impl From<EventKind> for String {
    fn from(kind: EventKind) -> Self {
        kind.as_str().to_owned()
    }
}

impl TryFrom<String> for EventKind {
    type Error = UnknownEventKind;

    fn try_from(name: String) -> Result<Self, UnknownEventKind> {
        name.parse()
    }
}

/// The error of a text that is not the name of a kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no kind of event, such as `key.created` or `refused`")]
pub struct UnknownEventKind;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Actor;

    #[test]
    fn kinds_are_read_by_their_names() {
        for kind in EventKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert_eq!("key.lost".parse::<EventKind>(), Err(UnknownEventKind));
    }

    #[test]
    fn an_event_is_one_json_object() {
        let account = AccountId::new("acme").unwrap();
        let detail = serde_json::json!({"reason": "leaked", "descendants": 2});
        let mut event = Event::new(Timestamp::UNIX_EPOCH, account, EventKind::KeyRevoked, detail);
        event.set_new_key(KeyId::new(7));
        event.origin = Origin::by(Actor::Key { id: KeyId::new(3) }).request_id("req-1");
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(
            text,
            r#"{"at":"1970-01-01T00:00:00Z","account":"acme","key":7,"key_name":null,"lineage":[7],"delegated_by":null,"kind":"key.revoked","actor":{"type":"key","id":3},"request_id":"req-1","route":null,"count":1,"detail":{"reason":"leaked","descendants":2}}"#
        );
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
        assert_eq!(event.reason(), None);
    }
}
