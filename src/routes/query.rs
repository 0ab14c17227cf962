//! Reads the query of a request, and writes and reads cursors.

use axum::extract::Query;
use http::Uri;
use jiff::Timestamp;

use super::fields::{finish, invalid, twice};
use crate::model::{FieldError, Refusal};

/// The most items on a page, and how many there are unless the request says so.
const MAX_LIMIT: u32 = 200;
const DEFAULT_LIMIT: u32 = 50;

/// The parameters that are not read yet, and what was wrong with the others.
pub(super) struct Params {
    pairs: Vec<(String, String)>,
    errors: Vec<FieldError>,
}

impl Params {
    pub(super) fn read(uri: &Uri) -> Result<Self, Refusal> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| invalid("", "the query cannot be read"))?;
        let errors = twice(&pairs);
        Ok(Self { pairs, errors })
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(pair, _)| pair == name)?;
        Some(self.pairs.remove(at).1)
    }

    /// Reads a parameter with `read`, which returns what is accepted where it fails.
    pub(super) fn value<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(name)?;
        match read(&text) {
            Ok(value) => Some(value),
            Err(detail) => {
                self.error(name, detail);
                None
            }
        }
    }

    pub(super) fn error(&mut self, name: &str, detail: impl Into<String>) {
        self.errors.push(FieldError::new(name, detail));
    }

    pub(super) fn limit(&mut self) -> u32 {
        let read = |text: &str| match text.parse() {
            Ok(limit @ 1..=MAX_LIMIT) => Ok(limit),
            _ => Err(format!("is a number from 1 to {MAX_LIMIT}")),
        };
        self.value("limit", read).unwrap_or(DEFAULT_LIMIT)
    }

    pub(super) fn cursor(&mut self, list: List) -> Option<String> {
        let detail = "is not the next_cursor of a page of this list";
        self.value("cursor", |text| decode(list, text).ok_or_else(|| detail.to_owned()))
    }

    pub(super) fn instant(&mut self, name: &str) -> Option<Timestamp> {
        self.value(name, |text| text.parse().map_err(|_| "is an instant as in RFC 3339".to_owned()))
    }

    pub(super) fn flag(&mut self, name: &str) -> bool {
        let read = |text: &str| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("is true or false".to_owned()),
        };
        self.value(name, read).unwrap_or(false)
    }

    /// Refuses the request if a parameter was wrong, or one is left that the route does not know.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        finish(self.pairs, self.errors)
    }
}

/// The list that a cursor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Keys,
    Entries,
    Groups,
    Events,
}

/// The first character of a cursor. Another one is for another format.
const VERSION: char = '1';

impl List {
    const fn mark(self) -> char {
        match self {
            Self::Keys => 'k',
            Self::Entries => 'e',
            Self::Groups => 'g',
            Self::Events => 'v',
        }
    }
}

/// Returns the cursor after this position in a list.
pub(super) fn encode(list: List, position: &str) -> String {
    let hex = position.bytes().map(|byte| format!("{byte:02x}"));
    [VERSION, list.mark()].into_iter().map(String::from).chain(hex).collect()
}

fn decode(list: List, cursor: &str) -> Option<String> {
    let hex = cursor.strip_prefix(VERSION)?.strip_prefix(list.mark())?;
    if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) || hex.len() % 2 != 0 {
        return None;
    }
    let bytes =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok());
    String::from_utf8(bytes.collect::<Option<_>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_of_its_list_and_version() {
        for position in ["", "7", "-9223372036854775808", "größe"] {
            let cursor = encode(List::Groups, position);
            assert_eq!(decode(List::Groups, &cursor).as_deref(), Some(position));
            assert_eq!(decode(List::Keys, &cursor), None);
            assert_eq!(decode(List::Groups, &cursor.replacen('1', "2", 1)), None);
        }
        for cursor in ["", "1", "k", "1k7", "1kzz", "1kff", "1k+1"] {
            assert_eq!(decode(List::Keys, cursor), None, "{cursor}");
        }
    }
}
