//! Addresses of PostgreSQL, told from paths of files. They may contain a password.

/// The keywords of libpq's connection strings that an address may begin with.
const KEYWORDS: [&str; 14] = [
    "application_name",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "passfile",
    "password",
    "port",
    "service",
    "sslmode",
    "target_session_attrs",
    "user",
];

/// Returns whether a text is the address of a PostgreSQL server: a URL, or a connection string such as
/// `host=db user=app`.
pub(crate) fn is_postgres(text: &str) -> bool {
    let text = text.trim_start();
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    let keyword = text.split_once('=').map(|(keyword, _)| keyword.trim_end());
    scheme.is_some_and(|scheme| {
        ["postgres", "postgresql"].iter().any(|name| scheme.eq_ignore_ascii_case(name))
    }) || keyword.is_some_and(|keyword| KEYWORDS.contains(&keyword))
}
