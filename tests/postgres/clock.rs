//! The clock is the server's.

use agentkey::store::Store;

use super::*;
use crate::proxy::Proxy;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_write_that_was_under_way_for_seconds_is_decided_again() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let proxy = Proxy::to(server).await;
    let store = PostgresStore::connect(&proxy.url(database.name())).await.unwrap();
    let keys = agentkey::AgentKeys::new(store.clone()).unwrap();
    let key = keys.create(NewKey::new("acme".parse().unwrap())).await.unwrap().key;
    let pool = host(database.url()).await;
    let of_batches = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name = 'agentkey' AND query LIKE '%changed_keys%'";
    for (pause, charged_late) in [(Duration::ZERO, true), (Duration::from_secs(4), false)] {
        assert!(store.post(&[pay(&key, 1)]).await.unwrap()[0].is_ok());
        let before = count(&pool, ENTRIES).await;
        let backend: i32 = sqlx::query_scalar(of_batches).fetch_one(&pool).await.unwrap();
        proxy.hold();
        let late = pay(&key, 1);
        assert!(store.post(std::slice::from_ref(&late)).await.is_err(), "it has no answer in time");
        tokio::time::sleep(pause).await;
        proxy.release();
        let of_backend = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {backend}");
        until(async || count(&pool, of_backend.as_str()).await == 0).await;
        assert_eq!(count(&pool, ENTRIES).await, before + i64::from(charged_late), "{pause:?}");
        assert!(store.post(&[late]).await.unwrap()[0].is_ok());
        assert_eq!(count(&pool, ENTRIES).await, before + 1, "once");
    }
}

const ENTRIES: &str = "SELECT count(*) FROM agentkey_entries";
