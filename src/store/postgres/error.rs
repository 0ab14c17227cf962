//! What can go wrong, and what that means to a caller of the store.

use std::borrow::Cow;

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::store::StoreError;

pub(super) type Result<T, E = Error> = std::result::Result<T, E>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Sqlx(sqlx::Error),
    /// A row that cannot be understood.
    #[error(transparent)]
    InvalidRow(BoxError),
    #[error(transparent)]
    Retry(#[from] Retry),
    /// What options, tables or rights have to be before the store can be used, in our own words.
    #[error(transparent)]
    Config(BoxError),
    #[error("{0}")]
    TimedOut(&'static str),
    #[error("the store is closed")]
    Closed,
}

/// Why a transaction is to be tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Retry {
    /// The application's own SQL changed a key between the read and the write.
    #[error("the rows of this account keep changing")]
    Conflict,
    /// There are keys of accounts that have no row yet.
    #[error("the rows of new accounts could not be made")]
    AccountsMissing,
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match error {
            E::Decode(error) => Self::InvalidRow(error),
            E::ColumnDecode { .. } => Self::InvalidRow(Box::new(error)),
            E::Configuration(error) => Self::Config(error),
            E::PoolTimedOut => Self::TimedOut("no connection to PostgreSQL was free in time"),
            E::PoolClosed => Self::Closed,
            error => Self::Sqlx(error),
        }
    }
}

pub(super) fn store_error(error: Error) -> StoreError {
    match error {
        // Our own words, with nothing in front.
        Error::Config(error) | Error::InvalidRow(error) => StoreError::failed(error),
        error if code(&error).is_some_and(|code| code.starts_with("25")) => {
            StoreError::unavailable(format!("is the server a standby, or read-only? {error}"))
        }
        error if is_transient(&error) => StoreError::unavailable(error),
        error => StoreError::failed(error),
    }
}

/// Another attempt cannot help where the statement or what it was given is wrong. All else may pass: others in the
/// way, a server that is starting, a standby, a password or a right that is being changed.
fn is_transient(error: &Error) -> bool {
    use sqlx::Error as E;
    match error {
        Error::Retry(_) | Error::TimedOut(_) | Error::Closed => true,
        Error::Sqlx(E::WorkerCrashed | E::Io(_) | E::Protocol(_)) => true,
        // The connection was left in a transaction; the next one will not be.
        Error::Sqlx(E::BeginFailed | E::InvalidSavePointStatement) => true,
        error => code(error).is_some_and(|code| {
            &*code == INSUFFICIENT_PRIVILEGE || !["22", "23", "42"].iter().any(|class| code.starts_with(class))
        }),
    }
}

pub(super) const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// Returns whether there are keys of accounts that have no row yet.
pub(super) fn is_account_missing(error: &Error) -> bool {
    matches!(error, Error::Retry(Retry::AccountsMissing))
}

/// Returns whether rows changed between the look and the write.
pub(super) fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Retry(Retry::Conflict))
}

/// Returns whether others were in the way: the connection itself is fine, and another attempt may go through at once.
pub(super) fn is_contention(error: &Error) -> bool {
    matches!(error, Error::Retry(_)) || code(error).is_some_and(|code| matches!(&*code, "40001" | "40P01"))
}

/// Returns whether a lock was waited for too long.
pub(super) fn is_locked(error: &Error) -> bool {
    code(error).is_some_and(|code| code == "55P03")
}

/// Returns whether it is of the rows in question, which another transaction keeps, which make no sense, or which the host's
/// own rules refuse: what needs other rows need not fail with it.
pub(super) fn is_row_error(error: &Error) -> bool {
    let is_of_class = |code: Cow<'_, str>| ["22", "23", "P0"].iter().any(|class| code.starts_with(class));
    is_locked(error) || matches!(error, Error::InvalidRow(_) | Error::Retry(_)) || code(error).is_some_and(is_of_class)
}

/// Returns whether the server itself answered, so that what it refused was rolled back and the connection is fine. Not where
/// it ended the session, not where it knows a prepared statement no more, or as another one, and not where it is a standby
/// or read-only: the next connection may be to another server.
pub(super) fn connection_survives(error: &Error) -> bool {
    matches!(error, Error::Retry(_))
        || database_error(error).is_some_and(|told| {
            matches!(told.severity(), PgSeverity::Error)
                && !["08", "25", "57P", "58", "0A000", "26000"].iter().any(|class| told.code().starts_with(class))
        })
}

/// Returns whether the connection was lost, with whatever was under way on it.
pub(super) fn is_lost(error: &Error) -> bool {
    use sqlx::Error as E;
    // 25P03: the transaction was idle for too long, since this process was stopped.
    matches!(error, Error::Sqlx(E::Io(_) | E::Protocol(_)))
        || code(error).is_some_and(|code| code.starts_with("57P") || code == "25P03")
}

/// Returns what the server said.
pub(super) fn database_error(error: &Error) -> Option<&PgDatabaseError> {
    match error {
        Error::Sqlx(error) => error.as_database_error()?.try_downcast_ref(),
        _ => None,
    }
}

fn code(error: &Error) -> Option<Cow<'_, str>> {
    database_error(error).map(|told| told.code().into())
}

/// What is told in our own words.
pub(super) fn config_error(what: impl Into<BoxError>) -> Error {
    Error::Config(what.into())
}

/// A row that cannot be understood.
pub(super) fn invalid_row(what: impl Into<BoxError>) -> Error {
    Error::InvalidRow(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waited_too_long_may_try_again_and_is_told_so_in_our_own_words() {
        let error = store_error(Error::TimedOut("another process has been migrating for a minute"));
        assert!(error.is_transient());
        assert_eq!(error.to_string(), "the store is not available: another process has been migrating for a minute");
    }

    #[test]
    fn what_sqlx_cannot_decode_is_of_its_row() {
        for error in
            [sqlx::Error::Decode("odd".into()), sqlx::Error::ColumnDecode { index: "0".into(), source: "odd".into() }]
        {
            let error = Error::from(error);
            assert!(is_row_error(&error) && !connection_survives(&error) && !is_transient(&error), "{error}");
        }
        assert!(is_transient(&sqlx::Error::PoolTimedOut.into()));
        assert!(is_row_error(&Retry::Conflict.into()));
    }
}
