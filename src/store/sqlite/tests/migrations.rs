//! Opening without a migration, and the SQL of one.

use std::path::Path;

use super::*;

async fn unmigrated(path: &Path) -> String {
    let error = SqliteStore::open(SqliteOptions::new(path).migrate(false)).await.unwrap_err();
    assert!(!error.is_transient(), "{error:?}");
    std::error::Error::source(&error).unwrap().to_string()
}

#[tokio::test]
async fn without_a_migration_nothing_is_made_and_nothing_changes() {
    let folder = directory();
    let path = folder.path().join("keys.db");
    assert!(unmigrated(&path).await.contains("there is no such file"));
    assert!(!path.exists());

    std::fs::write(&path, "").unwrap();
    assert!(unmigrated(&path).await.contains("no tables of agentkey"));
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE notes (text TEXT)").unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(unmigrated(&path).await.contains("no tables of agentkey"));
    assert_eq!(std::fs::read(&path).unwrap(), before, "the file of another program stays as it is");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "and has no file beside it");

    std::fs::write(&path, "no database at all, but a text that is long enough").unwrap();
    assert!(unmigrated(&path).await.contains("not a database"));
}

#[tokio::test]
async fn the_sql_of_a_migration_does_what_opening_does() {
    let folder = directory();
    let (path, opened) = (folder.path().join("keys.db"), folder.path().join("opened.db"));
    let sql = SqliteStore::migration_sql(SqliteOptions::new(&path)).await.unwrap();
    assert!(!path.exists());
    Connection::open(&path).unwrap().execute_batch(&sql).unwrap();
    assert_eq!(SqliteStore::migration_sql(SqliteOptions::new(&path)).await.unwrap(), "");
    let store = SqliteStore::open(SqliteOptions::new(&path).migrate(false)).await.unwrap();
    create(&store, 1, draft("acme", None, Budget::unlimited())).await;
    store.close().await;

    SqliteStore::connect(&opened).await.unwrap().close().await;
    let tables = |path: &Path| {
        let connection = Connection::open(path).unwrap();
        let mut statement =
            connection.prepare("SELECT name || coalesce(sql, '') FROM sqlite_schema").unwrap();
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let mut tables: Vec<_> = rows.map(Result::unwrap).collect();
        tables.sort();
        tables
    };
    assert_eq!(tables(&path), tables(&opened));
}

#[tokio::test]
async fn a_newer_version_is_named() {
    let folder = directory();
    let path = folder.path().join("keys.db");
    SqliteStore::connect(&path).await.unwrap().close().await;
    let newer = "INSERT INTO agentkey_migrations (version, applied_at) VALUES (99, 0)";
    Connection::open(&path).unwrap().execute_batch(newer).unwrap();
    assert!(unmigrated(&path).await.contains("upgrade agentkey"));
    let error = SqliteStore::migration_sql(SqliteOptions::new(&path)).await.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("upgrade agentkey"));
}
