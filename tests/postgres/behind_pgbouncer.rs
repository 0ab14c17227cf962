//! The suite of `agentkey::testing` through PgBouncer in transaction mode, with two sessions for everybody.

use agentkey::{Clock, PostgresOptions, PostgresStore};
use tokio::sync::OnceCell;

use crate::postgres_server::{Database, PgBouncer, Server};

/// One database for all checks, with a schema for each.
struct Pooled {
    bouncer: PgBouncer,
    _database: Database,
}

async fn pooled() -> Option<&'static Pooled> {
    static POOLED: OnceCell<Option<Pooled>> = OnceCell::const_new();
    let start = async || {
        let database = Server::shared()?.database().await;
        let bouncer = PgBouncer::start(&database, 2)?;
        Some(Pooled { bouncer, _database: database })
    };
    POOLED.get_or_init(start).await.as_ref()
}

async fn open(pooled: &Pooled, schema: &str, clock: Clock) -> PostgresStore {
    let options = PostgresOptions::new(pooled.bouncer.url()).transaction_pooling(true).schema(schema).clock(clock);
    PostgresStore::open(options).await.unwrap()
}

agentkey::conformance_tests!({
    let Some(pooled) = pooled().await else { return };
    let schema = format!("checked_{}", agentkey::PostingId::new());
    async move |clock| open(pooled, &schema, clock).await
});
