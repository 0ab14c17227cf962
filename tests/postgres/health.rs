//! Readiness: a server that is down or a standby is seen by the path that requests take.

use agentkey::AgentKeys;
use agentkey::store::Store;

use super::*;
use crate::proxy::Proxy;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_process_is_ready_while_its_server_takes_postings() {
    let Some(server) = Server::start(&[]) else { return };
    let server = Arc::new(server);
    let database = server.database().await;
    let keys = AgentKeys::postgres(database.url()).await.unwrap();
    let health = keys.health().await;
    assert!(health.is_ready() && health.can_read && health.can_write, "{health:?}");

    blocking(&server, |server| server.stop("fast")).await;
    let health = keys.health().await;
    assert!(!health.is_ready() && !health.can_read && !health.can_write, "{health:?}");
    blocking(&server, |server| server.start_again()).await;
    until(async || keys.health().await.is_ready()).await;

    keys.shutdown().await;
    let health = keys.health().await;
    assert!(!health.is_ready() && health.is_shutting_down && !health.can_read, "{health:?}");
}

/// A standby answers reads with old data, and takes no postings: it is neither read from nor reconciled by.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_process_is_not_ready_behind_a_standby() {
    let Some(primary) = Server::start(&[]) else { return };
    let database = primary.database().await;
    let standby = Arc::new(primary.replica(true).await);
    let proxy = Proxy::to(&primary).await;
    let store = PostgresStore::connect(&proxy.url(database.name())).await.unwrap();
    let keys = AgentKeys::new(store.clone()).unwrap();
    let created = keys.create(NewKey::new("acme".parse().unwrap())).await.unwrap();
    assert!(keys.health().await.is_ready());

    proxy.turn_to(&standby);
    // The first of them may be of a connection that has just ended.
    until(async || {
        let health = keys.health().await;
        assert!(!health.is_ready(), "{health:?}");
        let told = store.check_writable().await.unwrap_err();
        assert!(told.is_transient(), "{told:?}");
        let source = std::error::Error::source(&told).unwrap().to_string();
        source.contains("standby")
    })
    .await;
    let error = store.reconcile(&created.key.id.into()).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");

    blocking(&standby, |standby| standby.promote()).await;
    until(async || keys.health().await.is_ready()).await;
    assert!(store.reconcile(&created.key.id.into()).await.unwrap().unwrap().agrees());
}

/// A server that is read-only by its settings takes the postings of agentkey all the same, and so it is ready.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_default_of_read_only_transactions_does_not_bind_the_store() {
    let Some((database, before, pool)) = site().await else { return };
    let key = key(&before, "acme", 10).await;
    let name = database.name();
    execute(&pool, format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    let after = PostgresStore::connect(database.url()).await.unwrap();
    let keys = AgentKeys::new(after.clone()).unwrap();
    assert_eq!(keys.health().await.is_ready(), after.post(&[pay(&key, 1)]).await.is_ok());
    assert!(keys.health().await.is_ready());
}
