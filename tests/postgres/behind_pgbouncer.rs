//! The suite of `agentkey::testing` through PgBouncer in transaction mode, with two sessions for everybody.

use agentkey::{Clock, PostgresOptions, PostgresStore};
use sqlx::{Connection, Executor};
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

/// What listens would hear, in a session that is lent to others in the middle of their statements.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_listens_in_sessions_that_others_get() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let Some(bouncer) = PgBouncer::start(&database, 1) else { return };
    let options = PostgresOptions::new(bouncer.url()).transaction_pooling(true);
    let store = PostgresStore::open(options).await.unwrap();
    let keys = agentkey::AgentKeys::builder().cache(crate::HANG).build(store);
    let created = keys.create(agentkey::NewKey::new("acme".parse().unwrap())).await.unwrap();
    for _ in 0..3 {
        assert!(keys.find(&created.token).await.unwrap().is_some());
        let changed = keys.update(created.key.id, agentkey::KeyPatch::new().name("changed")).await.unwrap();
        assert_eq!(changed.name, "changed");
    }

    let mut other = sqlx::postgres::PgConnection::connect(bouncer.url()).await.unwrap();
    let listening = sqlx::raw_sql("SELECT count(*)::text FROM pg_listening_channels()");
    let listening: String = sqlx::Row::get(&other.fetch_one(listening).await.unwrap(), 0);
    assert_eq!(listening, "0");
}
