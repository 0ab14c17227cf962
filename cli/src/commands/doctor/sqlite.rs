//! Checks of an SQLite file. They read the file and its settings, and change nothing.

use std::fs;
use std::path::Path;

use agentkey::jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};

use super::check::Check;

/// A WAL of this size says that it is not written back.
const LARGE_WAL: u64 = 256 * 1024 * 1024;

/// Larger files are not read whole.
const MAX_QUICK_CHECK: u64 = 512 * 1024 * 1024;

const MIB: u64 = 1024 * 1024;

/// File systems without the shared memory that a WAL needs, or without its locks.
const REMOTE: [&str; 8] = ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.s3fs"];

/// Returns the time of the store's clock, if the file is worth looking into.
pub(super) fn check(path: &Path, checks: &mut Vec<Check>) -> Option<Timestamp> {
    let Ok(file) = fs::metadata(path) else {
        let mend = "correct `--database`, or run `agentkey migrate`, which makes the file";
        checks.push(Check::failed("file", format!("there is no file {}", path.display()), mend));
        return None;
    };
    checks.push(Check::ok("file", format!("{} of {} MiB", path.display(), file.len() / MIB)));
    checks.push(place(path));
    checks.push(wal_size(path));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags);
    match opened.and_then(|connection| settings(&connection, file.len())) {
        Ok(found) => checks.extend(found),
        Err(error) => {
            let mend = "let this user read the file and its folder, and name a file of agentkey";
            checks.push(Check::failed("settings", error.to_string(), mend));
            return None;
        }
    }
    checks.push(Check::info("clock", "SQLite has the clock of this machine".to_owned()));
    Some(Timestamp::now())
}

fn settings(connection: &Connection, size: u64) -> rusqlite::Result<Vec<Check>> {
    let text = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, String>(0));
    let version = text("SELECT sqlite_version()")?;
    let mode = text("PRAGMA journal_mode")?;
    let mut checks = vec![
        Check::info("SQLite", version),
        Check::warn_if(
            mode != "wal",
            "journal",
            format!("journal_mode = {mode}"),
            "the service sets WAL when it opens the file; until then readers wait for writers",
        ),
    ];
    checks.push(if size > MAX_QUICK_CHECK {
        Check::info("pages", "not read, because the file is large".to_owned())
    } else {
        let found = text("PRAGMA quick_check(1)")?;
        match found.as_str() {
            "ok" => Check::ok("pages", "quick_check found nothing".to_owned()),
            _ => Check::failed("pages", found, "the file is damaged: restore a backup"),
        }
    });
    Ok(checks)
}

fn wal_size(path: &Path) -> Check {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let size = fs::metadata(wal).map_or(0, |file| file.len());
    Check::warn_if(
        size > LARGE_WAL,
        "WAL",
        format!("{} MiB", size / MIB),
        "a reader keeps the WAL from being written back: look for a program that has a transaction open",
    )
}

/// Checks the file system, where this system tells it.
fn place(path: &Path) -> Check {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (point, kind) = (fields.nth(1)?, fields.next()?);
        path.starts_with(point).then_some((point.len(), kind))
    });
    let Some((_, kind)) = mounts.max_by_key(|(length, _)| *length) else {
        return Check::info("place", "the file system is not known".to_owned());
    };
    let mend =
        "move the file to a disk of this machine, or use PostgreSQL: locks over a network fail";
    Check::warn_if(
        REMOTE.contains(&kind),
        "place",
        format!("a file system of the type {kind}"),
        mend,
    )
}
