//! Columns by which the application's own software switches keys off.

use super::super::names::Ident;

/// What a column of an adopted table says in the row of a key that is switched off: see
/// [`Adoption::switch`](super::Adoption::switch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SwitchedOff {
    /// The column is false, or 0, such as `enabled`.
    WhenFalse,
    /// The column is true, or not 0, such as `blocked`.
    WhenTrue,
    /// The column is not NULL, such as `deleted_at`.
    WhenSet,
}

/// What the name and the type of a column tell.
pub(super) enum Guess {
    /// It has nothing to do with keys that are switched off.
    Other,
    /// It is a switch.
    Switch(SwitchedOff),
    /// It may be a switch.
    Unclear,
}

const ON: [&str; 3] = ["enabled", "active", "activated"];
const OFF: [&str; 12] = [
    "disabled",
    "blocked",
    "revoked",
    "deleted",
    "suspended",
    "banned",
    "deactivated",
    "inactive",
    "archived",
    "paused",
    "expired",
    "removed",
];
const STATES: [&str; 2] = ["status", "state"];
const FLAGS: [&str; 4] = ["bool", "int2", "int4", "int8"];
const INSTANTS: [&str; 3] = ["timestamptz", "timestamp", "date"];

/// Guesses what a column means by its name and the internal name of its type.
pub(super) fn guess(name: &str, type_name: &str) -> Guess {
    let word: String = name.to_lowercase().chars().filter(|c| *c != '_').collect();
    let word = word.strip_prefix("is").unwrap_or(&word);
    let base = word.strip_suffix("at").or(word.strip_suffix("on")).unwrap_or(word);
    let (is_on, is_off) = (ON.contains(&word), OFF.contains(&word));
    if STATES.contains(&word) {
        return Guess::Unclear;
    }
    if FLAGS.contains(&type_name) {
        return match (is_on, is_off) {
            (true, _) => Guess::Switch(SwitchedOff::WhenFalse),
            (_, true) => Guess::Switch(SwitchedOff::WhenTrue),
            _ => Guess::Other,
        };
    }
    if INSTANTS.contains(&type_name) {
        return match OFF.contains(&base) {
            // When a key expired may be when it will expire.
            true if base == "expired" => Guess::Unclear,
            true => Guess::Switch(SwitchedOff::WhenSet),
            false if is_on || ON.contains(&base) => Guess::Unclear,
            false => Guess::Other,
        };
    }
    if is_on || is_off { Guess::Unclear } else { Guess::Other }
}

impl SwitchedOff {
    /// Its name in the record of an adoption.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::WhenFalse => "false",
            Self::WhenTrue => "true",
            Self::WhenSet => "set",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::WhenFalse, Self::WhenTrue, Self::WhenSet]
            .into_iter()
            .find(|off| off.as_str() == name)
    }

    /// Returns whether a column of this type can say so.
    pub(super) fn fits(self, type_name: &str) -> bool {
        self == Self::WhenSet || FLAGS.contains(&type_name)
    }

    /// Returns the SQL that is true if the column of the row `k` says that the key is switched off, and false for NULL.
    pub(super) fn sql(self, column: &Ident, type_name: &str) -> String {
        match (self, type_name) {
            (Self::WhenSet, _) => format!("k.{column} IS NOT NULL"),
            (Self::WhenFalse, "bool") => format!("k.{column} IS FALSE"),
            (Self::WhenTrue, "bool") => format!("k.{column} IS TRUE"),
            (Self::WhenFalse, _) => format!("coalesce(k.{column} = 0, false)"),
            (Self::WhenTrue, _) => format!("coalesce(k.{column} <> 0, false)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_known_by_name_and_type() {
        for (name, type_name, off) in [
            ("enabled", "bool", Some(SwitchedOff::WhenFalse)),
            ("is_active", "bool", Some(SwitchedOff::WhenFalse)),
            ("isActive", "int2", Some(SwitchedOff::WhenFalse)),
            ("blocked", "bool", Some(SwitchedOff::WhenTrue)),
            ("is_deleted", "int4", Some(SwitchedOff::WhenTrue)),
            ("deletedAt", "timestamp", Some(SwitchedOff::WhenSet)),
            ("suspended_on", "date", Some(SwitchedOff::WhenSet)),
            ("blocked", "timestamptz", Some(SwitchedOff::WhenSet)),
        ] {
            assert!(
                matches!(guess(name, type_name), Guess::Switch(found) if Some(found) == off),
                "{name}"
            );
        }
        for (name, type_name) in [
            ("status", "text"),
            ("status", "int2"),
            ("state", "key_state"),
            ("enabled", "text"),
            ("activated_at", "timestamptz"),
            ("expired_at", "date"),
        ] {
            assert!(matches!(guess(name, type_name), Guess::Unclear), "{name}");
        }
        for (name, type_name) in [
            ("last_active_at", "timestamptz"),
            ("disabled_by", "text"),
            ("created_at", "timestamptz"),
            ("island", "bool"),
        ] {
            assert!(matches!(guess(name, type_name), Guess::Other), "{name}");
        }
    }
}
