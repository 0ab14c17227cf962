//! Metadata: what the application keeps with a key.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A JSON object of at most 4,096 bytes, which the application keeps with a key.
///
/// It is no place for secrets: it is in lists of keys, and in the audit trail.
///
/// ```
/// use agentkey::model::Metadata;
///
/// let metadata: Metadata = r#"{"team": "search", "tier": 2}"#.parse()?;
/// assert_eq!(metadata.get("team").and_then(|team| team.as_str()), Some("search"));
/// assert!("[1, 2]".parse::<Metadata>().is_err());
/// # Ok::<(), agentkey::model::MetadataError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Option<Map<String, Value>>", into = "Map<String, Value>")]
pub struct Metadata(Option<Arc<Map<String, Value>>>);

impl Metadata {
    /// The most bytes that it may have as JSON without spaces.
    pub const MAX_BYTES: usize = 4_096;

    /// Returns this object as metadata.
    ///
    /// # Errors
    ///
    /// [`MetadataError::TooLarge`] where it has more than [`MAX_BYTES`](Self::MAX_BYTES).
    /// [`MetadataError::NulCharacter`] where a text in it has the character U+0000.
    pub fn new(object: Map<String, Value>) -> Result<Self, MetadataError> {
        if object.is_empty() {
            return Ok(Self::default());
        }
        if object.iter().any(|(name, value)| name.contains('\0') || has_nul(value)) {
            return Err(MetadataError::NulCharacter);
        }
        let metadata = Self(Some(Arc::new(object)));
        match metadata.to_string().len() <= Self::MAX_BYTES {
            true => Ok(metadata),
            false => Err(MetadataError::TooLarge),
        }
    }

    /// Returns the value of a member, if it has one.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.as_ref()?.get(name)
    }

    /// Returns the members, in the order of the object.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter().flat_map(|object| object.iter())
    }

    /// Returns whether it has no members.
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the JSON that a store keeps; `None` where there are no members. For stores.
    pub fn stored(&self) -> Option<String> {
        (!self.is_empty()).then(|| self.to_string())
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(object) => {
            object.iter().any(|(name, value)| name.contains('\0') || has_nul(value))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

impl fmt::Display for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(object) => f.write_str(&serde_json::to_string(&**object).map_err(|_| fmt::Error)?),
            None => f.write_str("{}"),
        }
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Metadata {
    type Err = MetadataError;

    fn from_str(text: &str) -> Result<Self, MetadataError> {
        Self::new(serde_json::from_str(text).map_err(|_| MetadataError::NotAnObject)?)
    }
}

impl TryFrom<Option<Map<String, Value>>> for Metadata {
    type Error = MetadataError;

    fn try_from(object: Option<Map<String, Value>>) -> Result<Self, MetadataError> {
        Self::new(object.unwrap_or_default())
    }
}

impl From<Metadata> for Map<String, Value> {
    fn from(metadata: Metadata) -> Self {
        metadata.0.map(Arc::unwrap_or_clone).unwrap_or_default()
    }
}

/// Why something cannot be metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// It is not a JSON object.
    #[error("metadata is a JSON object")]
    NotAnObject,
    /// A text in it has the character U+0000, which PostgreSQL cannot store.
    #[error("metadata has no character U+0000")]
    NulCharacter,
    /// It is too large.
    #[error("metadata has at most 4096 bytes as JSON")]
    TooLarge,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_an_object_of_bounded_size() {
        let text = format!(r#"{{"a":"{}"}}"#, "x".repeat(Metadata::MAX_BYTES - 8));
        assert_eq!(text.parse::<Metadata>().unwrap().to_string(), text);
        let text = text.replace('a', "ab");
        assert_eq!(text.parse::<Metadata>(), Err(MetadataError::TooLarge));
        for text in ["", "null", "1", "[]", "{", r#"{"a":1}{}"#] {
            assert_eq!(text.parse::<Metadata>(), Err(MetadataError::NotAnObject), "{text}");
        }
    }

    #[test]
    fn no_text_in_it_has_the_character_that_databases_refuse() {
        for text in [r#"{"a":"\u0000"}"#, r#"{"\u0000":1}"#, r#"{"a":[{"b":"x\u0000"}]}"#] {
            assert_eq!(text.parse::<Metadata>(), Err(MetadataError::NulCharacter), "{text}");
            let error = serde_json::from_str::<Metadata>(text).unwrap_err().to_string();
            assert!(error.contains("U+0000"), "{error}");
        }
        for text in [r#"{"a":"\\u0000"}"#, r#"{"a":"\u0001"}"#] {
            assert_eq!(text.parse::<Metadata>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn null_and_an_empty_object_are_no_metadata() {
        for text in ["null", "{}"] {
            assert!(serde_json::from_str::<Metadata>(text).unwrap().is_empty());
        }
        assert_eq!(serde_json::to_string(&Metadata::default()).unwrap(), "{}");
        assert_eq!(Metadata::default().stored(), None);
    }
}
