//! Errors of the SQLite store, and which of them are transient.

use rusqlite::ffi;

use crate::store::StoreError;

pub(super) type Result<T> = std::result::Result<T, Error>;

/// An error of the SQLite store.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// A file or a row that cannot be used, with a message of our own.
    #[error(transparent)]
    Unusable(Box<dyn std::error::Error + Send + Sync>),
    #[error("no thread could be started: {0}")]
    NoThread(std::io::Error),
    #[error("the connection was busy for too long")]
    TimedOut,
    #[error("the store is closed")]
    Closed,
    #[error("the work on the connection panicked")]
    Panicked,
}

pub(super) fn store_error(error: Error) -> StoreError {
    match error {
        Error::Unusable(error) => StoreError::failed(error),
        error if is_transient(&error) => StoreError::unavailable(error),
        error => StoreError::failed(error),
    }
}

fn is_transient(error: &Error) -> bool {
    match error {
        Error::NoThread(_) | Error::TimedOut | Error::Closed => true,
        error => matches!(
            code(error),
            Some(
                ffi::SQLITE_BUSY
                    | ffi::SQLITE_LOCKED
                    | ffi::SQLITE_NOMEM
                    | ffi::SQLITE_READONLY
                    | ffi::SQLITE_INTERRUPT
                    | ffi::SQLITE_IOERR
                    | ffi::SQLITE_FULL
                    | ffi::SQLITE_CANTOPEN
                    // The connection lost the race for the WAL's locks.
                    | ffi::SQLITE_PROTOCOL
            )
        ),
    }
}

/// Returns whether another process has the lock. The connection itself is fine.
pub(super) fn is_busy(error: &Error) -> bool {
    matches!(code(error), Some(ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED))
}

/// Returns whether a row is invalid. The connection itself is fine.
pub(super) fn is_unusable(error: &Error) -> bool {
    matches!(error, Error::Unusable(_))
}

/// Returns whether the row exists already.
pub(super) fn is_duplicate(error: &Error) -> bool {
    code(error) == Some(ffi::SQLITE_CONSTRAINT)
}

/// Returns the primary result code. The upper bits of an extended code are dropped.
fn code(error: &Error) -> Option<i32> {
    let Error::Sqlite(error) = error else { return None };
    Some(error.sqlite_error()?.extended_code & 0xff)
}

/// Returns the error of a file or a row that cannot be used.
pub(super) fn corrupt(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Unusable(what.into())
}
