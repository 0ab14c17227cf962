//! What keys have used of their rate limits, for all processes on one file.
//!
//! It is in a file of its own beside the database. There it waits for no posting that has the lock of the
//! database, and changes no version by which cached accounts are valid. Nothing of it has to survive a
//! crash of the machine, so no write waits for the disk.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior, params};

use super::error::{Error, Result};
use super::file_id::{FileId, file_id};
use super::options::Location;
use crate::ledger::{Take, Taken, rate_time};
use crate::model::Clock;

/// The file, which is opened when it is first used.
#[derive(Clone, Debug)]
pub(super) struct RateLimitFile {
    /// `None` for a database in memory.
    path: Option<PathBuf>,
    busy_timeout: Duration,
    clock: Clock,
    open: Arc<Mutex<Option<Open>>>,
}

/// A connection, and the file that it has open.
type Open = (Connection, Option<FileId>);

const TABLE: &str = "CREATE TABLE IF NOT EXISTS agentkey_rate_limits \
    (key_id INTEGER PRIMARY KEY, used_until INTEGER NOT NULL) STRICT";

impl RateLimitFile {
    pub(super) fn new(location: &Location, busy_timeout: Duration, clock: Clock) -> Self {
        let path = match location {
            Location::Memory => None,
            Location::File { path, .. } => {
                let mut name = path.clone().into_os_string();
                name.push("-limits");
                Some(PathBuf::from(name))
            }
        };
        Self { path, busy_timeout, clock, open: Arc::default() }
    }

    /// Takes requests from rate limits.
    pub(super) async fn take(&self, takes: Vec<Take>) -> Result<Vec<Taken>> {
        let file = self.clone();
        let work = tokio::task::spawn_blocking(move || file.take_now(&takes));
        work.await.map_err(|_| Error::Panicked)?
    }

    /// Deletes some rows of which nothing was in use at `before`. Returns how many.
    pub(super) async fn prune(&self, before: Timestamp, limit: u32) -> Result<u64> {
        const DELETE: &str = "DELETE FROM agentkey_rate_limits WHERE key_id IN \
            (SELECT key_id FROM agentkey_rate_limits WHERE used_until < ?1 LIMIT ?2)";
        let file = self.clone();
        let delete = move || {
            let delete = |connection: &mut Connection| {
                Ok(connection.execute(DELETE, params![rate_time(before), limit])? as u64)
            };
            // A service without shared limits has no such file, and gets none.
            let exists = file.path.as_deref().is_none_or(std::path::Path::exists);
            if exists { file.with_connection(delete) } else { Ok(0) }
        };
        tokio::task::spawn_blocking(delete).await.map_err(|_| Error::Panicked)?
    }

    fn take_now(&self, takes: &[Take]) -> Result<Vec<Taken>> {
        self.with_connection(|connection| take_in(connection, takes, &self.clock))
    }

    fn with_connection<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Without a path there is no file that another could be put in the place of.
        let current = self.path.as_deref().and_then(file_id);
        let mut connection = match open.take() {
            Some((connection, file)) if file == current => connection,
            _ => self.connect()?,
        };
        // After an error the connection is not used again.
        let done = work(&mut connection)?;
        let file = self.path.as_deref().and_then(file_id);
        *open = Some((connection, file));
        Ok(done)
    }

    fn connect(&self) -> Result<Connection> {
        let connection = match &self.path {
            Some(path) => Connection::open(path)?,
            None => Connection::open_in_memory()?,
        };
        connection.busy_timeout(self.busy_timeout)?;
        let _: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        // A commit does not wait for the disk, and a crash of the machine does not corrupt the file.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.execute_batch(TABLE)?;
        Ok(connection)
    }

    pub(super) fn close(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn take_in(connection: &mut Connection, takes: &[Take], clock: &Clock) -> Result<Vec<Taken>> {
    const READ: &str = "SELECT used_until FROM agentkey_rate_limits WHERE key_id = ?1";
    const WRITE: &str = "INSERT INTO agentkey_rate_limits (key_id, used_until) VALUES (?1, ?2) \
        ON CONFLICT (key_id) DO UPDATE SET used_until = excluded.used_until";
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Under the lock, so that no later batch has an earlier instant.
    let at = rate_time(clock.now());
    let mut all = Vec::with_capacity(takes.len());
    {
        let (mut read, mut write) = (tx.prepare_cached(READ)?, tx.prepare_cached(WRITE)?);
        for take in takes {
            let mut used = Vec::with_capacity(take.limits.len());
            for (key, _) in &take.limits {
                let mut rows = read.query([key.get()])?;
                used.push(rows.next()?.map_or(Ok(0), |row| row.get(0))?);
            }
            let taken = take.decide(&used, at);
            if taken.granted > 0 {
                for ((key, _), until) in take.limits.iter().zip(&taken.used) {
                    write.execute(params![key.get(), until])?;
                }
            }
            all.push(taken);
        }
    }
    tx.commit()?;
    Ok(all)
}
