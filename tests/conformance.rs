//! Every store passes the suite of `agentkey::testing`.

use agentkey::MemoryStore;
use agentkey::model::Clock;

mod memory {
    use super::*;

    async fn empty(clock: Clock) -> MemoryStore {
        MemoryStore::with_clock(clock)
    }

    agentkey::conformance_tests!(empty);
}

#[cfg(feature = "sqlite")]
mod sqlite_in_memory {
    use super::*;

    async fn empty(clock: Clock) -> agentkey::SqliteStore {
        super::sqlite(":memory:", clock).await
    }

    agentkey::conformance_tests!(empty);
}

#[cfg(feature = "sqlite")]
mod sqlite_on_a_file {
    use super::*;

    /// The directory goes when the maker goes, after the test.
    fn maker() -> impl AsyncFn(Clock) -> agentkey::SqliteStore {
        let directory = tempfile::tempdir().unwrap();
        async move |clock| super::sqlite(directory.path().join("keys.db"), clock).await
    }

    agentkey::conformance_tests!(maker());
}

#[cfg(feature = "sqlite")]
async fn sqlite(path: impl AsRef<std::path::Path>, clock: Clock) -> agentkey::SqliteStore {
    let options = agentkey::store::SqliteOptions::new(path).clock(clock);
    agentkey::SqliteStore::open(options).await.unwrap()
}

/// Two services, or two processes, on one file: what either of them does, the other one knows.
#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_on_one_sqlite_file_keep_one_limit() {
    use agentkey::ledger::{Action, Posting};
    use agentkey::model::Note;
    use agentkey::store::Store;
    use agentkey::testing::World;
    use agentkey::{Amount, Budget, NewKey, ScopeSet};

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let here = World::new(async |clock| sqlite(&path, clock).await).await;
    let there = World::new(async |clock| sqlite(&path, clock).await).await;
    let budget = Budget::lifetime(Amount::cents(100));
    let new = NewKey::new("acme".parse().unwrap()).scopes(ScopeSet::none()).budget(budget);
    let (key, hash) = here.try_create(new).await.unwrap();
    assert!(there.store.find(&[hash]).await.unwrap()[0].is_some());

    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..60 {
        let store = if n % 2 == 0 { here.store.clone() } else { there.store.clone() };
        let pay = || Action::Pay { amount: Amount::cents(1), note: Note::default(), claim: None };
        let batch = [(); 2].map(|()| Posting::new(key.account.clone(), key.id, pay()));
        tasks.spawn(async move { store.post(&batch).await.unwrap() });
    }
    let posted: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(posted.iter().filter(|posted| posted.is_ok()).count(), 100);
    let lineage = there.store.lineage(key.id).await.unwrap().unwrap();
    assert_eq!(lineage.key().balance.spent(), Amount::cents(100));
}

#[cfg(feature = "postgres")]
#[path = "support/postgres.rs"]
mod postgres_server;

#[cfg(feature = "postgres")]
mod postgres {
    use agentkey::PostgresStore;
    use agentkey::store::PostgresOptions;

    use super::*;
    use crate::postgres_server::{Database, Server};

    async fn empty(database: &Database, clock: Clock) -> PostgresStore {
        let options = PostgresOptions::new(database.url()).clock(clock);
        PostgresStore::open(options).await.unwrap()
    }

    agentkey::conformance_tests!(ignore = "needs PostgreSQL: ./scripts/test", {
        let Some(server) = Server::shared() else { return };
        let database = server.database().await;
        async move |clock| empty(&database, clock).await
    });
}
