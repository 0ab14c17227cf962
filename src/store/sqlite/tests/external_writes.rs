//! SQL of the application that is allowed is in force from the next request. SQLite refuses the rest.

use super::*;
use crate::model::{KeyPatch, Period};

async fn pay(store: &SqliteStore, key: i64, cents: i32) -> Result<Posted, Refusal> {
    let action = Action::Pay { amount: Amount::cents(cents), note: Note::default(), claim: None };
    store
        .post(&[Posting::new(account("acme"), KeyId::new(key), action)])
        .await
        .unwrap()
        .pop()
        .unwrap()
}

fn refused(path: &Path, sql: &str) -> String {
    let error = Connection::open(path).unwrap().execute_batch(sql).expect_err(sql);
    error.to_string()
}

/// Opens a store with a parent, key 1, and a child, key 2, which has spent 2 cents of its 10.
async fn family(path: &Path) -> SqliteStore {
    let store = SqliteStore::connect(path).await.unwrap();
    let parent = create(&store, 0, draft("acme", None, Budget::unlimited())).await;
    create(&store, 1, draft("acme", Some(parent.id), Budget::lifetime(Amount::cents(10)))).await;
    pay(&store, 2, 2).await.unwrap();
    store
}

#[tokio::test]
async fn invalid_rows_cannot_be_written() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = family(&path).await;
    for sql in [
        "UPDATE agent_keys SET scopes = 'null'",
        "UPDATE agent_keys SET scopes = 'read'",
        "UPDATE agent_keys SET scopes = '{}'",
        "UPDATE agent_keys SET scopes = '[1]'",
        "UPDATE agent_keys SET scopes = '[\"\"]'",
        "UPDATE agent_keys SET scopes = '[\"two words\"]'",
        "UPDATE agent_keys SET scopes = '[\"back\\\\slash\"]'",
        "UPDATE agent_keys SET scopes = json_array(printf('%.129c', 'x'))",
        "UPDATE agent_keys SET limit_micros = -1",
        "UPDATE agent_keys SET period = 'quarter'",
        "UPDATE agent_keys SET more_limits = '5'",
        "UPDATE agent_keys SET more_limits = 'day'",
        "UPDATE agent_keys SET more_limits = '{\"quarter\": 1}'",
        "UPDATE agent_keys SET more_limits = '{\"day\": -1}'",
        "UPDATE agent_keys SET more_limits = '{\"day\": 1.5}'",
        "UPDATE agent_keys SET more_limits = '{\"day\": -0}'",
        "UPDATE agent_keys SET more_limits = '{\"day\": 9223372036854775808}'",
        "UPDATE agent_keys SET more_limits = '{\"day\": 1, \"calendar_day\": 1}'",
        "UPDATE agent_keys SET more_limits = '{\"lifetime\": 1}' WHERE period = 'lifetime'",
        "INSERT INTO agent_keys (account_id, key_hash, created_at, more_limits) VALUES ('a', 'x', 0, '[]')",
        "UPDATE agent_keys SET delegated_by = ''",
        "UPDATE agent_keys SET metadata = '[]'",
        "UPDATE agent_keys SET metadata = 'x'",
        "UPDATE agent_keys SET metadata = '{a: 1}'",
        "UPDATE agent_keys SET metadata = json_object('a', printf('%.4096c', 'x'))",
        "INSERT INTO agent_keys (account_id, key_hash, created_at) VALUES ('', 'x', 0)",
        "INSERT INTO agent_keys (account_id, key_hash, created_at) VALUES ('a' || char(10), 'x', 0)",
        "INSERT INTO agent_keys (account_id, key_hash, created_at, scopes) VALUES ('a', 'x', 0, '[\"two words\"]')",
        "UPDATE agentkey_accounts SET period = 'quarter'",
        "UPDATE agentkey_accounts SET limit_micros = -1",
        "UPDATE agentkey_accounts SET held = -1",
    ] {
        refused(&path, sql);
    }
    // The widest allowed scopes are read back.
    let widest = "UPDATE agent_keys SET scopes = json_array('*', 'a.*', '!#[]^~', printf('%.128c', 'x')) WHERE id = 2";
    raw(&path, widest);
    let found = store.find(&[token(1).hash]).await.unwrap().pop().unwrap().unwrap();
    assert_eq!(found.lineage.key().scopes.iter().count(), 4);
}

/// What the application writes is in force from the next request, also in the cache of this process.
#[tokio::test]
async fn limits_pauses_and_delegators_of_the_applications_sql_are_in_force() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = family(&path).await;
    let find = async || store.find(&[token(1).hash]).await.unwrap().pop().unwrap().unwrap().lineage;
    raw(&path, "UPDATE agent_keys SET more_limits = '{\"day\": 30000}' WHERE id = 2");
    assert_eq!(find().await.key().balance.spent_in(Period::Day), Some(Amount::cents(2)));
    let Err(Refusal::BudgetExceeded(short)) = pay(&store, 2, 2).await else { panic!("it fits") };
    assert_eq!((short.period, short.limit), (Period::Day, Some(Amount::cents(3))));
    raw(
        &path,
        "UPDATE agent_keys SET more_limits = '{\"day\": 40000, \"week\": 50000}' WHERE id = 2",
    );
    pay(&store, 2, 2).await.unwrap();
    raw(&path, "UPDATE agent_keys SET more_limits = NULL WHERE id = 2");
    pay(&store, 2, 2).await.unwrap();
    assert_eq!(find().await.key().balance.windows().count(), 1);

    raw(&path, "UPDATE agent_keys SET disabled_at = 0 WHERE id = 1");
    assert_eq!(find().await.check_active(), Err(Refusal::DisabledKey));
    assert_eq!(pay(&store, 2, 1).await, Err(Refusal::DisabledKey));
    raw(
        &path,
        "UPDATE agent_keys SET disabled_at = NULL, delegated_by = 'user_9', metadata = '{\"a\": 1}'",
    );
    let lineage = find().await;
    assert_eq!((lineage.check_active(), lineage.delegated_by()), (Ok(()), Some("user_9")));
    assert_eq!(lineage.key().metadata.to_string(), r#"{"a":1}"#);
    pay(&store, 2, 1).await.unwrap();
}

/// Metadata that cannot be read is none for readers. A change of another field leaves it as it is.
#[tokio::test]
async fn metadata_that_cannot_be_read_is_not_erased() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = family(&path).await;
    for metadata in [
        r#"{"a":"\u0000"}"#.to_owned(),
        format!(r#"{{"a":{}{}}}"#, "[".repeat(200), "]".repeat(200)),
    ] {
        raw(&path, &format!("UPDATE agent_keys SET metadata = '{metadata}' WHERE id = 2"));
        let patch = KeyPatch::new().name(format!("{} bytes", metadata.len()));
        let change = KeyChange::Update { key: KeyId::new(2), patch };
        let updated = store.change_key(&change, &Rules::default()).await.unwrap().unwrap();
        assert!(updated.metadata.is_empty());
        let kept = format!("SELECT 1 / (metadata = '{metadata}') FROM agent_keys WHERE id = 2");
        let connection = Connection::open(&path).unwrap();
        let kept: Option<i64> = connection.query_row(&kept, [], |row| row.get(0)).unwrap();
        assert_eq!(kept, Some(1), "{metadata}");
    }
}

/// New scopes and accounts like these are refused. Those of a table stay what they were, and fail no other key.
#[tokio::test]
async fn scopes_and_accounts_that_are_refused_as_new_ones_are_read_as_they_are() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = family(&path).await;
    raw(&path, "UPDATE agent_keys SET scopes = json_array('img*', 'a,b', 'read') WHERE id = 2");
    raw(
        &path,
        "INSERT INTO agentkey_accounts (id, version, changed_at, period, created_at, spent, held, since) \
         SELECT ' ', version, changed_at, period, created_at, 0, 0, since FROM agentkey_accounts; \
         INSERT INTO agent_keys (account_id, key_hash, created_at, scopes) VALUES (' ', 'x', 0, '[\"**\"]')",
    );
    let found = store.find(&[token(1).hash]).await.unwrap().pop().unwrap().unwrap();
    let key = found.lineage.key();
    assert_eq!(key.scopes.to_string(), "a,b img* read");
    assert!(key.scopes.allows(&"read".parse().unwrap()));
    assert!(!["a", "b", "img1"].iter().any(|scope| key.scopes.allows(&scope.parse().unwrap())));
    let json = serde_json::to_value(key).unwrap();
    assert_eq!(serde_json::from_value::<Key>(json).unwrap(), *key);
    let blank = store.lineage(KeyId::new(3)).await.unwrap().unwrap();
    assert_eq!((blank.account_id().as_str(), &*blank.key().scopes.to_string()), (" ", "**"));
    pay(&store, 2, 1).await.unwrap();
}

#[tokio::test]
async fn a_key_keeps_its_account_parent_and_subject_and_is_not_deleted_with_its_entries() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = family(&path).await;
    for sql in [
        "UPDATE agent_keys SET account_id = 'beta' WHERE id = 2",
        "UPDATE agent_keys SET parent_id = NULL WHERE id = 2",
        "UPDATE agent_keys SET parent_id = 2 WHERE id = 1",
        "UPDATE agent_keys SET id = 9 WHERE id = 2",
        "UPDATE agent_keys SET issuer = 'https://issuer.example', sub = 'm7' WHERE id = 2",
    ] {
        let error = refused(&path, sql);
        assert!(
            error.contains("the id, account, parent and subject of a key never change"),
            "{sql}: {error}"
        );
    }
    let error = refused(&path, "DELETE FROM agent_keys WHERE id = 2");
    assert!(error.contains("revoke it instead of deleting it"), "{error}");
    let replace = "INSERT OR REPLACE INTO agent_keys (id, account_id, key_hash, created_at) VALUES (2, 'beta', 'x', 0)";
    let error = refused(&path, replace);
    assert!(error.contains("update it instead of replacing it"), "{error}");
    // A seed that runs again, and an upsert, change only allowed columns.
    raw(
        &path,
        "INSERT OR IGNORE INTO agent_keys (id, account_id, key_hash, created_at) VALUES (2, 'beta', 'x', 0)",
    );
    raw(
        &path,
        "INSERT INTO agent_keys (account_id, key_hash, created_at) SELECT account_id, key_hash, 0 FROM agent_keys WHERE id = 2 \
         ON CONFLICT (key_hash) DO UPDATE SET name = 'upserted'",
    );
    assert_eq!(store.lineage(KeyId::new(2)).await.unwrap().unwrap().key().name, "upserted");
    // An ORM writes all columns, also unchanged ones.
    raw(
        &path,
        "UPDATE agent_keys SET account_id = 'acme', parent_id = 1, name = 'renamed' WHERE id = 2",
    );
    assert_eq!(pay(&store, 2, 8).await.unwrap().remaining, Some(Amount::ZERO));
    // A key that was never used may be deleted, also after its limits were changed.
    let unused = create(&store, 2, draft("acme", None, Budget::unlimited())).await;
    let patch = crate::model::KeyPatch::new().budget(Budget::daily(Amount::cents(5)));
    let change = KeyChange::Update { key: unused.id, patch };
    store.change_key(&change, &Rules::default()).await.unwrap().unwrap();
    raw(&path, &format!("DELETE FROM agent_keys WHERE id = {}", unused.id));
    assert_eq!(store.find(&[token(2).hash]).await.unwrap(), [None]);
}

/// SQLite has no rule that keeps an inserted key from naming itself or one that is missing as its parent.
#[tokio::test]
async fn a_key_whose_parents_lead_to_no_root_is_told_with_the_reason() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = family(&path).await;
    let insert = |id: i64, account: &str, parent: i64| {
        let sql = "INSERT INTO agent_keys (id, account_id, parent_id, key_hash, created_at) VALUES (?1, ?2, ?3, ?4, 0)";
        let hash = TokenHash::digest(&format!("of {id}"));
        let row = rusqlite::params![id, account, parent, hash.to_string()];
        Connection::open(&path).unwrap().execute(sql, row).unwrap();
    };
    for (id, account, parent) in [
        (11, "acme", 11),
        (12, "acme", 13),
        (13, "acme", 12),
        (14, "acme", 99),
        (15, "other", 1),
        (16, "acme", 14),
    ] {
        insert(id, account, parent);
    }
    for (id, parent) in (100..170).zip(std::iter::once(1).chain(100..)) {
        insert(id, "acme", parent);
    }
    for (id, reason) in [
        (11, "its parents form a cycle at key 11"),
        (12, "its parents form a cycle at key 12"),
        (14, "its parent, key 99, or that of an ancestor, does not exist"),
        (15, "its parent, key 1, or that of an ancestor, is of another account"),
        (16, "its parent, key 99, or that of an ancestor, does not exist"),
        (169, "its lineage has more than 64 keys"),
    ] {
        let found = store.find(&[TokenHash::digest(&format!("of {id}"))]).await.unwrap();
        assert_eq!(found, [None], "{id}");
        assert_eq!(store.out_of_service.reason(KeyId::new(id)).as_deref(), Some(reason));
    }
    // A key that is whole again is not told any more.
    insert(99, "acme", 1);
    let found = store.find(&[TokenHash::digest("of 14")]).await.unwrap();
    assert!(found[0].is_some());
    assert_eq!(store.out_of_service.reason(KeyId::new(14)), None);
}
