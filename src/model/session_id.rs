//! The ids of sessions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::{InvalidId, KeyId};

/// The id of a session, such as `ses_42`: that of its key, with a prefix.
///
/// ```
/// use agentkey::KeyId;
/// use agentkey::model::SessionId;
///
/// let session: SessionId = "ses_42".parse()?;
/// assert_eq!(session.key(), KeyId::new(42));
/// assert_eq!(session.to_string(), "ses_42");
/// assert!("42".parse::<SessionId>().is_err() && "ses_042".parse::<SessionId>().is_err());
/// # Ok::<(), agentkey::model::InvalidId>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(KeyId);

impl SessionId {
    /// Returns the id of the session with this key.
    pub const fn new(key: KeyId) -> Self {
        Self(key)
    }

    /// Returns the id of the session's key.
    pub const fn key(self) -> KeyId {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ses_{}", self.0)
    }
}

impl FromStr for SessionId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let key = text.strip_prefix("ses_").and_then(|key| key.parse().ok());
        // A session has one id: no sign and no zeros before the number.
        key.map(Self).filter(|id| id.to_string() == text).ok_or(InvalidId::Session)
    }
}

impl TryFrom<String> for SessionId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> Self {
        id.to_string()
    }
}
