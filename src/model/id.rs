//! Identifiers of accounts, keys, postings and entries.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The id of a key's record. It survives a rotation, and the token does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(i64);

impl KeyId {
    /// Returns the id with this number.
    pub const fn new(id: i64) -> Self {
        Self(id)
    }

    /// Returns the number.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for KeyId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.parse().map(Self).map_err(|_| InvalidId::Key)
    }
}

/// The id of the account that owns keys: the application's own id of a user, team or organisation.
///
/// No key reads, changes or spends anything of another account.
///
/// It has 1 to 255 characters, none of them a control character, and at least one that is no space.
///
/// ```
/// use agentkey::AccountId;
///
/// let account: AccountId = "acme".parse()?;
/// assert_eq!(account.as_str(), "acme");
/// assert!("".parse::<AccountId>().is_err());
/// # Ok::<(), agentkey::model::InvalidId>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccountId(Arc<str>);

impl AccountId {
    const MAX_LEN: usize = 255;

    /// Returns the id with this text.
    ///
    /// # Errors
    ///
    /// [`InvalidId::Account`] where the text is blank, longer than 255 characters, or has a control
    /// character.
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, InvalidId> {
        let text = text.into();
        if text.trim().is_empty() { Err(InvalidId::Account) } else { Self::stored(text) }
    }

    /// Returns the id with a text that a table holds, which may be blank.
    pub(crate) fn stored(text: impl Into<Arc<str>>) -> Result<Self, InvalidId> {
        let text = text.into();
        let fits = !text.is_empty() && text.chars().count() <= Self::MAX_LEN;
        if fits && !text.chars().any(char::is_control) {
            Ok(Self(text))
        } else {
            Err(InvalidId::Account)
        }
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl FromStr for AccountId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::new(text)
    }
}

impl TryFrom<&str> for AccountId {
    type Error = InvalidId;

    fn try_from(text: &str) -> Result<Self, InvalidId> {
        Self::new(text)
    }
}

impl TryFrom<String> for AccountId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::new(text)
    }
}

impl From<AccountId> for String {
    fn from(id: AccountId) -> Self {
        id.as_str().to_owned()
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountId({:?})", &*self.0)
    }
}

/// The id of a posting. A posting takes effect at most once, however often it is sent.
///
/// It is a version 7 UUID (RFC 9562 §5.7). New ids sort together, so an index on them grows at its
/// end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PostingId(Uuid);

impl PostingId {
    /// Returns a new id.
    #[allow(clippy::new_without_default)] // a default would be another one at each call
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// Returns the id as 16 bytes, as stores keep it.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Returns the id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for PostingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for PostingId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidId::Posting)
    }
}

/// The id of an entry. It has the bytes of the posting that made the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EntryId(PostingId);

impl EntryId {
    const REVERSAL: [u8; 16] = *b"agentkey-reverse";

    /// Returns the id as 16 bytes, as stores keep it.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Returns the id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(PostingId::from_bytes(bytes))
    }

    /// Returns the id of the entry by which the ledger itself reverses this one.
    ///
    /// It is derived from this id, so a second reversal writes nothing.
    pub(crate) fn reversal(self) -> Self {
        let mut bytes = *self.as_bytes();
        for (byte, mask) in bytes.iter_mut().zip(Self::REVERSAL) {
            *byte ^= mask;
        }
        Self::from_bytes(bytes)
    }
}

impl From<PostingId> for EntryId {
    fn from(id: PostingId) -> Self {
        Self(id)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EntryId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Uuid::try_parse(text).map(|id| Self(PostingId(id))).map_err(|_| InvalidId::Entry)
    }
}

/// Why a text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidId {
    /// It is not an account id.
    #[error("an account id is 1 to 255 characters without control characters, and not only spaces")]
    Account,
    /// It is not a key id.
    #[error("a key id is a whole number")]
    Key,
    /// It is not an entry id.
    #[error("an entry id is a UUID")]
    Entry,
    /// It is not a posting id.
    #[error("a posting id is a UUID")]
    Posting,
    /// It is not the id of a session.
    #[cfg(feature = "sessions")]
    #[error("a session id is `ses_` and a whole number")]
    Session,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reversal_is_another_id_and_always_the_same() {
        let id = EntryId::from(PostingId::new());
        assert_ne!(id.reversal(), id);
        assert_eq!(id.reversal(), id.reversal());
    }

    #[test]
    fn ids_made_later_sort_later() {
        let ids: Vec<_> = (0..1000).map(|_| PostingId::new()).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn account_ids_have_no_control_characters() {
        for bad in ["", " ", "   ", "\u{a0}", "\u{3000} ", "a\nb", "a\0", &"x".repeat(256)] {
            assert_eq!(bad.parse::<AccountId>(), Err(InvalidId::Account), "{bad:?}");
        }
        assert_eq!("a b ".parse::<AccountId>().unwrap().as_str(), "a b ");
    }
}
