//! What an error of SQLite means to those who use the store.

use crate::store::StoreError;

const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const NOMEM: i32 = 7;
const READONLY: i32 = 8;
const INTERRUPT: i32 = 9;
const IOERR: i32 = 10;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;
/// Lost the race for the WAL's locks.
const PROTOCOL: i32 = 15;

pub(super) fn store_error(error: sqlx::Error) -> StoreError {
    use sqlx::Error as E;
    match error {
        // Our own words, without sqlx's in front.
        E::Configuration(error) | E::Decode(error) => StoreError::failed(error),
        error if is_transient(&error) => StoreError::unavailable(error),
        error => StoreError::failed(error),
    }
}

fn is_transient(error: &sqlx::Error) -> bool {
    use sqlx::Error as E;
    match error {
        E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed | E::Io(_) => true,
        // The connection was left in a transaction; the next one will not be.
        E::BeginFailed | E::InvalidSavePointStatement => true,
        error => matches!(
            code(error),
            Some(BUSY | LOCKED | NOMEM | READONLY | INTERRUPT | IOERR | FULL | CANTOPEN | PROTOCOL)
        ),
    }
}

/// Whether somebody else has the lock: the connection itself is fine.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    matches!(code(error), Some(BUSY | LOCKED))
}

/// The primary result code: an extended one has more in its upper bits.
fn code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// A row that cannot be understood.
pub(super) fn corrupt(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}
