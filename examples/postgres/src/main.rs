//! Two instances of a service on one PostgreSQL database, and money in the service's own transaction.
//!
//! `docker compose up --wait`, then `cargo run -p example-postgres`. `DATABASE_URL` names another server.
//! It walks through what it shows, asserts it, and leaves a schema `agentkey_example` behind.

use std::env;
use std::process::ExitCode;

use agentkey::model::Note;
use agentkey::store::{PostgresOptions, PostingError};
use agentkey::{
    AgentKeyLayer, AgentKeys, Amount, Budget, KeyContext, NewKey, PostgresStore, Refusal,
};
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::post};
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{ConnectOptions, Connection};
use tower::ServiceExt;

#[derive(Clone)]
struct Shop {
    pool: PgPool,
    store: PostgresStore,
}

/// The order and the 20 cents it costs are committed together or not at all.
async fn order(State(shop): State<Shop>, key: KeyContext) -> Result<&'static str, Response> {
    let failed = |_: sqlx::Error| StatusCode::INTERNAL_SERVER_ERROR.into_response();
    let mut tx = shop.pool.begin().await.map_err(failed)?;
    let insert = sqlx::query("INSERT INTO agentkey_example.orders (key_id) VALUES ($1)")
        .bind(key.id().get());
    insert.execute(&mut *tx).await.map_err(failed)?;
    match shop
        .store
        .pay_in(&mut tx, key.account_id(), key.id(), Amount::cents(20), Note::default())
        .await
    {
        Ok(_) => tx.commit().await.map(|()| "ordered\n").map_err(failed),
        // Dropping the transaction takes the order back.
        Err(PostingError::Refused(Refusal::BudgetExceeded(_))) => {
            Err(StatusCode::PAYMENT_REQUIRED.into_response())
        }
        Err(_) => Err(StatusCode::SERVICE_UNAVAILABLE.into_response()),
    }
}

/// One process of the service: a pool, a store and a handle of its own.
async fn instance(url: &str) -> Result<(AgentKeys, Router), Box<dyn std::error::Error>> {
    let pool = PgPool::connect(url).await?;
    let store =
        PostgresStore::open(PostgresOptions::pool(pool.clone()).schema("agentkey_example")).await?;
    let keys = AgentKeys::new(store.clone())?;
    let layer = AgentKeyLayer::new(&keys);
    Ok((
        keys,
        Router::new().route("/orders", post(order)).layer(layer).with_state(Shop { pool, store }),
    ))
}

async fn ask(service: &Router, token: &str) -> Result<StatusCode, Box<dyn std::error::Error>> {
    let request = Request::post("/orders")
        .header("authorization", format!("Bearer {token}"))
        .body(Body::empty())?;
    Ok(service.clone().oneshot(request).await?.status())
}

/// What to do where no server answers, or it does not let the example in.
fn help(server: &PgConnectOptions, error: &sqlx::Error) -> String {
    let (host, port, database) =
        (server.get_host(), server.get_port(), server.get_database().unwrap_or("its default"));
    format!(
        "PostgreSQL at {host}:{port}, database {database}: {error}

Start one here, in the repository, with Docker:

  docker compose up --wait

or name one that runs, version 14 or newer:

  DATABASE_URL=postgres://user:password@host:5432/database cargo run -p example-postgres
"
    )
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let default = "postgres://agentkey:agentkey@localhost:5432/agentkey";
    let url = env::var("DATABASE_URL").unwrap_or_else(|_| default.into());
    let server: PgConnectOptions = url.parse()?;
    // A pool would try for 30 seconds; this says at once that no server is there.
    match server.connect().await {
        Ok(connection) => connection.close().await?,
        Err(error) => {
            eprintln!("{}", help(&server, &error));
            return Ok(ExitCode::FAILURE);
        }
    }
    walk(&url).await?;
    Ok(ExitCode::SUCCESS)
}

async fn walk(url: &str) -> Result<(), Box<dyn std::error::Error>> {
    let (keys, first) = instance(url).await?;
    let (other_keys, second) = instance(url).await?;
    let pool = PgPool::connect(url).await?;
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS agentkey_example.orders (id bigserial PRIMARY KEY, key_id bigint NOT NULL)",
    )
    .execute(&pool)
    .await?;

    let created = keys
        .create(NewKey::new("demo".parse()?).budget(Budget::lifetime(Amount::cents(50))))
        .await?;
    let (key, token) = (created.key.id, created.token);
    println!("A key with 50 cents. An order costs 20.");
    for (name, service) in [("first", &first), ("second", &second)] {
        assert_eq!(ask(service, token.expose()).await?, StatusCode::OK);
        println!("The {name} instance takes an order.");
    }
    assert_eq!(ask(&first, token.expose()).await?, StatusCode::PAYMENT_REQUIRED);
    let orders: i64 =
        sqlx::query_scalar("SELECT count(*) FROM agentkey_example.orders WHERE key_id = $1")
            .bind(key.get())
            .fetch_one(&pool)
            .await?;
    assert_eq!(orders, 2);
    println!(
        "The third is refused with 402, and there are two orders: that of the third went with its money."
    );

    keys.revoke(key, None).await?;
    assert_eq!(ask(&second, token.expose()).await?, StatusCode::UNAUTHORIZED);
    println!("The first instance revokes the key; the second refuses it at once, with 401.");

    keys.shutdown().await;
    other_keys.shutdown().await;
    Ok(())
}
