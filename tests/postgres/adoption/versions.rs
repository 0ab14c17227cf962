//! Tables that another version made, or that stand beside another table of keys, opened without a migration.

use super::*;

fn own(host: &Host) -> PostgresOptions {
    PostgresOptions::new(host.database.url()).migrate(false)
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn without_migrating_the_tables_must_be_of_this_version() {
    let Some(mut host) = Host::with("").await else { return };
    let error = host.refused(own(&host)).await;
    assert!(error.contains("PostgresStore::migration_sql"), "there are none: {error}");
    drop(PostgresStore::open(own(&host).migrate(true)).await.unwrap());
    drop(PostgresStore::open(own(&host)).await.unwrap());

    host.run("INSERT INTO agentkey_migrations (version) VALUES (99)").await;
    for migrate in [true, false] {
        let error = host.refused(own(&host).migrate(migrate)).await;
        assert!(error.contains("upgrade agentkey"), "{error}");
    }
    host.run("DELETE FROM agentkey_migrations").await;
    let error = host.refused(own(&host)).await;
    assert!(error.contains("PostgresStore::migration_sql"), "{error}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn without_migrating_keys_of_our_own_are_not_opened_beside_an_adopted_table() {
    let Some(host) = Host::with(&npm::TABLE).await else { return };
    drop(host.open(open_handed()).await.unwrap());
    let error = host.refused(own(&host)).await;
    assert!(error.contains("open it with `PostgresOptions::table`"), "{error}");
}

/// As when a DBA gave a role the tables that requests need, and no others.
#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn without_migrating_a_role_need_not_read_the_version() {
    let Some(mut host) = Host::with("").await else { return };
    drop(PostgresStore::open(own(&host).migrate(true)).await.unwrap());
    let role = format!("{}_role", host.database.name());
    host.run(&format!(
        "CREATE ROLE {role} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; \
         REVOKE ALL ON agentkey_migrations, agentkey_adoption FROM {role}"
    ))
    .await;
    let options = PostgresOptions::new(host.url_as(&role)).migrate(false);
    let store = PostgresStore::open(options.clone()).await.unwrap();
    assert_eq!(find(&store, &["obs_1"]).await.map_some(), [false]);
    store.close().await;
    // What cannot be read cannot be printed.
    assert!(PostgresStore::migration_sql(options).await.is_err());
    host.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
