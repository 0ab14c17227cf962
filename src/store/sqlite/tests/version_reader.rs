//! The version that look-ups are validated by, while this process and others commit.

use rusqlite::Connection;

use super::*;
use crate::store::sqlite::file_id::file_id;
use crate::store::sqlite::version::FileVersion;
use crate::store::sqlite::version_reader::VersionReader;

/// Commits as a store does, and returns the version that the commit leaves behind.
fn commit(connection: &Connection) -> Option<FileVersion> {
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    let next = FileVersion::next(connection).unwrap();
    connection.execute_batch("COMMIT").unwrap();
    next
}

/// Between the end of a commit and the look at the header another process may commit, and revoke a key.
#[tokio::test]
async fn a_commit_of_another_process_is_not_taken_for_our_own() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = SqliteStore::connect(&path).await.unwrap();
    let (ours, theirs) = (Connection::open(&path).unwrap(), Connection::open(&path).unwrap());
    let versions = VersionReader::new(Some(&path));
    versions.open_missing();
    assert_eq!(versions.read(), FileVersion::read(&ours).unwrap());

    let before = versions.header(file_id(&path));
    let next = commit(&ours);
    versions.on_commit(before, next);
    assert_eq!(versions.read(), next);

    let before = versions.header(file_id(&path));
    let next = commit(&ours);
    let last = commit(&theirs);
    versions.on_commit(before, next);
    assert_ne!(last, next);
    assert_eq!(versions.read(), last);
    store.close().await;
}
