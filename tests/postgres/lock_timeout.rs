//! A server that does not answer, because another transaction has locked the tables.

use std::process::Command;

use agentkey::AgentKeys;
use http::StatusCode;
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use super::*;
use crate::service::Service;

async fn impatient(url: &str, statement_timeout: Duration) -> AgentKeys {
    let options = PostgresOptions::new(url).statement_timeout(statement_timeout);
    let store = PostgresStore::open(options).await.unwrap();
    AgentKeys::builder().request_timeout(Duration::ZERO).build(store).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_locked_table_is_a_503_until_it_is_free() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let keys = impatient(database.url(), Duration::from_millis(100)).await;
    let created = keys.create(NewKey::new("acme".parse().unwrap())).await.unwrap();
    let (service, token) = (Service::new(&keys), created.token.expose());
    assert_eq!(service.ask("/pay/before", token).await.0, StatusCode::OK);
    let mut locker = PgConnection::connect(database.url()).await.unwrap();
    for (round, table) in
        ["agent_keys", "agentkey_accounts", "agentkey_entries"].into_iter().enumerate()
    {
        let mut lock = locker.begin().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("LOCK TABLE {table}")))
            .execute(&mut *lock)
            .await
            .unwrap();

        let refused =
            tokio::time::timeout(HANG, service.ask(&format!("/pay/during-{round}"), token)).await;
        let (status, body) = refused.expect("an answer in bounded time");
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{table}");
        let body = body.unwrap();
        assert!(
            body.contains("unavailable") && !body.contains("timeout"),
            "internal text stays inside: {body}"
        );

        lock.rollback().await.unwrap();
        assert_eq!(
            service.ask(&format!("/pay/after-{round}"), token).await.0,
            StatusCode::OK,
            "{table}"
        );
    }
    keys.shutdown().await;
    let pool = host(database.url()).await;
    let paid = ["before", "after-0", "after-1", "after-2"].map(|it| (it.to_owned(), 10_000));
    audit::charged(&pool, &paid).await;
    audit::not_charged(&pool, &[0, 1, 2].map(|round| format!("during-{round}"))).await;
    audit::figures(&pool).await;
}

/// Stands still until this is dropped.
struct Stopped(i32);

impl Stopped {
    fn process(pid: i32) -> Self {
        signal("-STOP", pid);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("-CONT", self.0);
    }
}

fn signal(signal: &str, pid: i32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// The client has its 503 and the charge is settled; only then does the server decide the payment.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_payment_that_was_given_up_is_not_charged_later() {
    let Some(server) = Server::start(&[]) else { return };
    let database = server.database().await;
    let keys = impatient(database.url(), Duration::from_secs(60)).await;
    let created = keys.create(NewKey::new("acme".parse().unwrap())).await.unwrap();
    let (service, token) = (Service::new(&keys), created.token.expose());
    assert_eq!(service.ask("/pay/before", token).await.0, StatusCode::OK);
    let pool = host(database.url()).await;
    let of_batch = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name = 'agentkey' AND query LIKE 'WITH changed_keys%'";
    let pid: i32 = sqlx::query_scalar(of_batch).fetch_one(&pool).await.unwrap();
    let stopped = Stopped::process(pid);

    assert_eq!(service.ask("/pay/late", token).await.0, StatusCode::SERVICE_UNAVAILABLE);
    keys.shutdown().await; // What the charge owes is settled.
    let of_store = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    assert_eq!(count(&pool, of_store.as_str()).await, 1, "the payment still waits");
    drop(stopped);
    until(async || count(&pool, of_store.as_str()).await == 0).await;

    audit::not_charged(&pool, &["late".to_owned()]).await;
    audit::figures(&pool).await;
}
