//! What an error of SQLite means to a caller of the store.

use rusqlite::ffi;

use crate::store::StoreError;

pub(super) type Result<T> = std::result::Result<T, Error>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// In our own words: a file or a row that cannot be used.
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
                    // Lost the race for the WAL's locks.
                    | ffi::SQLITE_PROTOCOL
            )
        ),
    }
}

/// Whether another process has the lock: the connection itself is fine.
pub(super) fn is_busy(error: &Error) -> bool {
    matches!(code(error), Some(ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED))
}

/// Whether a row makes no sense: the connection itself is fine.
pub(super) fn is_unusable(error: &Error) -> bool {
    matches!(error, Error::Unusable(_))
}

/// Whether a row is there already.
pub(super) fn is_duplicate(error: &Error) -> bool {
    code(error) == Some(ffi::SQLITE_CONSTRAINT)
}

/// The primary result code: an extended one has more in its upper bits.
fn code(error: &Error) -> Option<i32> {
    let Error::Sqlite(error) = error else { return None };
    Some(error.sqlite_error()?.extended_code & 0xff)
}

/// A row that cannot be understood.
pub(super) fn corrupt(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Unusable(what.into())
}
