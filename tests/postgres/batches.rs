//! Batches of many accounts, of which some have moved on: what stood is written, and the rest is decided anew, once.

use agentkey::{EntryQuery, Labels, Store};

use super::*;
use crate::postgres_server::Server;

fn noted(mut posting: Posting, model: &str, reference: &str) -> Posting {
    let mut labels = Labels::new();
    labels.insert("model", model).unwrap();
    let said = Note::new(labels, Some(reference.to_owned()));
    if let Action::Pay { note, .. } | Action::Hold { note, .. } | Action::Settle { note, .. } = &mut posting.action {
        *note = said;
    }
    posting
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stood_is_written_and_what_moved_is_decided_anew() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let world = world(database.url()).await;
    let other = store(database.url(), (&world.clock).into()).await;
    let pool = host(database.url()).await;
    let mut keys = Vec::new();
    for account in ["still", "ahead", "touched", "poor", "bare", "idle"] {
        keys.push(key(&world, account, 1_000).await);
    }
    let [still, ahead, touched, poor, bare, idle] = &keys[..] else { panic!("six keys") };
    for round in 1..=3 {
        // Warm, and each with a hold that is known.
        let holds: Vec<_> = keys.iter().map(|key| hold(key, 10)).collect();
        assert!(world.post_all(&holds).await.iter().all(Result::is_ok));

        assert!(other.post(&[pay(ahead, 2)]).await.unwrap()[0].is_ok());
        execute(&pool, format!("UPDATE agent_keys SET name = 'touched' WHERE id = {}", touched.id)).await;
        execute(&pool, format!("DELETE FROM agentkey_balances WHERE key_id = {}", bare.id)).await;
        let batch = [
            settle(&holds[0], 5),
            noted(settle(&holds[1], 5), "large", "two"),
            settle(&holds[2], 5),
            settle(&holds[3], 5),
            settle(&holds[4], 5),
            settle(&holds[5], 0), // writes no entry
            noted(pay(still, 1), "small", "one"),
            hold(ahead, 1),
            pay(touched, 1),
            pay(poor, 100_000), // refused
            noted(hold(bare, 1), "small", "three"),
        ];
        let posted = world.post_all(&batch).await;
        assert!(posted[9].is_err(), "{posted:?}");
        assert!(posted.iter().enumerate().all(|(place, posted)| place == 9 || posted.is_ok()), "{posted:?}");
        audit::figures(&pool).await;
        let expected = [(6, 0), (7, round), (6, 0), (5, 0), (5, round), (0, 0)];
        for (key, (spent, held)) in keys.iter().zip(expected) {
            assert_eq!(cents(&world, key).await, (spent * round, held), "{}", key.account);
        }
        // Sent again, nothing counts twice.
        let again = world.post_all(&batch[..9]).await;
        assert!(again.iter().all(Result::is_ok), "{again:?}");
        audit::figures(&pool).await;
    }
    let entries = world.store.entries(&EntryQuery::of(still.account.clone())).await.unwrap();
    let notes: Vec<_> = entries.iter().map(|(_, entry)| (entry.amount, entry.note.reference.as_deref())).collect();
    assert_eq!(notes, [(Amount::cents(5), None), (Amount::cents(1), Some("one"))].repeat(3));
    let labels: Vec<_> = entries.iter().map(|(_, entry)| entry.note.labels.get("model")).collect();
    assert_eq!(labels, [None, Some("small")].repeat(3));
    assert_eq!(world.store.entries(&EntryQuery::of(idle.account.clone())).await.unwrap().len(), 0);
}

/// An account whose row is gone, by hand, between what was known of it and the write.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_whose_row_is_gone_is_made_anew_and_its_neighbours_are_written() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let world = world(database.url()).await;
    let pool = host(database.url()).await;
    let (gone, other) = (key(&world, "gone", 100).await, key(&world, "other", 100).await);
    let batch = || [pay(&gone, 1), pay(&other, 2)];
    assert!(world.post_all(&batch()).await.iter().all(Result::is_ok));
    execute(&pool, "DELETE FROM agentkey_accounts WHERE id = 'gone'").await;
    world.clock.advance(Duration::from_secs(1)); // where its last entry stood is gone with the row
    assert!(world.post_all(&batch()).await.iter().all(Result::is_ok));
    assert!(world.post_all(&batch()).await.iter().all(Result::is_ok));
    assert_eq!((cents(&world, &gone).await, cents(&world, &other).await), ((3, 0), (6, 0)));
    assert_eq!(count(&pool, "SELECT count(*) FROM agentkey_entries").await, 6);
    assert_eq!(count(&pool, "SELECT spent FROM agentkey_accounts WHERE id = 'gone'").await, 20_000);
}

/// Two services take turns: each finds each time that what it knows is old.
#[tokio::test(flavor = "multi_thread")]
async fn instances_that_take_turns_see_what_the_other_wrote() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let world = world(database.url()).await;
    let other = store(database.url(), (&world.clock).into()).await;
    let pool = host(database.url()).await;
    let key = key(&world, "acme", 1_000).await;
    for round in 0..20 {
        assert!(other.post(&[pay(&key, 1)]).await.unwrap()[0].is_ok(), "{round}");
        assert!(world.post(&pay(&key, 1)).await.is_ok(), "{round}");
    }
    let again = pay(&key, 1);
    assert!(other.post(std::slice::from_ref(&again)).await.unwrap()[0].is_ok());
    assert!(world.post(&again).await.is_ok(), "the same posting, by way of another instance");
    assert_eq!(cents(&world, &key).await, (41, 0));
    audit::figures(&pool).await;
}
