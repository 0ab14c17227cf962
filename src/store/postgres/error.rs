//! What an error of PostgreSQL means to those who use the store.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::store::StoreError;

pub(super) fn store_error(error: sqlx::Error) -> StoreError {
    use sqlx::Error as E;
    match error {
        // Our own words, without sqlx's in front.
        E::Decode(error) if error.is::<Anew>() => StoreError::unavailable(error),
        E::Configuration(error) | E::Decode(error) => StoreError::failed(error),
        error if is_transient(&error) => StoreError::unavailable(error),
        error => StoreError::failed(error),
    }
}

/// Another attempt cannot help where the statement or what it was given is wrong. All else may pass: others in the
/// way, a server that is starting, a standby, a password or a right that is being changed.
fn is_transient(error: &sqlx::Error) -> bool {
    use sqlx::Error as E;
    match error {
        E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed | E::Io(_) | E::Protocol(_) => true,
        // The connection was left in a transaction; the next one will not be.
        E::BeginFailed | E::InvalidSavePointStatement => true,
        error => code(error).is_some_and(|code| {
            &*code == INSUFFICIENT_PRIVILEGE || !["22", "23", "42"].iter().any(|class| code.starts_with(class))
        }),
    }
}

const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// Why a transaction is to be begun anew.
#[derive(Debug, thiserror::Error)]
pub(super) enum Anew {
    /// The host's own SQL changed a key between the look and the write.
    #[error("the rows of this account keep changing")]
    Moved,
    /// There are keys of accounts that have no row yet.
    #[error("the rows of new accounts could not be made")]
    AccountsMissing,
    /// The lock of those who migrate was waited for too long.
    #[error(
        "another process has been bringing the tables up to date for a minute, or left its transaction open (it has \
         the advisory lock 6004214 in `pg_locks`): open again once it is done"
    )]
    Migrating,
}

impl From<Anew> for sqlx::Error {
    fn from(anew: Anew) -> Self {
        Self::Decode(Box::new(anew))
    }
}

fn anew(error: &sqlx::Error) -> Option<&Anew> {
    match error {
        sqlx::Error::Decode(error) => error.downcast_ref(),
        _ => None,
    }
}

pub(super) fn is_accounts_missing(error: &sqlx::Error) -> bool {
    matches!(anew(error), Some(Anew::AccountsMissing))
}

pub(super) fn is_moved(error: &sqlx::Error) -> bool {
    matches!(anew(error), Some(Anew::Moved))
}

/// Whether others were in the way: the connection itself is fine, and another attempt may go through at once.
pub(super) fn is_contention(error: &sqlx::Error) -> bool {
    anew(error).is_some() || code(error).is_some_and(|code| matches!(&*code, "40001" | "40P01"))
}

/// Whether a lock was waited for too long.
pub(super) fn is_locked(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "55P03")
}

/// Whether it is of the rows in question, which somebody keeps, which make no sense, or which the host's own rules refuse:
/// what needs other rows need not fail with it.
pub(super) fn is_of_rows(error: &sqlx::Error) -> bool {
    use sqlx::Error as E;
    let is_of_class = |code: &str| ["22", "23", "P0"].iter().any(|class| code.starts_with(class));
    is_locked(error)
        || matches!(error, E::Decode(_) | E::ColumnDecode { .. })
        || code(error).is_some_and(|code| is_of_class(&code))
}

/// Whether the server itself answered, so that what it refused was rolled back and the connection is fine. Not where it
/// ended the session, and not where it knows a prepared statement no more, or as another one.
pub(super) fn is_answer(error: &sqlx::Error) -> bool {
    let told = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    anew(error).is_some()
        || told.is_some_and(|told| {
            matches!(told.severity(), PgSeverity::Error)
                && !["08", "57P", "58", "0A000", "26000"].iter().any(|class| told.code().starts_with(class))
        })
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
    // 25P03: the transaction was idle for too long, since this process was stopped.
    matches!(error, E::Io(_) | E::Protocol(_))
        || code(error).is_some_and(|code| code.starts_with("57P") || code == "25P03")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waited_for_a_migration_may_try_again_and_is_told_so_in_our_own_words() {
        let error = store_error(Anew::Migrating.into());
        assert!(error.is_transient());
        let told = "the store is not available: another process has been bringing the tables up to date for a minute";
        assert!(error.to_string().starts_with(told), "{error}");
    }
}
