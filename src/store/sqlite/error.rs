//! Errors of the SQLite store, and which of them are transient.

use std::path::Path;

use rusqlite::ffi;

use super::options::Location;
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
    /// The file, or one beside it, can only be read.
    #[error("the file can only be read")]
    ReadOnly,
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

/// Returns the error of a database that cannot be opened. A file that cannot be written is not transient here: nothing
/// has worked yet, and the settings are what is wrong.
pub(super) fn opening_error(location: &Location, error: Error) -> StoreError {
    match (location, error) {
        (Location::File { path, create: false }, _) if !path.exists() => {
            StoreError::failed(format!(
                "{location}: there is no such file, and it is not made (`?mode=rw`, or \
                 `SqliteOptions::migrate(false)`)"
            ))
        }
        (Location::File { path, .. }, error) if is_not_writable(&error) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            StoreError::failed(format!(
                "{location}: {error}. agentkey writes to this file, and to {location}-wal and {location}-shm, which it \
                 makes in the folder {}. Let the process write to the folder and to all three files. In a container, \
                 mount the folder for writing, not the file alone",
                folder.unwrap_or(Path::new(".")).display(),
            ))
        }
        (_, error) => {
            let text = format!("{location}: {error}");
            match store_error(error).is_transient() {
                true => StoreError::unavailable(text),
                false => StoreError::failed(text),
            }
        }
    }
}

fn is_not_writable(error: &Error) -> bool {
    matches!(error, Error::ReadOnly)
        || matches!(
            code(error),
            Some(ffi::SQLITE_READONLY | ffi::SQLITE_CANTOPEN | ffi::SQLITE_PERM)
        )
}

fn is_transient(error: &Error) -> bool {
    match error {
        Error::ReadOnly | Error::NoThread(_) | Error::TimedOut | Error::Closed => true,
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
