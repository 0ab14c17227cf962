//! The errors of the program, their texts and their exit codes.

use std::error::Error as _;
use std::io;

use agentkey::model::ChangeError;
use agentkey::{BuildError, Refusal, StoreError};

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The change was refused, or it failed.
    #[error("{0}")]
    Failed(String),
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// There is no key, account or entry of this name.
    #[error("{0}")]
    NotFound(String),
    /// The database cannot be opened, or it does not answer.
    #[error("{0}")]
    Database(String),
    /// The output cannot be written.
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    /// Returns the exit code of the program: 1 where it failed or was refused, 2 for arguments that
    /// make no sense, 3 where there is no such thing, 4 where the database is the reason.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Output(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Database(_) => 4,
        }
    }

    /// Returns the `code` of the JSON document of the error.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Failed(_) => "failed",
            Self::Usage(_) => "usage",
            Self::NotFound(_) => "not_found",
            Self::Database(_) => "database",
            Self::Output(_) => "output",
        }
    }
}

impl From<agentkey::Error> for Error {
    fn from(error: agentkey::Error) -> Self {
        use agentkey::Error as E;
        match error {
            E::Change(error) => error.into(),
            E::Refused(refusal @ (Refusal::UnknownEntry | Refusal::UnknownKey)) => {
                Self::NotFound(refusal.to_string())
            }
            E::Refused(refusal @ Refusal::Unavailable { .. }) => Self::Database(format!(
                "{refusal}: see the log lines above, and try again; `agentkey doctor` says more"
            )),
            E::Refused(Refusal::RefundTooLarge { .. }) => Self::Failed(
                "the entry has less left than that: earlier refunds took the rest".to_owned(),
            ),
            E::Store(error) => error.into(),
            E::Build(BuildError::UnknownStore { reason, .. }) => Self::Usage(reason.to_owned()),
            error => Self::Failed(in_terms_of_flags(&error.to_string())),
        }
    }
}

impl From<ChangeError> for Error {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::UnknownKey(_) => {
                Self::NotFound(format!("{error}; `agentkey key list` shows those that there are"))
            }
            ChangeError::UnknownAccount(_) => Self::NotFound(format!(
                "{error}; `agentkey account list` shows those that there are"
            )),
            error => Self::Failed(in_terms_of_flags(&error.to_string())),
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        Self::Database(with_mend(in_terms_of_flags(&reason)))
    }
}

/// Adds what to do, where the reason alone does not say it.
fn with_mend(reason: String) -> String {
    let mend = if reason.contains("permission denied") {
        "use a role that may read and write the tables of agentkey, or grant this one the rights"
    } else if reason.contains("file is not a database") {
        "name the file of the service that uses agentkey"
    } else if reason.contains("`") {
        return reason;
    } else {
        "check `--database` and that it is up; `agentkey doctor` says more"
    };
    format!("{reason}: {mend}")
}

/// The calls that the library names in its errors, and what the command line has for each.
const CALLS: [(&str, &str); 26] = [
    (
        "run the SQL that `PostgresStore::migration_sql` returns, or open with `PostgresOptions::migrate(true)`",
        "run `agentkey migrate`, or the SQL of `agentkey migrate --print`",
    ),
    (
        "run the SQL that `SqliteStore::migration_sql` returns, or open with `SqliteOptions::migrate(true)`",
        "run `agentkey migrate` if this is the right file",
    ),
    (
        "run the SQL that `PostgresStore::migration_sql` returns, then open with `PostgresOptions::migrate(false)`",
        "run `agentkey migrate`, or the SQL of `agentkey migrate --print`",
    ),
    (
        "and it is not made (`?mode=rw`, or `SqliteOptions::migrate(false)`)",
        "and only `agentkey migrate` makes one",
    ),
    ("open it with `PostgresOptions::table`", "name it with `--table`"),
    (
        "give keys of agentkey's own another schema",
        "give keys of agentkey's own another `--schema`",
    ),
    (
        "say with `PostgresOptions::adopt(Adoption::new(scopes, budget))` what",
        "say with `agentkey adopt` what",
    ),
    (
        "set `PostgresOptions::transaction_pooling(true)`, and `extra_float_digits(None)` on a pool of your own",
        "give `--transaction-pooling`",
    ),
    ("set `PostgresOptions::transaction_pooling(true)`", "give `--transaction-pooling`"),
    ("leave `PostgresOptions::adopt` out", "leave `--null-scopes` and `--null-limit` out"),
    ("`PostgresOptions::adopt`: ", "`--null-limit`: "),
    ("(`PostgresOptions::schema`)", "(`--schema`)"),
    ("`AgentKeys::import`", "`agentkey key import`"),
    ("leave `Adoption::column` out", "leave `--column` out"),
    ("leave `Adoption::switch` and `Adoption::ignore` out", "leave `--off` and `--ignore` out"),
    ("`Adoption::column`", "`--column`"),
    ("`Adoption::switch`", "`--off`"),
    ("`Adoption::ignore`", "`--ignore`"),
    (
        "and SQLite was asked for: use `AgentKeys::connect` or `AgentKeys::postgres` with a URL and the feature `postgres`",
        "which is no file: write it as `postgres://user@host/database`",
    ),
    (
        "this is a URL of another store than SQLite and PostgreSQL",
        "the database is neither an SQLite file nor PostgreSQL: give a path, or `postgres://user@host/database`",
    ),
    ("name it with `table`", "name it with `--table`"),
    ("`.column(KeyColumn::LimitCents, …)`", "`--column limit_cents=COLUMN`"),
    ("`.column(KeyColumn::LimitMicros, …)`", "`--column limit_micros=COLUMN`"),
    ("`.switch(\"is_off\", SwitchedOff::WhenTrue)`", "`--off is_off=true`"),
    ("`.switch(…)`", "`--off COLUMN=WHEN`"),
    ("or say SwitchedOff::WhenSet", "or say `--off COLUMN=set`"),
];

/// Says in flags and commands what the library says in calls.
pub(crate) fn in_terms_of_flags(text: &str) -> String {
    let text = CALLS.iter().fold(text.to_owned(), |text, (call, flag)| text.replace(call, flag));
    let column = |field: &str| format!("`--column {}=COLUMN`", snake_case(field));
    let text = replaced(text, "`.column(KeyColumn::", ", …)`", column);
    replaced(text, "`.ignore(\"", "\")`", |column| format!("`--ignore {column}`"))
}

/// Replaces every text from `start` to `end`, by what is between them.
fn replaced(mut text: String, start: &str, end: &str, by: impl Fn(&str) -> String) -> String {
    while let Some(from) = text.find(start) {
        let between = from + start.len();
        let Some(length) = text.get(between..).and_then(|rest| rest.find(end)) else { break };
        let new = by(text.get(between..between + length).unwrap_or_default());
        text.replace_range(from..between + length + end.len(), &new);
    }
    text
}

fn snake_case(name: &str) -> String {
    let mut text = String::new();
    for char in name.chars() {
        if char.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(char.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_the_library_become_flags() {
        for (text, flags) in [
            (
                "name its column with `.column(KeyColumn::RevokedAt, …)` or `.column(KeyColumn::Id, …)`",
                "name its column with `--column revoked_at=COLUMN` or `--column id=COLUMN`",
            ),
            ("say `.ignore(\"status\")`", "say `--ignore status`"),
            ("set `PostgresOptions::transaction_pooling(true)`", "give `--transaction-pooling`"),
            ("all is well", "all is well"),
        ] {
            assert_eq!(in_terms_of_flags(text), flags);
        }
    }
}
