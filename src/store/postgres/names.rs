//! Names in SQL, and the texts of statements.

use std::fmt;
use std::sync::Arc;

use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;

use super::error::{Result, config_error};

/// A quoted name, checked when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ident(String);

impl Ident {
    /// Quotes a name.
    ///
    /// # Errors
    ///
    /// Fails if the name is empty, is longer than PostgreSQL keeps (63 bytes), or has a control character or a brace.
    /// Braces mark names in our templates.
    pub(super) fn new(name: &str) -> Result<Self, String> {
        if name.is_empty()
            || name.len() > 63
            || name.chars().any(|c| c.is_control() || c == '{' || c == '}')
        {
            let text = format!(
                "{name:?} is not a valid name: 1 to 63 bytes, no control characters, no braces"
            );
            return Err(text);
        }
        Ok(Self(format!("\"{}\"", name.replace('"', "\"\""))))
    }

    pub(super) fn from_static(name: &'static str) -> Self {
        Self(format!("\"{name}\""))
    }
}

impl fmt::Display for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A table of the application.
#[derive(Clone, Debug)]
pub(super) struct TableName {
    pub(super) schema: String,
    pub(super) name: String,
}

impl TableName {
    /// Returns the quoted name with its schema.
    pub(super) fn quoted(&self) -> Result<String> {
        let quoted = |name: &str| Ident::new(name).map_err(config_error);
        Ok(format!("{}.{}", quoted(&self.schema)?, quoted(&self.name)?))
    }
}

/// Returns a text as an SQL literal, whatever `standard_conforming_strings` is.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    match quoted.contains('\\') {
        true => format!("E'{}'", quoted.replace('\\', "\\\\")),
        false => format!("'{quoted}'"),
    }
}

/// The text of a statement, made once from a template and checked names.
#[derive(Clone, Debug)]
pub(super) struct Sql(Arc<str>);

impl Sql {
    /// Joins the lines of a text and drops its comments, which must be lines of their own.
    pub(super) fn new(text: &str) -> Self {
        Self(one_line(text).into())
    }

    pub(super) fn text(&self) -> Arc<str> {
        self.0.clone()
    }

    pub(super) fn query<'q>(&self) -> Query<'q, Postgres, PgArguments> {
        sqlx::query(AssertSqlSafe(self.0.clone()))
    }
}

pub(super) fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        assert_eq!(Ident::new("a\"b; DROP").unwrap().to_string(), "\"a\"\"b; DROP\"");
        for bad in ["", "a\0", &"x".repeat(64)] {
            assert!(Ident::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn texts_are_quoted() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("\\'; DROP"), "E'\\\\''; DROP'");
    }
}
