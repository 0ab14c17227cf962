//! Where the programs of PostgreSQL and PgBouncer are, and the user that they run as.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

use super::command;

/// The oldest that agentkey runs on.
pub(super) const OLDEST: u32 = 14;

/// The server's programs, and whom they run as.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) bin: PathBuf,
    pub(super) user: Option<User>,
}

impl Programs {
    /// The first in `PATH`, else the newest of where packages put them.
    pub(super) fn installed() -> Option<&'static Self> {
        static INSTALLED: OnceLock<Option<Programs>> = OnceLock::new();
        let find = || {
            let path = path_folders().into_iter().filter_map(|bin| Some((version(&bin)?, bin)));
            let mut packaged: Vec<_> = packaged_folders()
                .into_iter()
                .filter_map(|bin| Some((version(&bin)?, bin)))
                .collect();
            packaged.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
            let bin = path.chain(packaged).find(|(version, _)| *version >= OLDEST)?.1;
            Some(Self { bin, user: User::unprivileged() })
        };
        INSTALLED.get_or_init(find).as_ref()
    }

    pub(super) fn command(&self, program: &str) -> Command {
        command(&self.bin.join(program), self.user)
    }
}

pub(super) fn path_folders() -> Vec<PathBuf> {
    env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default()
}

/// Debian's, Red Hat's and Homebrew's folders, and that of `pg_config`.
pub(super) fn packaged_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for (parent, starts_with) in [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql"),
        ("/usr/local/opt", "postgresql"),
    ] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(starts_with) {
                folders.push(entry.path().join("bin"));
            }
        }
    }
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        folders.push(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    folders
}

/// The major version of the server in a folder, where one is.
pub(super) fn version(bin: &Path) -> Option<u32> {
    if !["initdb", "pg_ctl", "pg_basebackup"].iter().all(|program| bin.join(program).is_file()) {
        return None;
    }
    let output = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?; // postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)
    line.split_whitespace().nth(2)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

pub(super) fn pgbouncer() -> Option<PathBuf> {
    let more =
        ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from);
    path_folders()
        .into_iter()
        .chain(more)
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| program.is_file())
}

/// Whom the programs run as where this process is root's, which they refuse to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl User {
    /// None where this process is not root's: then they run as it does.
    pub(super) fn unprivileged() -> Option<Self> {
        static USER: OnceLock<Option<User>> = OnceLock::new();
        *USER.get_or_init(|| {
            let id = Command::new("id").arg("-u").output().unwrap();
            (id.stdout == b"0\n").then(|| {
                Self::named("postgres")
                    .or_else(|| Self::named("nobody"))
                    .expect("a user to run PostgreSQL as, not root")
            })
        })
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        let users = fs::read_to_string("/etc/passwd").ok()?;
        let mut fields = users
            .lines()
            .map(|line| line.split(':'))
            .find(|fields| fields.clone().next() == Some(name))?;
        Some(Self { uid: fields.nth(2)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    }
}
