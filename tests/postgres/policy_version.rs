//! The version of the policy: what moves it, and whom that keeps waiting.

use std::collections::HashSet;

use agentkey::ledger::{AccountChange, KeyChange};
use agentkey::store::Store;
use agentkey::{KeyPatch, NewKey};

use super::*;

async fn version(pool: &PgPool) -> i64 {
    count(pool, "SELECT (sum(step) % 9223372036854775807)::int8 FROM agentkey_policy_changes").await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn it_moves_with_every_change_by_plain_sql() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    world
        .change_account(
            &key.account,
            AccountChange::SetBudget(Budget::lifetime(Amount::cents(1_000))),
        )
        .await
        .unwrap();
    execute(&pool, "INSERT INTO agent_keys (account_id, key_hash) VALUES ('acme', 'x')").await;
    let mut versions = HashSet::from([version(&pool).await]);
    for sql in [
        "UPDATE agent_keys SET revoked_at = now()",
        "UPDATE agent_keys SET revoked_at = NULL, expires_at = now() + '1 day'",
        "UPDATE agent_keys SET name = 'renamed', scopes = '{read}'",
        "UPDATE agent_keys SET limit_micros = 7, period = 'day'",
        "DELETE FROM agent_keys WHERE key_hash = 'x'",
        "INSERT INTO agentkey_retired_tokens VALUES ('y', 1, now() + '1 day')",
        "UPDATE agentkey_retired_tokens SET retires_at = now()",
        "DELETE FROM agentkey_retired_tokens",
        "UPDATE agentkey_accounts SET limit_micros = 5",
        "UPDATE agentkey_accounts SET period = 'day'",
        "DELETE FROM agentkey_accounts",
        "TRUNCATE agent_keys",
    ] {
        execute(&pool, sql).await;
        assert!(versions.insert(version(&pool).await), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn it_moves_with_no_posting_and_no_new_key() {
    let Some((_database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    let before = version(&pool).await;
    assert!(world.post(&pay(&key, 2)).await.is_ok());
    let held = hold(&key, 3);
    assert!(world.post(&held).await.is_ok());
    assert!(world.post(&settle(&held, 1)).await.is_ok());
    assert!(world.post(&hold(&key, 3)).await.is_ok());
    world.clock.advance(Duration::from_secs(120));
    assert_eq!(world.store.sweep().await.unwrap(), 1);
    world.store.record_last_used(&[(key.id, world.clock.now())]).await.unwrap();
    world.try_create(NewKey::new("acme".parse().unwrap())).await.unwrap();
    world.try_create(NewKey::new("new".parse().unwrap())).await.unwrap();
    assert_eq!(version(&pool).await, before);

    world
        .change_key(KeyChange::Update { key: key.id, patch: KeyPatch::new().name("another") })
        .await
        .unwrap();
    assert_ne!(version(&pool).await, before);
}

/// Transactions of the application that have nothing to do with each other do not meet in the version.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn transactions_that_change_keys_do_not_wait_for_each_other() {
    let Some((_database, world, pool)) = site().await else { return };
    let (first, second) = (key(&world, "acme", 100).await.id, key(&world, "beta", 100).await.id);
    execute(
        &pool,
        "CREATE TABLE orders (id int PRIMARY KEY, item int); INSERT INTO orders VALUES (1, 0)",
    )
    .await;
    let before = version(&pool).await;
    let update = |id: agentkey::KeyId| {
        AssertSqlSafe(format!("UPDATE agent_keys SET name = name || '!' WHERE id = {id}"))
    };
    let (mut one, mut other) = (pool.begin().await.unwrap(), pool.begin().await.unwrap());
    for tx in [&mut one, &mut other] {
        sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SET LOCAL lock_timeout = '10s'; SELECT 1")
            .execute(&mut **tx)
            .await
            .unwrap();
    }
    sqlx::raw_sql("UPDATE orders SET item = 1").execute(&mut *other).await.unwrap();
    sqlx::raw_sql(update(first)).execute(&mut *one).await.unwrap();
    // The one waits for the order that the other has, and the other for nothing.
    let wait = tokio::spawn(async move {
        let waited = sqlx::raw_sql("SELECT FROM orders FOR KEY SHARE").execute(&mut *one).await;
        waited.map(|_| one)
    });
    sqlx::raw_sql(update(second)).execute(&mut *other).await.unwrap();
    other.commit().await.unwrap();
    let between = version(&pool).await;
    assert_ne!(between, before);
    // It began before the other's commit, and counts when it is committed itself.
    wait.await.unwrap().unwrap().commit().await.unwrap();
    assert_ne!(version(&pool).await, between);
}

/// A role that may write keys needs no rights on our side tables.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_role_that_may_only_write_keys_moves_it() {
    let Some((database, world, pool)) = site().await else { return };
    let key = key(&world, "acme", 100).await;
    let before = version(&pool).await;
    let role = format!("clerk_{}", key.id.get().unsigned_abs() + u64::from(std::process::id()));
    execute(
        &pool,
        format!(
            "CREATE ROLE {role}; GRANT SELECT, UPDATE, DELETE ON agent_keys TO {role}; SET ROLE {role}; \
                 UPDATE agent_keys SET revoked_at = now(); DELETE FROM agent_keys; RESET ROLE; \
                 REVOKE ALL ON agent_keys FROM {role}; DROP ROLE {role}"
        ),
    )
    .await;
    assert_ne!(version(&pool).await, before);
    drop(database);
}

/// Changes are summed up; that there are many is no change.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn many_changes_become_one_and_the_version_stays() {
    let Some((_database, world, pool)) = site().await else { return };
    key(&world, "acme", 100).await;
    execute(
        &pool,
        "INSERT INTO agentkey_policy_changes SELECT 9223372036854775806 - n FROM generate_series(1, 1000) n",
    )
    .await;
    let mut late = pool.begin().await.unwrap();
    sqlx::raw_sql("UPDATE agent_keys SET name = 'late'").execute(&mut *late).await.unwrap();
    let before = version(&pool).await;
    world.store.poll_policy_version().await.unwrap();
    assert_eq!(version(&pool).await, before);
    assert_eq!(count(&pool, "SELECT count(*) FROM agentkey_policy_changes").await, 1);
    late.commit().await.unwrap();
    assert_ne!(version(&pool).await, before);
}
