//! The location of a database, and how it is opened.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::Clock;
use crate::store::StoreError;
use crate::store::address::is_postgres;
use crate::store::range::{MAX_WAIT, check};

/// How to open a [`SqliteStore`](crate::SqliteStore).
///
/// ```
/// use agentkey::SqliteStore;
/// use agentkey::store::SqliteOptions;
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), agentkey::StoreError> {
/// let options = SqliteOptions::new("sqlite::memory:").busy_timeout(Duration::from_secs(2));
/// let store = SqliteStore::open(options).await?;
/// # drop(store); Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "options take effect through `SqliteStore::open`"]
pub struct SqliteOptions {
    target: PathBuf,
    pub(super) clock: Clock,
    pub(super) busy_timeout: Duration,
    pub(super) readers: u32,
    pub(super) migrate: bool,
}

impl SqliteOptions {
    /// Opens the database at a path, `keys.db`; at an URL, `sqlite:keys.db` or `sqlite:///var/lib/keys.db`, in which
    /// `%` encodes; or in memory, `:memory:` or `sqlite::memory:`.
    ///
    /// A missing file is created, unless the URL says `?mode=rw`. An URL takes no other parameter.
    pub fn new(path_or_url: impl AsRef<Path>) -> Self {
        Self {
            target: path_or_url.as_ref().to_owned(),
            clock: Clock::default(),
            busy_timeout: Duration::from_secs(5),
            readers: 1,
            migrate: true,
        }
    }

    /// Sets the clock of the store.
    pub fn clock(mut self, clock: impl Into<Clock>) -> Self {
        self.clock = clock.into();
        self
    }

    /// Sets how long to wait for a connection of this process and then for the lock of another process, together.
    /// Default: 5 seconds.
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Sets how many connections look-ups have; at least one. More connections make smaller batches. In memory all work
    /// shares one connection. Default: 1.
    pub fn readers(mut self, readers: u32) -> Self {
        self.readers = readers;
        self
    }

    /// Sets whether opening makes a missing file, and brings the tables up to date. If not, opening fails if the file is
    /// missing, or if the tables are missing, older or newer than this version. It then changes nothing, also in a file
    /// of another program. Default: it does.
    ///
    /// [`SqliteStore::migration_sql`](crate::SqliteStore::migration_sql) returns the SQL that would run.
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// Returns the path of the file; `None` for a database in memory. It opens nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where the options name no file that could be opened, or one is out of its range.
    ///
    /// ```
    /// use agentkey::store::SqliteOptions;
    /// use std::path::PathBuf;
    ///
    /// assert_eq!(SqliteOptions::new("sqlite:a%20b.db").file()?, Some(PathBuf::from("a b.db")));
    /// # Ok::<(), agentkey::StoreError>(())
    /// ```
    pub fn file(&self) -> Result<Option<PathBuf>, StoreError> {
        match self.location().map_err(StoreError::failed)? {
            Location::File { path, .. } => Ok(Some(path)),
            Location::Memory => Ok(None),
        }
    }

    pub(super) fn location(&self) -> Result<Location, String> {
        Ok(match self.target()? {
            Location::File { path, create } => {
                Location::File { path, create: create && self.migrate }
            }
            Location::Memory => Location::Memory,
        })
    }

    fn target(&self) -> Result<Location, String> {
        check("busy_timeout", self.busy_timeout, Duration::ZERO..=MAX_WAIT)?;
        check("readers", self.readers, 1..=64)?;
        // Neither text is shown: it may contain a password.
        if self.target.to_str().is_some_and(is_postgres) {
            return Err("this is a URL of PostgreSQL, or a connection string, and SQLite was asked for: use \
                 `AgentKeys::connect` or `AgentKeys::postgres` with a URL and the feature `postgres`"
                .into());
        }
        let is_url = |text: &str| {
            text.contains("://") && !["sqlite:", "file:"].iter().any(|ours| text.starts_with(ours))
        };
        if self.target.to_str().is_some_and(is_url) {
            return Err("this is a URL of another store than SQLite and PostgreSQL".into());
        }
        let Some(url) = self.target.to_str().and_then(|text| text.strip_prefix("sqlite:")) else {
            return Location::from_path(self.target.clone(), true);
        };
        let url = url.strip_prefix("//").unwrap_or(url);
        let (path, mode) = url.split_once('?').unwrap_or((url, "mode=rwc"));
        let create = match mode {
            "mode=rwc" => true,
            "mode=rw" => false,
            _ => {
                return Err(format!(
                    "sqlite:{path}: an URL takes ?mode=rwc or ?mode=rw and nothing else"
                ));
            }
        };
        if path == ":memory:" {
            return Location::from_path(path.into(), create);
        }
        let decoded =
            decoded(path).ok_or_else(|| format!("sqlite:{path}: what `%` encodes is not UTF-8"))?;
        Location::from_path(decoded.into(), create)
    }
}

/// The location of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    Memory,
    File { path: PathBuf, create: bool },
}

impl Location {
    fn from_path(path: PathBuf, create: bool) -> Result<Self, String> {
        if path.as_os_str() == ":memory:" {
            return Ok(Self::Memory);
        }
        let shown = path.display();
        if path.as_os_str().is_empty() {
            return Err("the path of the database is empty".into());
        }
        // SQLite itself would read these as URIs.
        if path.to_str().is_none_or(|text| text.starts_with("file:")) {
            return Err(format!("{shown}: a path is in UTF-8 and does not start with `file:`"));
        }
        if path.is_dir() {
            return Err(format!("{shown} is a directory; name a file in it"));
        }
        match path
            .parent()
            .filter(|directory| !directory.as_os_str().is_empty() && !directory.is_dir())
        {
            Some(directory) => {
                Err(format!("{shown}: there is no directory {}", directory.display()))
            }
            None => Ok(Self::File { path, create }),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str(":memory:"),
            Self::File { path, .. } => path.display().fmt(f),
        }
    }
}

/// Decodes a part of an URL. A `%` that encodes nothing is kept.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digit = |index: usize| char::from(*after.get(index)?).to_digit(16);
        let encoded = digit(0).zip(digit(1)).filter(|_| *first == b'%');
        let encoded = encoded.and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        bytes.push(encoded.unwrap_or(*first));
        rest = after.get(if encoded.is_some() { 2 } else { 0 }..).unwrap_or_default();
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_urls_name_the_same_files() {
        let file = |path: &str| Location::File { path: path.into(), create: true };
        for (target, location) in [
            ("keys.db", file("keys.db")),
            ("sqlite:keys.db", file("keys.db")),
            ("sqlite://keys.db", file("keys.db")),
            ("sqlite://keys.db?mode=rwc", file("keys.db")),
            ("sqlite:///tmp/keys.db", file("/tmp/keys.db")),
            ("sqlite:a%20b.db", file("a b.db")),
            ("sqlite:%c3%A9%2", file("é%2")),
            ("a%20b?c.db", file("a%20b?c.db")),
            ("sqlite:keys.db?mode=rw", Location::File { path: "keys.db".into(), create: false }),
            (":memory:", Location::Memory),
            ("sqlite::memory:", Location::Memory),
            ("sqlite://:memory:", Location::Memory),
        ] {
            assert_eq!(SqliteOptions::new(target).location(), Ok(location), "{target}");
        }
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        for (target, names) in [
            ("/no/such/keys.db", "there is no directory /no/such"),
            ("/tmp", "/tmp is a directory"),
            ("", "is empty"),
            ("file:keys.db", "does not start with `file:`"),
            ("sqlite:keys.db?mode=ro", "?mode=rwc or ?mode=rw"),
            ("sqlite:keys.db?cache=shared", "?mode=rwc or ?mode=rw"),
            ("sqlite:%ff.db", "not UTF-8"),
        ] {
            let error = SqliteOptions::new(target).location().unwrap_err();
            assert!(error.contains(names), "{target}: {error}");
        }
        for url in ["postgres://app:s3cret@db/app", "postgresql://app:s3cret@db"] {
            let error = SqliteOptions::new(url).location().unwrap_err();
            assert!(error.contains("a URL of PostgreSQL") && !error.contains("s3cret"), "{error}");
            assert!(error.contains("`AgentKeys::connect` or `AgentKeys::postgres`"), "{error}");
        }
    }

    /// Such a text often has a password in it, and would become the name of a file.
    #[test]
    fn the_address_of_a_server_is_no_path_and_is_not_shown() {
        for target in [
            "host=db user=app password=s3cret dbname=app",
            "user = app password = s3cret",
            "dbname=app password=s3cret options='-c a=b://c'",
            "POSTGRES://app:s3cret@db/app",
            " postgres://app:s3cret@db/app",
            "mysql://app:s3cret@db/app",
            "jdbc:postgresql://db/app?password=s3cret",
        ] {
            let error = SqliteOptions::new(target).location().unwrap_err();
            assert!(error.contains("PostgreSQL") && !error.contains("s3cret"), "{target}: {error}");
        }
        for path in ["./host=db", "a=b.db", "hostess=db"] {
            let file = Location::File { path: path.into(), create: true };
            assert_eq!(SqliteOptions::new(path).location(), Ok(file));
        }
    }
}
