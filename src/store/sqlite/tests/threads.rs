//! The threads of connections: failing jobs, abandoned jobs, and the end of a thread.

use std::task::{Context, Waker};

use super::*;
use crate::store::sqlite::error::Error;

fn pay(key: &Key) -> [Posting; 1] {
    let pay = Action::Pay { amount: Amount::cents(1), note: Note::default(), claim: None };
    [Posting::new(account("acme"), key.id, pay)]
}

#[tokio::test]
async fn work_that_panics_or_fails_leaves_nothing_behind() {
    let directory = directory();
    for target in [directory.path().join("keys.db"), ":memory:".into()] {
        let store = SqliteStore::connect(target).await.unwrap();
        let key = create(&store, 0, draft("acme", None, Budget::unlimited())).await;
        let writer = store.connections.writer();
        let half = |open: &mut Open| {
            open.connection
                .execute_batch("BEGIN IMMEDIATE; UPDATE agent_keys SET revoked_at = 1")
                .map_err(Error::from)
        };
        let panicked = writer.run(move |open| -> error::Result<()> {
            half(open)?;
            panic!("on purpose")
        });
        assert!(matches!(panicked.await, Err(Error::Panicked)));
        let failed = writer
            .run(move |open| half(open).and_then(|()| Err::<(), _>(error::corrupt("on purpose"))));
        assert!(failed.await.is_err());
        writer.run(half).await.unwrap();
        assert!(store.post(&pay(&key)).await.unwrap()[0].is_ok());
        assert_eq!(
            store.find(&[token(0).hash]).await.unwrap()[0].as_ref().unwrap().lineage.check_active(),
            Ok(())
        );
    }
}

#[tokio::test]
async fn a_job_dropped_before_its_turn_changes_nothing() {
    let directory = directory();
    let store = SqliteStore::connect(directory.path().join("keys.db")).await.unwrap();
    let key = create(&store, 0, draft("acme", None, Budget::unlimited())).await;
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let mut before =
        Box::pin(store.connections.writer().run(move |_| gate.recv().map_err(error::corrupt)));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(before.as_mut().poll(&mut cx).is_pending());
    let abandoned = pay(&key);
    let mut dropped = store.post(&abandoned);
    assert!(dropped.as_mut().poll(&mut cx).is_pending());
    drop(dropped);
    go.send(()).unwrap();
    before.await.unwrap();
    assert!(store.post(&pay(&key)).await.unwrap()[0].is_ok());
    assert_eq!(store.entries(&EntryQuery::for_account(account("acme"))).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_store_that_is_closed_has_one_file_and_answers_no_more() {
    let directory = directory();
    let path = directory.path().join("keys.db");
    let store = SqliteStore::connect(&path).await.unwrap();
    create(&store, 0, draft("acme", None, Budget::unlimited())).await;
    store.find(&[token(0).hash]).await.unwrap();
    store.close().await;
    store.close().await;
    assert!(store.find(&[token(0).hash]).await.unwrap_err().is_transient());
    // The writer closed last, and has written the WAL back.
    let files: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    assert_eq!(files, ["keys.db"]);
}
