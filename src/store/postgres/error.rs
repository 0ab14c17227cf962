//! Errors of the PostgreSQL store, and which of them are transient.

use std::borrow::Cow;

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::store::StoreError;

pub(super) type Result<T, E = Error> = std::result::Result<T, E>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An error of the PostgreSQL store.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Sqlx(sqlx::Error),
    /// An invalid row.
    #[error(transparent)]
    InvalidRow(BoxError),
    #[error(transparent)]
    Retry(#[from] Retry),
    /// A requirement on options, tables or rights that is not met, with a message of our own.
    #[error(transparent)]
    Config(BoxError),
    #[error("{0}")]
    TimedOut(&'static str),
    #[error("the store is closed")]
    Closed,
}

/// Why a transaction is retried.
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
            E::PoolTimedOut => Self::TimedOut(NO_CONNECTION),
            E::PoolClosed => Self::Closed,
            error => Self::Sqlx(error),
        }
    }
}

const NO_CONNECTION: &str = "no connection to the database was free in time";

/// Returns whether the pool had no connection in time.
pub(super) fn is_no_connection(error: &Error) -> bool {
    matches!(error, Error::TimedOut(NO_CONNECTION))
}

pub(super) fn store_error(error: Error) -> StoreError {
    match error {
        // The message is our own and needs no prefix.
        Error::Config(error) | Error::InvalidRow(error) => StoreError::failed(error),
        error if code(&error).is_some_and(|code| code.starts_with("25")) => {
            StoreError::unavailable(format!("is the server a standby, or read-only? {error}"))
        }
        error if is_transient(&error) => StoreError::unavailable(error),
        error => StoreError::failed(error),
    }
}

/// Returns whether another attempt may succeed. It cannot if the statement or its parameters are wrong. Other errors
/// may pass: contention, a starting server, a standby, or a password or right that is being changed.
pub(super) fn is_transient(error: &Error) -> bool {
    use sqlx::Error as E;
    match error {
        Error::Retry(_) | Error::TimedOut(_) | Error::Closed => true,
        Error::Sqlx(E::WorkerCrashed | E::Io(_) | E::Protocol(_)) => true,
        // The connection was left in a transaction; the next connection is not.
        Error::Sqlx(E::BeginFailed | E::InvalidSavePointStatement) => true,
        error => code(error).is_some_and(|code| {
            &*code == INSUFFICIENT_PRIVILEGE
                || !["22", "23", "42"].iter().any(|class| code.starts_with(class))
        }),
    }
}

pub(super) const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// Returns whether there are keys of accounts that have no row yet.
pub(super) fn is_account_missing(error: &Error) -> bool {
    matches!(error, Error::Retry(Retry::AccountsMissing))
}

/// Returns whether rows changed between the read and the write.
pub(super) fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Retry(Retry::Conflict))
}

/// Returns whether the statement conflicted with other transactions. The connection itself is fine, and a retry may
/// succeed at once.
pub(super) fn is_contention(error: &Error) -> bool {
    matches!(error, Error::Retry(_))
        || code(error).is_some_and(|code| matches!(&*code, "40001" | "40P01"))
}

/// Returns whether the wait for a lock timed out.
pub(super) fn is_locked(error: &Error) -> bool {
    code(error).is_some_and(|code| code == "55P03")
}

/// Returns whether the error is about the rows of this statement, so that statements about other rows need not fail
/// with it. Such rows are locked by another transaction, are invalid, or break a rule of the application.
pub(super) fn is_row_error(error: &Error) -> bool {
    let is_of_class =
        |code: Cow<'_, str>| ["22", "23", "P0"].iter().any(|class| code.starts_with(class));
    is_locked(error)
        || matches!(error, Error::InvalidRow(_) | Error::Retry(_))
        || code(error).is_some_and(is_of_class)
}

/// Returns whether the server answered and rolled back, so that the connection is fine. It is not fine if the server
/// ended the session or no longer has a prepared statement as it was. It is not fine on a standby or read-only server
/// either: the next connection may reach another server.
pub(super) fn connection_survives(error: &Error) -> bool {
    matches!(error, Error::Retry(_))
        || database_error(error).is_some_and(|error| {
            matches!(error.severity(), PgSeverity::Error)
                && !["08", "25", "57P", "58", "0A000", "26000"]
                    .iter()
                    .any(|class| error.code().starts_with(class))
        })
}

/// Returns whether the connection was lost, with all its work in progress.
pub(super) fn is_lost(error: &Error) -> bool {
    use sqlx::Error as E;
    // 25P03: the transaction was idle for too long, because this process was stopped.
    matches!(error, Error::Sqlx(E::Io(_) | E::Protocol(_)))
        || code(error).is_some_and(|code| code.starts_with("57P") || code == "25P03")
}

/// Returns the error that the server reported.
pub(super) fn database_error(error: &Error) -> Option<&PgDatabaseError> {
    match error {
        Error::Sqlx(error) => error.as_database_error()?.try_downcast_ref(),
        _ => None,
    }
}

pub(super) fn code(error: &Error) -> Option<Cow<'_, str>> {
    database_error(error).map(|error| error.code().into())
}

/// Returns an error with a message of our own.
pub(super) fn config_error(what: impl Into<BoxError>) -> Error {
    Error::Config(what.into())
}

/// Returns the error of an invalid row.
pub(super) fn invalid_row(what: impl Into<BoxError>) -> Error {
    Error::InvalidRow(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_transient_and_has_a_message_of_our_own() {
        let error = store_error(Error::TimedOut("another process has been migrating for a minute"));
        assert!(error.is_transient());
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(source.as_deref(), Some("another process has been migrating for a minute"));
    }

    #[test]
    fn a_decode_error_of_sqlx_is_a_row_error() {
        for error in [
            sqlx::Error::Decode("odd".into()),
            sqlx::Error::ColumnDecode { index: "0".into(), source: "odd".into() },
        ] {
            let error = Error::from(error);
            assert!(
                is_row_error(&error) && !connection_survives(&error) && !is_transient(&error),
                "{error}"
            );
        }
        assert!(is_transient(&sqlx::Error::PoolTimedOut.into()));
        assert!(is_row_error(&Retry::Conflict.into()));
    }
}
