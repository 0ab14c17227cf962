//! Invalid rows of our own tables, which PostgreSQL refuses.

use agentkey::store::Store;
use sqlx::Executor;

use super::*;

async fn refused(pool: &PgPool, sql: &str) -> String {
    let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()));
    pool.execute(sql).await.expect_err("it was written").to_string()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn rows_that_make_no_sense_cannot_be_written() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    assert!(world.post(&pay(&key, 2)).await.is_ok());
    for sql in [
        "UPDATE agent_keys SET scopes = '{{a,b},{c,d}}'",
        "UPDATE agent_keys SET scopes = '{two words}'",
        "UPDATE agent_keys SET scopes = ARRAY[E'two\nlines']",
        "UPDATE agent_keys SET scopes = ARRAY[E'back\\\\slash']",
        "UPDATE agent_keys SET scopes = ARRAY['']",
        "UPDATE agent_keys SET scopes = ARRAY['a', NULL]",
        "UPDATE agent_keys SET scopes = ARRAY[repeat('x', 129)]",
        "UPDATE agent_keys SET limit_micros = -1",
        "UPDATE agent_keys SET period = 'fortnight'",
        "UPDATE agent_keys SET more_limits = '5'",
        "UPDATE agent_keys SET more_limits = '{\"quarter\": 1}'",
        "UPDATE agent_keys SET more_limits = '{\"day\": -1}'",
        "UPDATE agent_keys SET more_limits = '{\"day\": 1.5}'",
        "UPDATE agent_keys SET more_limits = '{\"day\": 9223372036854775808}'",
        "UPDATE agent_keys SET more_limits = '{\"day\": null}'",
        "UPDATE agent_keys SET more_limits = '{\"day\": 1, \"calendar_day\": 1}'",
        "UPDATE agent_keys SET more_limits = '{\"lifetime\": 1}'",
        "INSERT INTO agent_keys (account_id, key_hash, more_limits) VALUES ('a', 'x', '[]')",
        "UPDATE agent_keys SET delegated_by = ''",
        "UPDATE agent_keys SET metadata = '[]'",
        "INSERT INTO agent_keys (account_id, key_hash) VALUES ('', 'x')",
        "INSERT INTO agent_keys (account_id, key_hash) VALUES (E'a\n', 'x')",
        "UPDATE agentkey_accounts SET period = 'fortnight'",
        "UPDATE agentkey_accounts SET limit_micros = -1",
        "INSERT INTO agentkey_accounts (id, version, changed_at, period, created_at, spent, held, since) \
         VALUES (E'a\n', 1, now(), 'day', now(), 0, 0, now())",
    ] {
        let error = refused(&pool, sql).await;
        let is_told =
            ["violates check constraint", "an account has an id of", "more_limits is an object of"]
                .iter()
                .any(|told| error.contains(told));
        assert!(is_told, "{sql}: {error}");
    }
    // The widest that may be written is read back.
    execute(&pool, "UPDATE agent_keys SET scopes = ARRAY['*', 'a.*', '!#[]^~', repeat('x', 128)]")
        .await;
    assert_eq!(world.store.lineage(key.id).await.unwrap().unwrap().key().scopes.iter().count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_key_keeps_its_account_parent_and_subject_and_is_not_deleted_with_its_entries() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    assert!(world.post(&pay(&key, 2)).await.is_ok());
    let another_subject = "issuer = 'https://issuer.example', sub = 'm7'";
    for set in ["account_id = 'beta'", "parent_id = 7", "id = 9", another_subject] {
        let error = refused(&pool, &format!("UPDATE agent_keys SET {set}")).await;
        assert!(error.contains("never change: revoke it and make another"), "{set}: {error}");
    }
    let error = refused(&pool, "DELETE FROM agent_keys").await;
    assert!(error.contains("revoke it instead of deleting it"), "{error}");
    // An ORM writes all columns, also those that stay. A key that was never used may go.
    execute(&pool, "UPDATE agent_keys SET account_id = 'acme', parent_id = NULL, name = 'renamed'")
        .await;
    execute(&pool, "INSERT INTO agent_keys (account_id, key_hash) VALUES ('acme', 'x')").await;
    execute(&pool, "DELETE FROM agent_keys WHERE key_hash = 'x'").await;
    let (unused, _) = world.try_create(NewKey::new(key.account.clone())).await.unwrap();
    let patch = agentkey::KeyPatch::new().budget(Budget::daily(agentkey::Amount::cents(5)));
    let change = agentkey::ledger::KeyChange::Update { key: unused.id, patch };
    world.change_key(change).await.unwrap();
    execute(&pool, &format!("DELETE FROM agent_keys WHERE id = {}", unused.id)).await;
    assert!(world.post(&pay(&key, 98)).await.is_ok());
}

/// The trigger waits for postings under way, and postings for the deletion: none of them misses the other.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_key_that_is_being_deleted_holds_nothing() {
    let Some((_database, world, pool)) = site().await else { return };
    let parent = key(&world, "acme", 100).await;
    let (child, _) = world.try_create(NewKey::child_of(parent.id)).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    tx.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "DELETE FROM agent_keys WHERE id = {}",
        child.id
    ))))
    .await
    .unwrap();
    let held = hold(&child, 10);
    assert!(world.store.post(std::slice::from_ref(&held)).await.unwrap()[0].is_err());
    tx.commit().await.unwrap();
    assert_eq!(world.post(&held).await, Err(agentkey::Refusal::InvalidKey));
    assert_eq!(cents(&world, &parent).await, (0, 0));
}
