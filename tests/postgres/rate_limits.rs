//! Rate limits that all instances share: where they are taken, and that no other session's lock stops them for good.

use agentkey::AgentKeys;
use agentkey::ledger::{Quota, Take};
use agentkey::model::RateLimit;
use agentkey::store::Store;

use super::*;

/// A look-up of a cached key takes in its own statement, and one that has to read the key takes nothing.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_cached_look_up_takes_in_its_own_statement() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    let keys = AgentKeys::new(store.clone()).unwrap();
    let limit = RateLimit::per_minute(100);
    let created =
        keys.create(NewKey::new("acme".parse().unwrap()).rate_limit(limit)).await.unwrap();
    let hashes = [created.token.hash()];
    let quota = Quota::of(&limit).unwrap();
    let take = [Take { limits: vec![(created.key.id.into(), quota)], requests: 60 }];

    assert!(store.peek(&hashes[0]).is_none());
    let (found, taken) = store.find_and_take(&hashes, &take).await.unwrap();
    assert_eq!((found[0].is_some(), taken), (true, None));
    let cached = store.peek(&hashes[0]).unwrap();
    assert_eq!(cached.lineage.key().rate_limit, Some(limit));
    let mut granted = Vec::new();
    for _ in 0..2 {
        let (found, taken) = store.find_and_take(&hashes, &take).await.unwrap();
        assert!(found[0].is_some());
        granted.push(taken.unwrap()[0].granted);
    }
    granted.push(store.take(&take).await.unwrap()[0].granted);
    assert_eq!(granted, [60, 40, 0]);
    keys.shutdown().await;
}

/// What the application's own SQL writes binds from the next request, and an invalid value is refused.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn the_applications_sql_sets_limits_and_ranges() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let keys = AgentKeys::postgres(database.url()).await.unwrap();
    let created = keys.create(NewKey::new("acme".parse().unwrap())).await.unwrap();
    let pool = host(database.url()).await;
    let set = async |sql: &str| {
        let sql = format!("UPDATE agent_keys SET {sql} WHERE id = {}", created.key.id);
        sqlx::query(AssertSqlSafe(sql)).execute(&pool).await
    };
    for sql in [
        r#"rate_limit = '{"requests": 5, "window_seconds": 60}', allowed_cidrs = '{10.0.0.0/8}'"#,
        r#"rate_limit = '{"in_flight": 0}', allowed_cidrs = '{}'"#,
        r#"rate_limit = '{"requests": 0, "window_seconds": 86400, "burst": 1000000, "in_flight": 3}'"#,
    ] {
        set(sql).await.unwrap();
        let found = keys.find(&created.token).await.unwrap().unwrap();
        assert!(found.key().rate_limit.is_some() && found.has_allowed_cidrs(), "{sql}");
    }
    for sql in [
        r#"rate_limit = '{}'"#,
        r#"rate_limit = '5'"#,
        r#"rate_limit = '{"requests": 5}'"#,
        r#"rate_limit = '{"requests": 5, "window_seconds": 0}'"#,
        r#"rate_limit = '{"requests": 5, "window_seconds": 86401}'"#,
        r#"rate_limit = '{"requests": -5, "window_seconds": 60}'"#,
        r#"rate_limit = '{"requests": 1.5, "window_seconds": 60}'"#,
        r#"rate_limit = '{"requests": "5", "window_seconds": 60}'"#,
        r#"rate_limit = '{"requests": 1000001, "window_seconds": 60}'"#,
        r#"rate_limit = '{"requests": 5, "window_seconds": 60, "burst": 0}'"#,
        r#"rate_limit = '{"burst": 5, "in_flight": 1}'"#,
        r#"rate_limit = '{"in_flight": 1, "per": 1}'"#,
        r#"rate_limit = '{"in_flight": null}'"#,
        r#"allowed_cidrs = '{10.0.0.1/8}'"#,
        r#"allowed_cidrs = '{10.0.0.0/8,NULL}'"#,
        r#"allowed_cidrs = '{{10.0.0.0/8},{11.0.0.0/8}}'"#,
    ] {
        assert!(set(sql).await.is_err(), "{sql}");
    }
    keys.shutdown().await;
}
