//! The PostgreSQL that the tests start: that it does what they count on.
use crate::postgres_server::{PgBouncer, Server};
use sqlx::Connection;
use sqlx::postgres::PgConnection;

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

async fn shown(connection: &mut PgConnection, setting: &str) -> String {
    sqlx::query_scalar("SELECT current_setting($1)")
        .bind(setting)
        .fetch_one(connection)
        .await
        .unwrap()
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn each_test_has_a_database_of_its_own() {
    let Some(server) = Server::shared() else { return };
    let (one, other) = tokio::join!(server.database(), server.database());
    for database in [&one, &other] {
        let mut connection = connect(database.url()).await;
        sqlx::raw_sql("CREATE TABLE mine ()").execute(&mut connection).await.unwrap();
    }
    let name = one.name().to_owned();
    drop(one);

    let left: Vec<String> =
        sqlx::query_scalar("SELECT datname FROM pg_database WHERE datname IN ($1, $2)")
            .bind(name)
            .bind(other.name())
            .fetch_all(&mut connect(server.superuser_url()).await)
            .await
            .unwrap();
    assert_eq!(left, [other.name()]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn what_was_committed_is_there_after_a_crash() {
    let Some(server) = Server::start(&[("default_transaction_isolation", "serializable")]) else {
        return;
    };
    let database = server.database().await;
    let mut connection = connect(database.url()).await;
    sqlx::raw_sql("CREATE TABLE mine AS SELECT 42 AS answer")
        .execute(&mut connection)
        .await
        .unwrap();

    server.stop("immediate");
    assert!(sqlx::query("SELECT 1").execute(&mut connection).await.is_err());
    server.start_again();

    let mut connection = connect(database.url()).await;
    let answer: i32 =
        sqlx::query_scalar("SELECT answer FROM mine").fetch_one(&mut connection).await.unwrap();
    assert_eq!(answer, 42);
    assert_eq!(shown(&mut connection, "fsync").await, "on");
    assert_eq!(shown(&mut connection, "default_transaction_isolation").await, "serializable");
    assert!(server.log().contains("was not properly shut down"), "{}", server.log());
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn a_promoted_replica_has_what_was_committed() {
    let Some(primary) = Server::start(&[]) else { return };
    let database = primary.database().await;
    let replica = primary.replica(true).await;
    let mut connection = connect(database.url()).await;
    sqlx::raw_sql("CREATE TABLE mine AS SELECT 42 AS answer")
        .execute(&mut connection)
        .await
        .unwrap();

    primary.stop("immediate");
    replica.promote();

    let mut connection = connect(&replica.url(database.name())).await;
    let answer: i32 =
        sqlx::query_scalar("SELECT answer FROM mine").fetch_one(&mut connection).await.unwrap();
    assert_eq!(answer, 42);
    sqlx::raw_sql("DROP TABLE mine").execute(&mut connection).await.unwrap();
}

#[tokio::test]
#[ignore = "needs PostgreSQL: ./scripts/test"]
async fn pgbouncer_lends_a_connection_for_a_transaction() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let Some(bouncer) = PgBouncer::start(&database, 1) else { return };
    let mut clients = [connect(bouncer.url()).await, connect(bouncer.url()).await];
    let mut backends = Vec::new();
    for client in &mut clients {
        sqlx::raw_sql("SELECT 1").execute(&mut *client).await.unwrap();
        let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
            .persistent(false)
            .fetch_one(client)
            .await
            .unwrap();
        backends.push(backend);
    }
    assert_eq!(backends[0], backends[1], "{}", bouncer.log());
}
