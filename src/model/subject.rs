//! Identities that another service issued.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::TokenHash;

/// An identity that another service issued: the issuer, and the id that it gave.
///
/// Both are compared byte by byte (OpenID Connect Core 1.0 §2, RFC 7519 §4.1). An e-mail address is
/// no subject: an issuer may give it to another identity later.
///
/// ```
/// use agentkey::model::Subject;
///
/// let subject = Subject::new("https://issuer.example", "machine-7")?;
/// assert_eq!((subject.issuer(), subject.id()), ("https://issuer.example", "machine-7"));
/// assert!(Subject::new("https://issuer.example", "").is_err());
/// # Ok::<(), agentkey::model::InvalidSubject>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct Subject {
    issuer: String,
    id: String,
}

/// Why a text is no issuer, or no id of an issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSubject {
    /// The issuer is empty, longer than 255 bytes, or has control characters.
    #[error("an issuer has 1 to 255 bytes without control characters")]
    Issuer,
    /// The id is empty, longer than 255 bytes, or has control characters.
    #[error("the id of a subject has 1 to 255 bytes without control characters")]
    Id,
}

#[derive(Serialize, Deserialize)]
struct Parts {
    issuer: String,
    sub: String,
}

impl Subject {
    /// Returns the subject with this id at this issuer.
    ///
    /// # Errors
    ///
    /// Where one of them is empty, longer than 255 bytes, or has control characters.
    pub fn new(issuer: impl Into<String>, id: impl Into<String>) -> Result<Self, InvalidSubject> {
        let (issuer, id) = (issuer.into(), id.into());
        let is_valid =
            |text: &str| (1..=255).contains(&text.len()) && !text.chars().any(char::is_control);
        match (is_valid(&issuer), is_valid(&id)) {
            (false, _) => Err(InvalidSubject::Issuer),
            (_, false) => Err(InvalidSubject::Id),
            _ => Ok(Self { issuer, id }),
        }
    }

    /// Returns the issuer, as it names itself.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns the id that the issuer gave: the claim `sub`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the digest by which a store finds the subject, as it finds a key by its token's hash.
    ///
    /// The spaces and the line feed keep it apart from the hashes of tokens, which have none. Neither
    /// part has a line feed, so that no two subjects share a digest.
    pub(crate) fn digest(&self) -> TokenHash {
        TokenHash::digest(&format!("agentkey subject {}\n{}", self.issuer, self.id))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.id, self.issuer)
    }
}

impl TryFrom<Parts> for Subject {
    type Error = InvalidSubject;

    fn try_from(parts: Parts) -> Result<Self, InvalidSubject> {
        Self::new(parts.issuer, parts.sub)
    }
}

impl From<Subject> for Parts {
    fn from(subject: Subject) -> Self {
        Self { issuer: subject.issuer, sub: subject.id }
    }
}
