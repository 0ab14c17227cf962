//! Errors of opening: where the server was looked for, and why there was no connection.

use std::io::ErrorKind;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use tokio::time::timeout;

use super::error::{Error, code, is_no_connection, is_transient, store_error};
use crate::store::StoreError;

/// How long to wait for the reason why there was no connection.
const PROBE: Duration = Duration::from_secs(1);

/// Returns the error of a store that could not be opened.
///
/// A pool retries a connection that is refused until its time is over, and then reports only that. So the server is asked
/// once more for the reason.
pub(super) async fn opening_error(pool: &PgPool, error: Error) -> StoreError {
    let options = pool.connect_options();
    let address = address(&options);
    if !is_no_connection(&error) {
        return explain(&address, error);
    }
    match timeout(PROBE, PgConnection::connect_with(&options)).await {
        Ok(Err(reason)) => explain(&address, reason.into()),
        Ok(Ok(connection)) => {
            drop(connection.close().await);
            StoreError::unavailable(format!("PostgreSQL at {address}: {error}"))
        }
        Err(_) => {
            StoreError::unavailable(format!("PostgreSQL at {address} did not answer in time"))
        }
    }
}

/// Returns where the server is, without user and password.
fn address(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(socket) => format!("{}, port {}", socket.display(), options.get_port()),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    }
}

/// Adds where the server is and what to do, to an error that is about the connection.
fn explain(address: &str, error: Error) -> StoreError {
    let text = match &error {
        Error::Sqlx(sqlx::Error::Io(io)) if io.kind() == ErrorKind::ConnectionRefused => {
            format!(
                "PostgreSQL at {address} refused the connection: is it running, and is this its address?"
            )
        }
        Error::Sqlx(sqlx::Error::Io(io)) if io.to_string().contains("lookup address") => {
            format!("the host of PostgreSQL at {address} is unknown: {io}")
        }
        Error::Sqlx(sqlx::Error::Io(_) | sqlx::Error::Tls(_)) => {
            format!("PostgreSQL at {address}: {error}")
        }
        _ => match code(&error).as_deref() {
            Some("53300") => format!(
                "PostgreSQL at {address} has too many clients: raise its max_connections, or make pools smaller ({error})"
            ),
            // PgBouncer knows no other parameters of a session than its own.
            Some("08P01") if error.to_string().contains("startup parameter") => {
                return StoreError::failed(format!(
                    "the pooler in front of PostgreSQL at {address} refuses the session: set \
                     `PostgresOptions::transaction_pooling(true)`, and `extra_float_digits(None)` on a pool of your own \
                     ({error})"
                ));
            }
            // The server refused the session: a password, a database, a server that starts.
            Some(code) if ["28", "3D", "53", "57P"].iter().any(|class| code.starts_with(class)) => {
                format!("PostgreSQL at {address}: {error}")
            }
            _ => return store_error(error),
        },
    };
    match is_transient(&error) {
        true => StoreError::unavailable(text),
        false => StoreError::failed(text),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use crate::store::{PostgresOptions, PostgresStore};

    /// Opens a store, and returns its error with the reason.
    async fn error(host: &str) -> String {
        let url = format!("postgres://app:s3cret@{host}/app?sslmode=disable");
        let options = PostgresOptions::new(url).acquire_timeout(Duration::from_millis(500));
        let error = PostgresStore::open(options.clone()).await.unwrap_err();
        let script = PostgresStore::migration_sql(options).await.unwrap_err();
        let [text, other] = [error, script].map(|error| {
            assert!(error.is_transient(), "{error:?}");
            format!("{error}: {}", std::error::Error::source(&error).unwrap())
        });
        assert_eq!(text, other);
        assert!(!text.contains("s3cret") && text.matches("PostgreSQL").count() == 1, "{text}");
        text
    }

    /// Answers every connection with this error, as a server does that takes no session.
    async fn refusing(code: &str, message: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let fields = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0");
        let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
        let answer = [b"E".as_slice(), &length, fields.as_bytes()].concat();
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                drop(socket.read(&mut [0; 1024]).await);
                drop(socket.write_all(&answer).await);
            }
        });
        address
    }

    #[tokio::test]
    async fn a_refused_connection_says_so_and_where() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let text = error(&closed.to_string()).await;
        assert!(text.contains(&format!(" at {closed} refused the connection: ")), "{text}");
    }

    #[tokio::test]
    async fn a_server_with_too_many_clients_says_so_and_where() {
        let full = refusing("53300", "sorry, too many clients already").await;
        let text = error(&full).await;
        assert!(text.contains(&format!(" at {full} has too many clients: ")), "{text}");
        assert!(text.contains("max_connections"), "{text}");
    }

    #[tokio::test]
    async fn a_server_that_starts_or_refuses_the_session_says_so_and_where() {
        for (code, message) in [
            ("57P03", "the database system is starting up"),
            ("28P01", "password authentication failed for user \"app\""),
            ("3D000", "database \"app\" does not exist"),
        ] {
            let server = refusing(code, message).await;
            let text = error(&server).await;
            assert!(text.contains(&format!(" at {server}: ")) && text.contains(message), "{text}");
        }
    }

    #[tokio::test]
    async fn a_pooler_that_refuses_the_session_is_told_with_the_option() {
        let message = "unsupported startup parameter: extra_float_digits";
        let pooler = refusing("08P01", message).await;
        let url = format!("postgres://app@{pooler}/app?sslmode=disable");
        let error = PostgresStore::connect(&url).await.unwrap_err();
        let text = std::error::Error::source(&error).unwrap().to_string();
        assert!(!error.is_transient(), "{error:?}");
        assert!(text.contains("transaction_pooling(true)") && text.contains(message), "{text}");
    }

    #[tokio::test]
    async fn an_unknown_host_says_so_and_where() {
        let text = error("no..such..host:5433").await;
        assert!(text.contains(" at no..such..host:5433 is unknown: "), "{text}");
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_says_so_and_where() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let text = error(&address.to_string()).await;
        assert!(text.contains(&format!(" at {address} did not answer in time")), "{text}");
    }
}
