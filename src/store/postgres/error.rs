//! What an error of PostgreSQL means to those who use the store.

use crate::store::StoreError;

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
        E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed | E::Io(_) | E::Protocol(_) => true,
        // The connection was left in a transaction; the next one will not be.
        E::BeginFailed | E::InvalidSavePointStatement => true,
        error => code(error).is_some_and(|code| {
            matches!(
                &*code,
                // Somebody else was faster, or in the way.
                "40001" | "40P01" | "55P03" |
                // It took too long.
                "57014" |
                // The server is a standby: the one that was promoted is elsewhere.
                "25006"
            ) || ["08", "53", "57P", "58"].iter().any(|class| code.starts_with(class))
        }),
    }
}

/// Whether others were in the way: the connection itself is fine, and another attempt may go through at once.
pub(super) fn is_contention(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| matches!(&*code, "40001" | "40P01"))
}

/// Whether an id is taken.
pub(super) fn is_duplicate(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "23505")
}

/// Whether the server itself answered, so that what it refused was rolled back and the connection is fine.
pub(super) fn is_answer(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| !["08", "57P", "58"].iter().any(|class| code.starts_with(class)))
}

fn code(error: &sqlx::Error) -> Option<std::borrow::Cow<'_, str>> {
    error.as_database_error()?.code()
}

/// What is told in our own words.
pub(super) fn told(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Configuration(what.into())
}

/// A row that cannot be understood.
pub(super) fn corrupt(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}

/// Whether the connection was lost, with whatever was under way on it.
pub(super) fn is_lost(error: &sqlx::Error) -> bool {
    use sqlx::Error as E;
    matches!(error, E::Io(_) | E::Protocol(_)) || code(error).is_some_and(|code| code.starts_with("57P"))
}
