//! A file that cannot be written is one error at opening, which says what to do, and not a service that answers 503.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::process::Command;

use super::*;

/// A file or folder that this process cannot write until it is dropped.
struct ReadOnly(PathBuf);

impl ReadOnly {
    /// Returns `None` where the file system lets root write anyway.
    fn new(path: &Path) -> Option<Self> {
        let read_only = Self(path.to_owned());
        read_only.set(true);
        if read_only.is_writable() {
            read_only.chattr("+i");
        }
        (!read_only.is_writable()).then_some(read_only)
    }

    fn set(&self, on: bool) {
        let mut permissions = fs::metadata(&self.0).unwrap().permissions();
        permissions.set_readonly(on);
        fs::set_permissions(&self.0, permissions).unwrap();
    }

    /// Sets the attribute that binds root too.
    fn chattr(&self, flag: &str) {
        drop(Command::new("chattr").arg(flag).arg(&self.0).output());
    }

    fn is_writable(&self) -> bool {
        if !self.0.is_dir() {
            return OpenOptions::new().append(true).open(&self.0).is_ok();
        }
        let probe = self.0.join("probe");
        let is_writable = fs::write(&probe, "").is_ok();
        drop(fs::remove_file(probe));
        is_writable
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        self.chattr("-i");
        self.set(false);
    }
}

async fn assert_refused(path: &Path) {
    let error = SqliteStore::connect(path).await.unwrap_err();
    assert!(!error.is_transient(), "{error:?}");
    let source = std::error::Error::source(&error).unwrap();
    let text = format!("{error}: {source}");
    let (file, folder) = (path.display(), path.parent().unwrap().display());
    for part in [
        format!("the store failed: {file}: "),
        format!(
            "writes to this file, and to {file}-wal and {file}-shm, which it makes in the folder {folder}."
        ),
        "Let the process write to the folder and to all three files.".to_owned(),
    ] {
        assert_eq!(text.matches(&part).count(), 1, "{text}");
    }
    assert_eq!(text.matches("the store").count(), 1, "{text}");
    assert!(source.source().is_none(), "{source:?}");
}

/// Makes a file with a key in it. Its WAL is left beside it, as after a crash.
async fn with_wal(folder: &Path) -> PathBuf {
    let origin = directory();
    let (from, path) = (origin.path().join("keys.db"), folder.join("keys.db"));
    let store = SqliteStore::connect(&from).await.unwrap();
    create(&store, 0, draft("acme", None, Budget::unlimited())).await;
    for end in ["", "-wal"] {
        fs::copy(format!("{}{end}", from.display()), format!("{}{end}", path.display())).unwrap();
    }
    path
}

#[tokio::test]
async fn a_file_that_can_only_be_read_is_refused_at_opening() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    SqliteStore::connect(&path).await.unwrap().close().await;
    let Some(read_only) = ReadOnly::new(&path) else { return };
    assert_refused(&path).await;
    drop(read_only);
    SqliteStore::connect(&path).await.unwrap();
}

#[tokio::test]
async fn a_folder_that_can_only_be_read_is_refused_at_opening() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    SqliteStore::connect(&path).await.unwrap().close().await;
    let Some(read_only) = ReadOnly::new(directory.path()) else { return };
    assert_refused(&path).await;
    assert_refused(&directory.path().join("new.db")).await;
    drop(read_only);
    SqliteStore::connect(&path).await.unwrap();
}

#[tokio::test]
async fn a_wal_that_can_only_be_read_is_refused_at_opening() {
    let directory = directory();
    let path = with_wal(directory.path()).await;
    let wal = directory.path().join("keys.db-wal");
    {
        let Some(_wal) = ReadOnly::new(&wal) else { return };
        assert_refused(&path).await;
        let _file = ReadOnly::new(&path);
        assert_refused(&path).await;
        let _folder = ReadOnly::new(directory.path());
        assert_refused(&path).await;
    }
    let store = SqliteStore::connect(&path).await.unwrap();
    assert!(store.find(&[token(0).hash]).await.unwrap()[0].is_some());
}

/// It binds root too, on every system.
#[tokio::test]
async fn files_beside_it_that_cannot_be_opened_are_refused_at_opening() {
    for end in ["-wal", "-shm"] {
        let directory = directory();
        let path = directory.path().join("keys.db");
        SqliteStore::connect(&path).await.unwrap().close().await;
        fs::create_dir(format!("{}{end}", path.display())).unwrap();
        assert_refused(&path).await;
    }
}

/// A process that has the file open works again once the file can be written, so there the error is transient.
#[test]
fn what_is_read_only_later_is_unavailable() {
    assert!(store_error(error::Error::ReadOnly).is_transient());
}

/// A file that can only be read takes the place of the one that is open: it answers no posting, and says so.
#[cfg(unix)]
#[tokio::test]
async fn a_file_that_becomes_read_only_takes_no_postings() {
    let directory = directory();
    let (path, other) = (directory.path().join("keys.db"), directory.path().join("other.db"));
    SqliteStore::connect(&other).await.unwrap().close().await;
    let store = SqliteStore::connect(&path).await.unwrap();
    store.check_writable().await.unwrap();
    let Some(read_only) = ReadOnly::new(&other) else { return };
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&other, &path).unwrap();
    let error = store.check_writable().await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    drop(read_only);
    store.check_writable().await.unwrap();
}
