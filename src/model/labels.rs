//! Labels of a charge: names and values, set by the handler, to sum usage by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Names and values to sum usage by: up to 16, with names of up to 64 and values of up to 256
/// characters.
///
/// ```
/// use agentkey::model::Labels;
///
/// let mut labels = Labels::new();
/// labels.insert("model", "small-1")?;
/// assert_eq!(labels.get("model"), Some("small-1"));
/// assert!(labels.insert("", "x").is_err());
/// # Ok::<(), agentkey::model::LabelError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    const MAX: usize = 16;
    const MAX_NAME: usize = 64;
    const MAX_VALUE: usize = 256;

    /// Returns no labels.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Sets a label. A second value of a name replaces the first.
    ///
    /// # Errors
    ///
    /// [`LabelError::TooMany`] where there are 16 already. [`LabelError::Name`] where the name is
    /// empty or over 64 characters. [`LabelError::Value`] where the value is over 256 characters.
    /// Control characters are refused in both.
    pub fn insert(
        &mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<(), LabelError> {
        let (name, value) = (name.into(), value.into());
        if name.is_empty() || !is_text(&name, Self::MAX_NAME) {
            return Err(LabelError::Name);
        }
        if !is_text(&value, Self::MAX_VALUE) {
            return Err(LabelError::Value);
        }
        if self.0.len() >= Self::MAX && !self.0.contains_key(&name) {
            return Err(LabelError::TooMany);
        }
        self.0.insert(name, value);
        Ok(())
    }

    /// Sets a label whose name and value are known to be valid, without a check of their number.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// Removes a label.
    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Returns the value of a label.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns whether there are no labels.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why a label or a reference is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// The name is empty, too long, or has a control character.
    #[error("a label's name is 1 to 64 characters, none of them a control character")]
    Name,
    /// The value is too long, or has a control character.
    #[error("a label's value is at most 256 characters, none of them a control character")]
    Value,
    /// The reference is empty, too long, or has a control character.
    #[error("a reference is 1 to 255 characters, none of them a control character")]
    Reference,
    /// The charge has as many labels as it can carry.
    #[error("a charge has at most 16 labels")]
    TooMany,
}

/// Returns whether a text has at most `max` characters, none of them a control character.
pub(super) fn is_text(text: &str, max: usize) -> bool {
    text.chars().count() <= max && !text.chars().any(char::is_control)
}
